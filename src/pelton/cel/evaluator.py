"""Trees to callables: each node becomes a function of one `Run`, with its cost counted as it goes.

`program.py` calls `build` once per expression. `&&`, `||`, `?:` and the macros decide here what is
evaluated at all; everything else is a function of the library, chosen by the types of its arguments. Pure.
Source: the CEL language definition (evaluation, errors in logical operators), cel-go's cost model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pelton.cel.overload import Overload, accepts, size_of
from pelton.cel.standard import at_index
from pelton.cel.syntax import Call, Expr, Fold, Ident, ListExpr, Literal, MapExpr, Select
from pelton.cel.types import Type
from pelton.cel.values import NOTHING, OptionalValue, UInt, contains_key, type_name
from pelton.errors import CelCostError, CelEvaluateError

__all__ = ["FOLD_COST", "LIST_COST", "MAP_COST", "Run", "Step", "build"]

LIST_COST = 10
"""Cost of making a list."""

MAP_COST = 30
"""Cost of making a map."""

FOLD_COST = {"all": 3, "exists": 3, "exists_one": 3}
"""Macro -> cost of each iteration beside its body; the others make a list or map of one at each: 13."""

_OTHER_FOLD_COST = 13


class Run:
    """One evaluation.

    Args:
        bindings: Variable -> value.
        slots: Number of variables of macros.
        budget: Most cost before it is stopped.
    """

    __slots__ = ("bindings", "budget", "cost", "slots")

    def __init__(self, bindings: Mapping[str, Any], slots: int, budget: int) -> None:
        self.bindings = bindings
        self.slots: list[Any] = [None] * slots
        self.budget = budget
        self.cost = 0

    def spend(self, cost: int) -> None:
        """Add to the cost; raises CelCostError over the budget."""
        self.cost += cost
        if self.cost > self.budget:
            raise CelCostError("operation cancelled: actual cost limit exceeded")


Step = Callable[[Run], Any]


def build(root: Expr, types: Mapping[str, Type]) -> Step:
    """Return what evaluates a checked tree.

    Args:
        root: After `checker.check`.
        types: Names of types as values.
    """
    return _Builder(types).node(root, {})


class _Builder:
    def __init__(self, types: Mapping[str, Type]) -> None:
        self._types = types

    def node(self, node: Expr, scope: Mapping[str, int]) -> Step:
        match node:
            case Literal():
                value = node.value
                return lambda run: value
            case Ident():
                return self._ident(node.name, scope)
            case Select():
                return self._select(node, scope)
            case Call():
                return self._call(node, scope)
            case ListExpr():
                return self._list(node, scope)
            case MapExpr():
                return self._map(node, scope)
            case Fold():
                return self._fold(node, scope)
        raise CelEvaluateError(f"unknown node {type(node).__name__}")

    def _ident(self, name: str, scope: Mapping[str, int]) -> Step:
        if name in scope:
            slot = scope[name]

            def local(run: Run) -> Any:
                run.cost += 1
                return run.slots[slot]

            return local
        kind = self._types.get(name)

        def variable(run: Run) -> Any:
            run.cost += 1
            try:
                return run.bindings[name]
            except KeyError:
                if kind is not None:
                    return kind
                raise CelEvaluateError(f"no such attribute: {name}") from None

        return variable

    def _select(self, node: Select, scope: Mapping[str, int]) -> Step:
        if not node.field:  # the checker found a dotted variable
            return self.node(node.operand, scope)
        operand, key, name = self.node(node.operand, scope), node.key, node.field
        test, optional = node.test, node.optional

        def select(run: Run) -> Any:
            value = operand(run)
            run.cost += 1
            if type(value) is dict:
                if test:
                    return key in value
                if key in value:
                    return OptionalValue(value[key]) if optional else value[key]
                if optional:
                    return NOTHING
                raise CelEvaluateError(f"no such key: {name}")
            if type(value) is OptionalValue:
                found = value.has and type(value.value) is dict and key in value.value
                if test:
                    return found
                return OptionalValue(value.value[key]) if found else NOTHING
            raise CelEvaluateError(f"no such overload: {type_name(value)} has no fields")

        return select

    # -- calls -------------------------------------------------------------------------------------------

    def _call(self, node: Call, scope: Mapping[str, int]) -> Step:
        operands = [self.node(operand, scope) for operand in node.operands()]
        if node.function in ("_&&_", "_||_"):
            return _logical(operands[0], operands[1], decisive=node.function == "_||_")
        if node.function == "_?_:_":
            return _ternary(operands[0], operands[1], operands[2])
        if node.function == "_[_]":
            return _index(operands[0], operands[1])
        chosen = _chosen(node)
        if len(operands) == 1:
            return _unary(operands[0], chosen)
        if len(operands) == 2:
            return _binary(operands[0], operands[1], chosen)

        def call(run: Run) -> Any:
            values = [operand(run) for operand in operands]
            overload = chosen(values)
            charge(run, overload, values)
            return overload.run(*values)

        return call

    # -- literals ----------------------------------------------------------------------------------------

    def _list(self, node: ListExpr, scope: Mapping[str, int]) -> Step:
        items = [(self.node(item, scope), at in node.optional) for at, item in enumerate(node.items)]

        def make(run: Run) -> Any:
            run.cost += LIST_COST
            result = []
            for item, optional in items:
                value = item(run)
                if not optional:
                    result.append(value)
                elif _present(value):
                    result.append(value.value)
            return result

        return make

    def _map(self, node: MapExpr, scope: Mapping[str, int]) -> Step:
        entries = [(self.node(k, scope), self.node(v, scope), optional) for k, v, optional in node.entries]

        def make(run: Run) -> Any:
            run.cost += MAP_COST
            result: dict[Any, Any] = {}
            for key_step, value_step, optional in entries:
                key, value = key_step(run), value_step(run)
                if optional:
                    if not _present(value):
                        continue
                    value = value.value
                _put(result, key, value)
            return result

        return make

    # -- macros ------------------------------------------------------------------------------------------

    def _fold(self, node: Fold, scope: Mapping[str, int]) -> Step:
        source = self.node(node.source, scope)
        inner = {**scope, **dict(zip(node.names, node.slots, strict=True))}
        guard = None if node.guard is None else self.node(node.guard, inner)
        body = self.node(node.body, inner)
        slots, macro = node.slots, node.macro
        if macro in ("optMap", "optFlatMap"):
            return _optional_fold(source, body, slots[0], flat=macro == "optFlatMap")
        each = FOLD_COST.get(macro, _OTHER_FOLD_COST)
        run_macro = _FOLDS[macro]

        def fold(run: Run) -> Any:
            value = source(run)
            if isinstance(value, list):
                keys: Any = range(len(value))
                values: Any = value
            elif type(value) is dict:
                keys, values = list(value), list(value.values())
            else:
                raise CelEvaluateError(
                    f"no such overload: {type_name(value)} cannot be range of a comprehension"
                )
            single = keys if type(value) is dict else values

            def elements() -> Any:
                if len(slots) == 1:
                    at = slots[0]
                    for item in single:
                        run.spend(each)
                        run.slots[at] = item
                        yield item, item
                    return
                first, second = slots
                for key, item in zip(keys, values, strict=True):
                    run.spend(each)
                    run.slots[first], run.slots[second] = key, item
                    yield key, item

            return run_macro(run, elements(), guard, body)

        return fold


def charge(run: Run, overload: Overload, values: list[Any]) -> None:
    """Add the cost of a call."""
    if overload.cost is None:
        run.spend(1)
    else:
        run.spend(1 + overload.cost(tuple(size_of(value) for value in values)))


def _chosen(node: Call) -> Callable[[list[Any]], Overload]:
    """Return what picks the overload for values, by their types."""
    fitting: tuple[Overload, ...] = node.overloads
    known: dict[tuple[type, ...], Overload] = {}
    # Opaque values share a Python type only with themselves, so Python types decide for all but authorizers.
    cacheable = not any(
        arg.kind == "opaque" and arg.name.startswith("kubernetes.auth") for o in fitting for arg in o.args
    )

    def choose(values: list[Any]) -> Overload:
        key = tuple(map(type, values))
        found = known.get(key)
        if found is not None:
            return found
        for overload in fitting:
            if all(accepts(kind, value) for kind, value in zip(overload.args, values, strict=True)):
                if cacheable:
                    known[key] = overload
                return overload
        named = ", ".join(map(type_name, values))
        raise CelEvaluateError(f"no such overload: {node.function}({named})")

    return choose


def _unary(operand: Step, chosen: Callable[[list[Any]], Overload]) -> Step:
    def call(run: Run) -> Any:
        value = operand(run)
        overload = chosen([value])
        charge(run, overload, [value])
        return overload.run(value)

    return call


def _binary(left: Step, right: Step, chosen: Callable[[list[Any]], Overload]) -> Step:
    def call(run: Run) -> Any:
        values = [left(run), right(run)]
        overload = chosen(values)
        charge(run, overload, values)
        return overload.run(values[0], values[1])

    return call


def _index(container: Step, index: Step) -> Step:
    def at(run: Run) -> Any:
        value, key = container(run), index(run)
        run.cost += 1
        if type(value) is OptionalValue:
            if not value.has:
                return NOTHING
            try:
                return OptionalValue(at_index(value.value, key))
            except CelEvaluateError:
                return NOTHING
        return at_index(value, key)

    return at


def _logical(left: Step, right: Step, *, decisive: bool) -> Step:
    """Return `&&` (decided by false) or `||` (by true); an error counts only where the other side is open."""

    def decide(run: Run) -> bool:
        held: CelEvaluateError | None = None
        try:
            if _bool(left(run)) is decisive:
                return decisive
        except CelEvaluateError as error:
            held = error
        if _bool(right(run)) is decisive:
            return decisive
        if held is not None:
            raise held
        return not decisive

    return decide


def _ternary(condition: Step, then: Step, otherwise: Step) -> Step:
    def decide(run: Run) -> Any:
        value = condition(run)
        if type(value) is not bool:
            raise CelEvaluateError(f"no such overload: {type_name(value)} is no bool")
        return then(run) if value else otherwise(run)

    return decide


def _present(value: Any) -> bool:
    if not isinstance(value, OptionalValue):
        raise CelEvaluateError(f"no such overload: {type_name(value)} is no optional")
    return value.has


def _put(result: dict[Any, Any], key: Any, value: Any) -> None:
    if type(key) not in (str, int, UInt, bool):
        raise CelEvaluateError(f"unsupported key type: {type_name(key)}")
    if contains_key(result, key):
        raise CelEvaluateError(f"Failed with repeated key: {key}")
    result[key] = value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise CelEvaluateError(f"no such overload: {type_name(value)} is no bool")
    return value is True


def _quantified(run: Run, elements: Any, body: Step, *, decisive: bool) -> bool:
    """Evaluate `all` or `exists`: one decisive element wins over errors of others."""
    held: CelEvaluateError | None = None
    for _ in elements:
        try:
            if _bool(body(run)) is decisive:
                return decisive
        except CelEvaluateError as error:
            held = held or error
    if held is not None:
        raise held
    return not decisive


def _passing(run: Run, elements: Any, guard: Step | None) -> Any:
    for key, item in elements:
        if guard is None or _bool(guard(run)):
            yield key, item


def _all(run: Run, elements: Any, guard: Step | None, body: Step) -> bool:
    return _quantified(run, elements, body, decisive=False)


def _exists(run: Run, elements: Any, guard: Step | None, body: Step) -> bool:
    return _quantified(run, elements, body, decisive=True)


def _exists_one(run: Run, elements: Any, guard: Step | None, body: Step) -> bool:
    return sum(1 for _ in elements if _bool(body(run))) == 1


def _filter(run: Run, elements: Any, guard: Step | None, body: Step) -> list[Any]:
    return [item for _, item in elements if _bool(body(run))]


def _mapped(run: Run, elements: Any, guard: Step | None, body: Step) -> list[Any]:
    return [body(run) for _ in _passing(run, elements, guard)]


def _transform_map(run: Run, elements: Any, guard: Step | None, body: Step) -> dict[Any, Any]:
    return {key: body(run) for key, _ in _passing(run, elements, guard)}


def _transform_entry(run: Run, elements: Any, guard: Step | None, body: Step) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for _ in _passing(run, elements, guard):
        entry = body(run)
        if type(entry) is not dict:
            raise CelEvaluateError("transformMapEntry needs a map of one entry")
        for key, value in entry.items():
            _put(result, key, value)
    return result


_FOLDS: dict[str, Callable[[Run, Any, Step | None, Step], Any]] = {
    "all": _all,
    "exists": _exists,
    "exists_one": _exists_one,
    "filter": _filter,
    "map": _mapped,
    "transformList": _mapped,
    "transformMap": _transform_map,
    "transformMapEntry": _transform_entry,
}


def _optional_fold(source: Step, body: Step, slot: int, *, flat: bool) -> Step:
    def fold(run: Run) -> Any:
        value = source(run)
        if not _present(value):
            return NOTHING
        run.spend(1)
        run.slots[slot] = value.value
        result = body(run)
        if flat:
            _present(result)
            return result
        return OptionalValue(result)

    return fold
