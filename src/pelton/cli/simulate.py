"""`pelton simulate`: a policy over a trace, by the code that scales on the platform.

Reads the policy (`autoscale/policy.py`) and the trace, line by line, so that a trace of any length needs
little memory; prints JSON lines, a table, or a picture (`cli/plot.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import IO, Any

import msgspec

from pelton.autoscale.decision import Decision
from pelton.autoscale.hpa import Reading
from pelton.autoscale.policy import PolicyFile, read_policy
from pelton.autoscale.simulate import Sample, SampleError, Simulation, Totals
from pelton.cli.printing import print_columns
from pelton.errors import InvalidError, TraceError, UsageError

__all__ = ["simulate"]

MOST_VALUE = 1e15
MOST_READY = 1_000_000
MOST_TIME_S = 1e12
MOST_LINE_BYTES = 1024 * 1024
_FORMATS = ("json", "table", "plot")
_ROWS = 60
"""Changes that a table shows at most."""


class _Pods(msgspec.Struct, forbid_unknown_fields=True):
    """A metric per pod, as a line of a trace may give it."""

    pods: list[float | None]
    unready: int = 0


class _Line(msgspec.Struct):
    t: float
    concurrency: float | None = None
    rps: float | None = None
    metrics: dict[str, float | list[float | None] | _Pods | None] | None = None
    ready: int | None = None


class _Row(msgspec.Struct):
    t: float
    desired: int
    raw: int
    ebc: int | None
    panic: bool
    reason: str


def simulate(*, policy_file: str, trace_file: str, outputs: Sequence[str]) -> int:
    """Run a trace and print what came of it; 0 when every line could be evaluated.

    Args:
        policy_file: YAML.
        trace_file: JSON lines; `-` for standard input.
        outputs: `json`, `table` or `plot`, and with `plot` a PNG file to write instead of drawing in the
            terminal.

    Raises:
        InvalidError: The policy breaks rules; all are listed.
        TraceError: A line cannot be used; the message has its number.
    """
    output, picture = _outputs(outputs)
    policy = _policy(policy_file)
    if trace_file == "-":
        return _run(policy, sys.stdin.buffer, "standard input", output, picture)
    try:
        file = Path(trace_file).open("rb")  # noqa: SIM115 -- closed below; only opening is guarded here
    except OSError as exc:
        raise UsageError(f"the trace cannot be read: {exc.strerror}", where=trace_file) from exc
    with file:
        return _run(policy, file, trace_file, output, picture)


def _outputs(given: Sequence[str]) -> tuple[str, str | None]:
    """Return (format, file) out of what -o and --output say together."""
    formats = [value for value in given if value in _FORMATS]
    files = [value for value in given if value not in _FORMATS]
    if len(formats) > 1 or len(files) > 1:
        raise UsageError("-o is given twice", hint="one of: json, table, plot; with plot also FILE.png")
    output = formats[0] if formats else ("plot" if files else "table")
    if files and (output != "plot" or not files[0].endswith(".png")):
        raise UsageError(
            f"-o {files[0]!r} is not known", hint="one of: json, table, plot; with plot also FILE.png"
        )
    return output, files[0] if files else None


def _policy(path: str) -> PolicyFile:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise UsageError(f"the policy cannot be read: {reason}", where=path) from exc
    policy = read_policy(_yaml(text, path))
    if policy.problems:
        raise InvalidError(
            "the policy is not valid: " + "; ".join(f"{at}: {said}" for at, said in policy.problems),
            causes=tuple(policy.problems),
            where=path,
        )
    return policy


def _yaml(text: str, path: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as exc:
        raise UsageError(f"the policy is not YAML: {' '.join(str(exc).split())}", where=path) from exc


def _run(policy: PolicyFile, file: IO[bytes], name: str, output: str, picture: str | None) -> int:
    samples = _samples(file, name)
    if output == "json":
        _print_json(policy, samples, name)
    elif output == "plot":
        from pelton.cli.plot import Chart

        chart = Chart()
        totals = Totals()
        for sample, decision in _decisions(policy, samples, name):
            load, per = _load(policy, sample, decision)
            totals.add(decision, load, per)
            chart.add(decision.at, decision.desired, load)
        if picture is None:
            print(chart.terminal())
            _print_totals(totals)
        else:
            chart.write_png(Path(picture))
            print(f"{picture}: {totals.lines} lines, {totals.end - totals.start:g} s")
    else:
        _print_table(policy, samples, name)
    return 0


def _decisions(
    policy: PolicyFile, samples: Iterator[tuple[int, Sample]], name: str
) -> Iterator[tuple[Sample, Decision]]:
    simulation = Simulation(policy)
    for number, sample in samples:
        try:
            yield sample, simulation.step(sample)
        except SampleError as exc:
            raise TraceError(str(exc), where=f"{name}:{number}") from None


def _print_json(policy: PolicyFile, samples: Iterator[tuple[int, Sample]], name: str) -> None:
    encode = msgspec.json.Encoder().encode
    out = sys.stdout
    rows: list[str] = []
    try:
        for _, made in _decisions(policy, samples, name):
            row = _Row(made.at, made.desired, made.raw, made.ebc, made.panic, made.reason)
            rows.append(encode(row).decode())
            if len(rows) >= 512:
                out.write("\n".join(rows) + "\n")
                rows.clear()
    finally:  # what came before a bad line is shown all the same
        if rows:
            out.write("\n".join(rows) + "\n")


# ----------------------------------------------------------------------------------------------------- trace


def _samples(file: IO[bytes], name: str) -> Iterator[tuple[int, Sample]]:
    """Yield (line number, sample); blank lines are skipped."""
    decode = msgspec.json.Decoder(_Line).decode
    before = 0.0
    number = 0
    while raw := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        where = f"{name}:{number}"
        if len(raw) > MOST_LINE_BYTES:
            raise TraceError(f"the line is longer than {MOST_LINE_BYTES} bytes", where=where)
        if raw.isspace():
            continue
        try:
            line = decode(raw)
        except msgspec.ValidationError as exc:
            raise TraceError(f"the line is not as a trace needs it: {exc}", where=where, hint=_HINT) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise TraceError(f"the line is not JSON: {exc}", where=where, hint=_HINT) from None
        if not 0.0 <= line.t <= MOST_TIME_S:
            raise TraceError(f"t is {line.t:g}, not within 0 to {MOST_TIME_S:g}", where=where)
        if line.t < before:
            raise TraceError(
                f"t is {line.t:g}, before the line above it ({before:g})",
                where=where,
                hint="sort the trace by t",
            )
        before = line.t
        if line.ready is not None and not 0 <= line.ready <= MOST_READY:
            raise TraceError(f"ready is {line.ready}, not within 0 to {MOST_READY}", where=where)
        yield number, Sample(t=line.t, values=_values(line, where), ready=line.ready)
    if not number:
        raise TraceError("the trace is empty", where=name, hint=_HINT)


_HINT = 'each line is one JSON object, such as {"t": 0, "concurrency": 12.5}'


def _values(line: _Line, where: str) -> dict[str, float | Reading | None]:
    values: dict[str, float | Reading | None] = {}
    for name, value in (line.metrics or {}).items():
        if isinstance(value, list):
            values[name] = Reading(pods=_pods(value, name, where))
        elif isinstance(value, _Pods):
            if not 0 <= value.unready <= MOST_READY:
                raise TraceError(f"unready of {name} is {value.unready}", where=where)
            values[name] = Reading(pods=_pods(value.pods, name, where), unready=value.unready)
        else:
            values[name] = None if value is None else _checked(value, name, where)
    if line.concurrency is not None:
        values["concurrency"] = _checked(line.concurrency, "concurrency", where)
    if line.rps is not None:
        values["rps"] = _checked(line.rps, "rps", where)
    if not values:
        raise TraceError("one of concurrency, rps and metrics is required", where=where, hint=_HINT)
    return values


def _pods(values: list[float | None], name: str, where: str) -> tuple[float | None, ...]:
    if not any(value is not None for value in values):
        raise TraceError(f"{name} has no value of any pod", where=where, hint="null is a metric that failed")
    return tuple(None if value is None else _checked(value, name, where) for value in values)


def _checked(value: float, name: str, where: str) -> float:
    if not (isfinite(value) and 0.0 <= value <= MOST_VALUE):
        raise TraceError(f"{name} is {value:g}, not within 0 to {MOST_VALUE:g}", where=where)
    return value


# ----------------------------------------------------------------------------------------------------- words


def _load(policy: PolicyFile, sample: Sample, decision: Decision) -> tuple[float, float]:
    """Return (load over all instances, what one is meant to take; 0 when that cannot be said)."""
    if policy.algorithm == "kpa":
        value = sample.values.get(policy.kpa.metric)
        return (value if isinstance(value, float | int) else 0.0), policy.kpa.total
    best = max(
        (p for p in decision.proposals if p.value is not None),
        key=lambda p: (p.value or 0.0) / p.target,
        default=None,
    )
    if best is None or best.value is None:
        return 0.0, 0.0
    kinds = {metric.name: metric.target_type for metric in policy.hpa.metrics}
    summed = policy.algorithm != "hpa" or kinds.get(best.source) == "AverageValue"
    return best.value, best.target if summed else 0.0


def _print_table(policy: PolicyFile, samples: Iterator[tuple[int, Sample]], name: str) -> None:
    totals = Totals()
    rows: list[tuple[str, ...]] = []
    left_out = 0
    for sample, decision in _decisions(policy, samples, name):
        load, per = _load(policy, sample, decision)
        if not totals.add(decision, load, per):
            continue
        if len(rows) >= _ROWS:
            left_out += 1
            continue
        rows.append(
            (
                f"{decision.at:g}",
                f"{load:g}",
                str(decision.ready),
                str(decision.desired),
                "-" if decision.ebc is None else str(decision.ebc),
                "yes" if decision.panic else "",
                decision.reason.partition(": ")[2],
            )
        )
    print_columns(("T", "LOAD", "READY", "DESIRED", "EBC", "PANIC", "WHY"), rows)
    if left_out:
        print(f"... and {left_out} more changes; -o json shows every line")
    print()
    _print_totals(totals)


def _print_totals(totals: Totals) -> None:
    seconds = totals.end - totals.start
    mean = totals.instance_s / seconds if seconds else float(totals.most)
    rows: list[tuple[str, str]] = [
        ("lines", str(totals.lines)),
        ("seconds", f"{seconds:g}"),
        ("changes", str(totals.changes)),
        ("cold starts", str(totals.cold_starts)),
        ("instance-seconds", f"{totals.instance_s:.1f}"),
        ("instances", f"{mean:.2f} on average, {totals.most} at most"),
        ("queueing", f"{totals.short_s:g} s over capacity, {totals.excess_s:.1f} load-seconds in excess"),
    ]
    print_columns(None, rows)
