import pytest

from pelton.apiserver.builtin.network import SERVICE
from pelton.apiserver.strategic import strategic_merge
from pelton.errors import ProtocolError


def merged(target, patch):
    return strategic_merge(SERVICE.schema or {}, target, patch)


WEB = {"port": 80, "name": "web", "protocol": "TCP"}
TLS = {"port": 443, "name": "tls", "protocol": "TCP"}


def ports(*items):
    return {"spec": {"ports": list(items)}}


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        (ports(WEB), ports(TLS), ports(WEB, TLS)),
        (ports(WEB, TLS), ports({"port": 80, "name": "w"}), ports({**WEB, "name": "w"}, TLS)),
        (ports(WEB, TLS), ports({"port": 80, "$patch": "delete"}), ports(TLS)),
        (ports(WEB), ports(TLS, {"$patch": "replace"}), ports(TLS)),
        (
            ports(WEB, TLS),
            {"spec": {"$setElementOrder/ports": [{"port": 443}, {"port": 80}], "ports": [{"port": 443}]}},
            ports(TLS, WEB),
        ),
        (
            ports(WEB, TLS),
            {"spec": {"$setElementOrder/ports": [{"port": 443}, {"port": 80}]}},
            ports(TLS, WEB),
        ),
        (
            {"metadata": {"finalizers": ["a", "b"]}},
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}},
            {"metadata": {"finalizers": ["b", "c"]}},
        ),
        (
            {"metadata": {"labels": {"a": "1", "b": "2"}}},
            {"metadata": {"labels": {"a": None, "c": "3"}}},
            {"metadata": {"labels": {"b": "2", "c": "3"}}},
        ),
        (
            {"spec": {"externalIPs": ["a", "b"]}},
            {"spec": {"externalIPs": ["c"]}},
            {"spec": {"externalIPs": ["c"]}},
        ),
        (
            {"spec": {"type": "NodePort", "sessionAffinity": "None"}},
            {"spec": {"$patch": "replace", "type": "ClusterIP"}},
            {"spec": {"type": "ClusterIP"}},
        ),
        ({"spec": {"type": "x"}}, {"spec": {"$patch": "delete"}}, {"spec": {}}),
        (
            {"spec": {"a": 1, "b": 2}},
            {"spec": {"$retainKeys": ["b", "c"], "c": 3}},
            {"spec": {"b": 2, "c": 3}},
        ),
    ],
)
def test_patch_merges_by_the_schema(target, patch, expected):
    assert merged(target, patch) == expected


@pytest.mark.parametrize("patch", [{"spec": {"$patch": "odd"}}, ports({"name": "no key"}), ports("text")])
def test_patch_that_cannot_be_read_is_refused(patch):
    with pytest.raises(ProtocolError):
        merged(ports(WEB), patch)


def test_target_is_not_changed():
    target = ports(WEB)

    merged(target, ports(TLS))

    assert target == ports(WEB)
