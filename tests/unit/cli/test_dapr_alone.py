import pytest

from pelton.cli.dapr_alone import ledger_for
from pelton.cli.home import Home
from pelton.clock import SystemClock
from pelton.compat.dapr.apps import App
from pelton.drivers.ledger import SqliteLedger
from pelton.drivers.memory import MemoryBus

APP = App(app_id="cart", namespace="shop")


def test_ledger_is_a_file_and_nothing_is_made_for_it_yet(tmp_path):
    home = Home(tmp_path / "home")

    assert isinstance(ledger_for(APP, home=home, clock=SystemClock()), SqliteLedger)
    assert not home.path.exists()


def test_ledger_is_in_memory_where_the_home_cannot_be_written_and_says_so(tmp_path, caplog):
    (tmp_path / "file").touch()

    ledger = ledger_for(APP, home=Home(tmp_path / "file" / "home"), clock=SystemClock())

    assert isinstance(ledger, MemoryBus)
    assert f"{tmp_path / 'file'} cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("namespace", "app_id", "path"),
    [
        ("default", "orders-1", "default/orders-1"),
        ("..", "a/b", "%2E%2E/a%2Fb"),
        ("a", "b~c", "a/b~c"),
    ],
)
def test_ledger_of_each_app_has_a_directory_of_its_own_below_the_home(tmp_path, namespace, app_id, path):
    assert Home(tmp_path).dapr_ledger(namespace, app_id) == tmp_path / "dapr" / path


def test_long_app_ids_that_begin_alike_have_directories_that_a_file_system_takes(tmp_path):
    names = {Home(tmp_path).dapr_ledger("a", "x" * 300 + end).name for end in "yz"}

    assert len(names) == 2
    assert max(map(len, names)) < 120
