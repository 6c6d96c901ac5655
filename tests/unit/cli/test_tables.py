import pytest

from pelton.cli.tables import CONVENTIONS, DRIVERS, resolve_convention, resolve_driver, resolve_sender
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
