"""Resources of Dapr from files, as a standalone runtime loads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelton.cli.dapr_resources import configuration_of, load_folders, stamp

COMPONENT = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: %s, namespace: %s}
spec: {type: pubsub.in-memory, version: v1}
"""
OTHERS = """
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: {name: old}
spec: {topic: t, pubsubname: bus, route: /old}
scopes: [a]
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: new}
spec: {topic: u, pubsubname: bus, routes: {default: /new}}
---
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: r}
spec: {policies: {timeouts: {short: 1s}}, targets: {apps: {b: {timeout: short}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: not-ours}
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: only-by-config}
spec: {api: {denied: [{name: state, version: v1.0}]}}
"""


def test_load_folders_reads_all_kinds_and_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "bus.yaml").write_text(COMPONENT % ("bus", "default"))
    (tmp_path / "more.yml").write_text(OTHERS)
    (tmp_path / "readme.txt").write_text("not: read")

    found, errors = load_folders([tmp_path], namespace="")

    assert errors == []
    assert [(each.name, each.namespace) for each in found.components] == [("bus", "")]
    assert [(each.topic, each.default_route, each.scopes) for each in found.subscriptions] == [
        ("t", "/old", ("a",)),
        ("u", "/new", ()),
    ]
    assert [each.name for each in found.resiliencies] == ["r"]


def test_load_folders_other_namespace_counts_only_where_one_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "bus.yaml").write_text(COMPONENT % ("bus", "other"))

    all_of_them, _ = load_folders([tmp_path], namespace="")
    none, _ = load_folders([tmp_path], namespace="mine")

    assert (len(all_of_them.components), len(none.components)) == (1, 0)


def test_load_folders_two_of_a_name_and_faulty_ones_are_told_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(COMPONENT % ("bus", "default"))
    (tmp_path / "b.yaml").write_text(COMPONENT % ("bus", "default"))
    (tmp_path / "c.yaml").write_text("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: x}\n")
    (tmp_path / "d.yaml").write_text("kind: [")

    found, errors = load_folders([tmp_path], namespace="")

    assert len(found.components) == 1
    assert [str(error.where).rpartition("/")[2].partition(":")[0] for error in errors] == [
        "b.yaml",
        "c.yaml",
        "d.yaml",
    ]


def test_configuration_of_is_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(OTHERS)

    assert not configuration_of([file]).serves("state", "http")
    assert configuration_of([]).serves("state", "http")


def test_stamp_changes_with_a_file(tmp_path: Path) -> None:
    before = stamp([tmp_path])
    (tmp_path / "a.yaml").write_text("x: 1")

    assert stamp([tmp_path]) != before


WITHOUT_EFFECT = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec:
  type: pubsub.kafka
  version: v1
  metadata:
  - {name: brokers, value: "a:1"}
  - {name: consumeRetryEnabled, value: "true"}
  - {name: brokres, value: "a:1"}
---
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: r}
spec: {policies: {timeouts: {short: 1s}}, targets: {actors: {cart: {timeout: short}}}}
"""


def test_load_folders_says_what_has_no_effect(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bus.yaml").write_text(WITHOUT_EFFECT)
    (tmp_path / "configuration.yaml").write_text(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n"
        "spec: {tracing: {samplingRate: '1'}}\n"
    )

    load_folders([tmp_path], namespace="")
    configuration_of([tmp_path / "configuration.yaml"])

    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "consumeRetryEnabled" in line and "retries are" in line]
    assert [line for line in said if '"brokres"' in line and '"brokers"' in line]
    assert [line for line in said if "spec.targets.actors.cart" in line and "no actors" in line]
    assert [line for line in said if "spec.tracing" in line]
    assert len(said) == 4
