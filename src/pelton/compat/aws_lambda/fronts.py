"""The HTTP fronts of Lambda by their names in the option `http-event`. Used by `doors.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.compat.aws_lambda.front import Front
from pelton.compat.aws_lambda.front_v1 import LoadBalancer, RestApi
from pelton.compat.aws_lambda.front_v2 import FunctionUrl, HttpApi
from pelton.errors import FunctionLoadError

__all__ = ["FRONTS", "front_of"]

FRONTS: Final[Mapping[str, Callable[[FunctionInfo], Front] | None]] = {
    "function-url": FunctionUrl,
    "apigw-v2": HttpApi,
    "apigw-v1": RestApi,
    "alb": LoadBalancer,
    "none": None,
}
"""Name -> front; None takes a request's body as the event."""


def front_of(name: str, info: FunctionInfo) -> Front | None:
    """Return the front of that name; None for `none`. Options of the function refine it.

    Raises:
        FunctionLoadError: There is no such front.
    """
    if name not in FRONTS:
        raise FunctionLoadError(
            f"there is no HTTP front {name!r}",
            hint=f"pelton.dev/http-event is one of: {', '.join(FRONTS)}.",
        )
    make = FRONTS[name]
    return None if make is None else make(info)
