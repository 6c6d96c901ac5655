"""Deployment and StatefulSet (apps/v1), Job (batch/v1): kept and checked, not run; for `builtin/table.py`.

No controller makes pods of them: on one machine Functions run. They are served for operators and renders that
are tried against this API. Of a pod, containers and what merges by a key are described; the rest is
free-form. Pure.

Source: behaviour of Kubernetes (required fields, defaults, selectors, immutable fields).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pelton.apiserver.builtin.core import AGE
from pelton.apiserver.builtin.shapes import (
    INT_OR_STRING,
    METADATA,
    Shaped,
    array,
    boolean,
    integer,
    keyed,
    kind,
    mapping,
    strings,
    struct,
    text,
)
from pelton.apiserver.registry import Cause, Row, Scale
from pelton.apiserver.rules import Obj
from pelton.manifest.kinds import Column

__all__ = ["DEPLOYMENT", "JOB", "STATEFUL_SET"]

Schema = dict[str, Any]

_HASH_LENGTH = 11  # `-` and ten characters that a StatefulSet's pods carry behind its name, in a label
_LABEL_LENGTH = 63


def _free(about: str) -> Schema:
    return {"type": "object", "description": about}


def _named(about: str, **fields: Schema) -> Schema:
    return keyed(about, struct("One.", {"name": text("Its name."), **fields}, required=("name",)), "name")


_PROBES = {
    name: _free("How to find that out.")
    for name in (
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "resources",
        "securityContext",
        "startupProbe",
    )
}
_CONTAINER = struct(
    "One process of the pod.",
    {
        **_PROBES,
        "args": strings("Arguments of the command."),
        "command": strings("What runs, instead of the image's entry point."),
        "env": _named("Its environment.", value=text("As it is."), valueFrom=_free("From elsewhere.")),
        "envFrom": array("Whole ConfigMaps and Secrets of variables.", _free("One source.")),
        "image": text("What it runs."),
        "imagePullPolicy": text("When to pull.", one_of=("Always", "IfNotPresent", "Never")),
        "name": text("Unique in the pod."),
        "ports": keyed(
            "Ports that it listens on.",
            struct(
                "One port.",
                {
                    "containerPort": integer("The port.", low=1, high=65535),
                    "hostIP": text("Of the node."),
                    "hostPort": integer("Of the node.", low=0, high=65535),
                    "name": text("Unique in the pod, at most 15 characters."),
                    "protocol": text("TCP, UDP or SCTP.", one_of=("TCP", "UDP", "SCTP"), default="TCP"),
                },
                required=("containerPort",),
            ),
            "containerPort",
            "protocol",
        ),
        "resizePolicy": array("How resources change.", _free("One resource.")),
        "restartPolicy": text("Of an init container that goes on."),
        "stdin": boolean("Whether it has a standard input."),
        "stdinOnce": boolean("Whether that closes."),
        "terminationMessagePath": text("Where its last words are."),
        "terminationMessagePolicy": text("Where they come from."),
        "tty": boolean("Whether it has a terminal."),
        "volumeDevices": array("Block devices.", _free("One device.")),
        "volumeMounts": keyed(
            "Where volumes are.",
            struct(
                "One mount.",
                {
                    "mountPath": text("In the container."),
                    "mountPropagation": text("Between node and container."),
                    "name": text("Of the volume."),
                    "readOnly": boolean("Whether it may not be written."),
                    "recursiveReadOnly": text("For mounts below."),
                    "subPath": text("In the volume."),
                    "subPathExpr": text("In the volume, with variables."),
                },
                required=("mountPath", "name"),
            ),
            "mountPath",
        ),
        "workingDir": text("Where it starts."),
    },
    required=("name",),
)
_WORDS = (
    "dnsPolicy",
    "hostname",
    "nodeName",
    "preemptionPolicy",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "serviceAccount",
    "serviceAccountName",
    "subdomain",
)
_FLAGS = (
    "automountServiceAccountToken",
    "enableServiceLinks",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
)
_LISTS = ("hostAliases", "readinessGates", "resourceClaims", "schedulingGates", "tolerations")
_POD = struct(
    "A pod.",
    {
        "metadata": METADATA,
        "spec": struct(
            "What it runs.",
            {
                **{name: text("As for any pod.") for name in _WORDS},
                **{name: boolean("As for any pod.") for name in _FLAGS},
                **{name: array("As for any pod.", _free("One.")) for name in _LISTS},
                **{
                    name: _free("As for any pod.")
                    for name in ("affinity", "dnsConfig", "os", "securityContext")
                },
                "activeDeadlineSeconds": integer("How long it may run.", low=1),
                "containers": keyed("Its processes.", _CONTAINER, "name"),
                "ephemeralContainers": array("For debugging.", _free("One.")),
                "imagePullSecrets": _named("With what images are pulled."),
                "initContainers": keyed("Processes before the others.", _CONTAINER, "name"),
                "nodeSelector": mapping("Labels of nodes that it may run on.", atomic=True),
                "overhead": mapping("Resources of the runtime itself.", values=INT_OR_STRING),
                "priority": integer("From priorityClassName."),
                "restartPolicy": text(
                    "When a container is started again.", one_of=("Always", "OnFailure", "Never")
                ),
                "terminationGracePeriodSeconds": integer("How long it may take to end.", low=0),
                "topologySpreadConstraints": array("How pods are spread.", _free("One rule.")),
                "volumes": {
                    **keyed("What can be mounted.", _free("One volume."), "name"),
                },
            },
            required=("containers",),
        ),
    },
)
_SELECTOR = struct(
    "Pods that belong to it; never changes.",
    {
        "matchExpressions": array(
            "Rules about labels.",
            struct(
                "One rule.",
                {"key": text("Label."), "operator": text("In, NotIn, Exists."), "values": strings("Values.")},
                required=("key", "operator"),
            ),
        ),
        "matchLabels": mapping("Labels and their values."),
    },
    atomic=True,
)
_CONDITIONS = {
    **keyed("Observations.", _free("One observation."), "type"),
}
_COUNTS = (
    "availableReplicas",
    "collisionCount",
    "currentReplicas",
    "readyReplicas",
    "replicas",
    "unavailableReplicas",
    "updatedReplicas",
)
_STATUS = struct(
    "What a controller observed.",
    {
        **{name: integer("How many.") for name in _COUNTS},
        "conditions": _CONDITIONS,
        "currentRevision": text("Of its pods."),
        "observedGeneration": {"type": "integer", "format": "int64", "description": "Of what."},
        "updateRevision": text("That its pods get."),
    },
)
_REPLICATED: Mapping[str, Schema] = {
    "minReadySeconds": integer("How long a pod has to be ready to count.", low=0),
    "replicas": integer("How many pods.", low=0, default=1),
    "revisionHistoryLimit": integer("How many old revisions are kept.", low=0, default=10),
    "selector": _SELECTOR,
    "template": _POD,
}
_DEPLOYMENT_SCHEMA = kind(
    "Pods that are alike, and replaced by others when the template changes.",
    {
        "spec": struct(
            "What is wanted.",
            {
                **_REPLICATED,
                "paused": boolean("Whether changes wait."),
                "progressDeadlineSeconds": integer("How long a change may take.", low=1, default=600),
                "strategy": _free("How pods are replaced."),
            },
            required=("selector", "template"),
        ),
        "status": _STATUS,
    },
)
_STATEFUL_SET_SCHEMA = kind(
    "Pods with names and volumes of their own.",
    {
        "spec": struct(
            "What is wanted.",
            {
                **_REPLICATED,
                "ordinals": _free("Where numbers begin."),
                "persistentVolumeClaimRetentionPolicy": _free("What happens to volumes."),
                "podManagementPolicy": text("One after the other, or all at once.", default="OrderedReady"),
                "serviceName": text("The Service of its pods' names."),
                "updateStrategy": _free("How pods are replaced."),
                "volumeClaimTemplates": array("A claim per pod.", _free("One claim.")),
            },
            required=("selector", "template"),
        ),
        "status": _STATUS,
    },
)
_JOB_SCHEMA = kind(
    "Pods that run until they have succeeded.",
    {
        "spec": struct(
            "What is wanted.",
            {
                "activeDeadlineSeconds": integer("How long all of it may take.", low=1),
                "backoffLimit": integer("Failures before it is given up.", low=0, default=6),
                "backoffLimitPerIndex": integer("The same per index.", low=0),
                "completionMode": text("NonIndexed or Indexed.", one_of=("NonIndexed", "Indexed")),
                "completions": integer("Pods that have to succeed.", low=0),
                "managedBy": text("Who acts on it."),
                "manualSelector": boolean("Whether selector is the user's."),
                "maxFailedIndexes": integer("Before it is given up.", low=0),
                "parallelism": integer("Pods at a time.", low=0, default=1),
                "podFailurePolicy": _free("What counts as failure."),
                "podReplacementPolicy": text("When a pod is replaced."),
                "selector": _SELECTOR,
                "successPolicy": _free("What counts as success."),
                "suspend": boolean("Whether it waits."),
                "template": _POD,
                "ttlSecondsAfterFinished": integer("How long it stays when it has ended.", low=0),
            },
            required=("template",),
        ),
        "status": struct(
            "What a controller observed.",
            {
                **{
                    name: integer("How many.")
                    for name in ("active", "failed", "ready", "succeeded", "terminating")
                },
                "completedIndexes": text("Which."),
                "completionTime": text("When it had succeeded.", form="date-time"),
                "conditions": _CONDITIONS,
                "failedIndexes": text("Which."),
                "startTime": text("When it began.", form="date-time"),
                "uncountedTerminatedPods": _free("For its controller."),
            },
        ),
    },
)


# ------------------------------------------------------------------------------------------------------ rules


_POD_DEFAULTS: Mapping[str, Any] = {
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "terminationGracePeriodSeconds": 30,
}


def _with_pod(spec: Obj, **more: Any) -> Obj:
    """Fill in a pod's defaults, and `more` of them."""
    template = spec.get("template")
    pod = template.get("spec") if isinstance(template, dict) else None
    if not isinstance(template, dict) or not isinstance(pod, dict):
        return spec
    containers = {
        key: [_container(item) for item in pod[key]]
        for key in ("containers", "initContainers")
        if isinstance(pod.get(key), list)
    }
    return {**spec, "template": {**template, "spec": {**_POD_DEFAULTS, **more, **pod, **containers}}}


