import pytest

from pelton.dataplane import states as module
from pelton.dataplane.states import States
from pelton.drivers.state_memory import MemoryStates
from pelton.errors import ComponentError, ConflictError
from pelton.model.desired import Component, Desired, Scaling, StateBinding, Workload
from pelton.model.state import StateCall, StateChange
from pelton.testing.clock import FakeClock

DB = Component(namespace="shop", name="db", type="state.in-memory")
OTHER = Component(namespace="shop", name="other", type="state.in-memory")


def desired(function, *bindings):
    workload = Workload(namespace="shop", name=function, revision=f"{function}-1", bundle="/b")
    return Desired(workload=workload, scaling=Scaling(), states=bindings)


def binding(name="db", component=DB, prefix="f-shop||"):
    return StateBinding(name=name, component=component, prefix=prefix)


def write(*keys, atomic=False, store="", **more):
    changes = [StateChange(key=key, data=b"1", **more) for key in keys]
    return StateCall(operation="write", changes=changes, atomic=atomic, store=store)


class Made:
    """Makes stores and keeps them."""

    def __init__(self):
        self.stores = []
        self.closed = []

    def __call__(self, component):
        made, closed = MemoryStates(component, clock=FakeClock()), self.closed
        close = made.close

        async def noted():
            closed.append(component.name)
            await close()

        made.close = noted  # type: ignore[method-assign]
        self.stores.append(made)
        return made


@pytest.fixture
def made():
    return Made()


@pytest.fixture
async def states(made):
    states = States(store_of=made)
    yield states
    await states.close()


async def get(states, *keys, function="f", store=""):
    answer = await states.perform("shop", function, StateCall(operation="get", keys=[*keys], store=store))
    return [(item.key, item.data) for item in answer.items]


async def test_keys_are_prefixed_in_the_store_and_bare_for_the_function(states, made):
    states.apply(desired("f", binding()))

    await states.perform("shop", "f", write("a"))

    assert await get(states, "a", "b") == [("a", b"1"), ("b", None)]
    assert [item.key for item in await made.stores[0].scan("", limit=9)] == ["f-shop||a"]


async def test_functions_with_the_same_component_share_a_store_and_see_their_own_keys(states, made):
    states.apply(desired("f", binding()))
    states.apply(desired("g", binding(prefix="g-shop||")))
    await states.perform("shop", "f", write("a"))

    assert await get(states, "a", function="g") == [("a", None)]
    assert len(made.stores) == 1


async def test_first_state_is_meant_unless_one_is_named(states):
    states.apply(desired("f", binding(), binding("other", OTHER)))
    await states.perform("shop", "f", write("a", store="other"))

    assert await get(states, "a") == [("a", None)]
    assert await get(states, "a", store="other") == [("a", b"1")]


async def test_unknown_name_lists_the_known_ones(states):
    states.apply(desired("f", binding()))

    with pytest.raises(ComponentError, match="no state is named 'x'; there are: db"):
        await get(states, "a", store="x")
    with pytest.raises(ComponentError, match="this function has no state"):
        await get(states, "a", function="g")


@pytest.mark.parametrize(("key", "match"), [("", "empty"), ("a||b", r"contains \|\|")])
async def test_keys_that_cannot_be_are_refused_before_anything_is_written(states, key, match):
    states.apply(desired("f", binding()))

    with pytest.raises(ComponentError, match=match):
        await states.perform("shop", "f", write("good", key))

    assert await get(states, "good") == [("good", None)]


async def test_bad_ttl_is_refused_before_anything_is_written(states):
    states.apply(desired("f", binding()))
    call = write("a", "b")
    call.changes[1].metadata = {"ttlInSeconds": "soon"}

    with pytest.raises(ComponentError, match="ttlInSeconds 'soon' of key"):
        await states.perform("shop", "f", call)

    assert await get(states, "a") == [("a", None)]


async def test_saving_several_goes_on_after_a_failure_unless_it_is_a_transaction(states):
    states.apply(desired("f", binding()))
    await states.perform("shop", "f", write("a"))

    with pytest.raises(ConflictError, match="key 'a' exists already"):
        await states.perform("shop", "f", write("a", "b", concurrency="first-write"))
    with pytest.raises(ConflictError):
        await states.perform("shop", "f", write("c", "a", concurrency="first-write", atomic=True))

    assert await get(states, "b", "c") == [("b", b"1"), ("c", None)]


async def test_query_sees_own_keys_only_and_refuses_too_many(states, monkeypatch):
    states.apply(desired("f", binding()))
    states.apply(desired("g", binding(prefix="g-shop||")))
    await states.perform("shop", "f", write("b", "a"))
    await states.perform("shop", "g", write("c"))
    query = StateCall(operation="query", query={"page": {"limit": 1}})

    answer = await states.perform("shop", "f", query)

    assert ([item.key for item in answer.items], answer.token) == (["a"], "1")
    monkeypatch.setattr(module, "QUERY_LIMIT", 1)
    with pytest.raises(ComponentError, match="more than 1 values"):
        await states.perform("shop", "f", query)


async def test_store_stays_while_anybody_uses_it_and_over_revisions(states, made):
    states.apply(desired("f", binding()))
    states.apply(desired("g", binding(prefix="g-shop||")))
    await states.perform("shop", "g", write("a"))
    states.remove("shop", "f")
    states.apply(desired("g", binding(prefix="g-shop||")))

    assert await get(states, "a", function="g") == [("a", b"1")]
    assert made.closed == []

    states.apply(desired("g"))
    await states.close()
    assert made.closed == ["db"]
