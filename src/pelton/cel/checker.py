"""The type checker: every node gets its type, every call the overloads that can apply.

`program.py` calls `check` between parser and evaluator. What it accepts is what Kubernetes accepts when a
rule or a condition is admitted; `dyn` is compatible with everything and left to the evaluation. Pure.
Source: the CEL language definition (type checking, gradual typing).
"""

from __future__ import annotations

from collections.abc import Mapping

from pelton.cel.library import LIBRARY, NAMESPACES
from pelton.cel.overload import Overload
from pelton.cel.syntax import (
    Call,
    Expr,
    Fold,
    Ident,
    ListExpr,
    Literal,
    MapExpr,
    Select,
    fault,
    qualified,
)
from pelton.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    ERROR,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    Type,
    list_of,
    map_of,
    optional_of,
    type_of,
)
from pelton.cel.values import UInt
from pelton.errors import CelCompileError

__all__ = ["TYPE_NAMES", "Checked", "check"]

TYPE_NAMES: dict[str, Type] = {
    "bool": BOOL,
    "int": INT,
    "uint": UINT,
    "double": DOUBLE,
    "string": STRING,
    "bytes": BYTES,
    "null_type": NULL,
    "list": list_of(DYN),
    "map": map_of(DYN, DYN),
    "type": type_of(DYN),
    "optional_type": optional_of(DYN),
    "google.protobuf.Timestamp": TIMESTAMP,
    "google.protobuf.Duration": DURATION,
}
"""Names of types as values."""

_Bound = dict[str, Type]


class Checked:
    """What a check found.

    Attributes:
        used: Declared variables that the expression reads; undeclared ones too where these are allowed.
        slots: Number of variables of macros.
    """

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.slots = 0


def check(source: str, root: Expr, variables: Mapping[str, Type], *, undeclared: Type | None) -> Checked:
    """Set the type of every node.

    Args:
        source: The text, for messages.
        root: Its tree; changed in place.
        variables: Name (dots allowed) -> type.
        undeclared: Type of names that are not declared; None makes them an error.

    Raises:
        CelCompileError: With every fault found, each in its place.
    """
    checker = _Checker(source, variables, undeclared)
    checker.visit(root, {})
    if checker.faults:
        found = sorted(checker.faults, key=lambda error: error.position)
        raise CelCompileError("\n".join(error.message for error in found), position=found[0].position)
    return checker.found


