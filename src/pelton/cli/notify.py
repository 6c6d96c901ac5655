"""`pelton notify`: try a receiver out, and see what became of notifications.

A trial sends from here, past the platform's queue, by the same parts (`notify/trial.py`) that the runtime
uses; objects come from the platform, or from files, which need none. History is read from the file that the
runtime writes (`notify/records.py`), so that it can be seen while nothing runs.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.cli.objects import complain, read_documents
from pelton.cli.printing import print_columns
from pelton.cli.receivers import manager_of, secret_namespace
from pelton.cli.tables import SENDERS, resolve_sender
from pelton.clock import SystemClock, rfc3339
from pelton.errors import NotFoundError, NotRunningError, ProtocolError, UsageError
from pelton.manifest import kinds, notification
from pelton.manifest.notification_routing import CONFIG, NOTIFICATION_MANAGER
from pelton.model.notification import ConfigMapKey, Receiver, SecretRef
from pelton.notify.alert import Alert, identified, parse
from pelton.notify.records import Record, read_history
from pelton.notify.trial import Outlets, Trial, specimen, try_out
from pelton.ports import Sender

__all__ = ["history", "send_test"]

_OUTCOMES: Final = ("sent", "digest", "failed", "dead")
_WIDEST: Final = 60


def history(home: Home, *, receiver: str, alert: str, outcome: str, limit: int, output: str) -> int:
    """Print what became of notifications, the newest first.

    Args:
        home: Whose.
        receiver: Only this receiver's.
        alert: Only those with an alert of this fingerprint or name.
        outcome: Only these; "" = all.
        limit: Most lines.
        output: `table` or `json`.
    """
    if outcome and outcome not in _OUTCOMES:
        raise UsageError(f"--outcome {outcome!r} is none of {', '.join(_OUTCOMES)}")
    found = read_history(home.notifications, receiver=receiver, alert=alert, outcome=outcome, limit=limit)
    if output == "json":
        print(json.dumps([_record(each) for each in found], indent=2))
    elif not found:
        print("no notifications", file=sys.stderr)
    else:
        print_columns(
            ("TIME", "RECEIVER", "TYPE", "OUTCOME", "ATTEMPT", "ABOUT", "ANSWER"),
            [
                [
                    rfc3339(datetime.fromtimestamp(each.at, UTC)),
                    each.receiver,
                    each.block,
                    each.outcome,
                    str(each.attempt),
                    _short(each.title),
                    _short(each.detail),
                ]
                for each in found
            ],
        )
    return 0


def _record(record: Record) -> dict[str, Any]:
    return {
        "time": rfc3339(datetime.fromtimestamp(record.at, UTC), fraction=True),
        "id": record.id,
        "receiver": record.receiver,
        "type": record.block,
        "outcome": record.outcome,
        "attempt": record.attempt,
        "answer": record.detail,
        "about": record.title,
        "alerts": [
            {"fingerprint": each.fingerprint, "alertname": each.name, "status": each.status}
            for each in record.alerts
        ],
    }


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def send_test(
    home: Home, receiver: str, *, files: Sequence[str], alert_file: str, block: str, output: str
) -> int:
    """Send a test alert, or those of a file, by receivers at once; print what was sent and what came back.

    Args:
        home: Whose objects are taken.
        receiver: Name of a stored Receiver, or of one among several in the files; "" = all in the files.
        files: Manifests whose objects are taken first; what they refer to may be there or stored.
        alert_file: JSON as functions send it; "" = a test alert.
        block: Only blocks of this type; "" = all.
        output: `table` or `json`.

    Returns:
        0 when all blocks accepted it, else 1.
    """
    if not receiver and not files:
        raise UsageError("which receiver?", hint="pelton notify test NAME, or -f FILE")
    alerts = _alerts(alert_file)
    objects = _Objects(home, files)
    receivers = objects.receivers(receiver)
    if block:
        receivers = [_only(each, block) for each in receivers]
    trials = asyncio.run(_send(receivers, objects, alerts))
    if output == "json":
        print(json.dumps([_trial(each) for each in trials], indent=2, ensure_ascii=False))
    else:
        for each in trials:
            _print(each)
    return 0 if trials and all(each.result.ok for each in trials) else 1


def _alerts(file: str) -> list[Alert]:
    now = SystemClock().now()
    if not file:
        return [specimen(now)]
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        found = [identified(each, "") for each in parse(body, now=now)]
    except OSError as exc:
        raise UsageError(f"--alert-file: {file} cannot be read: {exc.strerror}") from exc
    except ProtocolError as exc:
        raise UsageError(f"--alert-file: {file}: {exc.message}") from exc
    if not found:
        raise UsageError(f"--alert-file: {file} has no alerts")
    return found


def _only(receiver: Receiver, block: str) -> Receiver:
    names = [name for name in SENDERS if getattr(receiver, name) is not None]
    if block not in names:
        raise UsageError(
            f"receiver {receiver.name} has no block {block!r}", hint=f"It has: {', '.join(names) or 'none'}."
        )
    others: dict[str, Any] = {name: None for name in names if name != block}
    return replace(receiver, undelivered={}, **others)


async def _send(receivers: Sequence[Receiver], objects: _Objects, alerts: Sequence[Alert]) -> list[Trial]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        senders: dict[str, Sender] = {}
        for name in SENDERS:
            sender = resolve_sender(name)(clock)
            if hasattr(sender, "__aenter__"):
                await stack.enter_async_context(sender)
            senders[name] = sender
        outlets = objects.outlets()
        return [trial for each in receivers for trial in await try_out(each, outlets, senders, alerts)]


class _Objects:
    """Objects of files, then of the platform."""

    def __init__(self, home: Home, files: Sequence[str]) -> None:
        documents, errors = read_documents(files)
        for error in errors:
            complain(error)
        if errors:
            raise UsageError("the files cannot be read")
        self._own: list[dict[str, Any]] = []
        for document in documents:
            obj = document.data
            if str(obj.get("apiVersion", "")).startswith("notification."):
                admitted = kinds.admit(obj, where=document.where)
                for warning in admitted.warnings:
                    print(f"warning: {warning}", file=sys.stderr)
                obj = admitted.obj
            self._own.append(obj)
        try:
            self._client: Client | None = Client(home)
        except NotRunningError:
            if not files:
                raise
            self._client = None  # files may have all that is needed
        self._namespace = secret_namespace(self._all("notificationmanagers", "NotificationManager"))

    def receivers(self, name: str) -> list[Receiver]:
        """Return the Receivers that are meant."""
        own = [obj for obj in self._own if obj.get("kind") == "Receiver"]
        if own:
            found = [obj for obj in own if name in ("", obj["metadata"].get("name"))]
            if not found:
                raise NotFoundError(f"there is no Receiver {name!r} in the files")
        else:
            if not name:
                raise UsageError("there is no Receiver in the files")
            client = self._client
            if client is None:
                raise NotFoundError(f"there is no Receiver {name!r} in the files, and no platform runs")
            found = [client.get(client.resource("receivers.notification.kubesphere.io"), "", name)]
        return [notification.decode(obj)[0] for obj in found]

    def outlets(self) -> Outlets:
        """Return what makes outlets of them."""
        managers = self._all("notificationmanagers", "NotificationManager")
        chief = manager_of(managers)
        return Outlets(
            [CONFIG.decode(obj)[0] for obj in self._all("configs", "Config")],
            NOTIFICATION_MANAGER.decode(chief)[0] if chief is not None else None,
            secret=self._secret,
            config_map=self._config_map,
        )

    def _all(self, plural: str, kind: str) -> list[dict[str, Any]]:
        own = [obj for obj in self._own if obj.get("kind") == kind]
        names = {obj["metadata"].get("name") for obj in own}
        if self._client is not None:
            row = self._client.resource(f"{plural}.notification.kubesphere.io")
            own += [
                {"apiVersion": row.api_version, "kind": kind, **obj}
                for obj in self._client.list(row, None)["items"]
                if obj["metadata"]["name"] not in names
            ]
        return own

    def _one(self, plural: str, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        for obj in self._own:
            metadata = obj.get("metadata") or {}
            place = metadata.get("namespace") or "default"
            if (obj.get("kind"), place, metadata.get("name")) == (kind, namespace, name):
                return obj
        if self._client is None:
            return None
        try:
            return self._client.get(self._client.resource(plural), namespace, name)
        except NotFoundError:
            return None

    def _secret(self, ref: SecretRef) -> str | None:
        found = self._one("secrets", "Secret", ref.namespace or self._namespace, ref.name)
        if found is None:
            return None
        if (plain := (found.get("stringData") or {}).get(ref.key)) is not None:
            return str(plain)
        try:
            return base64.b64decode((found.get("data") or {})[ref.key], validate=True).decode()
        except (KeyError, ValueError):
            return None

    def _config_map(self, ref: ConfigMapKey) -> Mapping[str, str] | None:
        found = self._one("configmaps", "ConfigMap", ref.namespace or self._namespace, ref.name)
        entries = (found or {}).get("data") or {}
        if not ref.key:
            return entries or None
        return {ref.key: entries[ref.key]} if ref.key in entries else None


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "receiver": trial.receiver,
        "type": trial.block,
        "to": list(trial.channels),
        "requests": list(trial.payloads),
        "accepted": trial.result.ok,
        "answer": trial.result.detail,
        **({"template": trial.fault} if trial.fault else {}),
    }


def _print(trial: Trial) -> None:
    write: Callable[[str], None] = print
    write(f"{trial.receiver}/{trial.block} -> {', '.join(trial.channels) or 'nobody'}")
    if trial.fault:
        write(f"  template: {trial.fault}")
    for payload in trial.payloads:
        write("  request:")
        for line in json.dumps(payload, indent=2, ensure_ascii=False).splitlines():
            write(f"    {line}")
    said = f": {trial.result.detail}" if trial.result.detail else ""
    write(f"  answer: {'accepted' if trial.result.ok else 'NOT ACCEPTED'}{said}")
