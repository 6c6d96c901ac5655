"""What a Function's status says of the brokers of its inputs."""

from __future__ import annotations

from typing import Any

import pytest

from pelton.cli.input_status import InputStatus, conditions
from pelton.controlplane.work import FUNCTIONS
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

NOW, LATER = "2026-01-02T00:00:00Z", "2026-01-02T00:00:05Z"
OTHER: dict[str, Any] = {"type": "Ready", "status": "True"}


def test_function_that_never_had_trouble_has_no_such_condition():
    assert conditions((), [OTHER], generation=1, now=NOW) == [OTHER]


def test_trouble_is_told_and_its_end_too():
    first = conditions(["b: away", "a: away"], [OTHER], generation=1, now=NOW)
    assert first == [
        OTHER,
        {
            "type": "InputsReady",
            "status": "False",
            "reason": "SourceUnavailable",
            "message": "a: away; b: away",
            "observedGeneration": 1,
            "lastTransitionTime": NOW,
        },
    ]
    second = conditions(["a: refused"], first, generation=1, now=LATER)
    assert (second[1]["message"], second[1]["lastTransitionTime"]) == ("a: refused", NOW)

    over = conditions((), second, generation=1, now=LATER)
    assert (over[1]["status"], over[1]["reason"], over[1]["message"]) == ("True", "Reading", "")
    assert over[1]["lastTransitionTime"] == LATER
    assert conditions((), over, generation=2, now=NOW) == over


class Runtime:
    """Counters as the runtime gives them."""

    def __init__(self):
        self.trouble = ""
        self.app_trouble = ""
        self.output_trouble = ""
        self.away = False

    async def ask(self):
        if self.away:
            raise ConnectionError("away")
        counters = {"id": "x", "trouble": self.trouble}
        return {
            "subscriptions": [
                {
                    **counters,
                    "namespace": "shop",
                    "function": "fn",
                    "topic": "orders",
                    "trouble": self.trouble,
                },
                {**counters, "trouble": "not of a function"},
            ],
            "outputs": [
                {
                    "namespace": "shop",
                    "function": "fn",
                    "output": "out",
                    "destination": "paid",
                    "trouble": self.output_trouble,
                }
            ],
            "apps": [{"namespace": "shop", "function": "fn", "trouble": self.app_trouble}],
        }


async def test_look_writes_the_functions_concerned_and_nothing_twice():
    async with MemoryStore() as store:
        for name in ("fn", "other"):
            await store.create(
                FUNCTIONS,
                {
                    "apiVersion": "core.openfunction.io/v1beta2",
                    "kind": "Function",
                    "metadata": {"name": name, "namespace": "shop"},
                    "spec": {},
                },
            )
        runtime = Runtime()
        clock = FakeClock()
        status = InputStatus(store, runtime.ask, clock)

        async def stored(name):
            obj = await store.get(FUNCTIONS, "shop", name)
            return obj["metadata"]["resourceVersion"], (obj.get("status") or {}).get("conditions")

        untouched = await stored("other")
        await status.look()
        assert (await stored("fn"))[1] is None

        runtime.trouble = "Kafka: connection refused"
        await status.look()
        told = await stored("fn")
        assert [(one["status"], one["message"]) for one in told[1]] == [
            ("False", "orders: Kafka: connection refused")
        ]
        await status.look()
        assert await stored("fn") == told

        runtime.trouble = "Kafka: 1/1 brokers are down"
        await status.look()
        assert await stored("fn") == told
        await clock.advance(61)
        await status.look()
        assert (await stored("fn"))[1][0]["message"] == "orders: Kafka: 1/1 brokers are down"

        runtime.away = True
        with pytest.raises(ConnectionError):
            await status.look()
        runtime.away, runtime.trouble = False, ""
        await InputStatus(store, runtime.ask, FakeClock()).look()  # a new process knows nothing of before
        assert [one["status"] for one in (await stored("fn"))[1]] == ["True"]
        assert await stored("other") == untouched


async def test_app_that_is_not_served_is_told_beside_its_inputs():
    async with MemoryStore() as store:
        await store.create(
            FUNCTIONS,
            {
                "apiVersion": "core.openfunction.io/v1beta2",
                "kind": "Function",
                "metadata": {"name": "fn", "namespace": "shop"},
                "spec": {},
            },
        )
        runtime = Runtime()
        status = InputStatus(store, runtime.ask, FakeClock())

        async def told():
            found = (await store.get(FUNCTIONS, "shop", "fn"))["status"]["conditions"]
            return [(one["type"], one["status"], one["reason"], one["message"]) for one in found]

        runtime.app_trouble = "the app id a is that of the Function shop/first"
        await status.look()
        mine = ("DaprAppReady", "False", "AppNotServed", runtime.app_trouble)
        assert await told() == [mine]

        runtime.trouble = "away"
        await status.look()
        inputs = ("InputsReady", "False", "SourceUnavailable", "orders: away")
        assert sorted(await told()) == [mine, inputs]

        runtime.output_trouble = "not confirmed within 10 s"
        await status.look()
        outputs = ("OutputsReady", "False", "DestinationUnavailable", "paid: not confirmed within 10 s")
        assert sorted(await told()) == [mine, inputs, outputs]

        runtime.app_trouble = ""
        await status.look()
        assert ("DaprAppReady", "True", "Served", "") in await told()
