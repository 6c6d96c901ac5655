"""Which topics an app wants, at which of its routes, and which rule an event meets. Pure.

An app says it itself (`/dapr/subscribe`, ListTopicSubscriptions), a Subscription resource says it for the
app, or a stream asks for it; all become `TopicSubscription`s. `channel_http.py` and `channel_grpc.py` bring
what apps answer, `delivery.py` asks `Router` for each event.
Source: contracts, Dapr runtime, section 3. Where a rule's expression cannot be compiled, the subscription is
refused with the place of the fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pelton.errors import CelCompileError, CelCostError, CelEvaluateError, ProtocolError
from pelton.model.dapr import DaprSubscription
from pelton.model.settings import truthy

if TYPE_CHECKING:
    from pelton.cel import Program

__all__ = [
    "DECLARATIVE",
    "PROGRAMMATIC",
    "STREAMING",
    "Bulk",
    "Router",
    "Rule",
    "TopicSubscription",
    "declared_for",
    "from_json",
    "merged",
]

DECLARATIVE: Final = "DECLARATIVE"
PROGRAMMATIC: Final = "PROGRAMMATIC"
STREAMING: Final = "STREAMING"

BULK_MESSAGES: Final = 100
BULK_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A route: `match` is a CEL expression over `event`, "" for every event; `path` may be ""."""

    match: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """How many events go to the app at once.

    Attributes:
        max_messages: At most so many, >= 1.
        max_wait_s: Seconds that the first of them waits for others.
    """

    max_messages: int = BULK_MESSAGES
    max_wait_s: float = BULK_WAIT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSubscription:
    """One topic that an app wants.

    Attributes:
        pubsub: Name of the pub/sub component.
        topic: Topic.
        rules: In the order in which they are tried, the default last; not empty.
        metadata: As the app wrote it, e.g. `rawPayload`.
        dead_letter_topic: Topic of the same component that takes what the app does not accept; "" for none.
        bulk: How events are gathered; None for one at a time.
        kind: DECLARATIVE, PROGRAMMATIC or STREAMING.
    """

    pubsub: str
    topic: str
    rules: tuple[Rule, ...] = (Rule(),)
    metadata: Mapping[str, str] = field(default_factory=dict)
    dead_letter_topic: str = ""
    bulk: Bulk | None = None
    kind: str = PROGRAMMATIC

    @property
    def raw(self) -> bool:
        """Whether messages come without an envelope."""
        return any(key.lower() == "rawpayload" and truthy(value) for key, value in self.metadata.items())


def from_json(items: Any) -> tuple[list[TopicSubscription], list[str]]:
    """Read what `GET /dapr/subscribe` answers: an array of subscriptions, in the v1 or the v2 form.

    Args:
        items: The decoded answer; null counts as an empty array.

    Returns:
        The subscriptions, and a sentence about each entry that has to be left out.

    Raises:
        ProtocolError: It is no array.
    """
    if items is None:
        return [], []
    if not isinstance(items, list):
        raise ProtocolError("the app's subscriptions are no JSON array")
    found: list[TopicSubscription] = []
    faults: list[str] = []
    for index, item in enumerate(items):
        try:
            found.append(_entry(item))
        except ProtocolError as exc:
            faults.append(f"subscription {index}: {exc.message}")
    return found, faults


def _entry(item: Any) -> TopicSubscription:
    if not isinstance(item, dict):
        raise ProtocolError("is no object")
    pubsub, topic = _text(item, "pubsubname", "pubsubName"), _text(item, "topic")
    if not pubsub or not topic:
        raise ProtocolError("names no pubsubname or no topic")
    routes = item.get("routes") or {}
    if not isinstance(routes, dict):
        raise ProtocolError("its routes are no object")
    given = routes.get("rules") or []
    if not isinstance(given, list):
        raise ProtocolError("the rules of its routes are no array")
    rules = [
        Rule(match=_text(rule, "match"), path=_text(rule, "path")) for rule in given if isinstance(rule, dict)
    ]
    default = _text(routes, "default") or _text(item, "route")
    if default:
        rules.append(Rule(path=default))
    if not rules:
        raise ProtocolError(f"{pubsub}/{topic} has no route")
    metadata = item.get("metadata") or {}
    bulk = item.get("bulkSubscribe") or {}
    return TopicSubscription(
        pubsub=pubsub,
        topic=topic,
        rules=tuple(rules),
        metadata={str(key): _plain(value) for key, value in metadata.items()}
        if isinstance(metadata, dict)
        else {},
        dead_letter_topic=_text(item, "deadLetterTopic"),
        bulk=bulk_of(
            enabled=bulk.get("enabled") is True,
            max_messages=bulk.get("maxMessagesCount"),
            max_wait_ms=bulk.get("maxAwaitDurationMs"),
        )
        if isinstance(bulk, dict)
        else None,
    )


