"""Notifications on the platform's output."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from pelton.clock import SystemClock
from pelton.drivers.console import ConsoleSender


class StoppedClock(SystemClock):
    def now(self) -> datetime:
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_console_prints_time_and_text_as_one_block():
    stream = io.StringIO()

    result = await ConsoleSender(StoppedClock(), stream).send({}, {"text": "[FIRING:1] a\n  • b"})

    assert result.ok
    assert stream.getvalue() == "--- alert 2026-01-02T03:04:05Z ---\n[FIRING:1] a\n  • b\n"


async def test_console_prints_to_standard_output_by_default(capsys):
    await ConsoleSender(StoppedClock()).send({}, {"text": "hello"})

    assert "hello\n" in capsys.readouterr().out


async def test_console_stream_without_unicode_gets_escapes():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")

    result = await ConsoleSender(StoppedClock(), stream).send({}, {"text": "•"})

    assert result.ok
    assert raw.getvalue().endswith(b"\\u2022\n")


async def test_console_closed_stream_is_a_failure_worth_another_attempt():
    stream = io.StringIO()
    stream.close()

    result = await ConsoleSender(StoppedClock(), stream).send({}, {"text": "x"})

    assert (result.ok, result.retriable) == (False, True)