def _container(container: Any) -> Any:
    if not isinstance(container, dict):
        return container
    image = str(container.get("image", ""))
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    latest = "@" not in image and tag in ("", "latest")
    return {
        "imagePullPolicy": "Always" if latest else "IfNotPresent",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        **container,
    }


def _rolling(obj: Obj, key: str, usual: Obj) -> Obj:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return obj
    filled = _with_pod(spec, restartPolicy="Always")
    filled.setdefault(key, usual)
    return {**obj, "spec": filled}


def _deployment_defaults(obj: Obj) -> Obj:
    usual = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
    return _rolling(obj, "strategy", usual)


def _stateful_set_defaults(obj: Obj) -> Obj:
    return _rolling(obj, "updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})


def _job_defaults(obj: Obj) -> Obj:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return obj
    filled = _with_pod(spec)
    filled.setdefault("completionMode", "NonIndexed")
    filled.setdefault("suspend", False)
    if "completions" not in spec and "parallelism" not in spec:
        filled["completions"] = 1
    return {**obj, "spec": filled}


def _required(field: str) -> Cause:
    return Cause(field=field, message="Required value", reason="FieldValueRequired")


def _pod_rules(spec: Obj) -> list[Cause]:
    """Return what is wrong with a pod template: no container, one without image, a volume that is missing."""
    pod = (spec.get("template") or {}).get("spec") or {}
    causes = []
    path = "spec.template.spec"
    if not pod.get("containers"):
        causes.append(_required(f"{path}.containers"))
    volumes = {volume.get("name") for volume in pod.get("volumes") or ()}
    for group in ("initContainers", "containers"):
        for at, container in enumerate(pod.get(group) or ()):
            here = f"{path}.{group}[{at}]"
            if not container.get("image"):
                causes.append(_required(f"{here}.image"))
            for number, mount in enumerate(container.get("volumeMounts") or ()):
                if mount.get("name") not in volumes:
                    causes.append(
                        Cause(
                            field=f"{here}.volumeMounts[{number}].name",
                            message=f'Not found: "{mount.get("name")}"',
                            reason="FieldValueNotFound",
                        )
                    )
    return causes


def _replicated(new: Obj, old: Obj | None) -> list[Cause]:
    spec = new["spec"]
    causes = _pod_rules(spec)
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if not wanted and not (spec.get("selector") or {}).get("matchExpressions"):
        causes.append(Cause(field="spec.selector", message="Invalid value: must not be empty"))
    elif not wanted.items() <= labels.items():
        causes.append(
            Cause(
                field="spec.template.metadata.labels",
                message=f"Invalid value: {labels}: `selector` does not match template `labels`",
            )
        )
    if old is not None and old["spec"].get("selector") != spec.get("selector"):
        causes.append(Cause(field="spec.selector", message="Invalid value: field is immutable"))
    policy = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy", "Always")
    if policy != "Always":
        causes.append(_unsupported("spec.template.spec.restartPolicy", policy, "Always"))
    return causes


def _stateful_set(new: Obj, old: Obj | None) -> list[Cause]:
    causes = _replicated(new, old)
    name = new["metadata"].get("name", "")
    longest = _LABEL_LENGTH - _HASH_LENGTH
    if len(name) > longest:
        causes.append(
            Cause(
                field="metadata.name",
                message=f'Invalid value: "{name}": must be no more than {longest} characters, since its pods '
                "carry it with a hash in a label",
            )
        )
    if old is not None and old["spec"].get("serviceName") != new["spec"].get("serviceName"):
        causes.append(Cause(field="spec.serviceName", message="Invalid value: field is immutable"))
    return causes


def _job(new: Obj, old: Obj | None) -> list[Cause]:
    spec = new["spec"]
    causes = _pod_rules(spec)
    policy = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy", "")
    if policy not in ("OnFailure", "Never"):
        causes.append(_unsupported("spec.template.spec.restartPolicy", policy, "OnFailure", "Never"))
    if old is not None and old["spec"].get("template") != spec.get("template"):
        causes.append(Cause(field="spec.template", message="Invalid value: field is immutable"))
    return causes


def _unsupported(field: str, value: str, *known: str) -> Cause:
    if not value:
        return Cause(
            field=field,
            message="Required value: valid values: " + ", ".join(f'"{each}"' for each in known),
            reason="FieldValueRequired",
        )
    listed = ", ".join(f'"{each}"' for each in known)
    return Cause(
        field=field,
        message=f'Unsupported value: "{value}": supported values: {listed}',
        reason="FieldValueNotSupported",
    )


_SCALE = Scale(spec_replicas=".spec.replicas", status_replicas=".status.replicas")
_READY = Column("Ready", "integer", ".status.readyReplicas")
_WANTED = Column("Replicas", "integer", ".spec.replicas")
DEPLOYMENT = Row(
    group="apps",
    version="v1",
    kind="Deployment",
    plural="deployments",
    singular="deployment",
    short_names=("deploy",),
    categories=("all",),
    status=True,
    scale=_SCALE,
    builtin=True,
    columns=(_WANTED, _READY, Column("Available", "integer", ".status.availableReplicas"), AGE),
    schema=_DEPLOYMENT_SCHEMA,
    checks=Shaped("Deployment", _DEPLOYMENT_SCHEMA, defaults=_deployment_defaults, rules=_replicated),
)
STATEFUL_SET = Row(
    group="apps",
    version="v1",
    kind="StatefulSet",
    plural="statefulsets",
    singular="statefulset",
    short_names=("sts",),
    categories=("all",),
    status=True,
    scale=_SCALE,
    builtin=True,
    columns=(_WANTED, _READY, AGE),
    schema=_STATEFUL_SET_SCHEMA,
    checks=Shaped("StatefulSet", _STATEFUL_SET_SCHEMA, defaults=_stateful_set_defaults, rules=_stateful_set),
)
JOB = Row(
    group="batch",
    version="v1",
    kind="Job",
    plural="jobs",
    singular="job",
    categories=("all",),
    status=True,
    builtin=True,
    columns=(
        Column("Completions", "integer", ".spec.completions"),
        Column("Succeeded", "integer", ".status.succeeded"),
        AGE,
    ),
    schema=_JOB_SCHEMA,
    checks=Shaped("Job", _JOB_SCHEMA, defaults=_job_defaults, rules=_job),
)
