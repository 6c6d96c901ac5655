"""Every field of Function v1beta2, as tables: name in the manifest, attribute in the model, shape, meaning.

`manifest/openfunction_core` and `manifest/openfunction_revisions` read and write with these, in the order of
the rows. Scaling is in `manifest/scale_fields`. Rules about values are in `manifest/openfunction_rules`;
`limits` says the same for the schema. Source: contracts, OpenFunction, section 2.
"""

from __future__ import annotations

from typing import Any

from pelton.manifest.dapr import COMPONENT_SPEC
from pelton.manifest.fields import (
    Boolean,
    Duration,
    Field,
    Integer,
    Items,
    Mapped,
    Only,
    Path,
    Raw,
    Reading,
    Record,
    Text,
)
from pelton.manifest.gateway_api import HTTP_RULE, inline_rules
from pelton.manifest.scale_fields import SCALE_OPTIONS
from pelton.model import function as model

__all__ = [
    "BUILD",
    "BUILDER_FIELDS",
    "CREDENTIALS",
    "FUNCTION_SPEC",
    "ROUTE",
    "SERVING",
    "SERVING_FIELDS",
    "SHIPWRIGHT",
    "TRACING",
]

_TEXT = Text()
_INTEGER = Integer()
_BOOLEAN = Boolean()
_DURATION = Duration()
_STRINGS = Mapped(_TEXT)
_NAMES = Items(_TEXT)
CREDENTIALS = Only("name", _TEXT, missing="", doc="Name of the Secret.")
"""A reference to a Secret; "" = the object is there, the name is not."""

# ------------------------------------------------------------------------------------------------------ build

_SOURCE = Record(
    model.Source,
    (
        Field("url", "url", _TEXT, doc="Git URL, file: URL, or a directory relative to the manifest."),
        Field("revision", "revision", _TEXT, doc="Branch, tag or commit; default: the default branch."),
        Field("sourceSubPath", "sub_path", _TEXT, doc="Directory in the source; default: its root."),
        Field("credentials", "credentials", CREDENTIALS, keep=True, doc="Secret with access data."),
        Field(
            "bundleContainer",
            "bundle_image",
            Only("image", _TEXT, missing="", required=True, doc="Image."),
            keep=True,
            doc="Image that holds the source; wins over url.",
        ),
    ),
)
_VALUE_REF = Record(
    model.ValueRef,
    (
        Field("name", "name", _TEXT, required=True, doc="Name of the object."),
        Field("key", "key", _TEXT, required=True, doc="Entry in it."),
        Field("format", "format", _TEXT, doc="Text around the value, which stands in for ${...}."),
    ),
)
_PARAM_VALUE = (
    Field("value", "value", _TEXT, keep=True, doc="Literal value."),
    Field("configMapValue", "config_map_value", _VALUE_REF, doc="Value from a ConfigMap."),
    Field("secretValue", "secret_value", _VALUE_REF, doc="Value from a Secret."),
)
SHIPWRIGHT = Record(
    model.Shipwright,
    (
        Field(
            "strategy",
            "strategy",
            Record(
                model.Strategy,
                (
                    Field("name", "name", _TEXT, required=True, doc="Name of the strategy."),
                    Field(
                        "kind",
                        "kind",
                        _TEXT,
                        doc="BuildStrategy or ClusterBuildStrategy.",
                        limits={"enum": ["BuildStrategy", "ClusterBuildStrategy"]},
                    ),
                ),
            ),
            doc="How the image is built; default: the platform's strategy.",
        ),
        Field(
            "params",
            "params",
            Items(
                Record(
                    model.BuildParam,
                    (
                        Field("name", "name", _TEXT, required=True, doc="Name of the parameter."),
                        *_PARAM_VALUE,
                        Field(
                            "values",
                            "values",
                            Items(Record(model.ParamValue, _PARAM_VALUE)),
                            doc="Several values.",
                        ),
                    ),
                )
            ),
            doc="Parameters of the strategy.",
        ),
        Field("timeout", "timeout_s", _DURATION, doc="Not used; spec.build.timeout is."),
    ),
)
BUILD = Record(
    model.Build,
    (
        Field("builder", "builder", _TEXT, doc="Builder image; needed unless dockerfile is given."),
        Field(
            "builderCredentials", "builder_credentials", CREDENTIALS, keep=True, doc="Secret for that image."
        ),
        Field(
            "env", "env", _STRINGS, doc="Settings of the build: FUNC_NAME, FUNC_SRC, FUNC_TYPE and others."
        ),
        Field("srcRepo", "source", _SOURCE, doc="Where the source is.", limits={"required": True}),
        Field("dockerfile", "dockerfile", _TEXT, doc="Dockerfile in the source."),
        Field("shipwright", "shipwright", SHIPWRIGHT, doc="Settings for builds by Shipwright."),
        Field("timeout", "timeout_s", _DURATION, doc="Time for the whole build."),
        Field(
            "successfulBuildsHistoryLimit",
            "successful_builds_history_limit",
            _INTEGER,
            doc="Succeeded builds that are kept; default 0.",
            limits={"minimum": 0},
        ),
        Field(
            "failedBuildsHistoryLimit",
            "failed_builds_history_limit",
            _INTEGER,
            doc="Failed builds that are kept; default 1.",
            limits={"minimum": 0},
        ),
        Field("builderMaxAge", "builder_max_age_s", _DURATION, doc="Time builds are kept; 0 for ever."),
    ),
)

