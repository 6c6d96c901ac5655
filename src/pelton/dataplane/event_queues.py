"""The queues of destinations over changes of plans: what waits for one that an edit took away, and deletions.

Events that were accepted for a destination are delivered there, also when it was edited out of its Trigger or
EventSource; with the owner's deletion they go. So that neither depends on this process staying alive, every
destination is written into a register before anything is put into its queue, and stays there until its queue
is empty. Called by `triggers.py` beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Mapping
from typing import Final

import msgspec

from pelton import errors
from pelton.dataplane import retry
from pelton.log import get
from pelton.model.desired import Subscription
from pelton.model.event_framework import Destination
from pelton.ports import Ledger, Registers

__all__ = ["EventQueues", "owner_of"]

_REGISTER: Final = "event-destinations"
_known = msgspec.json.Decoder(dict[str, Destination])

_log = get(__name__)


def owner_of(namespace: str, function: str) -> str:
    """Return `<kind>/<namespace>/<name>` of whose subscriptions have that namespace and function."""
    kind, _, name = function.partition("/")
    return f"{kind}/{namespace}/{name}"


def _owner(subscription: Subscription) -> str:
    return owner_of(subscription.namespace, subscription.function)


class EventQueues:
    """Knows every destination that may have events waiting.

    Args:
        ledger: Has the queues.
        registers: Where they are noted.
    """

    def __init__(self, ledger: Ledger, registers: Registers) -> None:
        self._ledger = ledger
        self._registers = registers
        self._noted: dict[str, Destination] = {}
        self._revision = -1  # not read yet
        self._told: set[str] = set()

    async def begin(
        self, planned: Mapping[str, Destination], owners: Container[str], resting: Container[str]
    ) -> list[Destination]:
        """Note what is planned, and return the others for which events of an existing owner still wait.

        Args:
            planned: Subscription id -> destination.
            owners: Who is at work, as `owner_of`.
            resting: Who exists and cannot work now.

        Raises:
            DeliveryError: They cannot be noted; nothing may be put into their queues yet.
        """
        await self._read()
        await self._note({**self._noted, **planned})
        owed = []
        for name, former in self._noted.items():
            owner = _owner(former.subscription)
            if name in planned or owner not in owners or owner in resting:
                continue
            count = await self._waiting(name)
            if count:
                owed.append(former)
                if name not in self._told:
                    self._told.add(name)
                    _log.warning(
                        "%s was edited: %s still gets the %s that wait for it",
                        owner,
                        former.title,
                        f"{count} events" if count > 0 else "events",
                    )
        return owed

    async def end(self, kept: Container[str], owners: Container[str], resting: Container[str]) -> None:
        """Empty the queues whose owner was deleted, and forget all that are neither kept nor a resting one's.

        Args:
            kept: Subscription ids of destinations that are served.
            owners: As for `begin`.
            resting: As for `begin`.

        Raises:
            DeliveryError: The ledger or the register was not reached; to be repeated.
        """
        left = {}
        for name, former in self._noted.items():
            owner = _owner(former.subscription)
            if name in kept or owner in resting:
                left[name] = former
            elif owner not in owners:
                await self.discard(former.subscription)
        self._told &= left.keys()
        await self._note(left)

    async def discard(self, subscription: Subscription) -> None:
        """Empty a queue of what was deleted; a new one of the same name has nothing to do with it."""
        name = subscription.id
        count = await self._ledger.discard(retry.retry_topic(name), consumer=name)
        if count:
            _log.warning(
                "%s was deleted: %d events that waited in %s go with it", _owner(subscription), count, name
            )

    async def _waiting(self, name: str) -> int:
        """Return how many events wait in a queue; -1 when it is not known."""
        try:
            return await self._ledger.pending(retry.retry_topic(name), consumer=name)
        except errors.DeliveryError:
            return -1

    async def _read(self) -> None:
        if self._revision >= 0:
            return
        data, self._revision = await self._registers.read_register(_REGISTER)
        try:
            self._noted = _known.decode(zlib.decompress(data)) if data else {}
        except (msgspec.MsgspecError, zlib.error, UnicodeDecodeError) as exc:
            _log.warning("which destinations there were is not known any more: %s", exc)

    async def _note(self, destinations: dict[str, Destination]) -> None:
        if destinations == self._noted:
            return
        try:
            # Compressed, for the components of topics are much the same.
            data = zlib.compress(msgspec.json.encode(destinations), 1)
            self._revision = await self._registers.write_register(_REGISTER, data, revision=self._revision)
        except (errors.DeliveryError, errors.ConflictError):
            self._revision = -1  # it may have been written, for all that is known
            raise
        self._noted = destinations
