"""Component of dapr.io/v1alpha1, and the component specs that Functions declare inline.

Decode, default, validate, convert, encode; called through `manifest/kinds`. `manifest/openfunction_core` uses
COMPONENT_SPEC. Source: contracts, Dapr components, section 1, and OpenFunction, section 2.3.
"""

from __future__ import annotations

from typing import Any

from pelton.errors import UnservedVersionError
from pelton.manifest.fields import (
    AnyValue,
    Boolean,
    Decoded,
    Duration,
    Field,
    Items,
    Only,
    Problem,
    Reading,
    Record,
    Text,
    copy_json,
    describe,
    merge_problems,
    raise_invalid,
    read_metadata,
    render_path,
    write_metadata,
)
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem, SecretKeyRef

__all__ = [
    "API_VERSION",
    "BESIDE",
    "COMPONENT_SPEC",
    "KIND",
    "METADATA_ITEMS",
    "SECRET_KEY_REF",
    "STANDALONE_SPEC",
    "check_env_ref",
    "convert",
    "decode",
    "default",
    "encode",
    "read",
    "rules",
    "validate",
]

API_VERSION = "dapr.io/v1alpha1"
KIND = "Component"

_TEXT = Text()


def _hollow(reference: dict[str, Any]) -> bool:
    """Tell whether a reference names nothing; older OpenFunction samples carry such references everywhere."""
    return not any(reference.values())


SECRET_KEY_REF = Record(
    SecretKeyRef,
    (
        Field("name", "name", _TEXT, required=True, doc="Name of the Secret."),
        Field("key", "key", _TEXT, doc="Entry in it; default: that of the Secret's name."),
    ),
    absent=_hollow,
)

METADATA_ITEMS = Items(
    Record(
        MetadataItem,
        (
            Field("name", "name", _TEXT, required=True, doc="Setting."),
            Field("value", "value", AnyValue(), keep=True, doc="Its value: text, number or flag."),
            Field("secretKeyRef", "secret_key_ref", SECRET_KEY_REF, doc="Secret that holds the value."),
            Field("envRef", "env_ref", _TEXT, doc="Variable of the platform that holds the value."),
        ),
    )
)
"""Settings of a component by name, with values or where they are kept."""


def _spec(*, complete: bool) -> Record:
    """Return the table of a component; inside a Function type, version and metadata must be written."""
    return Record(
        ComponentSpec,
        (
            Field(
                "type",
                "type",
                _TEXT,
                required=complete,
                doc="Category and name, such as pubsub.kafka.",
                limits={"required": True},  # a rule of standalone Components, so that it is reported once
            ),
            Field("version", "version", _TEXT, required=complete, keep=complete, doc="Version; default v1."),
            Field("metadata", "metadata", METADATA_ITEMS, required=complete, keep=complete, doc="Settings."),
            Field("ignoreErrors", "ignore_errors", Boolean(), doc="Whether it may fail to start."),
            Field("initTimeout", "init_timeout_s", Duration(blank=True), doc="Time allowed to start."),
        ),
    )


COMPONENT_SPEC = _spec(complete=True)
"""As the Function's schema has it: type, version and metadata must be written."""

STANDALONE_SPEC = _spec(complete=False)
"""As Dapr's own resource has it."""

_AUTH = Only("secretStore", _TEXT, missing="")
_SCOPES = Items(_TEXT)
BESIDE = (
    Field("auth", "secret_store", _AUTH, doc="Secret store for secretKeyRef."),
    Field("scopes", "scopes", _SCOPES, doc="Applications that may use it; empty: all of the namespace."),
)
"""What Dapr has beside the spec."""


def read(obj: dict[str, Any]) -> Decoded[ComponentResource]:
    """Read a Component, collecting all problems; `auth` and `scopes` stand beside `spec` in Dapr."""
    reading = Reading()
    values = read_metadata(obj, reading, beside=("auth", "scopes"))
    spec = obj.get("spec")
    if spec is None:
        reading.problem(("spec",), "required")
    read_spec = STANDALONE_SPEC.decode(spec, ("spec",), reading) if spec is not None else None
    if obj.get("auth") is not None:
        values["secret_store"] = _AUTH.decode(obj["auth"], ("auth",), reading)
    if obj.get("scopes") is not None:
        values["scopes"] = _SCOPES.decode(obj["scopes"], ("scopes",), reading)
    return reading.result(ComponentResource(spec=read_spec or ComponentSpec(type=""), **values))


def decode(obj: dict[str, Any]) -> tuple[ComponentResource, list[Problem]]:
    """Return the Component and warnings.

    Raises:
        InvalidError: With every wrong type and missing field.
    """
    found = read(obj)
    raise_invalid(KIND, found.model.name, found.problems)
    return found.model, list(found.warnings)


def default(obj: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with the version filled in (`v1`); idempotent."""
    filled: dict[str, Any] = copy_json(obj)
    spec = filled.get("spec")
    if type(spec) is dict and spec.get("version") in (None, ""):
        spec["version"] = "v1"
    return filled


def rules(component: ComponentResource) -> list[Problem]:
    """Check what types cannot say: the component's type and its references to the environment."""
    kind = component.spec.type
    problems = []
    if not kind:
        problems.append(Problem("spec.type", 'required, for example "pubsub.jetstream"'))
    elif "." not in kind.strip("."):
        problems.append(Problem("spec.type", f"must be <category>.<name>, found {describe(kind)}"))
    for index, item in enumerate(component.spec.metadata):
        problems += check_env_ref(item, render_path(("spec", "metadata", index)))
    return problems


def check_env_ref(item: MetadataItem, path: str) -> list[Problem]:
    """Refuse environment variables that Dapr keeps to itself."""
    name = item.env_ref
    if name and (name == "APP_API_TOKEN" or name.startswith("DAPR_") or " " in name):
        return [
            Problem(
                f"{path}.envRef", f"must not name {describe(name)}: that variable is reserved or malformed"
            )
        ]
    return []


def validate(obj: dict[str, Any] | ComponentResource) -> list[Problem]:
    """Return all problems: types first, then rules."""
    if isinstance(obj, ComponentResource):
        return rules(obj)
    found = read(obj)
    return merge_problems(found.problems, rules(found.model))


def convert(obj: dict[str, Any], api_version: str) -> dict[str, Any]:
    """Return the object in another version; there is only one."""
    if api_version != API_VERSION or obj.get("apiVersion") != API_VERSION:
        raise UnservedVersionError(f"{KIND} is served as {API_VERSION} only, not as {api_version}")
    return copy_json(obj)  # type: ignore[no-any-return]  # copying an object gives an object


def encode(component: ComponentResource) -> dict[str, Any]:
    """Write a Component as JSON."""
    written: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": write_metadata(component),
        "spec": STANDALONE_SPEC.encode(component.spec),
    }
    if component.secret_store:
        written["auth"] = _AUTH.encode(component.secret_store)
    if component.scopes:
        written["scopes"] = _SCOPES.encode(component.scopes)
    return written
