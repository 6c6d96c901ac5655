"""Which alerts keep which back."""

import pytest

from pelton.model.matching import parse_matcher
from pelton.model.notification_timing import InhibitRule
from pelton.notify.alert import FIRING, RESOLVED, Alert, fingerprint
from pelton.notify.alert_table import track
from pelton.notify.inhibition import Inhibition

T0 = 1_000.0


def tracked(status=FIRING, **labels):
    return track(Alert(status=status, labels=labels, fingerprint=fingerprint(labels)), received=T0)


def rule(source, target, *equal):
    return InhibitRule(source=(parse_matcher(source),), target=(parse_matcher(target),), equal=equal)


def asked(inhibition, now=T0, **labels):
    return inhibition.inhibited_by(labels, fingerprint(labels), now)


DOWN = rule('alertname="Down"', 'severity="warning"', "node")


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        ({"alertname": "Down", "node": "1"}, {"severity": "warning", "node": "1"}, True),
        ({"alertname": "Down", "node": "1"}, {"severity": "warning", "node": "2"}, False),
        ({"alertname": "Down", "node": "1"}, {"severity": "info", "node": "1"}, False),
        ({"alertname": "Up", "node": "1"}, {"severity": "warning", "node": "1"}, False),
        # A missing label counts as empty, on both sides.
        ({"alertname": "Down"}, {"severity": "warning"}, True),
        ({"alertname": "Down", "node": ""}, {"severity": "warning"}, True),
    ],
)
def test_a_source_keeps_targets_with_equal_labels_back(source, target, kept):
    inhibition = Inhibition([DOWN])

    known = inhibition.note(tracked(**source))

    assert known is (source["alertname"] == "Down")
    assert bool(asked(inhibition, **target)) is kept


def test_a_source_that_is_over_keeps_nothing_back():
    inhibition = Inhibition([DOWN])
    inhibition.note(tracked(alertname="Down"))
    assert asked(inhibition, severity="warning")
    assert not asked(inhibition, now=T0 + 300, severity="warning")

    inhibition.note(tracked(RESOLVED, alertname="Down"))

    assert not asked(inhibition, severity="warning")


def test_sources_that_are_over_are_forgotten_and_those_that_fire_are_not():
    inhibition = Inhibition([DOWN])
    inhibition.note(tracked(alertname="Down", node="1"))

    inhibition.forget(T0 + 299)
    assert asked(inhibition, severity="warning", node="1")
    inhibition.forget(T0 + 300)

    assert not asked(inhibition, now=T0, severity="warning", node="1")


def test_alerts_on_both_sides_do_not_keep_each_other_back():
    inhibition = Inhibition([rule('severity=~".+"', 'severity=~".+"')])
    for name in "ab":
        inhibition.note(tracked(alertname=name, severity="warning"))

    assert not asked(inhibition, alertname="a", severity="warning")


def test_an_alert_on_both_sides_is_kept_back_by_one_that_is_only_a_source():
    inhibition = Inhibition([rule('severity=~"critical|warning"', 'severity="warning"')])
    inhibition.note(tracked(alertname="a", severity="warning"))
    assert not asked(inhibition, alertname="b", severity="warning")

    inhibition.note(tracked(alertname="c", severity="critical"))

    assert asked(inhibition, alertname="b", severity="warning")
    assert not asked(inhibition, alertname="c", severity="critical")
