import sys

import pytest

from tests.conformance.packages import fetched
from tests.services.table import REQUIRED

NOTHING = [sys.executable, "-c", "open('tries', 'a').write('x'); raise SystemExit('no such index')"]
SECOND = [sys.executable, "-c", "import os; os.path.exists('a') or (open('a', 'w'), exit(1))"]


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    return tmp_path / "pelton-conformance" / "thing"


def test_what_no_index_brings_fails_where_everything_has_to_be_there(monkeypatch, place):
    monkeypatch.setenv(REQUIRED, "1")

    with pytest.raises(pytest.fail.Exception, match="no such index"):
        fetched("thing", NOTHING, timeout_s=60)
    assert (place / "tries").read_text() == "xx"


def test_what_no_index_brings_skips_elsewhere_and_says_why(monkeypatch):
    monkeypatch.delenv(REQUIRED, raising=False)

    with pytest.raises(pytest.skip.Exception, match="no such index"):
        fetched("thing", NOTHING, timeout_s=60)


def test_index_that_answers_the_second_time_is_enough_and_is_not_asked_again(place):
    assert fetched("thing", SECOND, timeout_s=60) == place
    assert fetched("thing", NOTHING, timeout_s=60) == place
