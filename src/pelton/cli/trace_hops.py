"""One request, hop by hop: what `pelton trace` measured and asked, put into an order and into words. Pure.

`cli/trace.py` gathers the facts and prints what this returns. Source: contracts, gateway-network, section 12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pelton.dataplane.event_traces import HOLDS
from pelton.model.desired import QUEUE_TYPE

__all__ = ["Facts", "Hop", "hops"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One step of a request.

    Attributes:
        name: `name`, `listener`, `tls`, `route`, `split`, `priority`, `socket`, `instance` or `function`; for
            what the request caused `publish`, `relay`, `trigger`, `deliver`, `call`, `output`, `activate` or
            `function`.
        says: What happened there.
        ms: Milliseconds spent there; None where no time passes or nobody measured.
        details: Further lines, e.g. why other rules lost.
    """

    name: str
    says: str
    ms: float | None = None
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found out about one request.

    Attributes:
        host, address, port: As asked for, and where that led.
        listener: (pid, command) of who listens there; None for nobody.
        parts: Process id -> name of the platform's part.
        tls: Sentence about the certificate, "" without TLS.
        timings: `resolve`, `connect`, `tls`, `first_byte`, `total`, in milliseconds.
        status: HTTP status.
        gateway: Whether the gateway was asked; of another address, what functions did is a consequence.
        routing: `{winner, others, split, chosen}` as the node explains it; None when it does not.
        spans: Spans of the request, SpanRecord as mappings.
        sockets: Instance id -> (path, (pid, command) or None).
    """

    host: str
    address: str
    port: int
    listener: tuple[int, str] | None
    parts: Mapping[int, str]
    tls: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    status: int = 0
    gateway: bool = True
    routing: Mapping[str, Any] | None = None
    spans: Sequence[Mapping[str, Any]] = ()
    sockets: Mapping[str, tuple[str, tuple[int, str] | None]] = field(default_factory=dict)


def hops(facts: Facts) -> list[Hop]:
    """Return all hops in the order of the request."""
    spans = sorted(facts.spans, key=lambda span: int(span.get("start_ns", 0)))
    activator = _find(spans, "activate ") if facts.gateway else None
    worker = _find(spans, "invoke ") if facts.gateway else None
    found = [_name(facts), _listener(facts)]
    if facts.tls:
        found.append(Hop(name="tls", says=facts.tls, ms=facts.timings.get("tls")))
    found += _routing(facts)
    gateway_ms = _gateway_ms(facts, activator, worker)
    if gateway_ms is not None:
        found.append(Hop(name="gateway", says="the rest of the time to the first byte", ms=gateway_ms))
    if facts.gateway:
        found.append(_priority(activator, worker))
    instance = str(((worker or activator or {}).get("tags") or {}).get("service.instance.id", ""))
    if instance:
        found.append(_socket(facts, instance))
        found.append(_instance(activator, worker, instance))
    if worker is not None:
        found.append(_function(worker))
    return found + [_further(span) for span in spans if span is not activator and span is not worker]


def _further(span: Mapping[str, Any]) -> Hop:
    """Return what the request caused: an event on its way, a call of another app, and what took them."""
    word, _, what = str(span["name"]).partition(" ")
    tags = span.get("tags") or {}
    parts = [what]
    if (place := tags.get("messaging.destination.name")) and tags.get("messaging.system") != QUEUE_TYPE:
        parts.append(f"{tags.get('messaging.system', '')} {place}".strip())
    if holds := tags.get(HOLDS):
        parts.append("no condition holds" if holds == "none" else f"holds: {holds}")
    if tags.get("pelton.busy", "0") not in ("", "0"):
        parts.append(f"waited for somebody to take it {tags['pelton.busy']} times")
    if int(tags.get("pelton.attempt", "1")) > 1:
        parts.append(f"attempt {tags['pelton.attempt']}")
    if status := tags.get("http.response.status_code"):
        parts.append(f"answered {status}")
    if span.get("error"):
        parts.append(str(span["error"]))
    if word == "invoke":
        word = "function"
    ms = (int(span.get("end_ns", 0)) - int(span.get("start_ns", 0))) / 1e6
    return Hop(name=word, says="; ".join(parts), ms=ms)


def _name(facts: Facts) -> Hop:
    if facts.host == facts.address:
        says = f"{facts.host} is an address"
    elif facts.host == "localhost" or facts.host.endswith(".localhost"):
        says = f"{facts.host} is {facts.address}: names under localhost are this machine, whoever is asked"
    else:
        says = f"{facts.host} is {facts.address}, says the resolver"
    return Hop(name="name", says=says, ms=facts.timings.get("resolve"))


def _listener(facts: Facts) -> Hop:
    place = f"[{facts.address}]" if ":" in facts.address else facts.address
    if facts.listener is None:
        return Hop(name="listener", says=f"nobody listens on {place}:{facts.port}")
    pid, command = facts.listener
    if not pid:
        who = "a process that only root can see"
    else:
        part = facts.parts.get(pid)
        who = f"{command}, pid {pid}, " + (f"this platform's {part}" if part else "no part of this platform")
    return Hop(
        name="listener", says=f"{place}:{facts.port} is held by {who}", ms=facts.timings.get("connect")
    )


def _routing(facts: Facts) -> list[Hop]:
    if facts.routing is None:
        return []
    winner = facts.routing.get("winner")
    others = tuple(f"not {item['name']}: {item['why']}" for item in facts.routing.get("others", ()))
    if not winner:
        return [Hop(name="route", says=f"no rule fits under {facts.host}", details=others)]
    found = [Hop(name="route", says=str(winner), details=others)]
    split = facts.routing.get("split") or ()
    if split:
        total = sum(item["weight"] for item in split) or 1
        shares = ", ".join(f"{item['weight'] * 100 / total:g} % {item['name']}" for item in split)
        found.append(Hop(name="split", says=shares))
    return found


def _gateway_ms(
    facts: Facts, activator: Mapping[str, Any] | None, worker: Mapping[str, Any] | None
) -> float | None:
    """Return the time to the first byte without what waiting for an instance and the function took of it."""
    first_byte = facts.timings.get("first_byte")
    if first_byte is None or worker is None:
        return None
    waited = _number(((activator or {}).get("tags") or {}).get("pelton.waited_ms")) or 0.0
    return max(0.0, first_byte - waited - _number_of(worker, "pelton.function_ms"))


def _priority(activator: Mapping[str, Any] | None, worker: Mapping[str, Any] | None) -> Hop:
    if activator is not None:
        tags = activator.get("tags") or {}
        says = "1, the activator: no instance was ready"
        if activator.get("error"):
            says += f"; {activator['error']}"
        return Hop(name="priority", says=says, ms=_number(tags.get("pelton.waited_ms")))
    if worker is not None:
        return Hop(name="priority", says="0, an instance that was ready: no process of the platform between")
    return Hop(name="priority", says="unknown: no function reported this request")


def _socket(facts: Facts, instance: str) -> Hop:
    path, holder = facts.sockets.get(instance, ("", None))
    if not path:
        return Hop(name="socket", says=f"the socket of {instance}, which is gone by now")
    if holder is None:
        return Hop(name="socket", says=f"{path}, on which nobody listens any more")
    pid, command = holder
    return Hop(
        name="socket",
        says=f"{path}, held by {command}, pid {pid}" if pid else f"{path}, held by a hidden process",
    )


def _instance(activator: Mapping[str, Any] | None, worker: Mapping[str, Any] | None, instance: str) -> Hop:
    waking = (activator or {}).get("tags") or {}
    born = (worker or {}).get("tags") or {}
    cold = "true" in (waking.get("faas.coldstart"), born.get("faas.coldstart") if activator else None)
    if not cold:
        return Hop(name="instance", says=f"{instance}: warm")
    parts = []
    if "pelton.fork_ms" in waking:
        parts.append(f"forked in {_number(waking['pelton.fork_ms']):g} ms")
    if born.get("pelton.start") == "template":
        parts.append("its imports were done already: forked from its template")
    elif "pelton.load_ms" in born:
        parts.append(f"code and imports took {_number(born['pelton.load_ms']):g} ms")
    ready = _number(waking.get("pelton.ready_ms"))
    if ready is not None:
        parts.append(f"ready after {ready:g} ms")
    return Hop(name="instance", says=f"{instance}: cold" + "".join(f"; {part}" for part in parts), ms=ready)


def _function(worker: Mapping[str, Any]) -> Hop:
    tags = worker.get("tags") or {}
    status = tags.get("http.response.status_code", "")
    says = str(worker["name"]).removeprefix("invoke ") + (f" answered {status}" if status else " answered")
    if worker.get("error"):
        says += f": {worker['error']}"
    waited = _number(tags.get("pelton.waited_ms"))
    if waited:
        says += f"; {waited:g} ms from the request's head to its code"
    return Hop(name="function", says=says, ms=_number(tags.get("pelton.function_ms")))


def _find(spans: Sequence[Mapping[str, Any]], prefix: str) -> Mapping[str, Any] | None:
    return next((span for span in spans if str(span["name"]).startswith(prefix)), None)


def _number_of(span: Mapping[str, Any], tag: str) -> float:
    return _number((span.get("tags") or {}).get(tag)) or 0.0


def _number(text: Any) -> float | None:
    try:
        return round(float(text), 3)
    except (TypeError, ValueError):
        return None
