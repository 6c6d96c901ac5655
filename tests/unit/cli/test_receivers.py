"""What the runtime is told of receivers and their secrets."""

import asyncio
import base64
from typing import Any

import pytest

from pelton.cli.receivers import RECEIVERS, ReceiverFeed, manager_of, secret_namespace
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

MANAGERS = "notificationmanagers.notification.kubesphere.io"


def receiver(**reference) -> dict[str, Any]:
    url = {"valueFrom": {"secretKeyRef": {"name": "hook", "key": "url", **reference}}}
    return {
        "apiVersion": "notification.kubesphere.io/v2beta2",
        "kind": "Receiver",
        "metadata": {"name": "r"},
        "spec": {"slack": {"slackTokenSecret": url}},
    }


def secret(text, namespace="default"):
    data = {"url": base64.b64encode(text.encode()).decode(), "broken": "!"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hook", "namespace": namespace},
        "data": data,
    }


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


async def test_secrets_go_along_and_a_changed_one_is_pushed_again(store):
    pushed: asyncio.Queue[tuple[int, list[tuple[str, ...]]]] = asyncio.Queue()

    async def push(items, secrets, config_maps):
        pushed.put_nowait((len(items), secrets))

    running = asyncio.create_task(ReceiverFeed(store, push, FakeClock()).run())
    try:
        async with asyncio.timeout(4):
            seen = [await pushed.get()]
            await store.create(RECEIVERS, receiver())
            seen.append(await pushed.get())
            made = await store.create("secrets", secret("one"))
            seen.append(await pushed.get())
            await store.create("secrets", secret("elsewhere", "other"))  # nobody refers to it
            await store.update("secrets", {**made, "data": secret("two")["data"]})
            seen.append(await pushed.get())
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert seen == [
        (0, []),
        (1, []),
        (1, [("default", "hook", "url", "one")]),
        (1, [("default", "hook", "url", "two")]),
    ]
    assert pushed.empty()


@pytest.mark.parametrize(
    "reference", [{"namespace": "none"}, {"key": "none"}, {"key": "broken"}, {"name": "x"}]
)
async def test_secret_that_cannot_be_read_is_left_out(store, reference):
    await store.create("secrets", secret("one"))
    await store.create(RECEIVERS, receiver(**reference))
    told = []

    async def push(items, secrets, config_maps):
        told.append((len(items), secrets))

    await ReceiverFeed(store, push, FakeClock()).push()

    assert told == [(1, [])]


async def test_push_that_fails_is_repeated(store):
    clock = FakeClock()
    tries: list[int] = []

    async def push(items, secrets, config_maps):
        tries.append(len(tries))
        if len(tries) == 1:
            raise ConnectionError("restarting")

    running = asyncio.create_task(ReceiverFeed(store, push, clock).run())
    await clock.advance(0)
    await clock.advance(1.1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert tries == [0, 1]


def manager(name, made, namespace="") -> dict[str, Any]:
    spec = {"defaultSecretNamespace": namespace} if namespace else {}
    return {
        "apiVersion": "notification.kubesphere.io/v2beta2",
        "kind": "NotificationManager",
        "metadata": {"name": name, "creationTimestamp": made},
        "spec": spec,
    }


def test_the_oldest_manager_counts():
    young, old = manager("a", "2026-01-02T00:00:00Z"), manager("b", "2026-01-01T00:00:00Z", "alerts")

    assert manager_of([young, receiver(), old]) is old
    assert secret_namespace([young, old]) == "alerts"
    assert manager_of([receiver()]) is None
    assert secret_namespace([receiver()]) == "default"


async def test_secrets_are_taken_from_the_namespace_of_the_manager(store):
    pushed = []

    async def push(items, secrets, config_maps):
        pushed.append((sorted(item["kind"] for item in items), secrets))

    await store.create("secrets", secret("one", "alerts"))
    await store.create(RECEIVERS, receiver())
    await store.create(MANAGERS, manager("m", "2026-01-01T00:00:00Z", "alerts"))
    await ReceiverFeed(store, push, FakeClock()).push()

    assert pushed == [(["NotificationManager", "Receiver"], [("alerts", "hook", "url", "one")])]


async def test_config_maps_with_templates_go_along_and_a_changed_one_is_pushed_again(store):
    pushed: asyncio.Queue[Any] = asyncio.Queue()

    async def push(items, secrets, config_maps):
        pushed.put_nowait(config_maps)

    named = receiver()
    named["spec"]["slack"]["tmplText"] = {"name": "texts", "key": "a.tmpl"}
    chief = manager("m", "2026-01-01T00:00:00Z")
    chief["spec"]["template"] = {
        "text": {"name": "shared", "namespace": "alerts"},
        "languagePack": [{"name": "words", "namespace": "alerts"}],
    }
    await store.create(RECEIVERS, named)
    await store.create(MANAGERS, chief)
    running = asyncio.create_task(ReceiverFeed(store, push, FakeClock()).run())
    try:
        async with asyncio.timeout(4):
            seen = [await pushed.get()]
            for namespace, name in (("default", "texts"), ("alerts", "words"), ("default", "other")):
                await store.create("configmaps", config_map(namespace, name, x="1"))
                if name != "other":
                    seen.append(await pushed.get())
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    words, texts = ("alerts", "words", {"x": "1"}), ("default", "texts", {"x": "1"})
    assert seen == [[], [texts], [words, texts]]
    assert pushed.empty()


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }
