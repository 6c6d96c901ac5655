"""State of apps: prefixes of keys, what is one write and what is several, what a failure is called."""

import pytest

from pelton.compat.dapr.apps import App
from pelton.compat.dapr.components import Components
from pelton.compat.dapr.faults import Code, Fault
from pelton.compat.dapr.guard import Guard
from pelton.compat.dapr.ports import Drivers
from pelton.compat.dapr.states import States, key_prefix
from pelton.dataplane import state_query
from pelton.drivers.state_memory import MemoryStates
from pelton.errors import ComponentError
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem
from pelton.model.desired import Component
from pelton.model.state import StateChange
from pelton.testing.clock import FakeClock

A = App(app_id="a", namespace="shop")


class Store(MemoryStates):
    """Memory that refuses keys which end in `!`, and keeps the order of writes."""

    def __init__(self):
        super().__init__(Component(namespace="", name="s", type="state.in-memory"), clock=FakeClock())
        self.written = []

    async def write(self, changes):
        for change in changes:
            if change.key.endswith("!"):
                raise ComponentError(f"key {change.key} is not liked")
        self.written.append([change.key for change in changes])
        await super().write(changes)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
async def states(store):
    async def opened(_component):
        return store

    components = Components(Drivers(open={"state": opened}, types={"state": ["state.in-memory"]}))
    spec = ComponentSpec(type="state.in-memory")
    encrypted = ComponentSpec(
        type="state.in-memory", metadata=(MetadataItem(name="PrimaryEncryptionKey", value="00"),)
    )
    components.sync(
        [ComponentResource(name="s", spec=spec), ComponentResource(name="encrypted", spec=encrypted)]
    )
    yield States(components, Guard(), state_query.run)
    await components.close()


def change(key, data=b"1", **more):
    return StateChange(key=key, data=data, **more)


@pytest.mark.parametrize(
    ("setting", "prefix"),
    [
        ("", "a||"),
        ("appid", "a||"),
        ("AppID", "a||"),
        ("name", "s||"),
        ("namespace", "shop.a||"),
        ("none", ""),
        ("own", "own||"),
    ],
)
def test_prefix_is_what_the_component_says(setting, prefix):
    component = Component(namespace="shop", name="s", type="state.x", metadata={"keyprefix": setting})

    assert key_prefix(component, A) == prefix


def test_prefix_of_locks_has_no_form_with_the_namespace():
    component = Component(namespace="shop", name="l", type="lock.x", metadata={"keyPrefix": "namespace"})

    assert key_prefix(component, A, namespaced=False) == "namespace||"


def test_prefix_with_the_separator_is_refused():
    component = Component(namespace="shop", name="s", type="state.x", metadata={"keyPrefix": "a||b"})

    with pytest.raises(Fault) as refused:
        key_prefix(component, A)

    assert refused.value.reason == "DAPR_STATE_ILLEGAL_KEY"


async def test_keys_carry_the_prefix_in_the_store_only(states, store):
    await states.save(A, "s", [change("k")])
    (item,) = await states.get(A, "s", ["k"])

    assert store.written == [["a||k"]]
    assert (item.key, item.data) == ("k", b"1")


async def test_saving_several_tries_all_and_tells_of_the_first_failure(states, store):
    with pytest.raises(Fault, match="key a! is not liked"):
        await states.save(A, "s", [change("a!"), change("b"), change("c!")])

    assert store.written == [["a||b"]]


async def test_one_key_twice_is_written_in_order(states):
    await states.save(A, "s", [change("k", b"1"), change("other"), change("k", b"2")])

    (item,) = await states.get(A, "s", ["k"])
    assert item.data == b"2"


async def test_transaction_is_one_write(states, store):
    await states.transact(A, "s", [change("a"), change("b", delete=True)])
    await states.transact(A, "s", [])

    assert store.written == [["a||a", "a||b"]]


async def test_conflict_is_told_without_the_prefix(states):
    await states.save(A, "s", [change("k")])

    with pytest.raises(Fault) as refused:
        await states.save(A, "s", [change("k", etag="other")])

    assert (refused.value.code, refused.value.status) == (Code.ABORTED, 409)
    assert "'k'" in refused.value.message
    assert "a||" not in refused.value.message


@pytest.mark.parametrize("keys", [[""], ["a||b"], ["good", "a||b"]])
async def test_key_that_cannot_be_is_refused_before_anything_happens(states, store, keys):
    with pytest.raises(Fault) as refused:
        await states.save(A, "s", [change(key) for key in keys])

    assert (refused.value.status, store.written) == (400, [])


async def test_settings_that_would_be_lost_silently_are_refused(states):
    with pytest.raises(Fault, match="PrimaryEncryptionKey"):
        await states.get(A, "encrypted", ["k"])


async def test_query_sees_only_the_apps_own_keys(states, store):
    for app in (A, App(app_id="b", namespace="shop")):
        await states.save(app, "s", [change("k", b'{"n": 1}', json=True)])

    found, token = await states.query(A, "s", b'{"filter": {"EQ": {"n": 1}}}')

    assert ([item.key for item in found], token) == (["k"], "")
    with pytest.raises(Fault) as refused:
        await states.query(A, "s", b"[]")
    assert refused.value.status == 400


async def test_failures_are_told_in_the_sentences_that_clients_compare(states):
    refusals = []
    for attempt in (
        states.save(A, "s", [change("k!")]),
        states.delete(A, "s", [change("k!", delete=True)]),
        states.transact(A, "s", [change("k!")]),
    ):
        with pytest.raises(Fault) as refused:
            await attempt
        refusals.append(refused.value.message)

    assert refusals == [
        "failed saving state in state store s: key k! is not liked",
        "failed deleting state with key k!: key k! is not liked",
        "error while executing state transaction: key k! is not liked",
    ]
