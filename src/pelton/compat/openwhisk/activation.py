"""What became of an activation, and the records of the last ones.

Made by `package.py`, read by `rest.py`. Records are kept in this process only: they end with it, another
instance does not know them, and the oldest go first.
Source: `faas-conventions` contract, section 6.2 (record, statuses, limits).
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

__all__ = [
    "APPLICATION_ERROR",
    "DEVELOPER_ERROR",
    "LIMIT_BYTES",
    "SUCCESS",
    "Outcome",
    "Records",
    "dump",
    "new_id",
    "record",
]

SUCCESS: Final = 0
APPLICATION_ERROR: Final = 1
DEVELOPER_ERROR: Final = 2
_STATUSES: Final = ("success", "application error", "action developer error", "whisk internal error")
LIMIT_BYTES: Final = 1024 * 1024
"""Longest parameters and longest result."""
_MOST_RECORDS: Final = 1_000
_MOST_RECORD_BYTES: Final = 16 * 1024 * 1024
_SHOWN_OF_LONG: Final = 1024


def _encoder() -> Callable[[Any], str]:
    """Return JSON's encoder, made once: JSONEncoder.encode makes the same parts anew for each value."""
    slow = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # no C accelerator
        return slow.encode
    # Without markers a value that contains itself ends as a RecursionError.
    parts = make(None, slow.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(parts(value, 0))


_encode = _encoder()


def dump(value: Any) -> bytes:
    """Return compact JSON in UTF-8.

    Raises:
        TypeError, ValueError: JSON has no such value.
    """
    text = _encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only escaped it is JSON
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


_ahead: list[str] = []
"""Ids that were drawn at once, since asking the kernel for each costs as much as a short action."""
os.register_at_fork(after_in_child=_ahead.clear)


def new_id() -> str:
    """Return an activation id: 32 hexadecimal digits that cannot be guessed."""
    if not _ahead:
        digits = os.urandom(16 * 64).hex()
        _ahead[:] = [digits[at : at + 32] for at in range(0, len(digits), 32)]
    return _ahead.pop()


class Outcome:
    """How an activation ended.

    Attributes:
        status: SUCCESS, APPLICATION_ERROR or DEVELOPER_ERROR.
        value: What the action returned: a dict or a list; `{"error": ...}` when it returned none of these.
        crashed: Whether the action ended its process.
    """

    __slots__ = ("crashed", "status", "value")

    def __init__(self, status: int, value: Any, *, crashed: bool = False) -> None:
        self.status = status
        self.value = value
        self.crashed = crashed

    @property
    def result(self) -> Any:
        """The platform's view of it: of an error only the `error` is left."""
        return {"error": self.value["error"]} if self.status else self.value

    def encoded(self) -> tuple[int, bytes]:
        """Return (status, JSON of the result); too long a result is an application error."""
        try:
            data = dump(self.value if not self.status else self.result)
        except (TypeError, ValueError, RecursionError) as exc:
            return DEVELOPER_ERROR, dump(
                {"error": f"The action did not produce a valid JSON response: {exc}"}
            )
        if len(data) <= LIMIT_BYTES:
            return self.status, data
        text = (
            too_long(len(data))
            + f" The truncated response was: {data[:_SHOWN_OF_LONG].decode(errors='ignore')}"
        )
        return APPLICATION_ERROR, dump({"error": text})


def too_long(size: int) -> str:
    """Say that a result of `size` bytes is over the limit."""
    return f"The action produced a response that exceeded the allowed length: {size} > {LIMIT_BYTES} bytes."


def record(
    *,
    activation_id: str,
    namespace: str,
    path: str,
    kind: str,
    started_ms: int,
    ended_ms: int,
    status: int,
    result: bytes,
    timeout_ms: int = 60_000,
) -> bytes:
    """Return an activation record as JSON.

    Args:
        activation_id: 32 hexadecimal digits.
        namespace: Namespace, which is also the subject.
        path: `namespace/package/action`, without the package when it is the default one.
        kind: Runtime, or `sequence`.
        started_ms: Epoch milliseconds.
        ended_ms: Epoch milliseconds.
        status: 0 to 3.
        result: JSON.
        timeout_ms: Time limit in milliseconds.
    """
    head = {
        "activationId": activation_id,
        "namespace": namespace,
        "name": path.rpartition("/")[2],
        "version": "0.0.1",
        "subject": namespace,
        "publish": False,
        "start": started_ms,
        "end": ended_ms,
        "duration": ended_ms - started_ms,
        "statusCode": status,
        "logs": [],  # lines are in the function's log, under this activation's invocation
        "annotations": [
            {"key": "path", "value": path},
            {"key": "kind", "value": kind},
            {"key": "limits", "value": {"timeout": timeout_ms, "memory": 256, "logs": 10, "concurrency": 1}},
            *([{"key": "topmost", "value": True}] if kind == "sequence" else []),
        ],
    }
    response = b'{"status":%s,"statusCode":%d,"success":%s,"result":%s,"size":%d}' % (
        dump(_STATUSES[status]),
        status,
        b"false" if status else b"true",
        result,
        len(result),
    )
    return dump(head)[:-1] + b',"response":' + response + b"}"


class Records:
    """The last activations of this process: at most 1,000, and 16 MiB."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def add(self, activation_id: str, data: bytes) -> None:
        """Keep a record."""
        self._size += len(data) - len(self._found.pop(activation_id, b""))
        self._found[activation_id] = data
        while len(self._found) > _MOST_RECORDS or self._size > _MOST_RECORD_BYTES:
            self._size -= len(self._found.popitem(last=False)[1])

    def get(self, activation_id: str) -> bytes | None:
        """Return a record, or None."""
        return self._found.get(activation_id)

    def latest(self, limit: int) -> list[bytes]:
        """Return the newest records, newest first."""
        found = list(reversed(self._found.values()))
        return found[: max(0, limit)]
