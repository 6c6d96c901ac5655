"""When the next message may go, and what a digest says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.digest import digest_payload, digest_words
from pelton.notify.grouping import Group
from pelton.notify.limits import Limit, Rate, Turnstile
from pelton.notify.render import Style


@settings(deadline=None)
@given(
    gaps=st.lists(st.floats(0, 3), max_size=60),
    rates=st.lists(st.tuples(st.integers(1, 5), st.floats(0.5, 10)), min_size=1, max_size=3),
)
def test_turnstile_never_lets_more_through_than_each_rate_says(gaps, rates):
    turnstile = Turnstile(tuple(Rate(*rate) for rate in rates))
    now, passed = 0.0, []
    for gap in gaps:
        now += gap
        now += turnstile.wait_s(now)
        turnstile.passed(now)
        passed.append(now)

    for messages, seconds in rates:
        for first, beyond in zip(passed, passed[messages:], strict=False):
            assert beyond - first >= seconds - 1e-6


def test_turnstile_lets_a_whole_window_through_at_once():
    turnstile = Turnstile((Rate(20, 60.0),))
    for _ in range(20):
        assert turnstile.wait_s(5.0) == 0
        turnstile.passed(5.0)

    assert turnstile.wait_s(15.0) == 50.0
    assert turnstile.wait_s(65.0) == 0


def test_turn_that_was_given_back_is_free_again():
    turnstile = Turnstile((Rate(1, 60.0), Rate(2, 100.0)))
    turnstile.passed(0.0)
    turnstile.give_back()
    turnstile.give_back()

    assert turnstile.wait_s(0.0) == 0


def group(*alerts: tuple[str, str, str]) -> Group:
    return Group(
        alerts=[
            Alert(status=status, labels={"alertname": name}, fingerprint=print_)
            for name, status, print_ in alerts
        ]
    )


LIMIT = Limit(rates=(Rate(20, 60.0),), digest_after_s=10.0)


def test_digest_counts_notifications_and_the_newest_state_of_each_alert():
    words = digest_words(
        [
            group(("404", FIRING, "1"), ("404", FIRING, "2")),
            group(("disk", FIRING, "3")),
            group(("404", RESOLVED, "1")),
        ],
        LIMIT,
    )

    assert words == (
        "[DIGEST] 3 notifications in one, since this receiver takes 20 per 60 s: "
        "3 alerts, 2 firing, 1 resolved\n"
        "- 2 x 404 (1 firing, 1 resolved)\n"
        "- 1 x disk (1 firing, 0 resolved)"
    )


def test_digest_fits_the_destination_and_names_only_the_most_frequent():
    many = [group((f"name {number}", FIRING, str(number))) for number in range(500)]
    style = Style(block="wechat", format="markdown", limit=1000)

    payload = digest_payload(many, LIMIT, style)

    assert payload["text"].startswith("[DIGEST] 500 notifications in one")
    assert len(payload["text"].encode()) < 1000
    assert payload["format"] == "markdown"
    assert "and 470 more names" in digest_words(many, LIMIT)


def test_digest_for_slack_is_escaped():
    payload = digest_payload([group(("<!here>", FIRING, "1"))], LIMIT, Style(block="slack"))

    assert "&lt;!here&gt;" in payload["text"]
    assert payload["blocks"]
