"""What Kubernetes asks of any object, checked for the kinds that a render writes; raises AssertionError."""

import json
import re
from collections import Counter

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def check(objects):
    """Check each object by itself and what they say of each other."""
    names = Counter((obj["apiVersion"], obj["kind"], *_place(obj)) for obj in objects)
    assert max(names.values(), default=0) <= 1, names
    for obj in objects:
        check_metadata(obj["metadata"])
        for template in templates(obj):
            check_template(template)
        selector = obj.get("spec", {}).get("selector")
        if obj["kind"] in ("Deployment", "StatefulSet"):
            selects(selector["matchLabels"], obj["spec"]["template"])
    check_references(objects)


def _place(obj):
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def check_metadata(metadata):
    assert LABEL.fullmatch(metadata["name"]), metadata["name"]
    assert len(metadata["name"]) <= 63, metadata["name"]
    check_labels(metadata)


def check_labels(metadata):
    for key, value in metadata.get("labels", {}).items():
        assert KEY.fullmatch(key), key
        assert isinstance(value, str), (key, value)
        assert VALUE.fullmatch(value), (key, value)
    for key, value in metadata.get("annotations", {}).items():
        assert KEY.fullmatch(key), key
        assert isinstance(value, str), (key, value)


def templates(obj):
    """Return the pod templates of an object."""
    spec = obj.get("spec", {})
    if "jobTargetRef" in spec:
        return [spec["jobTargetRef"]["template"]]
    return [spec["template"]] if "template" in spec else []


def containers(objects):
    """Return the containers of all objects."""
    return [each for obj in objects for template in templates(obj) for each in template["spec"]["containers"]]


def check_template(template):
    check_labels(template["metadata"])
    if "name" in template["metadata"]:
        check_metadata(template["metadata"])
    names = Counter(each["name"] for each in template["spec"]["containers"])
    assert max(names.values()) == 1, names
    for container in template["spec"]["containers"]:
        variables = Counter(each["name"] for each in container.get("env", ()))
        assert max(variables.values(), default=0) <= 1, variables
        for variable in container.get("env", ()):
            assert ("value" in variable) != ("valueFrom" in variable), variable
            assert isinstance(variable.get("value", ""), str), variable
        ports = Counter((each["containerPort"], each.get("protocol", "TCP")) for each in container["ports"])
        assert max(ports.values()) == 1, ports
        named = Counter(each["name"] for each in container["ports"] if "name" in each)
        assert all(len(name) <= 15 and count == 1 for name, count in named.items()), named


def selects(selector, template):
    assert selector.items() <= template["metadata"]["labels"].items(), (selector, template["metadata"])


def check_references(objects):
    """Check that whatever an object names is there, or is known to belong to the cluster."""
    there = {(obj["kind"], *_place(obj)) for obj in objects}
    revisions = {
        ("Service", obj["metadata"]["namespace"], obj["spec"]["template"]["metadata"]["name"])
        for obj in objects
        if obj["apiVersion"] == "serving.knative.dev/v1"
    }
    for obj in objects:
        namespace, spec = obj["metadata"]["namespace"], obj.get("spec", {})
        wanted = []
        if obj["kind"] in ("ScaledObject", "HTTPScaledObject"):
            wanted.append((spec["scaleTargetRef"]["kind"], namespace, spec["scaleTargetRef"]["name"]))
        if obj["kind"] == "HTTPScaledObject":
            wanted.append(("Service", namespace, spec["scaleTargetRef"]["service"]))
        if obj["kind"] == "InterceptorRoute":
            wanted.append(("Service", namespace, spec["target"]["service"]))
        if obj["kind"] == "BuildRun":
            wanted.append(("Build", namespace, spec["buildRef"]["name"]))
        if obj["kind"] == "StatefulSet" and spec["serviceName"]:
            wanted.append(("Service", namespace, spec["serviceName"]))
        if obj["kind"] == "HTTPRoute":
            wanted += [
                ("Service", reference.get("namespace", namespace), reference["name"])
                for rule in spec["rules"]
                for reference in rule.get("backendRefs", ())
                if reference["name"] != "keda-add-ons-http-interceptor-proxy"
            ]
        assert set(wanted) <= there | revisions, wanted
        if obj["kind"] == "Service" and obj["apiVersion"] == "v1" and "selector" in spec:
            assert any(
                spec["selector"].items() <= template["metadata"]["labels"].items()
                for other in objects
                for template in templates(other)
            ), spec


def component_names(container):
    """Return the Components that a container's contexts name."""
    found = set()
    for variable in container["env"]:
        if variable["name"] not in ("FUNC_CONTEXT", "FUNC_CONTEXT_V1BETA2"):
            continue
        context = json.loads(variable["value"])
        for part in ("inputs", "outputs", "states"):
            found |= {each["componentName"] for each in context.get(part, {}).values()}
        found |= {each["name"] for each in context.get("triggers", {}).get("dapr", ())}
    return found
