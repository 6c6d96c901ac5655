"""The objects of alerts as the runtime has them: decoded, with the Secrets and ConfigMaps that they refer to.

`cli/receivers.py` sends them, `cli/runtime.py` hands them to the pipeline and to the API for trials. The
runtime has no access to the store; what is not sent does not exist for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

from pelton import log
from pelton.cli.receivers import manager_of, secret_namespace
from pelton.errors import PeltonError
from pelton.manifest import log_rule, notification, notification_routing
from pelton.model.log_rule import LogRule
from pelton.model.notification import ConfigMapKey, Credential, Receiver, SecretRef
from pelton.model.notification_routing import Config, NotificationManager, Router, Silence
from pelton.notify.alert import Alert
from pelton.notify.routing import owner
from pelton.notify.trial import Outlets, Trial, try_out
from pelton.ports import Sender

__all__ = ["AlertObjects"]

_DECODERS: Final[Mapping[str, Callable[[dict[str, Any]], tuple[Any, list[Any]]]]] = {
    "Receiver": notification.decode,
    "Config": notification_routing.CONFIG.decode,
    "Router": notification_routing.ROUTER.decode,
    "Silence": notification_routing.SILENCE.decode,
    "LogRule": log_rule.LOG_RULE.decode,
    "NotificationManager": notification_routing.NOTIFICATION_MANAGER.decode,
}
_log = log.get(__name__)


class AlertObjects:
    """What was sent last.

    Args:
        senders: Name of a block -> Sender, for trials.
    """

    def __init__(self, senders: Mapping[str, Sender]) -> None:
        self._senders = senders
        self._secrets: dict[tuple[str, str, str], str] = {}
        self._config_maps: dict[tuple[str, str], dict[str, str]] = {}
        self._namespace = secret_namespace([])
        self.items: Sequence[dict[str, Any]] = ()
        """As they are written."""
        self.receivers: list[Receiver] = []
        self.configs: list[Config] = []
        self.routers: list[Router] = []
        self.silences: list[Silence] = []
        self.log_rules: list[LogRule] = []
        self.manager: NotificationManager | None = None

    def take(self, body: Mapping[str, Any]) -> None:
        """Take over `{items, secrets, configMaps}`; objects that cannot be read are left out and told."""
        items: list[dict[str, Any]] = body["items"]
        chief = manager_of(items)
        found: dict[str, list[Any]] = {kind: [] for kind in _DECODERS}
        for item in items:
            kind = item["kind"]
            if kind == "NotificationManager" and item is not chief:
                _log.warning(
                    "NotificationManager %s is not used: there is an older one", item["metadata"]["name"]
                )
                continue
            try:
                found[kind].append(_DECODERS[kind](item)[0])
            except PeltonError as exc:
                _log.warning("%s %s is left out: %s", kind, item["metadata"].get("name"), exc.message)
        self.items = items
        self._secrets = {(where, name, key): text for where, name, key, text in body.get("secrets", ())}
        self._config_maps = {(where, name): entries for where, name, entries in body.get("configMaps", ())}
        self._namespace = secret_namespace(items)
        self.receivers, self.configs = found["Receiver"], found["Config"]
        self.routers, self.silences = found["Router"], found["Silence"]
        self.log_rules = found["LogRule"]
        self.manager = next(iter(found["NotificationManager"]), None)

    def secret(self, ref: SecretRef) -> str | None:
        """Return a secret's text, or None while it does not exist."""
        return self._secrets.get((ref.namespace or self._namespace, ref.name, ref.key))

    def config_map(self, ref: ConfigMapKey) -> dict[str, str] | None:
        """Return a ConfigMap's entries, or the one that is named; None while there are none."""
        entries = self._config_maps.get((ref.namespace or self._namespace, ref.name))
        if entries is None or not ref.key:
            return entries
        return {ref.key: entries[ref.key]} if ref.key in entries else None

    def tenant_of(self, labels: Mapping[str, str]) -> str:
        """Return the tenant whose an object with these labels is, or ""."""
        return owner(labels, self.manager).tenant

    async def try_out(
        self, receiver: Receiver, config: Config | None, alerts: Sequence[Alert], trusted: bool
    ) -> Sequence[Trial]:
        """Send alerts by a receiver at once.

        Args:
            receiver: A stored or a posted one.
            config: A posted Config, or None.
            alerts: At least one.
            trusted: Whether it may have the platform's secrets. Without, its references lead nowhere: they
                would go to an address that somebody posted. What a stored Config refers to goes where that
                Config says.
        """
        outlets = Outlets(
            [_resolved(each, self.secret) for each in self.configs],
            self.manager,
            secret=self.secret if trusted else _untrusted,
            config_map=self.config_map,
        )
        return await try_out(receiver, outlets, self._senders, alerts, config=config)


def _resolved(value: Any, secret: Callable[[SecretRef], str | None]) -> Any:
    """Return a part of the model with the texts of its secrets in place of references to them."""
    if isinstance(value, Credential):
        text = secret(value.secret) if value.secret is not None else None
        return value if text is None else Credential(value=text)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(
        value, **{each.name: _resolved(getattr(value, each.name), secret) for each in fields(value)}
    )


def _untrusted(_: SecretRef) -> None:
    return None
