"""x-kubernetes-validations: compiled when a definition is admitted, evaluated when its objects are written.

`check_rules` gives the faults of a definition's rules (types, transition rules where elements cannot be
matched, costs); `Rules` evaluates them. Called by the package's front and by the controller of definitions.
Pure. Source: contracts operator-webhook.md 5.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pelton.apiserver.registry import Cause
from pelton.apiserver.schema.cel_types import cel_type, least_bytes
from pelton.apiserver.schema.node import ABSENT, Node, Rule, correlated, item_key
from pelton.apiserver.schema.problems import forbidden, invalid_value, not_supported, required
from pelton.apiserver.schema.validate import same_json
from pelton.cel import (
    BOOL,
    DEFAULT_BUDGET,
    MAX_REQUEST_BYTES,
    NOTHING,
    STRING,
    OptionalValue,
    Program,
    Type,
    adapt,
    compile_cel,
    needs_adapting,
    optional_of,
)
from pelton.errors import CelCompileError, CelCostError, CelEvaluateError

__all__ = ["RULE_BUDGET", "SCHEMA_BUDGET", "Rules", "check_rules"]

RULE_BUDGET = 10_000_000
"""Largest estimated cost of one rule over all its evaluations for one object."""

SCHEMA_BUDGET = 100_000_000
"""Largest estimated cost of all rules of a schema."""

_OBJECT_BUDGET = 10_000_000  # actual cost of all rules for one object
_REASONS = ("FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate")
_PATH_PART = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\['((?:[^'\\]|\\.)+)'\]|(.)", re.DOTALL)
_LONGEST_MESSAGE = 5 * 1024


@dataclass(slots=True)
class _Compiled:
    rule: Rule
    program: Program
    message: Program | None
    transition: bool
    suffix: str  # of the field path of its fault


@dataclass(slots=True)
class _Place:
    """A level of a schema with rules on it or below."""

    node: Node
    type: Type | None
    adapts: bool
    rules: list[_Compiled] = field(default_factory=list)
    properties: dict[str, _Place] = field(default_factory=dict)
    additional: _Place | None = None
    items: _Place | None = None


class _Compiler:
    def __init__(self, path: str) -> None:
        self.problems: list[Cause] = []
        self.total = 0
        self._path = path

    def place(
        self, node: Node, path: str, name: str, *, root: bool, count: int | None, correlatable: bool
    ) -> _Place | None:
        """Compile a level and what is below; None when there is no rule.

        Args:
            node: The level.
            path: Of its schema.
            name: Of its object type.
            root: Whether it is a whole object.
            count: How often it can be in an object; None when nothing bounds that.
            correlatable: Whether an old value can be found for it.
        """
        kind = cel_type(node, name, root=root)
        place = _Place(node, kind, kind is not None and needs_adapting(kind))
        for at, rule in enumerate(node.rules):
            compiled = self._rule(
                node, kind, rule, f"{path}.x-kubernetes-validations[{at}]", count, correlatable
            )
            if compiled is not None:
                place.rules.append(compiled)
        granular = correlatable and node.map_type != "atomic"
        for key, child in node.properties.items():
            below = self.place(
                child,
                f"{path}.properties[{key}]",
                f"{name}.{key}",
                root=False,
                count=count,
                correlatable=granular,
            )
            if below is not None:
                place.properties[key] = below
        if isinstance(node.additional, Node):
            place.additional = self.place(
                node.additional,
                f"{path}.additionalProperties",
                f"{name}.@value",
                root=False,
                count=_times(count, node.limits.get("maxProperties")),
                correlatable=granular,
            )
        if node.items is not None:
            place.items = self.place(
                node.items,
                f"{path}.items",
                f"{name}.@item",
                root=False,
                count=_times(count, node.limits.get("maxItems")),
                correlatable=correlatable and node.list_type == "map",
            )
        used = place.rules or place.properties or place.additional or place.items
        return place if used else None

    def _rule(
        self, node: Node, kind: Type | None, rule: Rule, path: str, count: int | None, correlatable: bool
    ) -> _Compiled | None:
        before = len(self.problems)
        if not rule.rule.strip():
            self.problems.append(required(f"{path}.rule", "rule is not specified"))
            return None
        self._words(rule, path)
        suffix = self._field_path(node, rule, path)
        if kind is None:
            self.problems.append(
                forbidden(
                    f"{path}.rule", "a rule needs a schema with a type, and none with unknown content only"
                )
            )
            return None
        variables = {"self": kind, "oldSelf": optional_of(kind) if rule.optional_old_self else kind}
        try:
            program = compile_cel(rule.rule, variables, result=BOOL)
        except CelCompileError as error:
            self.problems.append(
                invalid_value(f"{path}.rule", rule.rule, f"compilation failed: {error.message}")
            )
            return None
        transition = "oldSelf" in program.uses
        if transition and not correlatable:
            self.problems.append(
                invalid_value(
                    f"{path}.rule",
                    rule.rule,
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within "
                    f"{path.rpartition('.x-kubernetes-validations')[0]}",
                )
            )
        if rule.optional_old_self and not transition:
            self.problems.append(
                invalid_value(
                    f"{path}.optionalOldSelf", True, "may not be set if oldSelf is not used in rule"
                )
            )
        message = self._message(rule, variables, path)
        times = count if count is not None else MAX_REQUEST_BYTES // max(1, least_bytes(node))
        self._charge(f"{path}.rule", program.cost * times, "rule")
        if message is not None:
            self._charge(f"{path}.messageExpression", message.cost * times, "messageExpression")
        if len(self.problems) > before:
            return None
        return _Compiled(rule, program, message, transition, suffix)

    def _words(self, rule: Rule, path: str) -> None:
        if rule.message and not rule.message.strip():
            self.problems.append(
                invalid_value(f"{path}.message", rule.message, "message must be non-empty if specified")
            )
        elif "\n" in rule.message or "\r" in rule.message:
            self.problems.append(
                invalid_value(f"{path}.message", rule.message, "message must not contain line breaks")
            )
        elif "\n" in rule.rule and not rule.message:
            self.problems.append(
                required(f"{path}.message", "message must be specified if rule contains line breaks")
            )
        if rule.reason and rule.reason not in _REASONS:
            self.problems.append(not_supported(f"{path}.reason", rule.reason, _REASONS))

    def _field_path(self, node: Node, rule: Rule, path: str) -> str:
        if not rule.field_path:
            return ""
        at: Node | None = node
        suffix = ""
        for found in _PATH_PART.finditer(rule.field_path):
            name = found[1] or (found[2] or "").replace("\\'", "'").replace("\\\\", "\\")
            if found[3] or at is None:
                self.problems.append(
                    invalid_value(
                        f"{path}.fieldPath",
                        rule.field_path,
                        "fieldPath must be a valid path of fields, such as .spec.a",
                    )
                )
                return ""
            following = at.properties.get(name)
            if following is None and isinstance(at.additional, Node):
                following, suffix = at.additional, f"{suffix}[{name}]"
            elif following is not None:
                suffix = f"{suffix}.{name}"
            if following is None:
                self.problems.append(
                    invalid_value(
                        f"{path}.fieldPath", rule.field_path, f"does not refer to a valid field: {name}"
                    )
                )
                return ""
            at = following
        return suffix

    def _message(self, rule: Rule, variables: dict[str, Type], path: str) -> Program | None:
        if not rule.message_expression:
            return None
        try:
            return compile_cel(rule.message_expression, variables, result=STRING)
        except CelCompileError as error:
            self.problems.append(
                invalid_value(
                    f"{path}.messageExpression",
                    rule.message_expression,
                    f"messageExpression compilation failed: {error.message}",
                )
            )
            return None

    def _charge(self, path: str, cost: int, what: str) -> None:
        self.total += cost
        if cost > RULE_BUDGET:
            self.problems.append(
                forbidden(
                    path,
                    f"estimated {what} cost exceeds budget by factor of {_factor(cost, RULE_BUDGET)} (try "
                    "simplifying "
                    "the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and "
                    "strings "
                    "are declared)",
                )
            )


def _factor(cost: int, budget: int) -> str:
    times = cost / budget
    return "more than 100x" if times > 100 else f"{times:.1f}x"


def _times(count: int | None, limit: float | None) -> int | None:
    return None if count is None or limit is None else count * max(1, int(limit))


def _hidden_rules(node: Node, path: str, hidden: bool) -> Iterator[str]:
    """Yield the paths of rules where none may be: in junctors."""
    if hidden and node.rules:
        yield f"{path}.x-kubernetes-validations"
    for key, child in node.properties.items():
        yield from _hidden_rules(child, f"{path}.properties[{key}]", hidden)
    if node.items is not None:
        yield from _hidden_rules(node.items, f"{path}.items", hidden)
    if isinstance(node.additional, Node):
        yield from _hidden_rules(node.additional, f"{path}.additionalProperties", hidden)
    for name, parts in (("allOf", node.all_of), ("anyOf", node.any_of), ("oneOf", node.one_of)):
        for at, part in enumerate(parts):
            yield from _hidden_rules(part, f"{path}.{name}[{at}]", True)
    if node.negated is not None:
        yield from _hidden_rules(node.negated, f"{path}.not", True)


def check_rules(node: Node, path: str) -> list[Cause]:
    """Return every fault of the rules of a schema.

    Args:
        node: The root of a structural schema.
        path: Where it is, for messages.
    """
    hidden = [
        forbidden(place, "must be empty to be structural") for place in _hidden_rules(node, path, False)
    ]
    compiler = _Compiler(path)
    compiler.place(node, path, "@root", root=True, count=1, correlatable=True)
    if compiler.total > SCHEMA_BUDGET:
        compiler.problems.append(
            forbidden(
                path,
                "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds "
                "budget by "
                f"factor of {_factor(compiler.total, SCHEMA_BUDGET)} (try simplifying the rule, or adding "
                "maxItems, "
                "maxProperties, and maxLength where arrays, maps, and strings are declared)",
            )
        )
    return hidden + compiler.problems


class _Evaluation:
    def __init__(self) -> None:
        self.problems: list[Cause] = []
        self.left = _OBJECT_BUDGET
        self.stopped = False

    def visit(self, place: _Place, value: Any, old: Any, path: str) -> None:
        """Evaluate the rules of a level and below."""
        if value is None or self.stopped:
            return
        changed = old is ABSENT or not same_json(value, old)
        if place.rules and place.type is not None:
            self._level(place, place.type, value, old, path, changed)
        if isinstance(value, dict):
            before = old if isinstance(old, dict) else {}
            for key, item in value.items():
                below = place.properties.get(key)
                inside = f"{path}.{key}" if path else key
                if below is None and key not in place.node.properties and place.additional is not None:
                    below, inside = place.additional, f"{path}[{key}]"
                if below is not None:
                    self.visit(below, item, before.get(key, ABSENT), inside)
        elif isinstance(value, list) and place.items is not None:
            olds = correlated(place.node, old)
            for at, item in enumerate(value):
                key = item_key(place.node, item) if olds else None
                had = ABSENT if key is None else olds.get(key, ABSENT)
                self.visit(place.items, item, had, f"{path}[{at}]")

    def _level(self, place: _Place, kind: Type, value: Any, old: Any, path: str, changed: bool) -> None:
        this = adapt(value, kind) if place.adapts else value
        that = ABSENT if old is ABSENT or old is None else (adapt(old, kind) if place.adapts else old)
        for compiled in place.rules:
            if self.stopped:
                return
            bindings: dict[str, Any] = {"self": this}
            if compiled.transition:
                if compiled.rule.optional_old_self:
                    bindings["oldSelf"] = NOTHING if that is ABSENT else OptionalValue(that)
                elif that is ABSENT:
                    continue  # transition rules compare; there is nothing to compare with
                else:
                    bindings["oldSelf"] = that
            elif not changed:
                continue  # ratcheting: an unchanged value was accepted before
            self._one(compiled, bindings, place.node, path)

    def _one(self, compiled: _Compiled, bindings: dict[str, Any], node: Node, path: str) -> None:
        rule = compiled.rule
        shown = node.type or "object"
        said = rule.message.strip() or f"failed rule: {rule.rule.strip()}"
        try:
            holds, cost = compiled.program.run(bindings, budget=min(DEFAULT_BUDGET, self.left))
        except CelCostError:
            self.stopped = True
            detail = f"call cost exceeds limit for rule: {rule.rule}"
            self.problems.append(
                invalid_value(
                    path, shown, f"{detail}, no further validation rules will be run due to {detail}"
                )
            )
            return
        except CelEvaluateError as error:
            self.problems.append(invalid_value(path, shown, f"{error.message} evaluating rule: {said}"))
            return
        self.left -= cost
        if holds is True:
            return
        if compiled.message is not None:
            said = self._said(compiled.message, bindings) or said
        self.problems.append(_failed(rule.reason, (path + compiled.suffix).lstrip("."), shown, said))

    def _said(self, message: Program, bindings: dict[str, Any]) -> str:
        """Return the text of a messageExpression, "" when it has none that can be shown."""
        try:
            text, cost = message.run(bindings, budget=min(DEFAULT_BUDGET, self.left))
        except (CelCostError, CelEvaluateError):
            return ""
        self.left -= cost
        usable = isinstance(text, str) and "\n" not in text and len(text) <= _LONGEST_MESSAGE
        return text.strip() if usable else ""


def _failed(reason: str, path: str, shown: str, said: str) -> Cause:
    match reason:
        case "FieldValueForbidden":
            return forbidden(path, said)
        case "FieldValueRequired":
            return required(path, said)
        case "FieldValueDuplicate":
            return Cause(reason=reason, field=path or "<nil>", message=f'Duplicate value: "{shown}": {said}')
    return invalid_value(path, shown, said)


class Rules:
    """The rules of a schema, ready to be evaluated.

    Args:
        node: Root of a schema that `check_rules` found no fault in; rules with faults are left out.
    """

    def __init__(self, node: Node) -> None:
        self._root = _Compiler("").place(node, "", "@root", root=True, count=1, correlatable=True)

    def __bool__(self) -> bool:
        return self._root is not None

    def evaluate(self, obj: Any, old: Any = ABSENT) -> list[Cause]:
        """Return the broken rules of an object, after its schema was found to hold.

        Args:
            obj: The object.
            old: What is stored; ABSENT for a new one, whose transition rules do not apply.
        """
        if self._root is None:
            return []
        evaluation = _Evaluation()
        evaluation.visit(self._root, obj, old, "")
        return evaluation.problems