class _Checker:
    def __init__(self, source: str, variables: Mapping[str, Type], undeclared: Type | None) -> None:
        self._source = source
        self._variables = variables
        self._undeclared = undeclared
        self.found = Checked()
        self.faults: list[CelCompileError] = []

    def _fault(self, node: Expr, message: str) -> Type:
        self.faults.append(fault(self._source, node.pos, message))
        return ERROR

    def visit(self, node: Expr, scope: Mapping[str, tuple[int, Type]]) -> Type:
        """Return the type of a node after setting it there and below."""
        match node:
            case Literal():
                node.type = _literal(node.value)
            case Ident():
                node.type = self._ident(node, scope)
            case Select():
                node.type = self._select(node, scope)
            case Call():
                node.type = self._call(node, scope)
            case ListExpr():
                node.type = self._list(node, scope)
            case MapExpr():
                node.type = self._map(node, scope)
            case Fold():
                node.type = self._fold(node, scope)
        return node.type

    # -- names -------------------------------------------------------------------------------------------

    def _ident(self, node: Ident, scope: Mapping[str, tuple[int, Type]]) -> Type:
        if node.name in scope:
            return scope[node.name][1]
        if node.name in self._variables:
            self.found.used.add(node.name)
            return self._variables[node.name]
        if node.name in TYPE_NAMES:
            return type_of(TYPE_NAMES[node.name])
        if self._undeclared is not None:
            self.found.used.add(node.name)
            return self._undeclared
        return self._fault(node, f"undeclared reference to '{node.name}' (in container '')")

    def _select(self, node: Select, scope: Mapping[str, tuple[int, Type]]) -> Type:
        name = qualified(node)
        if name and name.partition(".")[0] not in scope:
            if name in self._variables:
                # The tree keeps a selection; the evaluator finds the dotted variable by this name.
                node.operand, node.field = Ident(node.pos, name), ""
                self.found.used.add(name)
                return self._variables[name]
            if name in TYPE_NAMES:
                node.operand, node.field = Ident(node.pos, name), ""
                return type_of(TYPE_NAMES[name])
        operand = self.visit(node.operand, scope)
        outer = operand
        if operand.kind == "optional":
            operand = operand.params[0]
        match operand.kind:
            case "dyn" | "error" | "param":
                found = DYN
            case "map":
                found = operand.params[1]
            case "object":
                field = (operand.fields or {}).get(node.field)
                if field is None:
                    return self._fault(node, f"undefined field '{node.field}'")
                node.key, found = field.key, field.type
            case _:
                return self._fault(node, f"type '{outer}' does not support field selection")
        if node.test:
            return BOOL
        return optional_of(found) if node.optional or outer.kind == "optional" else found

    # -- literals ----------------------------------------------------------------------------------------

    def _list(self, node: ListExpr, scope: Mapping[str, tuple[int, Type]]) -> Type:
        joined: Type | None = None
        for at, item in enumerate(node.items):
            kind = self.visit(item, scope)
            if at in node.optional:
                kind = self._inside_optional(item, kind)
            joined = self._joined(item, joined, kind)
        return list_of(joined or DYN, len(node.items))

    def _map(self, node: MapExpr, scope: Mapping[str, tuple[int, Type]]) -> Type:
        keys: Type | None = None
        values: Type | None = None
        for key, value, optional in node.entries:
            kind = self.visit(key, scope)
            if kind.kind not in ("int", "uint", "string", "bool", "dyn", "error"):
                self._fault(key, f"unsupported key type: {kind}")
            keys = self._joined(key, keys, kind)
            kind = self.visit(value, scope)
            values = self._joined(value, values, self._inside_optional(value, kind) if optional else kind)
        return map_of(keys or DYN, values or DYN, len(node.entries))

    def _inside_optional(self, node: Expr, kind: Type) -> Type:
        if kind.kind == "optional":
            return kind.params[0]
        if kind.kind not in ("dyn", "error"):
            self._fault(node, f"expected type 'optional_type({kind})' but found '{kind}'")
        return DYN

    def _joined(self, node: Expr, before: Type | None, kind: Type) -> Type:
        if before is None or before == kind:
            return kind
        if _assignable(before, kind, {}):
            return DYN if before.kind == "dyn" or kind.kind == "dyn" else before
        if _assignable(kind, before, {}):
            return kind
        return self._fault(node, f"expected type '{before}' but found '{kind}'")

    # -- calls -------------------------------------------------------------------------------------------

    def _call(self, node: Call, scope: Mapping[str, tuple[int, Type]]) -> Type:
        if node.target is not None:
            space = qualified(node.target)
            if space in NAMESPACES and space not in scope and f"{space}.{node.function}" in LIBRARY:
                node.function, node.target = f"{space}.{node.function}", None
        kinds = [self._operand(node, operand, scope) for operand in node.operands()]
        overloads = LIBRARY.get(node.function)
        member = node.target is not None
        if overloads is None or not any(overload.member == member for overload in overloads):
            return self._fault(node, f"undeclared reference to '{node.function}' (in container '')")
        if any(kind.kind == "error" for kind in kinds):
            return ERROR
        fitting: list[Overload] = []
        results: list[Type] = []
        for overload in overloads:
            if overload.member != member or len(overload.args) != len(kinds):
                continue
            bound: _Bound = {}
            if all(_assignable(want, kind, bound) for want, kind in zip(overload.args, kinds, strict=True)):
                fitting.append(overload)
                results.append(_resolved(overload.result, bound))
        if not fitting:
            shown = ", ".join(map(str, kinds[1:] if member else kinds))
            applied = f"{kinds[0]}.({shown})" if member else f"({shown})"
            return self._fault(
                node, f"found no matching overload for '{node.function}' applied to '{applied}'"
            )
        node.overloads = tuple(fitting)
        first = results[0]
        if any(result != first for result in results):
            return DYN
        if node.function == "_?_:_" and not first.nullable:
            return _wider(kinds[1], kinds[2], first)
        return first

    def _operand(self, node: Call, operand: Expr, scope: Mapping[str, tuple[int, Type]]) -> Type:
        if node.function == "format" and isinstance(operand, ListExpr) and not operand.optional:
            # The one list that may hold different types.
            for item in operand.items:
                self.visit(item, scope)
            operand.type = list_of(DYN, len(operand.items))
            return operand.type
        return self.visit(operand, scope)

    # -- macros ------------------------------------------------------------------------------------------

    def _fold(self, node: Fold, scope: Mapping[str, tuple[int, Type]]) -> Type:
        source = self.visit(node.source, scope)
        elements = self._elements(node, source)
        node.slots = tuple(range(self.found.slots, self.found.slots + len(node.names)))
        self.found.slots += len(node.names)
        named = zip(node.names, node.slots, elements, strict=True)
        inner = {**scope, **{name: (slot, kind) for name, slot, kind in named}}
        for name in node.names:
            if name in TYPE_NAMES and name in self._variables:
                self._fault(node, f"overlapping identifier for name '{name}'")
        if node.guard is not None:
            self._boolean(node.guard, self.visit(node.guard, inner))
        body = self.visit(node.body, inner)
        match node.macro:
            case "all" | "exists" | "exists_one":
                self._boolean(node.body, body)
                return BOOL
            case "filter":
                self._boolean(node.body, body)
                element = elements[0]
                return list_of(element, source.max_size)
            case "map" | "transformList":
                return list_of(body, source.max_size)
            case "transformMap":
                key = {"map": source.params[:1], "list": (INT,)}.get(source.kind, (DYN,))[0]
                return map_of(key, body, source.max_size)
            case "transformMapEntry":
                if body.kind not in ("map", "dyn", "error"):
                    return self._fault(node.body, f"expected type 'map' but found '{body}'")
                return body.sized(source.max_size) if body.kind == "map" else DYN
            case "optMap":
                return optional_of(body)
        if body.kind not in ("optional", "dyn", "error"):
            return self._fault(node.body, f"expected type 'optional_type' but found '{body}'")
        return body

    def _elements(self, node: Fold, source: Type) -> tuple[Type, ...]:
        count = len(node.names)
        if node.macro in ("optMap", "optFlatMap"):
            if source.kind == "optional":
                return source.params
            if source.kind not in ("dyn", "error"):
                self._fault(node, f"found no matching overload for '{node.macro}' applied to '{source}.()'")
            return (DYN,)
        if source.kind == "list":
            return source.params if count == 1 else (INT, source.params[0])
        if source.kind == "map":
            return source.params[:1] if count == 1 else source.params
        if source.kind not in ("dyn", "error"):
            self._fault(
                node.source,
                f"expression of type '{source}' cannot be range of a comprehension "
                "(must be list, map, or dynamic)",
            )
        return (DYN,) * count

    def _boolean(self, node: Expr, kind: Type) -> None:
        if kind.kind not in ("bool", "dyn", "error"):
            self._fault(node, f"expected type 'bool' but found '{kind}'")


