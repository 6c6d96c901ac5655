import pytest

from pelton.errors import ComponentError, DeliveryError
from pelton.model.state import StateAnswer, StateItem
from pelton.sdk.state import State


@pytest.fixture
def asked():
    return []


@pytest.fixture
def answer():
    return StateAnswer(
        items=[
            StateItem(key="a", data=b'{"n": 1}', json=True, etag="e1"),
            StateItem(key="b", data=b"\xff", json=False, etag="e2"),
            StateItem(key="c"),
        ],
        token="2",
    )


@pytest.fixture
def state(asked, answer):
    def call(what):
        asked.append(what)
        return answer

    return State(["db", "other"], call)


def test_save_takes_one_value_or_several(state, asked):
    state.save({"key": "a", "value": {"n": 1}})
    state.save(
        [
            {"key": "a", "value": "ä", "etag": "e1", "metadata": {"ttlInSeconds": 60}},
            {
                "key": "b",
                "value": b"\x00",
                "options": {"concurrency": "first-write"},
                "etag": {"value": "e2"},
            },
        ]
    )

    single, several = asked
    assert (single.operation, single.atomic, single.store) == ("write", False, "db")
    assert [(c.key, c.data, c.json, c.etag) for c in single.changes] == [("a", b'{"n": 1}', True, "")]
    first, second = several.changes
    assert (first.data, first.etag, first.metadata) == (b'"\\u00e4"', "e1", {"ttlInSeconds": "60"})
    assert (second.data, second.json, second.concurrency, second.etag) == (
        b"\x00",
        False,
        "first-write",
        "e2",
    )


@pytest.mark.parametrize("data", ["a", {"key": "a"}], ids=str)
def test_get_returns_the_value_alone(state, asked, data):
    assert state.get(data) == {"n": 1}
    assert asked[0].keys == ["a"]


def test_get_returns_none_where_nothing_is(state, answer):
    answer.items = [StateItem(key="c")]

    assert state.get("c") is None


@pytest.mark.parametrize("data", [["a", "b"], {"keys": ["a", "b"], "parallelism": 2}], ids=str)
def test_get_bulk_returns_values_with_etags_in_order(state, asked, data):
    assert state.get_bulk(data) == [
        {"key": "a", "data": {"n": 1}, "etag": "e1"},
        {"key": "b", "data": b"\xff", "etag": "e2"},
        {"key": "c", "data": None, "etag": ""},
    ]
    assert asked[0].keys == ["a", "b"]


def test_delete_takes_a_key_or_an_object_with_an_etag(state, asked):
    state.delete("a")
    state.delete({"key": "a", "etag": "e1"})

    assert [(c.changes[0].key, c.changes[0].delete, c.changes[0].etag) for c in asked] == [
        ("a", True, ""),
        ("a", True, "e1"),
    ]


def test_transaction_is_atomic_and_shares_its_metadata(state, asked):
    operations = [
        {"operation": "upsert", "request": {"key": "a", "value": 1, "metadata": {"x": "own"}}},
        {"operation": "delete", "request": {"key": "b"}},
    ]

    state.transaction(operations)
    state.transaction({"operations": operations, "metadata": {"x": "shared", "ttlInSeconds": "5"}})

    assert [call.atomic for call in asked] == [True, True]
    assert [(c.key, c.delete, c.data) for c in asked[0].changes] == [("a", False, b"1"), ("b", True, b"")]
    assert asked[1].changes[0].metadata == {"x": "own", "ttlInSeconds": "5"}


@pytest.mark.parametrize("wrap", [False, True])
def test_query_returns_results_and_token(state, asked, wrap):
    query = {"filter": {"EQ": {"n": 1}}}

    found = state.query({"query": query} if wrap else query, "other")

    assert (found["token"], found["results"][0]) == ("2", {"key": "a", "data": {"n": 1}, "etag": "e1"})
    assert (asked[0].query, asked[0].store) == (query, "other")


@pytest.mark.parametrize(
    ("method", "data", "match"),
    [
        ("save", {"value": 1}, "'key': text"),
        ("save", {"key": "a"}, "'a' comes without a value"),
        ("save", [3], "this is 3"),
        ("get", {"a": "b", "c": "d"}, "a key is text"),
        ("get", 3, "a key is text"),
        ("get_bulk", "abc", "list of keys"),
        ("delete", {"etag": "x"}, "'key': text"),
        ("transaction", [{"operation": "insert"}], "'upsert' or 'delete'"),
        ("query", "all", "filter, sort and page"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_a_type_error_that_says_the_form(state, asked, method, data, match):
    with pytest.raises(TypeError, match=match):
        getattr(state, method)(data)
    assert asked == []


def test_unknown_name_lists_the_states(state):
    with pytest.raises(ComponentError, match="no state is named 'x'; there are: db, other"):
        state.get("a", "x")


def test_function_without_states_is_told_where_to_add_one():
    with pytest.raises(ComponentError, match="no state") as raised:
        State().get("a")
    assert "spec.serving.states" in raised.value.hint


def test_context_without_platform_says_so():
    with pytest.raises(DeliveryError, match="belongs to no platform"):
        State(["db"]).get("a")


async def test_methods_are_awaited_in_coroutine_functions(asked, answer):
    async def call(what):
        asked.append(what)
        return answer

    state = State(["db"], None, call)

    assert await state.get("a") == {"n": 1}
    assert await state.save({"key": "a", "value": 1}) is None
    assert len(await state.getBulk(["a"])) == 3
