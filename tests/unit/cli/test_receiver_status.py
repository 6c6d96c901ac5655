"""What a Receiver's status says of its destinations."""

from __future__ import annotations

from typing import Any

import pytest

from pelton.cli.receiver_status import ReceiverStatus, conditions
from pelton.cli.receivers import RECEIVERS
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

NOW, LATER = "2026-01-02T00:00:00Z", "2026-01-02T00:00:05Z"


def test_receiver_without_trouble_is_ready():
    (made,) = conditions([("slack", "", "")], (), generation=3, now=NOW)

    assert made == {
        "type": "Ready",
        "status": "True",
        "reason": "Delivering",
        "message": "",
        "observedGeneration": 3,
        "lastTransitionTime": NOW,
    }


def test_worst_reason_counts_and_every_block_is_told():
    blocks = [
        ("slack", "TemplateFault", "t:1:1: has no {{end}}"),
        ("email", "CredentialsRefused", "535 no"),
        ("console", "", ""),
    ]

    (made,) = conditions(blocks, (), generation=1, now=NOW)

    assert (made["status"], made["reason"]) == ("False", "CredentialsRefused")
    assert made["message"] == "slack: t:1:1: has no {{end}}; email: 535 no"


@pytest.mark.parametrize(("reason", "time"), [("NotAccepted", NOW), ("", LATER)])
def test_transition_time_changes_with_the_status_only(reason, time):
    before = conditions([("slack", "CredentialsRefused", "x")], (), generation=1, now=NOW)
    other: dict[str, Any] = {"type": "Other", "status": "True"}

    made = conditions([("slack", reason, "y")], [*before, other], generation=1, now=LATER)

    assert made[0] == other
    assert made[1]["lastTransitionTime"] == time


async def test_look_writes_what_changed_and_nothing_else():
    async with MemoryStore() as store:
        spec = {"slack": {"channels": ["a"]}}
        for name in ("known", "unknown"):
            await store.create(
                RECEIVERS,
                {
                    "apiVersion": "notification.kubesphere.io/v2beta2",
                    "kind": "Receiver",
                    "metadata": {"name": name},
                    "spec": spec,
                },
            )
        problems = [("known", "slack", "CredentialsRefused", "invalid_auth"), ("gone", "slack", "", "")]

        async def ask():
            return problems

        status = ReceiverStatus(store, ask, FakeClock())
        await status.look()
        first = await store.get(RECEIVERS, "", "known")
        await status.look()
        second = await store.get(RECEIVERS, "", "known")

        assert first["status"]["conditions"][0]["reason"] == "CredentialsRefused"
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        assert "status" not in await store.get(RECEIVERS, "", "unknown")

        problems[0] = ("known", "slack", "", "")
        await status.look()
        third = await store.get(RECEIVERS, "", "known")
        assert third["status"]["conditions"][0]["status"] == "True"
