"""The brokers that LogRules name, with secrets filled in and host names replaced, for the runtime process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from pelton import log
from pelton.errors import ComponentError
from pelton.model.component import MetadataItem
from pelton.model.desired import Component
from pelton.model.log_rule import LogRule
from pelton.model.notification import SecretRef
from pelton.plan.aliases import Aliases

__all__ = ["with_brokers"]

_log = log.get(__name__)


def with_brokers(
    rules: Iterable[LogRule], *, secret: Callable[[SecretRef], str | None], aliases: Aliases
) -> tuple[list[tuple[LogRule, Component | None]], list[tuple[str, str, str, str, int]]]:
    """Return rules with the broker that each names, or None, and those that wait for a Secret or a variable.

    Args:
        rules: As written.
        secret: Returns a secret's text, or None while it does not exist.
        aliases: Host names that stand for other addresses.

    Returns:
        (rule, broker) of those that can run; (namespace, name, reason, sentence, 0) of the others.
    """
    ready: list[tuple[LogRule, Component | None]] = []
    waiting: list[tuple[str, str, str, str, int]] = []
    for rule in rules:
        spec = rule.source.component if rule.source is not None else None
        if spec is None:
            ready.append((rule, None))
            continue
        try:
            said = {item.name: _setting(item, rule.namespace, secret) for item in spec.metadata}
        except ComponentError as error:
            _log.warning("LogRule %s/%s waits: %s", rule.namespace, rule.name, error.message)
            waiting.append((rule.namespace, rule.name, "NotConfigured", error.message, 0))
            continue
        metadata, _ = aliases.metadata(said)
        component = Component(
            namespace=rule.namespace,
            # Not the name that a Component could have: brokers are kept by it.
            name=f"logrule:{rule.name}",
            type=spec.type,
            version=spec.version or "v1",
            metadata=metadata,
        )
        ready.append((rule, component))
    return ready, waiting


def _setting(item: MetadataItem, namespace: str, secret: Callable[[SecretRef], str | None]) -> str:
    reference = item.secret_key_ref
    if reference is not None:
        key = reference.key or reference.name
        text = secret(SecretRef(namespace=namespace, name=reference.name, key=key))
        if text is None:
            raise ComponentError(f"the Secret {namespace}/{reference.name} has no entry {key}")
        return text
    if item.env_ref:
        text = os.environ.get(item.env_ref)
        if text is None:
            raise ComponentError(f"the variable {item.env_ref} is not set for the platform")
        return text
    return item.text
