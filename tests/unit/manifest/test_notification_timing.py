"""Annotations about timers and inhibition."""

import pytest

from pelton.manifest.notification_timing import (
    inhibit_rules,
    manager_timing_problems,
    resolve_timeout_s,
    timing,
    timing_problems,
)
from pelton.model.notification_timing import Timing


def test_nothing_asks_for_groups_and_there_are_none():
    assert timing({}, {"pelton.dev/send-resolved": "true"}, block="slack") is None


def test_what_is_left_out_has_the_originals_defaults_and_the_nearer_value_counts():
    manager = {"pelton.dev/group-wait": "5s", "pelton.dev/group-by": "alertname, pod"}
    receiver = {"pelton.dev/group-wait": "1s"}

    assert timing(manager, receiver, {}, block="slack") == Timing(
        group_wait_s=1.0,
        group_interval_s=300.0,
        repeat_interval_s=14_400.0,
        group_by=("alertname", "pod"),
        send_resolved=False,
    )


def grouped(*annotations, **more) -> Timing:
    found = timing(*annotations, **more)
    assert found is not None
    return found


@pytest.mark.parametrize(("block", "told"), [("webhook", True), ("console", True), ("email", False)])
def test_who_is_told_of_what_is_over_depends_on_the_block_unless_it_is_said(block, told):
    assert grouped({"pelton.dev/group-wait": "0s"}, block=block).send_resolved is told
    said = {"pelton.dev/group-wait": "0s", "pelton.dev/send-resolved": str(not told).lower()}
    assert grouped(said, block=block).send_resolved is not told


def test_group_labels_count_where_no_annotation_says_which():
    assert grouped({"pelton.dev/group-wait": "1s"}, group_labels=["team"]).group_by == ("team",)
    assert grouped({"pelton.dev/group-by": "..."}, group_labels=["team"]).group_by == ("...",)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("group-wait", "soon", "must be a duration"),
        ("group-wait", "", "must be a duration"),
        ("group-wait", "-1s", "must be from 0s"),
        ("group-interval", "0s", "must be from 0.1s"),
        ("repeat-interval", "9000h", "to 365 days"),
        ("group-by", "..., pod", "stands alone"),
        ("send-resolved", "yes", "must be true or false"),
        ("resolve-timeout", "0", "must be from 0.1s"),
        ("inhibit-rules", "[", "is no YAML"),
        ("inhibit-rules", "a: b", "must be a list"),
        ("inhibit-rules", "- 1", "[0] must be an object"),
        ("inhibit-rules", "- {target: []}", "unknown key target"),
        ("inhibit-rules", "- {source_matchers: ['a=b']}", "[0].target_matchers needs at least one"),
        ("inhibit-rules", "- {source_matchers: ['a'], target_matchers: ['a=b']}", "is no matcher"),
        ("inhibit-rules", "- {source_matchers: ['a=~\"(\"'], target_matchers: ['a=b']}", "no regular"),
        ("inhibit-rules", "- {source_matchers: a, target_matchers: ['a=b']}", "must be a list of texts"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_and_does_not_count(name, value, words):
    annotations = {f"pelton.dev/{name}": value}

    (problem,) = manager_timing_problems(annotations)

    assert problem.path == f"metadata.annotations[pelton.dev/{name}]"
    assert words in problem.message
    assert timing(annotations) is None
    assert inhibit_rules(annotations) == ()
    assert resolve_timeout_s(annotations) == 300.0


def test_only_a_manager_has_rules_of_inhibition():
    assert list(timing_problems({"pelton.dev/inhibit-rules": "["})) == []


def test_rules_are_alertmanagers():
    text = """
    - source_matchers: ['alertname="Down"', severity=~"crit.*"]
      target_matchers: [severity="warning"]
      equal: [node]
    """

    (rule,) = inhibit_rules({"pelton.dev/inhibit-rules": text})

    assert [each.name for each in rule.source] == ["alertname", "severity"]
    assert rule.equal == ("node",)
