"""What the platform counts, as Prometheus' text: functions, gateway, events, alerts, parts.

Pure but for the reading of `/proc`: `cli/metrics.py` gathers what node, runtime and Envoy say and serves the
text at `/metrics` of the API. Names follow Prometheus' rules: base units, `_total` for what only grows. A
counter begins at 0 with the process that counts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

__all__ = ["Facts", "Usage", "render", "usage_of"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_FUNCTION: Final = ("namespace", "function")
_EVENTS: Final = ("namespace", "function", "subscription", "topic")
_Rows = Iterable[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process uses: CPU seconds since its start, resident bytes."""

    cpu_s: float = 0.0
    resident_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What there is to tell; every part may be missing while its process is away.

    Attributes:
        parts: PartObserved as mappings, `up` first.
        node: The node's `stats`.
        runtime: The runtime's `stats`.
        gateway: Envoy's statistic -> value, e.g. `cluster.default/hello.upstream_rq_total`.
        objects: Stored objects by resource.
        usage: Process id -> what it uses.
        version: Of Pelton.
    """

    parts: tuple[Mapping[str, Any], ...] = ()
    node: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    gateway: Mapping[str, int] = field(default_factory=dict)
    objects: Mapping[str, int] = field(default_factory=dict)
    usage: Mapping[int, Usage] = field(default_factory=dict)
    version: str = ""


def render(facts: Facts) -> bytes:
    """Return all metrics as text."""
    text: bytes = generate_latest(_Collector(facts))
    return text


def usage_of(pid: int, proc: Path = Path("/proc")) -> Usage | None:
    """Return what a process uses, None when it is gone."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
        pages = int((proc / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    # The name is in brackets and may hold anything, brackets and blanks included.
    fields = stat.rpartition(")")[2].split()
    return Usage(cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS, resident_bytes=pages * _PAGE_BYTES)


class _Collector:
    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        yield _gauge("pelton_info", "Version of Pelton.", ("version",), [((self._facts.version,), 1)])
        yield from self._functions()
        yield from self._gateway()
        yield from self._events()
        yield from self._triggers()
        yield from self._alerts()
        yield from self._log_rules()
        yield from self._parts()
        rows = [((name,), count) for name, count in sorted(self._facts.objects.items())]
        yield _gauge("pelton_objects", "Stored objects.", ("resource",), rows)

    def _functions(self) -> Iterator[Metric]:
        functions = self._facts.node.get("functions", ())

        def rows(read: Any) -> _Rows:
            return [((f["namespace"], f["name"]), read(f)) for f in functions]

        def states() -> _Rows:
            for function in functions:
                for state in ("starting", "ready", "draining"):
                    count = sum(i["state"] == state for i in function["instances"])
                    yield (function["namespace"], function["name"], state), count

        def memory(function: Mapping[str, Any]) -> float:
            known = (self._facts.usage.get(instance["pid"]) for instance in function["instances"])
            return sum(usage.resident_bytes for usage in known if usage is not None)

        yield _gauge("pelton_function_instances", "Instances.", (*_FUNCTION, "state"), states())
        yield _gauge(
            "pelton_function_desired_instances",
            "Instances that the last scaling decision asks for.",
            _FUNCTION,
            rows(lambda f: f["desired"]),
        )
        yield _gauge(
            "pelton_function_invocations_in_flight",
            "Invocations running now.",
            _FUNCTION,
            rows(lambda f: sum(i["in_flight"] for i in f["instances"])),
        )
        yield _gauge(
            "pelton_function_resident_memory_bytes",
            "Resident memory of all instances, pages that they share counted in each.",
            _FUNCTION,
            rows(memory),
        )
        for name, text, key in (
            ("invocations", "Invocations that began, requests and events alike.", "invocations"),
            (
                "busy_seconds",
                "Time that invocations took, summed over those that ran at once.",
                "busy_seconds",
            ),
            ("instance_seconds", "Lifetimes of all instances, past and present.", "instance_seconds"),
            ("cold_starts", "Requests and events that found no instance and started one.", "cold_starts"),
        ):
            yield _counter(f"pelton_function_{name}", text, _FUNCTION, rows(lambda f, key=key: f[key]))
        activator = self._facts.node.get("activator", {})
        if activator:
            yield _counter(
                "pelton_activator_refused_requests",
                "Requests refused because too many waited.",
                (),
                [((), activator["overflowed"])],
            )
            yield _counter(
                "pelton_activator_abandoned_requests",
                "Requests whose client left while they waited.",
                (),
                [((), activator["abandoned"])],
            )

    def _gateway(self) -> Iterator[Metric]:
        def rows(suffix: str) -> _Rows:
            for name, value in sorted(self._facts.gateway.items()):
                cluster = name.removeprefix("cluster.").removesuffix(suffix)
                namespace, slash, function = cluster.partition("/")
                if slash and name.endswith(suffix):
                    function, _, revision = function.partition(":")
                    yield (namespace, function, revision), value

        labels = (*_FUNCTION, "revision")
        yield _counter(
            "pelton_gateway_requests",
            "Tries to reach a function, the activator's included; revision is empty for the newest.",
            labels,
            rows(".upstream_rq_total"),
        )
        yield _gauge(
            "pelton_gateway_requests_in_flight",
            "Requests that the gateway waits for.",
            labels,
            rows(".upstream_rq_active"),
        )

    def _events(self) -> Iterator[Metric]:
        subscriptions = self._facts.runtime.get("subscriptions", ())

        def rows(key: str) -> _Rows:
            for item in subscriptions:
                yield (item["namespace"], item["function"], item["id"], item["topic"]), item[key]

        for name, text, key in (
            ("delivered", "Events that a function handled.", "delivered"),
            ("failed_attempts", "Attempts that a function did not handle.", "failed"),
            ("retried", "Attempts that failed and are made again.", "retried"),
            ("dead_letters", "Events given up after their last attempt.", "dead"),
        ):
            yield _counter(f"pelton_events_{name}", text, _EVENTS, rows(key))
        for name, text, key in (
            ("dropped", "Events that an app of Dapr did not want and no dead letter topic took.", "dropped"),
            ("to_dead_letter_topic", "Events that went to the dead letter topic of an app.", "dead_lettered"),
        ):
            apps = [
                ((s["namespace"], s["function"], s["id"], s["topic"]), s[key])
                for s in subscriptions
                if key in s
            ]
            yield _counter(f"pelton_events_{name}", text, _EVENTS, apps)
        yield _gauge("pelton_events_pending", "Events that are not done.", _EVENTS, rows("pending"))
        trouble = [
            ((s["namespace"], s["function"], s["id"], s["topic"]), float(bool(s["trouble"])))
            for s in subscriptions
        ]
        yield _gauge(
            "pelton_events_source_trouble", "1 while the source of events cannot be used.", _EVENTS, trouble
        )
        yield _gauge(
            "pelton_output_trouble",
            "1 while the destination of an output is not reached.",
            (*_FUNCTION, "output", "destination"),
            [
                ((o["namespace"], o["function"], o["output"], o["destination"]), float(bool(o["trouble"])))
                for o in self._facts.runtime.get("outputs", ())
            ],
        )

    def _triggers(self) -> Iterator[Metric]:
        triggers = self._facts.runtime.get("triggers", ())
        labels = ("owner", "trigger", "type")

        def place(item: Mapping[str, Any]) -> tuple[str, str, str]:
            return item["owner"], item["trigger"], item["type"]

        by_metric = [((*place(item), one["metric"]), one) for item in triggers for one in item["metrics"]]
        yield _gauge(
            "pelton_trigger_value",
            "What a scaler read last for a trigger.",
            (*labels, "metric"),
            [(key, one["value"]) for key, one in by_metric],
        )
        yield _gauge(
            "pelton_trigger_target",
            "The value per replica that is aimed at.",
            (*labels, "metric"),
            [(key, one["target"]) for key, one in by_metric],
        )
        yield _gauge(
            "pelton_trigger_active",
            "1 while a trigger asks for something to run.",
            labels,
            [(place(item), float(item["active"])) for item in triggers],
        )
        yield _counter(
            "pelton_trigger_failed_readings",
            "Rounds in which a trigger could not be read.",
            labels,
            [(place(item), item["failures"]) for item in triggers],
        )

    def _alerts(self) -> Iterator[Metric]:
        counted = self._facts.runtime.get("notifications")
        if not counted:
            return
        for name, text, key in (
            ("accepted", "Alerts accepted and stored.", "accepted_alerts"),
            ("unmatched", "Alerts that no receiver wants.", "unmatched_alerts"),
            ("notifications", "Notifications made out of groups of alerts.", "notifications"),
            ("dead_batches", "Batches of alerts that could not be worked on.", "dead_batches"),
        ):
            yield _counter(f"pelton_alerts_{name}", text, (), [((), counted[key])])
        if "groups" in counted:
            yield from self._groups(counted["groups"])
        receivers = sorted(counted["receivers"].items())
        for name, text, key in (
            ("sent", "Notifications that the receiver took.", "sent"),
            ("failed_attempts", "Attempts that the receiver did not take.", "failed_attempts"),
            ("dead_letters", "Notifications given up.", "dead"),
            ("pauses", "Times that the receiver asked to wait.", "pauses"),
            ("digested", "Notifications that went out in a digest.", "digested"),
            ("template_faults", "Messages in plain words, since a template failed.", "template_faults"),
        ):
            rows = [(tuple(name.split("/", 1)), counters[key]) for name, counters in receivers]
            yield _counter(f"pelton_receiver_{name}", text, ("receiver", "block"), rows)
        held = [(tuple(name.split("/", 1)), counters["held"]) for name, counters in receivers]
        yield _gauge("pelton_receiver_held", "Notifications being sent.", ("receiver", "block"), held)
        ready = [(tuple(name.split("/", 1)), float(counters["ready"])) for name, counters in receivers]
        yield _gauge(
            "pelton_receiver_ready", "0 while something is in the way.", ("receiver", "block"), ready
        )

    def _groups(self, counted: Mapping[str, Any]) -> Iterator[Metric]:
        for name, text, key in (
            ("told", "Looks at groups of alerts that told something.", "flushes"),
            ("overflowed", "Alerts sent ungrouped, since there was no room.", "overflowed"),
            ("trouble", "Failures of the disk or the bus while looking at groups.", "trouble"),
        ):
            yield _counter(f"pelton_alert_groups_{name}", text, (), [((), counted[key])])
        yield _gauge("pelton_alert_groups", "Groups of alerts that exist.", (), [((), counted["groups"])])
        yield _gauge("pelton_alert_groups_alerts", "Alerts in groups.", (), [((), counted["alerts"])])

    def _log_rules(self) -> Iterator[Metric]:
        rules = sorted((self._facts.runtime.get("logRules") or {}).items())
        labels = ("namespace", "rule")
        for name, text, key in (
            ("records", "Log records that a rule looked at.", "records"),
            ("matched", "Log records that counted.", "matched"),
            ("failed", "Log records that an expression could not be evaluated for.", "failed"),
            ("crowded", "Log records that counted but had no room for a group.", "crowded"),
            ("alerts", "Alerts that began.", "fired"),
            ("trouble", "Failures of a rule's broker or of the disk.", "trouble"),
        ):
            rows = [(tuple(rule.split("/", 1)), counted[key]) for rule, counted in rules]
            yield _counter(f"pelton_log_rule_{name}", text, labels, rows)
        firing = [(tuple(rule.split("/", 1)), counted["firing"]) for rule, counted in rules]
        yield _gauge("pelton_log_rule_firing", "Alerts of a rule that fire.", labels, firing)

    def _parts(self) -> Iterator[Metric]:
        parts, usage = self._facts.parts, self._facts.usage
        running = [((part["name"],), float(part["state"] == "running")) for part in parts]
        yield _gauge("pelton_part_up", "1 while the process runs.", ("part",), running)
        restarts = [((part["name"],), part["restarts"]) for part in parts]
        yield _counter("pelton_part_restarts", "Restarts of the process.", ("part",), restarts)
        known = [(part["name"], usage[part["pid"]]) for part in parts if part["pid"] in usage]
        cpu = [((name,), used.cpu_s) for name, used in known]
        yield _counter("pelton_part_cpu_seconds", "CPU time of the process.", ("part",), cpu)
        memory = [((name,), used.resident_bytes) for name, used in known]
        yield _gauge("pelton_part_resident_memory_bytes", "Resident memory.", ("part",), memory)


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: _Rows) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), rows)


def _counter(name: str, text: str, labels: tuple[str, ...], rows: _Rows) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), rows)


def _filled(family: Any, rows: _Rows) -> Metric:
    for labels, value in rows:
        family.add_metric(labels, value)
    metric: Metric = family
    return metric
