"""Scaler `postgresql`: the first column of a query's first row. `drivers/postgresql.py` asks. Pure.

Source: KEDA, pkg/scalers/postgresql_scaler.go (contracts, autoscaling section 4.7).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pelton.autoscale.scalers.parameters import Parameters
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["PostgreSqlScaling", "measure", "read_postgresql"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgreSqlScaling:
    """Settings: metadata of a component (secret), the query, value per replica, and value for activity."""

    metric: str = "postgresql"
    connection: dict[str, str] = field(repr=False)
    query: str
    target: float
    activation: float = 0.0


def read_postgresql(found: Parameters) -> PostgreSqlScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    whole = found.text("connection")
    if whole:
        connection = {"connectionString": whole}
    else:
        connection = {
            "host": found.required("host"),
            "port": found.required("port"),
            "user": found.required("userName"),
            "database": found.required("dbName"),
            "password": found.text("password"),
        }
        mode = found.required("sslmode")
        if mode:
            words = " ".join(
                f"{name}={_quoted(connection[key])}"
                for name, key in (
                    ("host", "host"),
                    ("port", "port"),
                    ("user", "user"),
                    ("dbname", "database"),
                    ("password", "password"),
                )
                if connection[key]
            )
            connection = {"connectionString": f"{words} sslmode={mode}"}
    return PostgreSqlScaling(
        connection=connection,
        query=found.required("query"),
        target=found.target("targetQueryValue"),
        activation=found.number("activationTargetQueryValue", 0.0),
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def measure(settings: PostgreSqlScaling, rows: Any) -> ScalerReading:
    """Return the metric out of the rows, each a list.

    Raises:
        ScalerError: There is no row, or no number in it.
    """
    if not rows or not rows[0]:
        raise ScalerError(
            "the query returned no row", hint="let it return one row always, such as by count(*)"
        )
    try:
        value = float(rows[0][0])
    except (TypeError, ValueError) as error:
        raise ScalerError(
            f"the query returned {rows[0][0]!r}, which is no number",
            hint="let its first column be a number, such as by coalesce(..., 0)",
        ) from error
    return ScalerReading(
        metric=settings.metric, value=value, target=settings.target, active=value > settings.activation
    )
