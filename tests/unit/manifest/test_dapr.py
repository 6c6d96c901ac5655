"""Components: the resource, with secrets still referenced."""

import pytest

from pelton.errors import InvalidError, UnservedVersionError
from pelton.manifest import dapr
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem, SecretKeyRef

OBJ = {
    "apiVersion": "dapr.io/v1alpha1",
    "kind": "Component",
    "metadata": {"name": "orders", "namespace": "shop"},
    "spec": {
        "type": "pubsub.jetstream",
        "version": "v1",
        "initTimeout": "5s",
        "metadata": [
            {"name": "natsURL", "value": "nats://x"},
            {"name": "depth", "value": 3},
            {"name": "token", "secretKeyRef": {"name": "nats", "key": "token"}},
            {"name": "region", "envRef": "REGION"},
        ],
    },
    "auth": {"secretStore": "vault"},
    "scopes": ["a", "b"],
}


def test_decode_gives_the_resource():
    component, warnings = dapr.decode(OBJ)

    assert warnings == []
    assert component == ComponentResource(
        namespace="shop",
        name="orders",
        spec=ComponentSpec(
            type="pubsub.jetstream",
            version="v1",
            init_timeout_s=5.0,
            metadata=(
                MetadataItem(name="natsURL", value="nats://x"),
                MetadataItem(name="depth", value=3),
                MetadataItem(name="token", secret_key_ref=SecretKeyRef(name="nats", key="token")),
                MetadataItem(name="region", env_ref="REGION"),
            ),
        ),
        secret_store="vault",
        scopes=("a", "b"),
    )
    assert component.spec.category == "pubsub"


def test_encode_gives_back_what_decode_read():
    assert dapr.encode(dapr.decode(OBJ)[0]) == OBJ


def test_default_empty_version_is_v1_and_stays():
    filled = dapr.default({**OBJ, "spec": {"type": "bindings.cron"}})

    assert filled["spec"]["version"] == "v1"
    assert dapr.default(filled) == filled


@pytest.mark.parametrize("name", ["APP_API_TOKEN", "DAPR_HOST", "with space"])
def test_validate_environment_references_that_dapr_refuses(name):
    obj = {**OBJ, "spec": {"type": "bindings.cron", "metadata": [{"name": "a", "envRef": name}]}}

    assert [problem.path for problem in dapr.validate(obj)] == ["spec.metadata[0].envRef"]


@pytest.mark.parametrize("kind", ["", "cron", ".cron", "bindings."])
def test_validate_type_needs_category_and_name(kind):
    obj = {**OBJ, "spec": {"type": kind}}

    assert [problem.path for problem in dapr.validate(obj)] == ["spec.type"]


def test_decode_wrong_types_raise_with_all_of_them():
    with pytest.raises(InvalidError) as caught:
        dapr.decode({**OBJ, "scopes": "a", "auth": [], "spec": {"type": "a.b", "metadata": {}}})

    assert [path for path, _ in caught.value.causes] == ["spec.metadata", "auth", "scopes"]


def test_convert_knows_one_version():
    assert dapr.convert(OBJ, "dapr.io/v1alpha1") == OBJ
    with pytest.raises(UnservedVersionError):
        dapr.convert(OBJ, "dapr.io/v2")