# --------------------------------------------------------------------------------------------------- triggers

_HOSTNAME = Text(
    r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "a lower-case host name, with *. in front at most",
    253,
)


class _InlineRule(Raw):
    """A rule of an HTTPRoute, kept as written; its types are those of `manifest/gateway_api`."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept a rule, and look for problems of type."""
        if type(value) is dict:
            HTTP_RULE.decode(value, path, reading)
        return super().decode(value, path, reading)


def _http_route(
    *,
    gateway: model.GatewayRef | None = None,
    hostnames: tuple[str, ...] = (),
    rules: tuple[dict[str, Any], ...] = (),
) -> model.HttpRoute:
    parsed = inline_rules(rules) if rules else ()
    return model.HttpRoute(gateway=gateway, hostnames=hostnames, rules=rules, parsed=parsed)


ROUTE = Record(
    _http_route,
    (
        Field(
            "gatewayRef",
            "gateway",
            Record(
                model.GatewayRef,
                (
                    Field("name", "name", _TEXT, required=True, doc="Name of the Gateway."),
                    Field("namespace", "namespace", _TEXT, required=True, doc="Namespace of the Gateway."),
                ),
            ),
            doc="Gateway of networking.openfunction.io; default openfunction/openfunction.",
        ),
        Field(
            "hostnames",
            "hostnames",
            Items(_HOSTNAME, max_items=16),
            doc="Hosts of the function; default: one by the Gateway's hostTemplate.",
        ),
        Field(
            "rules",
            "rules",
            Items(_InlineRule(), max_items=16),
            doc="HTTPRoute rules: which requests, and what happens to them; default: all of the hosts.",
        ),
    ),
)
_COMPONENT_REF = (
    Field(
        "name",
        "name",
        _TEXT,
        required=True,
        doc="Component: a key of bindings, pubsub or states, or a Component of the namespace.",
    ),
    Field("type", "type", _TEXT, doc="Component type, such as pubsub.kafka; default: the component's."),
    Field("topic", "topic", _TEXT, doc="Topic, for pub/sub."),
)
_TRIGGERS = Record(
    model.Triggers,
    (
        Field(
            "http",
            "http",
            Record(
                model.HttpTrigger,
                (
                    Field("port", "port", _INTEGER, doc="Port of the user's container; default 8080."),
                    Field(
                        "engine",
                        "engine",
                        _TEXT,
                        doc="What scales it: knative (the default) or keda.",
                        limits={"enum": ["", "knative", "keda"]},
                    ),
                    Field("route", "route", ROUTE, doc="How requests reach it."),
                ),
            ),
            doc="HTTP requests call the function.",
        ),
        Field(
            "dapr",
            "dapr",
            Items(
                Record(
                    model.DaprTrigger,
                    (
                        *_COMPONENT_REF,
                        Field("inputName", "input_name", _TEXT, doc="Name the function knows it by."),
                    ),
                )
            ),
            doc="Events of components call the function.",
        ),
        Field(
            "inputs",
            "inputs",
            Items(Only("dapr", Record(model.DaprInput, _COMPONENT_REF), doc="The component.")),
            doc="Data sources that call nothing, such as state stores.",
        ),
    ),
)
_OUTPUT = Record(
    model.DaprOutput,
    (
        *_COMPONENT_REF,
        Field("operation", "operation", _TEXT, doc="Operation of the binding, such as create."),
        Field("metadata", "metadata", _STRINGS, doc="Metadata of each request."),
        Field("outputName", "output_name", _TEXT, doc="Name the function knows it by."),
    ),
)

# ---------------------------------------------------------------------------------------------------- serving

