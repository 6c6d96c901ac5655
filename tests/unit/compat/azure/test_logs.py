"""What user code logs is printed, as by the platform's host."""

import logging

import pytest

from pelton.compat.azure import logs


@pytest.fixture
def root(monkeypatch):
    """The root logger without handlers, as the loader leaves it to user code."""
    logger = logging.getLogger()
    level, names = logger.level, {name: logging.getLogger(name).level for name in ("azure", "asyncio")}
    yield lambda: monkeypatch.setattr(logger, "handlers", []) or logger  # pytest adds its own after fixtures
    logger.setLevel(level)
    for name, before in names.items():
        logging.getLogger(name).setLevel(before)


@pytest.mark.parametrize(
    ("host", "printed"),
    [
        ({}, "INFO read\nWARNING late\n"),
        ({"logging": {"logLevel": {"default": "Warning"}}}, "WARNING late\n"),
        ({"logging": {"logLevel": {"default": "None"}}}, ""),
        ({"logging": "broken"}, "INFO read\nWARNING late\n"),
    ],
)
def test_records_are_printed_from_the_level_of_host_json_on(root, capsys, host, printed):
    root()
    logs.install(host)

    logging.getLogger("mine").debug("detail")
    logging.info("read")
    logging.warning("late")

    assert capsys.readouterr().err == printed


def test_a_configured_logger_is_left_alone(root):
    mine, logger = logging.NullHandler(), root()
    logger.addHandler(mine)

    logs.install({})

    assert logger.handlers == [mine]
