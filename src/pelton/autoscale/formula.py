"""Formulas of KEDA's scalingModifiers: a safe reader of the part of the expr language that they need.

Numbers, true, false, nil, arrays; `+ - * / % ** ^`, comparisons, `&& || !` (and, or, not), `in`, `? :`, `??`;
functions of numbers and arrays; predicates `{# > 1}` or `# > 1` in count, any, all, none, one, filter, map,
sum. No attributes, no indexing, no assignment, no text. A formula is bounded in length, depth and steps, so
that it ends in any case. `autoscale/keda.py` evaluates, `autoscale/policy.py` checks. Pure.

Source: KEDA, pkg/scaling/modifiers/formula.go (contracts, autoscaling section 2.2); expr language definition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import ceil, floor, fmod, inf, isnan, nan
from typing import Any

__all__ = ["Formula", "FormulaError"]

MAX_LENGTH = 4096
MAX_DEPTH = 64
MAX_STEPS = 100_000
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_$][A-Za-z0-9_$]*)"
    r"|(?P<op>\*\*|==|!=|<=|>=|&&|\|\||\?\?|[-+*/%^<>!?:()\[\]{},#]))"
)
_BINARY = (
    (("||", "or"),),
    (("&&", "and"),),
    (("==", "=="), ("!=", "!="), ("<", "<"), ("<=", "<="), (">", ">"), (">=", ">="), ("in", "in")),
    (("+", "+"), ("-", "-")),
    (("*", "*"), ("/", "/"), ("%", "%")),
)
_OPERATORS = frozenset({"**", "^", *(sign for level in _BINARY for sign, _ in level)})
_WORDS = {"or": "||", "and": "&&", "not": "!", "in": "in"}
_PREDICATES = frozenset({"count", "any", "all", "none", "one", "filter", "map", "sum"})

Value = float | bool | list[Any] | None
_Node = Callable[["_Run"], Any]


class FormulaError(ValueError):
    """A formula cannot be read or evaluated."""


class _Run:
    """One evaluation: variables, the elements that `#` stands for, and the steps left."""

    __slots__ = ("items", "steps", "variables")

    def __init__(self, variables: Mapping[str, float | None]) -> None:
        self.variables = variables
        self.items: list[Any] = []
        self.steps = MAX_STEPS

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise FormulaError(f"it takes more than {MAX_STEPS} steps")


class Formula:
    """A formula, ready to evaluate.

    Args:
        text: As in `scalingModifiers.formula`.
        names: Variables that it may use.

    Raises:
        FormulaError: It cannot be read; the message says where.
    """

    def __init__(self, text: str, names: frozenset[str] | set[str]) -> None:
        if len(text) > MAX_LENGTH:
            raise FormulaError(f"the formula is longer than {MAX_LENGTH} characters")
        self.text = text
        reader = _Reader(text, names)
        self._node = reader.whole()
        self.names = frozenset(reader.used)
        self._nullable = reader.coalesces

    def evaluate(self, variables: Mapping[str, float | None]) -> float | None:
        """Return the number; None when a formula with `??` yields nil.

        Args:
            variables: Name -> value; None for a value that could not be read.

        Raises:
            FormulaError: It yields no number, or takes too many steps.
        """
        try:
            value = self._node(_Run(variables))
        except RecursionError:
            raise FormulaError("it is nested too deeply") from None
        if value is None and self._nullable:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FormulaError(f"it yields {_kind(value)}, not a number")
        return float(value)


class _Reader:
    """A recursive descent over the tokens; each method returns a function that evaluates its part."""

    def __init__(self, text: str, names: frozenset[str] | set[str]) -> None:
        self._names = names
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0
        self._inside = 0  # predicates around, where `#` means something
        self.used: set[str] = set()
        self.coalesces = False

    def whole(self) -> _Node:
        node = self._expression()
        if self._peek() is not None:
            raise FormulaError(f"{self._where()} is not expected there")
        return node

    def _peek(self) -> str | None:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def _kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else "end"

    def _where(self) -> str:
        if self._at >= len(self._tokens):
            return "the end"
        _, text, position = self._tokens[self._at]
        return f'"{text}" at character {position + 1}'

    def _take(self, token: str) -> bool:
        if self._peek() == token and self._kind() != "number":
            self._at += 1
            return True
        return False

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise FormulaError(f'"{token}" is expected, not {self._where()}')

    def _expression(self) -> _Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FormulaError(f"it is nested more than {MAX_DEPTH} deep")
        test = self._binary(0)
        if self._take("?"):
            yes = self._expression()
            self._need(":")
            no = self._expression()
            condition = test

            def chosen(run: _Run) -> Any:
                run.step()
                return yes(run) if _truth(condition(run)) else no(run)

            test = chosen
        self._depth -= 1
        return test

    def _binary(self, level: int) -> _Node:
        if level == len(_BINARY):
            return self._unary()
        node = self._binary(level + 1)
        while True:
            for token, operator in _BINARY[level]:
                if self._take(token):
                    node = _operation(operator, node, self._binary(level + 1))
                    break
            else:
                return node

    def _unary(self) -> _Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FormulaError(f"it is nested more than {MAX_DEPTH} deep")
        try:
            if self._take("-"):
                operand = self._unary()
                return lambda run: -_number(operand(run))
            if self._take("+"):
                operand = self._unary()
                return lambda run: _number(operand(run))
            if self._take("!"):
                operand = self._unary()
                return lambda run: not _truth(operand(run))
            node = self._coalesced()
            if self._take("**") or self._take("^"):
                return _operation("**", node, self._unary())
            return node
        finally:
            self._depth -= 1

    def _coalesced(self) -> _Node:
        """Read `a ?? b`, which binds tighter than all other operators; behind it none may follow."""
        node = self._atom()
        if self._peek() != "??":
            return node
        while self._take("??"):
            self.coalesces = True
            node = _coalesce(node, self._unary() if self._peek() in ("-", "+", "!") else self._atom())
        if self._kind() == "op" and self._peek() in _OPERATORS:
            raise FormulaError(f"{self._where()} follows ??: put the part with ?? into parentheses")
        return node

    def _atom(self) -> _Node:
        kind, text = self._kind(), self._peek()
        if kind == "number" and text is not None:
            self._at += 1
            value = float(text.replace("_", ""))
            return lambda run: value
        if self._take("("):
            node = self._expression()
            self._need(")")
            return node
        if self._take("["):
            return _array(self._list("]"))
        if self._take("#"):
            if not self._inside:
                raise FormulaError('"#" stands only inside a predicate')
            return lambda run: run.items[-1]
        if kind == "name" and text is not None:
            self._at += 1
            return self._call(text) if self._take("(") else self._variable(text)
        raise FormulaError(f"a value is expected, not {self._where()}")

    def _list(self, end: str) -> list[_Node]:
        nodes: list[_Node] = []
        while not self._take(end):
            if nodes:
                self._need(",")
                if self._take(end):
                    break
            nodes.append(self._expression())
        return nodes

    def _variable(self, name: str) -> _Node:
        constants: dict[str, Value] = {"true": True, "false": False, "nil": None}
        if name in constants:
            constant = constants[name]
            return lambda run: constant
        if name not in self._names:
            known = ", ".join(sorted(self._names)) or "none"
            raise FormulaError(f'"{name}" is not the name of a trigger; there are: {known}')
        self.used.add(name)

        def value(run: _Run) -> Any:
            run.step()
            return run.variables.get(name)

        return value

    def _call(self, name: str) -> _Node:
        if name not in _FUNCTIONS and name not in _PREDICATES:
            known = ", ".join(sorted(_PREDICATES | _FUNCTIONS.keys()))
            raise FormulaError(f'"{name}" is not a function; there are: {known}')
        if name not in _PREDICATES:
            return _apply(name, self._list(")"))
        array = self._expression()
        predicate: _Node | None = None
        if self._take(","):
            braces = self._take("{")
            self._inside += 1
            predicate = self._expression()
            self._inside -= 1
            if braces:
                self._need("}")
        self._need(")")
        if predicate is None and name not in ("sum", "count"):
            raise FormulaError(f"{name} takes an array and a predicate")
        return _over(name, array, predicate)


def _tokens(text: str) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            raise FormulaError(f'"{text[start]}" at character {start + 1} is not part of a formula')
        kind = str(match.lastgroup)
        word = match[kind]
        if kind == "name" and word in _WORDS:
            kind, word = "op", _WORDS[word]
        found.append((kind, word, match.start(str(match.lastgroup))))
        position = match.end()
    return found


def _kind(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "a truth value"
    return "an array" if isinstance(value, list) else "a number"


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormulaError(f"a number is needed, not {_kind(value)}")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise FormulaError(f"a truth value is needed, not {_kind(value)}")
    return value


def _sequence(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise FormulaError(f"an array is needed, not {_kind(value)}")
    return value


def _divide(left: float, right: float) -> float:
    if right == 0:
        return nan if left == 0 or isnan(left) else (inf if left > 0 else -inf)
    return left / right


def _power(left: float, right: float) -> float:
    try:
        result = left**right
    except (OverflowError, ZeroDivisionError):
        return inf
    return nan if isinstance(result, complex) else float(result)


def _modulo(left: float, right: float) -> float:
    if right == 0:
        raise FormulaError("% by zero")
    return fmod(left, right)


_ARITHMETIC: dict[str, Callable[[float, float], Any]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": _divide,
    "%": _modulo,
    "**": _power,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def _operation(operator: str, left: _Node, right: _Node) -> _Node:
    if operator in ("and", "or"):
        stop = operator == "or"

        def logical(run: _Run) -> bool:
            run.step()
            return stop if _truth(left(run)) is stop else _truth(right(run))

        return logical
    if operator in ("==", "!="):
        return lambda run: (left(run) == right(run)) is (operator == "==")
    if operator == "in":
        return lambda run: left(run) in _sequence(right(run))
    work = _ARITHMETIC[operator]

    def arithmetic(run: _Run) -> Any:
        run.step()
        return work(_number(left(run)), _number(right(run)))

    return arithmetic


def _coalesce(left: _Node, right: _Node) -> _Node:
    def first(run: _Run) -> Any:
        run.step()
        value = left(run)
        return right(run) if value is None else value

    return first


def _array(nodes: list[_Node]) -> _Node:
    def made(run: _Run) -> list[Any]:
        run.step()
        return [node(run) for node in nodes]

    return made


def _numbers(values: list[Any]) -> list[float]:
    """Return numbers, with arrays among the arguments taken apart."""
    flat: list[float] = []
    for value in values:
        flat += [_number(item) for item in value] if isinstance(value, list) else [_number(value)]
    return flat


def _some(name: str, values: list[Any]) -> list[float]:
    numbers = _numbers(values)
    if not numbers:
        raise FormulaError(f"{name} of nothing")
    return numbers


def _one(name: str, values: list[Any]) -> float:
    if len(values) != 1:
        raise FormulaError(f"{name} takes one value")
    return _number(values[0])


def _rounded(values: list[Any]) -> float:
    value = _one("round", values)  # halves away from zero
    return value if abs(value) >= 2**52 else (floor(value + 0.5) if value >= 0 else ceil(value - 0.5))


def _whole(name: str, work: Callable[[float], int]) -> Callable[[list[Any]], float]:
    def call(values: list[Any]) -> float:
        value = _one(name, values)
        return value if isnan(value) or abs(value) == inf else float(work(value))

    return call


def _mean(values: list[Any]) -> float:
    numbers = _some("mean", values)
    return sum(numbers) / len(numbers)


def _median(values: list[Any]) -> float:
    numbers = sorted(_some("median", values))
    middle = len(numbers) // 2
    return numbers[middle] if len(numbers) % 2 else (numbers[middle - 1] + numbers[middle]) / 2


def _length(values: list[Any]) -> float:
    if len(values) != 1:
        raise FormulaError("len takes one array")
    return float(len(_sequence(values[0])))


_FUNCTIONS: dict[str, Callable[[list[Any]], float]] = {
    "abs": lambda values: abs(_one("abs", values)),
    "ceil": _whole("ceil", ceil),
    "floor": _whole("floor", floor),
    "round": _rounded,
    "int": _whole("int", int),
    "float": lambda values: _one("float", values),
    "min": lambda values: min(_some("min", values)),
    "max": lambda values: max(_some("max", values)),
    "mean": _mean,
    "avg": _mean,
    "median": _median,
    "len": _length,
}


def _apply(name: str, nodes: list[_Node]) -> _Node:
    work = _FUNCTIONS[name]

    def call(run: _Run) -> float:
        run.step()
        return work([node(run) for node in nodes])

    return call


def _over(name: str, array: _Node, predicate: _Node | None) -> _Node:
    """Return a function over an array, with `#` standing for each element in turn."""

    def results(run: _Run) -> list[tuple[Any, Any]]:
        run.step()
        pairs = []
        for item in _sequence(array(run)):
            run.step()
            run.items.append(item)
            pairs.append((item, item if predicate is None else predicate(run)))
            run.items.pop()
        return pairs

    def call(run: _Run) -> Any:
        pairs = results(run)
        if name == "map":
            return [result for _, result in pairs]
        if name == "sum":
            return sum(_number(result) for _, result in pairs)
        kept = [item for item, result in pairs if _truth(result)]
        if name == "filter":
            return kept
        if name == "count":
            return float(len(kept))
        return {
            "any": bool(kept),
            "all": len(kept) == len(pairs),
            "none": not kept,
            "one": len(kept) == 1,
        }[name]

    return call
