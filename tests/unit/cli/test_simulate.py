"""`pelton simulate`: what it prints, and what it refuses."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import pytest

from pelton.cli.plot import COLUMNS, Chart
from pelton.cli.simulate import simulate
from pelton.errors import InvalidError, TraceError, UsageError

KPA = """
algorithm: kpa
annotations:
  autoscaling.knative.dev/target: "10"
  autoscaling.knative.dev/max-scale: 6
"""


@pytest.fixture
def run(tmp_path, capsys):
    """Run a trace (lines, or the file's bytes) and return what was printed."""

    def run(trace, *outputs: str, policy: str = KPA) -> str:
        policy_file, trace_file = tmp_path / "policy.yaml", tmp_path / "trace.jsonl"
        policy_file.write_text(policy)
        if isinstance(trace, bytes):
            trace_file.write_bytes(trace)
        else:
            trace_file.write_text("".join(json.dumps(line) + "\n" for line in trace))
        assert simulate(policy_file=str(policy_file), trace_file=str(trace_file), outputs=outputs) == 0
        return str(capsys.readouterr().out)

    return run


def load(*values: float) -> list[dict[str, float]]:
    return [{"t": 2 * index, "concurrency": value} for index, value in enumerate(values)]


def test_json_has_one_object_per_line_with_all_fields(run):
    rows = [json.loads(line) for line in run(load(5, 50, 500), "json").splitlines()]

    assert [set(row) for row in rows] == [{"t", "desired", "raw", "ebc", "panic", "reason"}] * 3
    assert [(row["t"], row["desired"], row["raw"]) for row in rows] == [(0, 1, 1), (2, 3, 3), (4, 6, 16)]
    assert rows[0]["ebc"] == 10 - 211 - 5
    assert rows[2]["panic"] is True
    assert "not above the maximum of 6" in rows[2]["reason"]


def test_other_algorithms_have_no_burst_capacity(run):
    spec = "algorithm: keda\nspec: {triggers: [{type: kafka, name: lag}]}\n"
    (row,) = [
        json.loads(line) for line in run([{"t": 0, "metrics": {"lag": 40}}], "json", policy=spec).splitlines()
    ]

    assert (row["ebc"], row["panic"], row["desired"]) == (None, False, 1)


def test_table_lists_changes_and_what_they_cost(run):
    shown = run(load(0, 0, 60, 60, 60), "table")

    assert shown.splitlines()[0].split() == ["T", "LOAD", "READY", "DESIRED", "EBC", "PANIC", "WHY"]
    assert "instance-seconds" in shown and "cold starts" in shown and "queueing" in shown


def test_long_table_says_what_it_leaves_out(run):
    policy = (
        "algorithm: hpa\nspec: {maxReplicas: 9, metrics: [{type: External, external: {metric: {name: m}, "
    )
    policy += "target: {averageValue: 1}}}], behavior: {scaleDown: {stabilizationWindowSeconds: 0}}}\n"
    trace = [{"t": 60 * i, "metrics": {"m": 2 + i % 2 * 2}} for i in range(200)]

    assert "more changes; -o json shows every line" in run(trace, policy=policy)


def test_plot_draws_in_the_terminal(run):
    shown = run(load(*[5] * 20, *[60] * 20, *[0] * 60), "plot")

    assert "█ instances" in shown and "• load" in shown


def test_plot_writes_a_png_that_can_be_read(run, tmp_path):
    picture = tmp_path / "picture.png"
    run(load(*[5] * 20, *[60] * 20), "plot", str(picture))
    data = picture.read_bytes()

    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (crc,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert crc == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    pixels = zlib.decompress(chunks[b"IDAT"])
    assert len(pixels) == (width + 1) * height
    assert {3, 4} <= set(pixels)  # instances and load are in it


def test_chart_keeps_its_columns_and_its_peaks_however_long_the_trace():
    chart = Chart()
    for t in range(20_000):
        chart.add(t * 0.37, 1 if t != 12_345 else 77, 1.0)

    assert len(chart._instances) <= COLUMNS
    assert "77 at most" in chart.terminal()


def test_empty_series_can_be_drawn():
    chart = Chart()
    chart.add(0.0, 0, 0.0)

    assert "0 at most" in chart.terminal()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"not json", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "not as a trace needs it"),
        (b'{"concurrency": 1}', "missing required field `t`"),
        (b'{"t": "1", "concurrency": 1}', "Expected `float`"),
        (b'{"t": NaN, "concurrency": 1}', "not JSON"),
        (b'{"t": 3, "concurrency": NaN}', "not JSON"),
        (b'{"t": 3, "concurrency": Infinity}', "not JSON"),
        (b'{"t": 3, "concurrency": -1}', "concurrency is -1, not within 0"),
        (b'{"t": 3, "concurrency": 1e16}', "not within 0 to 1e+15"),
        (b'{"t": 3, "concurrency": 1e999}', "line"),
        (b'{"t": 3}', "one of concurrency, rps and metrics is required"),
        (b'{"t": 3, "rps": 1}', '"concurrency" is required'),
        (b'{"t": 1, "concurrency": 1}', "before the line above it"),
        (b'{"t": -1, "concurrency": 1}', "not within 0"),
        (b'{"t": 1e300, "concurrency": 1}', "not within 0"),
        (b'{"t": 3, "concurrency": 1, "ready": -1}', "ready is -1"),
        (b'{"t": 3, "concurrency": 1, "ready": 1.5}', "Expected `int"),
        (b'{"t": 3, "concurrency": 1, "ready": 99999999999}', "ready is"),
        (b'{"t": 3, "metrics": {"m": "x"}}', "not as a trace needs it"),
        (b'{"t": 3, "metrics": {"m": []}}', "no value of any pod"),
        (b'{"t": 3, "metrics": {"m": {"pods": [1], "unready": -1}}}', "unready of m"),
        (b'{"t": 3, "concurrency": 1' + b" " * 1_100_000 + b"}", "longer than"),
    ],
)
def test_line_that_cannot_be_used_is_told_by_its_number(run, line, said):
    with pytest.raises(TraceError) as caught:
        run(b'{"t": 2, "concurrency": 1}\n\n' + line + b"\n", "json")

    assert caught.value.where.endswith("trace.jsonl:3")
    assert said in str(caught.value)


