"""One notification sent at once, past the queue, with what came back: to try a receiver out.

`notify/verify.py` and `cli/notify.py` call it. Nothing is kept, repeated or limited; settings of the receiver
leave here only as the names that `channels_of` gives. Source: contracts, log and notification, section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from pelton.clock import rfc3339
from pelton.model.notification import Receiver
from pelton.model.notification_routing import Config, NotificationManager
from pelton.notify.alert import FIRING, Alert, fingerprint
from pelton.notify.grouping import aggregate
from pelton.notify.render import render
from pelton.notify.routing import config_for
from pelton.notify.settings import (
    CONFIGURED,
    MISSING,
    Block,
    ConfigMapLookup,
    Outlet,
    SecretLookup,
    Templates,
    blocks_of,
    outlet_of,
)
from pelton.ports import Sender, SendResult

__all__ = ["Outlets", "Trial", "specimen", "try_out"]

_TIMEOUT_S = 60.0


class Outlets:
    """Makes outlets of receivers, by the other objects of one moment.

    Args:
        configs: All Configs.
        manager: None = everything is everybody's.
        secret: Resolves secrets.
        config_map: Returns ConfigMaps.
    """

    def __init__(
        self,
        configs: Iterable[Config],
        manager: NotificationManager | None,
        *,
        secret: SecretLookup,
        config_map: ConfigMapLookup,
    ) -> None:
        configs = list(configs)
        self._usable = {
            name: [config for config in configs if getattr(config, name) is not None] for name in CONFIGURED
        }
        self._manager = manager
        self._secret = secret
        self._templates = Templates(manager, config_map)

    def outlet(self, receiver: Receiver, name: str, block: Block, *, config: Config | None = None) -> Outlet:
        """Return what one block of a receiver leads to.

        Args:
            receiver: The Receiver.
            name: Name of the block.
            block: The block.
            config: A Config to take whatever the selectors say; None = they choose.
        """
        if config is None and name in CONFIGURED:
            selector = getattr(block, "config_selector", None)
            config = config_for(receiver.labels, selector, self._usable[name], self._manager)
        return outlet_of(
            receiver.name, name, block, secret=self._secret, config=config, templates=self._templates
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How it went with one block of a receiver.

    Attributes:
        receiver, block: Which.
        channels: Whom it was for.
        payloads: What the Sender was given, one per message, up to one that was not accepted.
        result: The last answer.
        fault: Why plain words were sent instead of the user's template, or "".
    """

    receiver: str
    block: str
    channels: tuple[str, ...]
    payloads: tuple[Mapping[str, Any], ...]
    result: SendResult
    fault: str = ""


def specimen(now: datetime) -> Alert:
    """Return an alert that says that it is a test."""
    labels = {"alertname": "Test", "severity": "info"}
    return Alert(
        status=FIRING,
        labels=labels,
        annotations={"message": "This is a test of the receiver; nothing is wrong"},
        starts_at=rfc3339(now),
        fingerprint=fingerprint(labels),
    )


async def try_out(
    receiver: Receiver,
    outlets: Outlets,
    senders: Mapping[str, Sender],
    alerts: Sequence[Alert],
    *,
    config: Config | None = None,
) -> list[Trial]:
    """Send alerts by every enabled block of a receiver.

    Args:
        receiver: Its alertSelector does not count.
        outlets: By what its blocks are served.
        senders: Name of a block -> Sender, open.
        alerts: At least one.
        config: As in `Outlets.outlet`.

    Returns:
        A Trial per block, in the order of the blocks.
    """
    found = []
    for name, block in blocks_of(receiver):
        outlet = outlets.outlet(receiver, name, block, config=config)
        found.append(await _try_block(receiver.name, name, outlet, senders.get(name), alerts))
    for name in receiver.undelivered:
        result = SendResult(ok=False, retriable=False, detail=f"Nothing is sent by {name}.")
        found.append(Trial(receiver=receiver.name, block=name, channels=(), payloads=(), result=result))
    return found


async def _try_block(
    receiver: str, name: str, outlet: Outlet, sender: Sender | None, alerts: Sequence[Alert]
) -> Trial:
    payloads: list[Mapping[str, Any]] = []
    fault = ""
    result = SendResult(ok=False, retriable=False, detail=f"Nothing is sent by {name}.")
    if missing := outlet.settings.get(MISSING):
        result = SendResult(ok=False, detail=str(missing))
    elif sender is not None:
        (group,) = aggregate(alerts, group_labels=(), receiver=receiver)
        id = f"trial/{uuid4().hex}"
        for number, piece in enumerate(render(group, outlet.style)):
            fault = fault or (str(piece.fault) if piece.fault is not None else "")
            payloads.append(piece.payload)
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    settings = {**outlet.settings, "deliveryId": f"{id}#{number}"}
                    result = await sender.send(settings, piece.payload)
            except TimeoutError:
                result = SendResult(ok=False, detail=f"No answer within {_TIMEOUT_S:g} s.")
            except Exception as error:  # a Sender does not raise; a foreign error's text may hold an address
                result = SendResult(ok=False, detail=f"The sender failed with {type(error).__name__}.")
            if not result.ok:
                break
    return Trial(
        receiver=receiver,
        block=name,
        channels=outlet.channels,
        payloads=tuple(payloads),
        result=result,
        fault=fault or outlet.fault,
    )
