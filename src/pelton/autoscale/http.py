"""How many replicas requests ask for by KEDA's HTTP add-on, and which route a request counts for.

`Counts` joins what interceptors report, `HttpScaler` turns concurrency and rate into values of an
`external-push` trigger for `autoscale/keda.py`, `RoutingTable` finds the route of a request. Pure: `now` is
an argument.

Source: kedacore/http-add-on, scaler and pkg/routing (contracts, autoscaling sections 5.2, 5.3, 5.6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from pelton.autoscale.decision import Decision
from pelton.autoscale.keda import Keda, Seen
from pelton.autoscale.window import Ring
from pelton.model.scaling import HttpScaling, KedaPolicy, TriggerTarget

__all__ = ["CONCURRENCY", "RATE", "Counts", "HttpRule", "HttpScaler", "RoutingTable", "with_triggers"]

CONCURRENCY = "concurrency"
RATE = "rps"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRule:
    """One way to a route.

    Attributes:
        namespace, name: The route's.
        host: Exact, `*.x.y`, or `*`.
        prefix: Path prefix, whole segments.
        headers: (name in lower case, value; None for any value), all of which have to match.
        created: Creation time, seconds; the older rule goes first.
    """

    namespace: str
    name: str
    host: str = "*"
    prefix: str = "/"
    headers: tuple[tuple[str, str | None], ...] = ()
    created: float = 0.0


class RoutingTable:
    """Rules by host and path prefix.

    Args:
        rules: In any order.
    """

    def __init__(self, rules: Iterable[HttpRule]) -> None:
        self._hosts: dict[str, dict[str, list[HttpRule]]] = {}
        for rule in rules:
            host = self._hosts.setdefault(rule.host.lower() or "*", {})
            host.setdefault(_segments(rule.prefix), []).append(rule)
        for host in self._hosts.values():
            for entries in host.values():
                # Stable sorts, least important first: name and namespace descending, then as the contract
                # says.
                entries.sort(key=lambda rule: (rule.namespace, rule.name), reverse=True)
                entries.sort(
                    key=lambda rule: (
                        -len(rule.headers),
                        -sum(value is not None for _, value in rule.headers),
                        rule.created,
                    )
                )

    def find(self, host: str, path: str, headers: Mapping[str, Sequence[str]]) -> HttpRule | None:
        """Return the rule that a request counts for, or None.

        Args:
            host: With or without port.
            path: Of the URL.
            headers: Name in lower case -> values.
        """
        for candidate in _hosts_of(host):
            prefixes = self._hosts.get(candidate)
            if prefixes is None:
                continue
            whole = _segments(path)
            # Only the longest prefix is tried: when no entry of it matches the headers, the search goes on
            # with the next host, not with a shorter prefix.
            longest = max((p for p in prefixes if whole.startswith(p)), key=len, default=None)
            if longest is None:
                continue
            for rule in prefixes[longest]:
                if all(_has(headers, name, value) for name, value in rule.headers):
                    return rule
        return None


def _has(headers: Mapping[str, Sequence[str]], name: str, value: str | None) -> bool:
    values = headers.get(name.lower(), ())
    return bool(values) if value is None else value in values


def _segments(path: str) -> str:
    trimmed = path.strip("/")
    return f"/{trimmed}/" if trimmed else "/"


def _hosts_of(host: str) -> Iterable[str]:
    """Yield the host, then wildcards from most to least specific, then the catch-all."""
    name = host.lower()
    if name.startswith("["):
        name = name[: name.find("]") + 1]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield f"*.{name}"
    yield "*"


class Counts:
    """Concurrency and new requests of one route, out of what interceptor pods report."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}  # pod -> (concurrency, request count)

    def take(self, reports: Mapping[str, tuple[float, float] | None]) -> tuple[float, float]:
        """Return (concurrency, requests since the last look) over all pods.

        Args:
            reports: Pod -> (concurrency, requests so far); None for one that does not answer, whose last
                concurrency goes on counting. A pod that is not listed is gone.
        """
        concurrency = requests = 0.0
        seen: dict[str, tuple[float, float]] = {}
        for pod, report in reports.items():
            before = self._seen.get(pod)
            if report is None:
                if before is not None:
                    concurrency += before[0]
                    seen[pod] = before
                continue
            concurrency += report[0]
            seen[pod] = report
            if before is not None:
                delta = report[1] - before[1]
                requests += report[1] if delta < 0 else delta  # a smaller count: the pod began anew
        self._seen = seen
        return concurrency, requests