def declared_for(
    resources: Iterable[DaprSubscription], *, app_id: str, namespace: str
) -> list[TopicSubscription]:
    """Return what Subscription resources say for an app, in their order; one without a route is left out."""
    found: list[TopicSubscription] = []
    for resource in resources:
        if resource.namespace not in ("", namespace) or (resource.scopes and app_id not in resource.scopes):
            continue
        rules = [Rule(match=rule.match, path=rule.path) for rule in resource.rules]
        if resource.default_route:
            rules.append(Rule(path=resource.default_route))
        if not rules:
            continue
        bulk = resource.bulk
        found.append(
            TopicSubscription(
                pubsub=resource.pubsub_name,
                topic=resource.topic,
                rules=tuple(rules),
                metadata=resource.metadata,
                dead_letter_topic=resource.dead_letter_topic,
                bulk=bulk_of(
                    enabled=bulk.enabled, max_messages=bulk.max_messages, max_wait_ms=bulk.max_wait_ms
                )
                if bulk is not None
                else None,
                kind=DECLARATIVE,
            )
        )
    return found


def bulk_of(*, enabled: bool, max_messages: Any, max_wait_ms: Any) -> Bulk | None:
    """Return how events are gathered, None where none was asked for; no positive number is the default."""
    if not enabled:
        return None
    count = max_messages if type(max_messages) is int and max_messages > 0 else BULK_MESSAGES
    wait_s = max_wait_ms / 1000 if type(max_wait_ms) is int and max_wait_ms > 0 else BULK_WAIT_S
    return Bulk(max_messages=count, max_wait_s=wait_s)


def merged(*sources: Sequence[TopicSubscription]) -> list[TopicSubscription]:
    """Return the subscriptions of all sources; of two for the same topic the first source's counts."""
    found: dict[tuple[str, str], TopicSubscription] = {}
    for source in sources:
        for subscription in source:
            found.setdefault((subscription.pubsub, subscription.topic), subscription)
    return list(found.values())


class Router:
    """The rules of one subscription, compiled.

    Args:
        subscription: Whose.

    Raises:
        CelCompileError: An expression is no CEL, or can never be a boolean.
    """

    def __init__(self, subscription: TopicSubscription) -> None:
        self._rules: list[tuple[Program | None, str]] = []
        for rule in subscription.rules:
            try:
                program = _compiled(rule.match) if rule.match.strip() else None
            except CelCompileError as exc:
                raise CelCompileError(
                    f"the rule {rule.match!r} of {subscription.pubsub}/{subscription.topic}: {exc.message}",
                    position=exc.position,
                ) from exc
            self._rules.append((program, rule.path))
        self.needs_event = any(program is not None for program, _ in self._rules)

    def path(self, envelope: Mapping[str, Any]) -> str | None:
        """Return the path of the first rule that an event meets, None when it meets none.

        Args:
            envelope: The event with its data, as JSON has it; not looked at unless `needs_event`.

        Raises:
            CelEvaluateError: A rule cannot be evaluated, or is no boolean.
        """
        for program, path in self._rules:
            if program is None:
                return path
            try:
                met = program.evaluate({"event": envelope})
            except CelCostError as exc:
                raise CelEvaluateError(f"the rule {program.expression!r} costs too much") from exc
            if not isinstance(met, bool):
                raise CelEvaluateError(f"the rule {program.expression!r} is no boolean")
            if met:
                return path
        return None


def _compiled(expression: str) -> Program:
    from pelton.cel import DYN, compile_cel  # imported for the few subscriptions that have rules

    return compile_cel(expression, {"event": DYN}, undeclared=DYN)


def _text(item: Mapping[str, Any], *names: str) -> str:
    for name in names:
        value = item.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)