TRACING = Record(
    model.Tracing,
    (
        Field("enabled", "enabled", _BOOLEAN, required=True, keep=True, doc="Whether spans are written."),
        Field(
            "provider",
            "provider",
            Record(
                model.TracingProvider,
                (
                    Field("name", "name", _TEXT, required=True, doc="skywalking or opentelemetry."),
                    Field("oapServer", "oap_server", _TEXT, doc="Address of SkyWalking."),
                    Field(
                        "exporter",
                        "exporter",
                        Record(
                            model.Exporter,
                            (
                                Field("name", "name", _TEXT, required=True, doc="Such as otlp."),
                                Field("endpoint", "endpoint", _TEXT, required=True, doc="Address."),
                                Field("headers", "headers", _TEXT, doc="Headers, k=v,k=v."),
                                Field("compression", "compression", _TEXT, doc="Such as gzip."),
                                Field("timeout", "timeout", _TEXT, doc="Limit of one export."),
                                Field("protocol", "protocol", _TEXT, doc="Such as http/json."),
                            ),
                        ),
                        doc="Where OpenTelemetry sends spans.",
                    ),
                ),
            ),
            required=True,
            doc="Who gets the spans.",
        ),
        Field("tags", "tags", _STRINGS, doc="Tags of each span."),
        Field("baggage", "baggage", _STRINGS, doc="Values that travel with the trace."),
    ),
)
_HOOKS = Record(
    model.Hooks,
    (
        Field("pre", "pre", _NAMES, doc="Hooks before the function, in order."),
        Field("post", "post", _NAMES, doc="Hooks after the function, in order."),
        Field(
            "policy", "policy", _TEXT, doc="Append to the platform's hooks (the default) or Override them."
        ),
    ),
)
SERVING = Record(
    model.Serving,
    (
        Field("triggers", "triggers", _TRIGGERS, doc="What calls the function; default: HTTP."),
        Field(
            "outputs",
            "outputs",
            Items(Only("dapr", _OUTPUT, doc="The component.")),
            doc="Where the function may send to.",
        ),
        Field("bindings", "bindings", Mapped(COMPONENT_SPEC), doc="Binding components of this function."),
        Field("pubsub", "pubsub", Mapped(COMPONENT_SPEC), doc="Pub/sub components of this function."),
        Field(
            "states",
            "states",
            Mapped(Only("spec", COMPONENT_SPEC, doc="The component."), nullable=True),
            doc="State stores; without spec an existing Component of that name.",
        ),
        Field("scaleOptions", "scale_options", SCALE_OPTIONS, doc="How many instances run."),
        Field("params", "params", _STRINGS, doc="Environment variables of the function."),
        Field("labels", "labels", _STRINGS, doc="Labels of workload and instances."),
        Field("annotations", "annotations", _STRINGS, doc="Annotations of instances."),
        Field(
            "template",
            "template",
            Raw(),
            keep=True,
            doc="Pod spec; its container `function` is the user's and is added when missing.",
        ),
        Field("timeout", "timeout_s", _DURATION, doc="Time allowed until it runs."),
        Field("hooks", "hooks", _HOOKS, doc="Code around each invocation."),
        Field("tracing", "tracing", TRACING, doc="Spans of invocations."),
        Field("workloadType", "workload_type", _TEXT, doc="Deployment (the default), StatefulSet or Job."),
    ),
)
_VERSION = Field("version", "version", _TEXT, doc="Version of the function; default latest.")
_IMAGE = (
    Field("image", "image", _TEXT, doc="Image that is built or run.", limits={"required": True}),
    Field(
        "imageCredentials",
        "image_credentials",
        CREDENTIALS,
        keep=True,
        doc="Secret for pushing and pulling the image.",
    ),
)
FUNCTION_SPEC = Record(
    model.Function,
    (
        Field(
            "workloadRuntime",
            "workload_runtime",
            _TEXT,
            doc="OCIContainer or WasmEdge.",
            default="OCIContainer",
        ),
        _VERSION,
        *_IMAGE,
        Field("build", "build", BUILD, doc="How source becomes the image; without it nothing is built."),
        Field("serving", "serving", SERVING, doc="How it runs; without it nothing is served."),
    ),
)
"""The spec's fields sit directly in `model.Function`, beside those of its metadata."""

BUILDER_FIELDS = (
    *_IMAGE,
    Field(
        "state",
        "state",
        _TEXT,
        doc="Cancelled asks to end an unfinished build.",
        limits={"enum": ["", "Cancelled"]},
    ),
)
"""What a Builder has beside the fields of a build."""

SERVING_FIELDS = (_VERSION, *_IMAGE)
"""What a Serving has beside the fields of a serving."""
