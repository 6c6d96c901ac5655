import re
from pathlib import Path

import pytest

import pelton
from pelton.cli import tables
from pelton.manifest.component_types import CATEGORIES, TYPES, metadata_advice
from pelton.model.component import ComponentSpec, MetadataItem

TABLES = (
    tables.DRIVERS,
    tables.BUSES,
    tables.STATES,
    tables.LOCKS,
    tables.CONFIGURATIONS,
    tables.SECRET_STORES,
)
READ = re.compile(r'settings\.(?:text|flag|number|seconds|required)\(\s*"(\w+)"')
WRITTEN = re.compile(r'"([A-Za-z0-9_]+)"')


def sources(name):
    """Return the texts of the modules that serve a type."""
    found = []
    for table in TABLES:
        if name in table:
            path = Path(pelton.__file__).parent / table[name].partition(":")[0].removeprefix(
                "pelton."
            ).replace(".", "/")
            found += sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return "\n".join(path.read_text() for path in found)


def names(kind):
    return {each.name.lower() for each in kind.settings}


def test_every_type_is_in_the_table_and_no_other():
    served = {name for table in TABLES for name in table}

    assert {name for kind in TYPES for name in kind.names} == served
    assert {kind.names[0].partition(".")[0] for kind in TYPES} == set(CATEGORIES)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.names[0])
def test_what_is_documented_is_read_by_the_driver(kind):
    """But for what the page itself says to be without effect."""
    text = sources(kind.names[0]).lower()
    written = {found.lower() for found in WRITTEN.findall(text)}

    missing = {
        each.name
        for each in kind.settings
        if "no effect" not in each.does and each.name.lower() not in written
    }
    assert missing == set()


def test_what_drivers_read_is_documented():
    documented = {name for kind in TYPES for name in names(kind)}
    documented |= {each.name.lower() for common in CATEGORIES.values() for each in common}
    read = {found.lower() for kind in TYPES for found in READ.findall(sources(kind.names[0]))}

    assert read - documented == set()


def spec(kind, *keys):
    return ComponentSpec(type=kind, metadata=tuple(MetadataItem(name=key, value="x") for key in keys))


def test_unknown_key_is_pointed_out_with_the_one_that_was_meant():
    (problem,) = metadata_advice(spec("pubsub.redis", "RedisHost", "redisPasword", "allowedTopics"), "spec")

    assert problem.path == "spec.metadata[1]"
    assert 'did you mean "redisPassword"?' in problem.message


@pytest.mark.parametrize("kind", ["pubsub.pulsar", "configuration.in-memory"])
def test_nothing_is_said_of_types_that_take_any_key_or_are_not_known(kind):
    assert list(metadata_advice(spec(kind, "anything"), "spec")) == []