def _literal(value: object) -> Type:
    match value:
        case None:
            return NULL
        case bool():
            return BOOL
        case UInt():
            return UINT
        case int():
            return INT
        case float():
            return DOUBLE
        case str():
            return STRING.sized(len(value))
        case bytes():
            return BYTES.sized(len(value))
    return DYN


def _wider(one: Type, other: Type, joined: Type) -> Type:
    """Give the result of a ternary the larger size of its branches."""
    if one.kind == other.kind == joined.kind and one.max_size is not None and other.max_size is not None:
        return joined.sized(max(one.max_size, other.max_size))
    return joined


def _assignable(want: Type, kind: Type, bound: _Bound) -> bool:
    """Return whether a value of type `kind` fits where `want` is declared, binding type parameters."""
    if want.kind == "param":
        had = bound.get(want.name)
        if had is None or (had.kind == "dyn" and kind.kind == "dyn"):
            bound[want.name] = kind
            return True
        if had.kind == "dyn" or kind.kind == "dyn":
            bound[want.name] = DYN
            return True
        if _assignable(had, kind, {}):
            return True
        if _assignable(kind, had, {}):
            bound[want.name] = kind
            return True
        return False
    if "dyn" in (want.kind, kind.kind) or "error" in (want.kind, kind.kind):
        return True
    if kind.kind == "null_type":
        return (
            want.kind in ("null_type", "object", "opaque", "timestamp", "duration", "optional")
            or want.nullable
        )
    if want.kind != kind.kind or (want.kind in ("opaque", "object") and want.name != kind.name):
        return False
    if want.kind == "type":
        return True  # types of different values are compared: that is what `type()` is for
    return all(_assignable(w, k, bound) for w, k in zip(want.params, kind.params, strict=True))


def _resolved(kind: Type, bound: _Bound) -> Type:
    if kind.kind == "param":
        return bound.get(kind.name, DYN)
    if not kind.params:
        return kind
    return Type(kind.kind, kind.name, tuple(_resolved(part, bound) for part in kind.params))
