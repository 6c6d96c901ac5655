"""Compile once, evaluate often: expressions of rules, conditions, routes and thresholds.

`apiserver` (schema rules, match conditions), routing rules and resiliency call `compile_cel`; parser,
checker, estimate and evaluator are its parts. Pure: an evaluation reads its bindings and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pelton.cel import checker, syntax
from pelton.cel.estimate import estimate
from pelton.cel.evaluator import Run, build
from pelton.cel.types import Type
from pelton.errors import CelCompileError, CelEvaluateError

__all__ = ["DEFAULT_BUDGET", "Program", "compile_cel"]

DEFAULT_BUDGET = 1_000_000
"""Most cost of one evaluation; about a second of CPU at worst."""


class Program:
    """A compiled expression; immutable, usable from any thread.

    Attributes:
        expression: Its text.
        result: Type of its value.
        uses: Names of the variables that it reads.
        cost: Largest possible cost of an evaluation.
    """

    __slots__ = ("_slots", "_step", "cost", "expression", "result", "uses")

    def __init__(self, expression: str, root: syntax.Expr, found: checker.Checked) -> None:
        self.expression = expression
        self.result = root.type
        self.uses = frozenset(found.used)
        self.cost = estimate(root)
        self._slots = found.slots
        self._step = build(root, checker.TYPE_NAMES)

    def evaluate(self, bindings: Mapping[str, Any], *, budget: int = DEFAULT_BUDGET) -> Any:
        """Return the value for some bindings.

        Args:
            bindings: Variable -> value: JSON values and those of `values.py`.
            budget: Most cost.

        Raises:
            CelEvaluateError: A missing key, an overflow, a wrong type, ...
            CelCostError: The budget is spent.
        """
        return self.run(bindings, budget=budget)[0]

    def run(self, bindings: Mapping[str, Any], *, budget: int = DEFAULT_BUDGET) -> tuple[Any, int]:
        """Return the value and what it cost; raises as `evaluate` does."""
        run = Run(bindings, self._slots, budget)
        try:
            value = self._step(run)
        except RecursionError as error:
            raise CelEvaluateError("the data is nested too deeply") from error
        run.spend(0)
        return value, run.cost


def compile_cel(
    expression: str,
    variables: Mapping[str, Type] | None = None,
    *,
    result: Type | None = None,
    undeclared: Type | None = None,
) -> Program:
    """Parse and check an expression.

    Args:
        expression: Its text.
        variables: Name -> type; names may have dots.
        result: Type that the value must have; `dyn` passes and is checked by whoever evaluates. None for any.
        undeclared: Type of names that are not declared, usually DYN; None makes them an error.

    Raises:
        CelCompileError: With the place of each fault.
    """
    root = syntax.parse(expression)
    found = checker.check(expression, root, variables or {}, undeclared=undeclared)
    if result is not None and root.type.kind != "dyn" and root.type != result:
        raise CelCompileError(f"must evaluate to {result}", position=(1, 1))
    return Program(expression, root, found)