def test_lines_before_a_bad_one_are_printed(tmp_path, capsys):
    (tmp_path / "p").write_text(KPA)
    (tmp_path / "t").write_text('{"t": 2, "concurrency": 1}\nno\n')
    with pytest.raises(TraceError):
        simulate(policy_file=str(tmp_path / "p"), trace_file=str(tmp_path / "t"), outputs=["json"])

    assert json.loads(capsys.readouterr().out)["t"] == 2


def test_empty_trace_is_refused(run):
    with pytest.raises(TraceError, match="the trace is empty"):
        run(b"")


def test_trace_comes_from_standard_input_as_well(tmp_path, monkeypatch, capsys):
    (tmp_path / "p").write_text(KPA)
    stdin = io.TextIOWrapper(io.BytesIO(b'{"t": 0, "concurrency": 1}\n'))
    monkeypatch.setattr("sys.stdin", stdin)

    assert simulate(policy_file=str(tmp_path / "p"), trace_file="-", outputs=["json"]) == 0
    assert json.loads(capsys.readouterr().out)["desired"] == 1


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("algorithm: [", "is not YAML"),
        ("a: 1\na: 2\n", "is not YAML"),
        ("algorithm: vpa", "'vpa' is not kpa or hpa or keda or keda-http"),
        (KPA + "  autoscaling.knative.dev/window: 5s\n", "whole seconds from 6s to 1h"),
    ],
)
def test_policy_that_cannot_be_used_is_refused(run, policy, said):
    with pytest.raises((UsageError, InvalidError)) as caught:
        run(load(1), policy=policy)

    assert said in str(caught.value)


@pytest.mark.parametrize("outputs", [["yaml"], ["json", "table"], ["json", "x.png"], ["plot", "x.jpg"]])
def test_output_that_is_not_known_is_refused(run, outputs):
    with pytest.raises(UsageError):
        run(load(1), *outputs)


def test_files_that_cannot_be_read_are_told(tmp_path):
    missing = str(tmp_path / "none")
    with pytest.raises(UsageError, match="the policy cannot be read"):
        simulate(policy_file=missing, trace_file=missing, outputs=[])
    policy = Path(tmp_path / "p")
    policy.write_text(KPA)
    with pytest.raises(UsageError, match="the trace cannot be read"):
        simulate(policy_file=str(policy), trace_file=missing, outputs=[])


def test_pods_of_a_metric_may_be_missing_or_unready(run):
    policy = "algorithm: hpa\nspec: {maxReplicas: 9, metrics: [{type: Resource, resource: {name: cpu, "
    policy += "target: {type: Utilization, averageUtilization: 50}}}]}\n"
    trace = [
        {"t": 0, "ready": 3, "metrics": {"cpu": [90, 90, None]}},
        {"t": 15, "ready": 4, "metrics": {"cpu": {"pods": [90, 90], "unready": 2}}},
    ]

    assert [json.loads(line)["raw"] for line in run(trace, "json", policy=policy).splitlines()] == [4, 4]
