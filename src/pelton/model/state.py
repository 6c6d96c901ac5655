"""State of functions: one call shape from the user's `context.state` to a store's driver, and its rules.

`sdk/state.py` makes a StateCall, the worker's control socket carries it, `dataplane/states.py` answers it
with a driver behind `ports.StateStore`. Concurrency and time-to-live are decided here, the same for every
driver.
Source: `dapr-runtime` contract, section 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.errors import ComponentError, ConflictError, MalformedEtagError

__all__ = ["StateAnswer", "StateCall", "StateChange", "StateItem", "check_etag", "check_form"]

_CENTURY_S: Final = 36525 * 86400
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(slots=True, kw_only=True)
class StateItem:
    """A stored value.

    Attributes:
        key: Its key.
        data: The value as bytes; None when there is none.
        json: Whether `data` is a JSON text; False for bytes that a function saved as they are.
        etag: Changes with every write; "" when there is no value.
        expires: When the value ends, RFC 3339; "" for never.
    """

    key: str
    data: bytes | None = None
    json: bool = False
    etag: str = ""
    expires: str = ""


@dataclass(slots=True, kw_only=True)
class StateChange:
    """A value to write, or to delete.

    Attributes:
        key: Which.
        delete: True to delete; a key that does not exist is no error.
        data, json: As in StateItem.
        etag: The etag that the stored value must have; "" for any.
        concurrency: `first-write`, `last-write` or "" (an etag counts where one is given).
        metadata: `ttlInSeconds` is honoured; the rest is kept for stores that know more.
    """

    key: str
    delete: bool = False
    data: bytes = b""
    json: bool = True
    etag: str = ""
    concurrency: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def ttl_s(self) -> int:
        """Return the seconds that the value lives, 0 for ever; more than a century is for ever.

        Raises:
            ComponentError: `ttlInSeconds` is no number, or below -1.
        """
        text = next((v for k, v in self.metadata.items() if k.lower() == "ttlinseconds"), "")
        if not text:
            return 0
        try:
            seconds = int(text)
        except ValueError:
            seconds = -2
        if seconds < -1:
            raise ComponentError(
                f"ttlInSeconds {text!r} of key {self.key!r} is not a number of seconds",
                hint="Write a whole number; -1 or 0 keeps the value for ever.",
            )
        return seconds if 0 < seconds <= _CENTURY_S else 0


@dataclass(slots=True, kw_only=True)
class StateCall:
    """One use of a state store.

    Attributes:
        operation: `get`, `write` or `query`.
        store: Name of the state as the manifest calls it; "" for the first one.
        keys: Keys to read, in order.
        changes: What to write.
        atomic: Whether all changes happen or none.
        query: Dapr's query document: `filter`, `sort`, `page`.
    """

    operation: str
    store: str = ""
    keys: list[str] = field(default_factory=list)
    changes: list[StateChange] = field(default_factory=list)
    atomic: bool = False
    query: dict[str, Any] = field(default_factory=dict)

    @property
    def repeatable(self) -> bool:
        """Whether carrying it out twice leaves what once would: no, when it depends on what is stored."""
        return not any(change.etag or change.concurrency == "first-write" for change in self.changes)


@dataclass(slots=True, kw_only=True)
class StateAnswer:
    """What a store said: items of a read or a query, and the token of the query's next page ("" = last)."""

    items: list[StateItem] = field(default_factory=list)
    token: str = ""


def check_form(change: StateChange, *, number: bool) -> None:
    """Let a change pass whose etag is written as the store writes them, or raise.

    Args:
        change: What is about to happen.
        number: Whether etags are whole numbers; else they are UUIDs.

    Raises:
        MalformedEtagError: No value can ever have had this etag.
    """
    if not change.etag or change.concurrency == "last-write":
        return
    if not (change.etag.isascii() and change.etag.isdigit() if number else _UUID.fullmatch(change.etag)):
        raise MalformedEtagError(
            f"{change.etag!r} of key {change.key!r} is no etag of this store",
            hint="Use the etag that reading the key returns.",
        )


def check_etag(change: StateChange, current: str) -> None:
    """Let a change pass, or raise.

    Args:
        change: What is about to happen.
        current: Etag of the stored value; "" when there is none.

    Raises:
        ConflictError: The stored value is not the one that the change is meant for.
        ComponentError: Its concurrency mode is unknown.
    """
    mode = change.concurrency
    if mode not in {"", "first-write", "last-write"}:
        raise ComponentError(
            f"concurrency {mode!r} of key {change.key!r} is unknown", hint="Use first-write or last-write."
        )
    if mode == "last-write":
        return
    if change.etag:
        if change.etag != current:
            found = f"it is {current!r} now" if current else "there is no value now"
            raise ConflictError(
                f"key {change.key!r} is not at etag {change.etag!r}: {found}",
                hint="Read it again and decide anew.",
            )
    elif mode == "first-write" and current and not change.delete:
        raise ConflictError(
            f"key {change.key!r} exists already", hint="Read it, and save with its etag or with last-write."
        )
