"""The book of posted silences."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.errors import ProtocolError
from pelton.model.matching import Matcher
from pelton.notify.silences import KEPT, PostedSilence, SilenceBook, SilenceIndex, UnknownSilenceError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)


def silence(id="", start=NOW, end=NOW + HOUR, value="b"):
    return PostedSilence(
        id=id,
        matchers=(Matcher(name="a", value=value),),
        starts_at=start,
        ends_at=end,
        updated_at=NOW,
        created_by="me",
        comment="why",
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "silences.json"


async def test_a_silence_outlives_its_book(path):
    id = await SilenceBook(path).put(silence(), now=NOW, new_id="1")

    (found,) = SilenceBook(path).active(NOW).matching({"a": "b", "c": "d"})
    assert (id, found) == ("1", silence(id="1"))
    assert found.matches({"a": "b", "c": "d"})
    assert path.stat().st_mode & 0o077 == 0


async def test_states_follow_the_clock(path):
    book = SilenceBook(path)
    await book.put(silence(start=NOW + HOUR, end=NOW + 2 * HOUR), now=NOW, new_id="1")
    (found,) = book.list()

    assert [found.state(NOW + n * HOUR) for n in range(3)] == ["pending", "active", "expired"]


async def test_changing_the_end_keeps_the_id_and_the_start(path):
    book = SilenceBook(path)
    await book.put(silence(), now=NOW, new_id="1")

    later = NOW + timedelta(minutes=10)
    id = await book.put(silence(id="1", end=NOW + 3 * HOUR), now=later, new_id="2")

    (found,) = book.list()
    assert (id, found.starts_at, found.ends_at) == ("1", NOW, NOW + 3 * HOUR)


async def test_changing_the_matchers_of_an_active_one_ends_it_and_makes_another(path):
    book = SilenceBook(path)
    await book.put(silence(), now=NOW, new_id="1")

    id = await book.put(silence(id="1", value="x"), now=NOW, new_id="2")

    assert id == "2"
    assert {each.id: each.state(NOW) for each in book.list()} == {"1": "expired", "2": "active"}


@pytest.mark.parametrize(
    ("start", "then", "start_then", "value", "stays", "state"),
    [
        # One that is active keeps its start, given as it is or without what is behind the point.
        (NOW, NOW, NOW, "b", True, "active"),
        (NOW + timedelta(milliseconds=1), NOW + HOUR / 2, NOW, "b", True, "active"),
        (NOW, NOW + HOUR / 2, NOW - HOUR, "b", False, "expired"),
        (NOW, NOW + HOUR / 2, NOW + HOUR, "b", False, "expired"),
        # One that is pending may begin at another time that is to come.
        (NOW + HOUR, NOW, NOW + HOUR / 2, "b", True, "pending"),
        (NOW + HOUR, NOW, NOW - HOUR, "b", False, "expired"),
        (NOW + HOUR, NOW, NOW + HOUR, "x", False, "expired"),
        # One that is over stays so.
        (NOW, NOW + 3 * HOUR, NOW, "b", False, "expired"),
    ],
)
async def test_a_silence_stays_itself_or_is_ended_and_made_anew(
    path, start, then, start_then, value, stays, state
):
    book = SilenceBook(path)
    await book.put(silence(start=start, end=NOW + 2 * HOUR), now=NOW, new_id="1")

    id = await book.put(
        silence(id="1", start=start_then, end=NOW + 5 * HOUR, value=value), now=then, new_id="2"
    )

    assert id == ("1" if stays else "2")
    old = book.get("1")
    assert old is not None
    assert old.state(then) == state


async def test_an_expired_one_is_forgotten_after_its_retention(path):
    book = SilenceBook(path)
    await book.put(silence(), now=NOW, new_id="1")
    await book.expire("1", now=NOW)
    await book.expire("1", now=NOW + HOUR)
    assert len(book.active(NOW)) == 0

    await book.put(silence(end=NOW + 2 * KEPT), now=NOW + KEPT, new_id="2")

    assert [each.id for each in book.list()] == ["2"]


async def test_what_would_silence_nothing_or_everything_is_refused(path):
    book = SilenceBook(path)

    for wrong in (silence(end=NOW), silence(end=NOW - HOUR), silence(value="")):
        with pytest.raises(ProtocolError):
            await book.put(wrong, now=NOW, new_id="1")
    with pytest.raises(UnknownSilenceError):
        await book.put(silence(id="other"), now=NOW, new_id="1")
    with pytest.raises(UnknownSilenceError):
        await book.expire("other", now=NOW)
    assert book.list() == []


def test_a_damaged_file_is_kept_aside(path):
    path.write_text("{")

    assert SilenceBook(path).list() == []
    assert path.with_suffix(".unreadable").read_text() == "{"


LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from(["", "x", "y"]))
MATCHERS = st.lists(
    st.builds(
        Matcher,
        name=st.sampled_from("ab"),
        value=st.sampled_from(["", "x", "y", "x|y", ".*"]),
        is_regex=st.booleans(),
        is_equal=st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


@given(st.lists(MATCHERS, max_size=6), LABELS)
def test_the_index_finds_what_asking_each_silence_finds(matchers, labels):
    silences = [
        replace(silence(id=str(number)), matchers=tuple(each)) for number, each in enumerate(matchers)
    ]

    found = SilenceIndex(silences).matching(labels)

    assert found == [each for each in silences if each.matches(labels)]


async def test_what_counts_changes_with_the_time_and_with_each_change(path):
    book = SilenceBook(path)
    await book.put(silence(start=NOW + HOUR, end=NOW + 2 * HOUR), now=NOW, new_id="1")

    counts = [len(book.active(NOW + hours * HOUR)) for hours in (0, 1, 1.5, 2, 0, 1)]
    await book.expire("1", now=NOW + HOUR)

    assert counts == [0, 1, 1, 0, 0, 1]
    assert len(book.active(NOW + HOUR)) == 0
