"""Scaler `prometheus`: the value of a query. `drivers/scalers/prometheus.py` sends it. Pure.

Source: KEDA, pkg/scalers/prometheus_scaler.go (contracts, autoscaling section 4.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from pelton.autoscale.scalers.http_login import HttpLogin, read_login
from pelton.autoscale.scalers.parameters import Parameters
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["PrometheusScaling", "measure", "read_prometheus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusScaling:
    """Settings of one trigger.

    Attributes:
        metric: Name of the metric.
        url: Of the server, without the API's path.
        parameters: Of the request, beside the time.
        threshold, activation: Value per replica; active above.
        ignore_null: Whether no value counts as 0; else it is an error.
        login: What goes with the request.
    """

    metric: str = "prometheus"
    url: str
    parameters: dict[str, str]
    threshold: float
    activation: float = 0.0
    ignore_null: bool = True
    login: HttpLogin


def read_prometheus(found: Parameters) -> PrometheusScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    parameters = {"query": found.required("query"), **found.mapping("queryParameters")}
    if namespace := found.text("namespace"):
        parameters["namespace"] = namespace
    return PrometheusScaling(
        url=found.required("serverAddress").rstrip("/"),
        parameters=parameters,
        threshold=found.target("threshold"),
        activation=found.number("activationThreshold", 0.0),
        ignore_null=found.flag("ignoreNullValues", True),
        login=read_login(found, headers=found.mapping("customHeaders")),
    )


def measure(settings: PrometheusScaling, answer: Any) -> ScalerReading:
    """Return the metric out of the answer to an instant query.

    Raises:
        ScalerError: It has several series, or no value where that is an error.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict) or "result" not in data:
        raise ScalerError("the answer is none of Prometheus' query API", hint="check serverAddress")
    result = data["result"] or []
    # A scalar or string is one pair; a vector is a list of series.
    if data.get("resultType") in ("scalar", "string"):
        result = [{"value": result}]
    if len(result) > 1:
        raise ScalerError(
            f"the query gives {len(result)} series, one is needed", hint="aggregate them, such as by sum(...)"
        )
    value = _number(result[0].get("value")) if result else None
    if value is None:
        if not settings.ignore_null:
            raise ScalerError(
                "the query gives no value", hint="correct the query, or set ignoreNullValues to true"
            )
        value = 0.0
    return ScalerReading(
        metric=settings.metric, value=value, target=settings.threshold, active=value > settings.activation
    )


def _number(pair: Any) -> float | None:
    """Return the number of a [time, text] pair; None where there is none that counts."""
    if not isinstance(pair, list) or len(pair) < 2:
        return None
    try:
        number = float(pair[1])
    except (TypeError, ValueError) as error:
        raise ScalerError(f'the value "{pair[1]}" is no number', hint="correct the query") from error
    return number if isfinite(number) else None
