"""Prints notifications on the platform's output.

Implements ports.Sender; wired in `cli/`, called by `notify/sending.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from pelton.clock import Clock, rfc3339
from pelton.ports import SendResult

__all__ = ["ConsoleSender"]


class ConsoleSender:
    """Writes `{text}` as one block: a line with the time, then the text.

    Args:
        clock: Time of day for the first line.
        stream: Where to; standard output at the moment of sending by default.
    """

    def __init__(self, clock: Clock, stream: TextIO | None = None) -> None:
        self._clock = clock
        self._stream = stream

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        """Print once. A closed or full stream is a failure that another attempt may mend."""
        del settings  # nothing to set
        stream = sys.stdout if self._stream is None else self._stream
        block = f"--- alert {rfc3339(self._clock.now())} ---\n{payload.get('text', '')}\n"
        try:
            # One write, so that blocks of several processes on one terminal do not mix.
            stream.write(block)
            stream.flush()
        except UnicodeEncodeError:
            stream.write(block.encode("ascii", "backslashreplace").decode())
            stream.flush()
        except (OSError, ValueError) as error:
            return SendResult(ok=False, detail=f"The output cannot be written: {error}.")
        return SendResult(ok=True)
