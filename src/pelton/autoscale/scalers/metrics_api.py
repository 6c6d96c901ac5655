"""Scaler `metrics-api`: a number in the answer of any HTTP endpoint, in four formats.

`drivers/scalers/metrics_api.py` fetches the texts. Pure.

Source: KEDA, pkg/scalers/metrics_api_scaler.go (contracts, autoscaling section 4.10).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from math import isfinite
from typing import Any
from xml.parsers import expat

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pelton.autoscale.scalers.http_login import HttpLogin, read_api_key_login
from pelton.autoscale.scalers.json_path import MISSING, lookup
from pelton.autoscale.scalers.parameters import Parameters, metric_name
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading
from pelton.quantity import parse_quantity

__all__ = ["MetricsApiScaling", "aggregate", "extract", "measure", "read_metrics_api"]

_SAMPLE = re.compile(
    r"([A-Za-z_:][A-Za-z0-9_:]*)\s*(?:\{(.*)\})?\s+([^\s#]+)(?:\s+-?[0-9.]+)?(?:\s+#.*)?", re.DOTALL
)
_LABEL = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsApiScaling:
    """Settings of one trigger.

    Attributes:
        metric: Name of the metric.
        url: Of the endpoint.
        location: Where the number is: a GJSON path, or a selector for `prometheus`.
        format: `json`, `xml`, `yaml` or `prometheus`.
        target, activation: Value per replica; active above.
        endpoints: Whether all endpoints of the Service that the URL names are asked.
        aggregation: How their numbers join: `average`, `sum`, `max` or `min`.
        login: What goes with the request.
    """

    metric: str
    url: str
    location: str
    format: str = "json"
    target: float
    activation: float = 0.0
    endpoints: bool = False
    aggregation: str = "average"
    login: HttpLogin


def read_metrics_api(found: Parameters) -> MetricsApiScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    location = found.required("valueLocation")
    return MetricsApiScaling(
        metric=metric_name(f"metric-api-{location}"),
        url=found.required("url"),
        location=location,
        format=found.choice("format", "json", "json", "xml", "yaml", "prometheus"),
        target=found.target("targetValue"),
        activation=found.number("activationTargetValue", 0.0),
        endpoints=found.flag("aggregateFromKubeServiceEndpoints"),
        aggregation=found.choice("aggregationType", "average", "average", "sum", "max", "min"),
        login=read_api_key_login(found),
    )


def extract(settings: MetricsApiScaling, text: str) -> float:
    """Return the number in an answer.

    Raises:
        ScalerError: The answer has another format, or no number in that place.
    """
    if settings.format == "prometheus":
        return _sample(text, settings.location)
    try:
        if settings.format == "json":
            data = json.loads(text)
        elif settings.format == "yaml":
            data = YAML(typ="safe", pure=True).load(StringIO(text))
        else:
            data = _xml(text)
    except (ValueError, YAMLError, expat.ExpatError, RecursionError) as error:
        raise ScalerError(
            f"the answer is no {settings.format}: {str(error).splitlines()[0]}",
            hint="check url and format of the trigger",
        ) from error
    value = lookup(data, settings.location)
    number = _number(value)
    if number is None:
        raise ScalerError(
            f"there is {'nothing' if value is MISSING else 'no number'} at {settings.location}",
            hint="check valueLocation against what the endpoint answers",
        )
    return number


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if isfinite(value) else None
    if isinstance(value, str):
        try:
            return float(parse_quantity(value.strip()))
        except ValueError:
            return None
    return None


class _Tree:
    """XML as nested mappings: repeated elements are lists, text beside others is `#text`."""

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}
        self._open: list[tuple[str, dict[str, Any], list[str]]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._open.append((name, {f"-{key}": value for key, value in attributes.items()}, []))

    def text(self, text: str) -> None:
        if self._open:
            self._open[-1][2].append(text)

    def end(self, _name: str) -> None:
        name, children, texts = self._open.pop()
        text = "".join(texts).strip()
        value: Any = children if children else text
        if children and text:
            children["#text"] = text
        into = self._open[-1][1] if self._open else self.root
        if name not in into:
            into[name] = value
        elif isinstance(into[name], list):
            into[name].append(value)
        else:
            into[name] = [into[name], value]


def _xml(text: str) -> dict[str, Any]:
    tree = _Tree()
    parser = expat.ParserCreate()
    parser.StartElementHandler = tree.start
    parser.CharacterDataHandler = tree.text
    parser.EndElementHandler = tree.end

    def refuse(*_arguments: Any) -> None:
        raise ValueError("entities are not allowed")  # they could grow without bound

    parser.EntityDeclHandler = refuse
    parser.Parse(text, True)
    return tree.root


def _sample(text: str, selector: str) -> float:
    """Return the value of the one sample that a selector such as `up{job="a"}` matches."""
    name, brace, rest = selector.partition("{")
    wanted = _labels(rest.rstrip().removesuffix("}")) if brace else []
    found = []
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line.strip()) if not line.lstrip().startswith("#") else None
        if match is None or match[1] != name.strip():
            continue
        labels = {key: value for key, _, value in _labels(match[2] or "")}
        if all(_holds(labels.get(key, ""), sign, value) for key, sign, value in wanted):
            found.append(match[3])
    if len(found) != 1:
        raise ScalerError(
            f"{len(found)} samples match {selector}, one is needed",
            hint='check valueLocation, such as requests_waiting{queue="a"}',
        )
    try:
        number = float(found[0])
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise ScalerError(f'the value "{found[0]}" of {selector} is no number')
    return number


def _labels(text: str) -> list[tuple[str, str, str]]:
    found, position = [], 0
    while match := _LABEL.match(text, position):
        value = re.sub(r"\\(.)", lambda each: {"n": "\n"}.get(each[1], each[1]), match[3])
        found.append((match[1], match[2], value))
        position = match.end()
    if text[position:].strip():
        raise ScalerError(
            f'labels "{text}" cannot be read', hint='write them as in metric{name="value",other="value"}'
        )
    return found


def _holds(value: str, sign: str, wanted: str) -> bool:
    if sign in ("=", "!="):
        return (value == wanted) == (sign == "=")
    try:
        return (re.fullmatch(wanted, value) is not None) == (sign == "=~")
    except re.error as error:
        raise ScalerError(f'"{wanted}" is no regular expression: {error}') from error


def aggregate(settings: MetricsApiScaling, numbers: Sequence[float]) -> float:
    """Join the numbers of several endpoints; at least one is needed."""
    if settings.aggregation == "sum":
        return sum(numbers)
    if settings.aggregation == "max":
        return max(numbers)
    if settings.aggregation == "min":
        return min(numbers)
    return sum(numbers) / len(numbers)


def measure(settings: MetricsApiScaling, value: float) -> ScalerReading:
    """Return the metric."""
    return ScalerReading(
        metric=settings.metric, value=value, target=settings.target, active=value > settings.activation
    )
