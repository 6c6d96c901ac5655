from datetime import UTC, datetime, timedelta

import pytest

from pelton.apiserver.table import age, cells, find
from pelton.clock import rfc3339
from pelton.manifest import kinds

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("elapsed", "expected"),
    [
        (timedelta(seconds=-5), "0s"),
        (timedelta(seconds=119), "119s"),
        (timedelta(minutes=2), "2m"),
        (timedelta(minutes=9, seconds=7), "9m7s"),
        (timedelta(minutes=179), "179m"),
        (timedelta(hours=3, minutes=20), "3h20m"),
        (timedelta(hours=47), "47h"),
        (timedelta(days=7, hours=1), "7d1h"),
        (timedelta(days=700), "700d"),
        (timedelta(days=800), "2y70d"),
        (timedelta(days=4000), "10y"),
    ],
)
def test_age_has_the_precision_of_kubectl(elapsed, expected):
    assert age(rfc3339(NOW - elapsed), NOW) == expected


@pytest.mark.parametrize("value", [None, "", "soon", 3])
def test_age_of_what_is_no_time_is_unknown(value):
    assert age(value, NOW) == "<unknown>"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".a.b", 1),
        (".l[0].t", "x"),
        (".l[-1].t", "y"),
        ('.l[?(@.t=="y")].v', 2),
        (".a.b.c", None),
        (".l[7]", None),
        (".a[0]", None),
        ('.l[?(@.t=="z")].v', None),
        (".l[*].v", 1),
        (".l[1:].v", 2),
        (".l[:-1].t", "x"),
        ("..v", 1),
        (".a.*", 1),
        (".l[?(@.v>1)].t", "y"),
        (".l[?(@.v>'a')].t", None),
        (".l[?(@.v)].t", "x"),
        (".l[?(@.nope)].t", None),
    ],
)
def test_find_walks_the_path(path, expected):
    assert find(path)({"a": {"b": 1}, "l": [{"t": "x", "v": 1}, {"t": "y", "v": 2}]}) == expected


def test_find_takes_labels_with_a_domain():
    assert find(r".labels.strimzi\.io/cluster")({"labels": {"strimzi.io/cluster": "c"}}) == "c"


def test_maps_are_shown_as_json():
    assert cells([("string", find(".a"))], {"a": {"b": 1, "c": None}}, NOW) == ['{"b":1,"c":null}']


def test_find_refuses_what_columns_do_not_use():
    with pytest.raises(ValueError, match=r"cannot be read at '\[\?"):
        find(".a[?(x)]")


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.kind)
def test_columns_of_every_kind_can_be_shown_for_an_empty_object(kind):
    finders = [(column.type, find(column.json_path)) for column in kind.columns]

    assert len(cells(finders, {}, NOW)) == len(kind.columns)
