import sys

import pytest

from pelton.cli.tables import (
    BUSES,
    CONVENTIONS,
    DRIVERS,
    STATES,
    resolve_bus,
    resolve_convention,
    resolve_driver,
    resolve_sender,
    resolve_state,
)
from pelton.errors import ComponentError, UnknownConventionError


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_has_the_four_names(name):
    module = resolve_convention(name)

    assert name == module.NAME
    assert callable(module.detect)
    assert callable(module.load)
    assert all(isinstance(item, str) for pair in module.IMPLIED.items() for item in pair)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownConventionError) as convention:
        resolve_convention("nope")
    with pytest.raises(ComponentError) as driver:
        resolve_driver("state.nope")
    with pytest.raises(ComponentError) as sender:
        resolve_sender("fax")

    assert "openfunction" in convention.value.hint
    assert all(name in driver.value.hint for name in DRIVERS)
    assert "slack" in sender.value.hint


@pytest.mark.parametrize("name", DRIVERS)
def test_every_driver_resolves(name):
    assert isinstance(resolve_driver(name), type)


@pytest.mark.parametrize("name", BUSES)
def test_every_bus_resolves(name):
    assert isinstance(resolve_bus(name), type)


@pytest.mark.parametrize("name", STATES)
def test_every_state_store_resolves(name):
    assert isinstance(resolve_state(name), type)


def test_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "redis" or "drivers.redis" in name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(ComponentError, match="needs the library redis") as caught:
        resolve_bus("pubsub.redis")
    assert "pelton[redis]" in caught.value.hint
