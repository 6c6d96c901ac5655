"""What a LogRule's status says."""

from __future__ import annotations

from pelton.cli.log_rule_status import LOG_RULES, LogRuleStatus, status_of
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

NOW, LATER = "2026-01-02T00:00:00Z", "2026-01-02T00:00:05Z"


def test_a_rule_that_works_is_ready_and_says_how_many_alerts_fire():
    made = status_of("", "", 2, {}, generation=3, now=NOW)

    (ready,) = made["conditions"]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "True", "Reading")
    assert ready["lastTransitionTime"] == NOW
    assert (made["firing"], made["observedGeneration"]) == (2, 3)


def test_the_time_of_a_transition_changes_with_the_status_only():
    away = status_of("NotReading", "no broker", 0, {}, generation=1, now=NOW)
    still = status_of("NotConfigured", "no Secret", 0, away, generation=1, now=LATER)
    back = status_of("", "", 0, still, generation=1, now=LATER)

    times = [each["conditions"][0]["lastTransitionTime"] for each in (away, still, back)]
    assert times == [NOW, NOW, LATER]
    assert still["conditions"][0]["message"] == "no Secret"


async def test_look_writes_what_changed_and_nothing_else():
    async with MemoryStore() as store:
        for name in ("known", "unknown"):
            await store.create(
                LOG_RULES,
                {
                    "apiVersion": "pelton.dev/v1alpha1",
                    "kind": "LogRule",
                    "metadata": {"name": name, "namespace": "shop"},
                    "spec": {"source": {"topic": "logs"}, "match": "true"},
                },
            )

        async def ask():
            return [("shop", "known", "", "", 1), ("other", "unknown", "NotReading", "x", 0)]

        status = LogRuleStatus(store, ask, FakeClock())
        await status.look()
        first = {item["metadata"]["name"]: item for item in (await store.list(LOG_RULES))[0]}
        await status.look()
        second = {item["metadata"]["name"]: item for item in (await store.list(LOG_RULES))[0]}

    assert first["known"]["status"]["firing"] == 1
    assert "status" not in first["unknown"]
    assert second == first