def with_triggers(policy: HttpScaling) -> KedaPolicy:
    """Return the ScaledObject's policy with one trigger metric per target."""
    concurrency, rate = _names(policy)
    triggers = []
    if policy.concurrency_target > 0:
        triggers.append(
            TriggerTarget(name=concurrency, type="external-push", target=policy.concurrency_target)
        )
    if policy.rate_target > 0:
        triggers.append(TriggerTarget(name=rate, type="external-push", target=policy.rate_target))
    return replace(policy.keda, triggers=tuple(triggers))


def _names(policy: HttpScaling) -> tuple[str, str]:
    """Return what concurrency and rate are called."""
    if not policy.variable:
        return CONCURRENCY, RATE
    return (policy.variable, RATE) if policy.concurrency_target > 0 else (CONCURRENCY, policy.variable)


class HttpScaler:
    """The decider of one HTTPScaledObject or InterceptorRoute.

    Args:
        policy: Targets, ring and bounds.
        now: Seconds on the caller's clock.
    """

    __slots__ = ("_concurrency", "_keda", "_ring", "policy")

    def __init__(self, policy: HttpScaling, *, now: float) -> None:
        self.policy = policy
        self._keda = Keda(with_triggers(policy), now=now)
        self._ring = Ring(policy.rate_window_s, policy.granularity_s)
        self._concurrency = 0.0

    @property
    def seen(self) -> Seen:
        """What the last look at the metrics found."""
        return self._keda.seen

    def resume(self, *, created: float, active_at: float | None) -> None:
        """Take over from a decider that another process had; see `Keda.resume`."""
        self._keda.resume(created=created, active_at=active_at)

    @property
    def active_at(self) -> float | None:
        """When there was a request last, as the cooldown counts it; None for never."""
        return self._keda.active_at

    def cooling(self, now: float) -> bool:
        """Return whether nothing is active and the cooldown has not ended."""
        return self._keda.cooling(now)

    def adopt(self, policy: HttpScaling) -> None:
        """Take new parameters; what was seen stays, the rate only if its ring is the same.

        Raises:
            FormulaError: The formula cannot be read.
        """
        before, self.policy = self.policy, policy
        if (before.rate_window_s, before.granularity_s) != (policy.rate_window_s, policy.granularity_s):
            self._ring = Ring(policy.rate_window_s, policy.granularity_s)
        self._keda.adopt(with_triggers(policy))

    def record(self, *, now: float, concurrency: float | None = None, requests: float | None = None) -> None:
        """Take a sample.

        Args:
            now: Seconds on the caller's clock.
            concurrency: Requests in flight over all instances.
            requests: Requests since the last sample.
        """
        if concurrency is not None:
            self._concurrency = concurrency
        if requests is not None:
            self._ring.record(now, requests)

    def decide(
        self,
        *,
        now: float,
        current: int,
        ready: int | None = None,
        poll: bool = True,
        boundary: bool = True,
        chain: bool = False,
        failed: bool = False,
    ) -> Decision:
        """Decide from what was recorded; `failed` says that nothing could be, the rest is as in `Keda`."""
        rate = self._ring.average(now)
        named = _names(self.policy)
        values: dict[str, Any] = (
            {}
            if failed
            else {
                named[0]: self._concurrency,
                named[1]: float(ceil(rate)) if self.policy.whole_rate else rate,
            }
        )
        decision = self._keda.decide(
            now=now, values=values, current=current, ready=ready, poll=poll, boundary=boundary, chain=chain
        )
        decision.algorithm = "keda-http"
        return decision

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {
            "concurrency": self._concurrency,
            "ring": self._ring.to_dict(),
            "keda": self._keda.to_dict(),
        }

    @classmethod
    def from_dict(cls, policy: HttpScaling, state: dict[str, Any]) -> HttpScaler:
        """Return the decider that `to_dict` described."""
        made = cls(policy, now=0.0)
        made._concurrency = state["concurrency"]
        made._ring = Ring.from_dict(state["ring"])
        made._keda = Keda.from_dict(with_triggers(policy), state["keda"])
        return made
