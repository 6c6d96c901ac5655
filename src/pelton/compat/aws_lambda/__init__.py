"""AWS Lambda: `handler(event, context)` in this process, or any runtime behind the Runtime API.

`detect.py` finds functions; `handler.py` runs Python handlers here, `runtime_api.py` runs `awslambdaric` and
`bootstrap` programs as processes of their own; both are called through `doors.py`, which puts together HTTP
fronts (`fronts.py`), the Invoke API (`invoke_api.py`) and events (`events.py`). `calls.py` is the interface
between the two halves.
Source: `faas-conventions` contract, sections 2 and 11.
"""

from __future__ import annotations

from typing import Final

from pelton.compat.aws_lambda import handler
from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import LoadedFunction, LoadRequest

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "lambda"
IMPLIED: Final[dict[str, str]] = {}
FACTS: Final = Facts(
    title="AWS Lambda",
    looks_for="",
    triggers="",
    input="",
    output="",
    address="",
    protocol="",
    port="",
    code="",
    forms={},
    failure="",
    concurrency="",
)


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the functions that it recognises."""
    del tree
    return ()


def load(request: LoadRequest) -> LoadedFunction:
    """Load a handler into this process, or start its runtime.

    The signature `runtime` (a `bootstrap`), a `command`, or the option `lambda-runtime=awslambdaric` means a
    process that asks the Runtime API for its invocations, everything else a Python handler in this one.

    Raises:
        FunctionLoadError: The handler names nothing.
    """
    options = request.options
    if (
        request.signature == "runtime"
        or "command" in options
        or options.get("lambda-runtime") == "awslambdaric"
    ):
        from pelton.compat.aws_lambda import runtime_api  # its own server; only these functions need it

        return runtime_api.load(request)
    return handler.load(request)
