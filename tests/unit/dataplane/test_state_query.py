import json

import pytest

from pelton.dataplane import state_query
from pelton.errors import ComponentError
from pelton.model.state import StateItem

PEOPLE = {
    "1": {"name": "Ada", "age": 36, "work": {"city": "London"}, "langs": ["en", "fr"]},
    "2": {"name": "Bo", "age": 17, "work": {"city": "Rome"}},
    "3": {"name": "Cy", "age": 36.5, "work": {"city": "Rome"}, "vip": True},
    "4": "just text",
}
ITEMS = [StateItem(key=key, data=json.dumps(value).encode(), json=True) for key, value in PEOPLE.items()]
ITEMS.append(StateItem(key="5", data=b"\xff", json=False))


def keys(query):
    found, token = state_query.run(ITEMS, query)
    return "".join(item.key for item in found), token


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "12345"),
        ({"EQ": {"work.city": "Rome"}}, "23"),
        ({"EQ": {"langs.1": "fr"}}, "1"),
        ({"EQ": {"vip": 1}}, ""),
        ({"EQ": {"age": 36.0}}, "1"),
        ({"NEQ": {"work.city": "Rome"}}, "1"),
        ({"GT": {"age": 36}}, "3"),
        ({"GTE": {"age": 36}}, "13"),
        ({"LT": {"age": 36}}, "2"),
        ({"LTE": {"age": 36}}, "12"),
        ({"LT": {"name": "Bo"}}, "1"),
        ({"LT": {"age": "z"}}, ""),
        ({"IN": {"name": ["Ada", "Cy", 3]}}, "13"),
        ({"AND": [{"EQ": {"work.city": "Rome"}}, {"GT": {"age": 20}}]}, "3"),
        ({"OR": [{"EQ": {"name": "Ada"}}, {"EQ": {"vip": True}}]}, "13"),
    ],
    ids=str,
)
def test_filter_keeps_what_matches(wanted, expected):
    assert keys({"filter": wanted}) == (expected, "")


def test_sort_is_by_all_keys_in_order_and_absent_fields_come_first():
    query = {"sort": [{"key": "work.city", "order": "DESC"}, {"key": "age"}]}

    assert keys(query)[0] == "23145"
    assert keys({"sort": [{"key": "age"}]})[0] == "45213"


def test_pages_follow_by_token_until_it_is_empty():
    first, token = keys({"page": {"limit": 2}})
    second, last = keys({"page": {"limit": 3, "token": token}})

    assert (first, second, last) == ("12", "345", "")


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ({"filters": {}}, "it has filters"),
        ({"filter": {"LIKE": {"a": 1}}}, "LIKE"),
        ({"filter": {"EQ": {"a": 1}, "GT": {"b": 1}}}, "one operator"),
        ({"filter": {"EQ": 3}}, "one field"),
        ({"filter": {"AND": {"EQ": {"a": 1}}}}, "AND is not a list"),
        ({"filter": {"IN": {"a": 1}}}, "IN is not a list"),
        ({"sort": [{"order": "ASC"}]}, "key and order"),
        ({"sort": [{"key": "a", "order": "UP"}]}, "UP"),
        ({"page": {"limit": -1}}, "page"),
        ({"page": {"token": "x"}}, "page"),
    ],
    ids=str,
)
def test_what_is_no_query_is_refused_with_the_reason(query, match):
    with pytest.raises(ComponentError, match=match):
        state_query.run(ITEMS, query)
