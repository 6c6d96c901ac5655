"""Jinja2 templates in a sandbox, within bounds; the only module that imports the library.

Called by `notify/render.py` and on admission. The sandbox keeps templates away from Python; added to it are
bounds on steps and on what grows text, since a template runs where alerts are sent. Source: Jinja2's
documentation of its sandbox; contracts, log and notification, sections 7 and 10.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

from jinja2 import DictLoader, TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateNotFound
from jinja2.runtime import markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from pelton.texttemplate.fault import TemplateFault
from pelton.texttemplate.weight import MOST_CHARACTERS, PER_STEP, weigh

__all__ = ["JinjaTemplates"]

_MOST_STEPS = 100_000
_TEXT_METHODS = frozenset(
    {
        "capitalize", "endswith", "find", "isdecimal", "lower", "lstrip", "partition", "removeprefix",
        "removesuffix", "replace", "rpartition", "rstrip", "split", "splitlines", "startswith", "strip",
        "title", "upper",
    }
)  # fmt: skip
_MAPPING_METHODS = frozenset({"get", "items", "keys", "values"})
_DROPPED_FILTERS = (
    "attr", "batch", "center", "format", "pprint", "random", "slice", "urlize", "wordwrap", "xmlattr",
)  # fmt: skip
_WIDEST = {"indent": 100, "tojson": 100}
"""Filter -> largest number among its arguments, where that makes text longer."""


class _Watched(NodeTransformer):
    """Has the environment see what grows without a call: joined text, comparisons, included templates."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("joined", node.nodes, node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _call("weighed", [node.expr], node)
        for operand in node.ops:
            operand.expr = _call("weighed", [operand.expr], node)
        return node

    def visit_Include(self, node: nodes.Include) -> list[nodes.Node]:
        return [nodes.ExprStmt(_call("tick", [], node)).set_lineno(node.lineno), node]


def _call(name: str, arguments: list[nodes.Expr], at: nodes.Node) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
    for each in (call, call.node):
        each.set_lineno(at.lineno)
    return call


class _Environment(ImmutableSandboxedEnvironment):
    """Counts the rounds of loops and the calls of macros; growing operators are off."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "<<"})

    def __init__(self, sources: Mapping[str, str], *, autoescape: bool) -> None:
        super().__init__(
            loader=DictLoader(dict(sources)),
            autoescape=autoescape,
            undefined=Undefined,
            keep_trailing_newline=False,
            finalize=self.weighed,
        )
        self.steps = 0
        for name in _DROPPED_FILTERS:
            self.filters.pop(name, None)
        self.globals.pop("lipsum", None)
        self.globals.pop("cycler", None)
        self.guard()

    def guard(self) -> None:
        """Watch all filters and tests that are there now."""
        for known in (self.filters, cast("dict[str, Any]", self.tests)):
            for name, call in known.items():
                if not hasattr(call, "watched"):
                    known[name] = self._watching(name, call)

    def _watching(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watching(*arguments: Any, **named: Any) -> Any:
            given = list(arguments)
            first = 1 if hasattr(call, "jinja_pass_arg") else 0
            if name == "join" and len(given) > first:
                between = given[first + 1] if len(given) > first + 1 else named.get("d", "")
                given[first] = self._listed(given[first], weigh(between) if between else 0)
            elif name == "replace" and len(given) > first + 2:
                self._check_replace(str(given[first]), str(given[first + 1]), str(given[first + 2]))
            for value in (*given[first:], *named.values()):
                self.weighed(value)
                if isinstance(value, int) and value > _WIDEST.get(name, value):
                    raise SecurityError(f"{name} takes numbers of no more than {_WIDEST[name]}")
            return self.weighed(call(*given, **named), deep=False)

        watching.watched = True  # type: ignore[attr-defined]
        return watching

    def _listed(self, value: Any, between: int) -> Any:
        """Return what is to be joined as a list that can be."""
        if isinstance(value, str):
            self._refuse_above(len(value) * (1 + between))
            return value
        found: list[Any] = []
        size = 0
        for item in value:
            size += weigh(item) + between
            self._refuse_above(size)
            found.append(item)
        return found

    def _check_replace(self, text: str, old: str, new: str) -> None:
        self._refuse_above(len(text) + text.count(old) * len(new))

    def _refuse_above(self, size: int) -> None:
        if size > MOST_CHARACTERS:
            raise SecurityError(f"more than {MOST_CHARACTERS} characters to handle")

    def weighed(self, value: Any, *, deep: bool = True) -> Any:
        """Return a value after counting what it weighs as steps; one that is too large is refused."""
        weight = weigh(value, deep=deep)
        self._refuse_above(weight)
        self.steps += weight // PER_STEP
        return value

    def joined(self, *parts: Any) -> str:
        """Join what `~` joins."""
        self._refuse_above(sum(weigh(part) for part in parts))
        return markup_join(parts) if self.autoescape else str_join(parts)

    def call(self, context: Any, called: Any, *arguments: Any, **named: Any) -> Any:
        """Call what a template calls, within the bounds."""
        self.tick()
        text = getattr(called, "__self__", None)
        if isinstance(text, str):
            self.weighed(text)
            if getattr(called, "__name__", "") == "replace" and len(arguments) > 1:
                self._check_replace(text, str(arguments[0]), str(arguments[1]))
        for value in (*arguments, *named.values()):
            self.weighed(value)
        return super().call(context, called, *arguments, **named)

    def tick(self) -> None:
        """Count one round."""
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise SecurityError(f"takes more than {_MOST_STEPS} steps")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Carry out an operator on numbers that stay small; `+` on what is not too large together."""
        if operator == "+":
            self._refuse_above(weigh(left, deep=False) + weigh(right, deep=False))
            return self.weighed(super().call_binop(context, operator, left, right), deep=False)
        numbers = all(isinstance(each, int | float) and abs(each) < 10**12 for each in (left, right))
        if not numbers or (operator in ("**", "<<") and abs(right) > 64):
            raise SecurityError(f"the operator {operator} is for small numbers only")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        """Leave `format` to `is_safe_attribute`, which does not let it through: it pads to any width."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow entries, and of text and maps the methods that do not grow."""
        if isinstance(obj, str):
            return attr in _TEXT_METHODS
        if isinstance(obj, Mapping):
            return attr in _MAPPING_METHODS
        return not isinstance(obj, bytes | type) and bool(super().is_safe_attribute(obj, attr, value))

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        source = _Watched().visit(source)
        for each in source.find_all((nodes.For, nodes.Macro)):
            call = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
            body: list[nodes.Node] = each.body  # type: ignore[attr-defined]  # both have one
            body.insert(0, nodes.ExprStmt(call).set_lineno(each.lineno))
        return super()._generate(source, *args, **options)


class JinjaTemplates:
    """A set of templates by name.

    Args:
        sources: Name -> text.
        filters: Functions that templates may use as filters and call, by name.
    """

    def __init__(
        self, sources: Mapping[str, str], filters: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        self._sources = dict(sources)
        self._environments = {
            escape: _Environment(self._sources, autoescape=escape) for escape in (False, True)
        }
        for environment in self._environments.values():
            environment.filters.update(filters or {})
            environment.globals.update(filters or {})
            environment.guard()

    def names(self) -> frozenset[str]:
        """Return the names that can be run."""
        return frozenset(self._sources)

    def faults(self) -> list[TemplateFault]:
        """Return what is wrong with the templates as written."""
        found = []
        for name in self._sources:
            try:
                self._environments[False].get_template(name)
            except TemplateError as error:
                found.append(_fault(name, error))
        return found

    def run(self, name: str, data: Mapping[str, Any], *, escape: bool = False) -> str:
        """Return what a template writes.

        Args:
            name: Of the template.
            data: Names that it sees.
            escape: Whether values are escaped for HTML.

        Raises:
            TemplateFault: There is none of that name, it fails, or it goes beyond the bounds.
        """
        environment = self._environments[escape]
        environment.steps = 0
        written = 0
        pieces: list[str] = []
        try:
            for piece in environment.get_template(name).generate(dict(data)):
                written += len(piece)
                if written > MOST_CHARACTERS:
                    raise SecurityError(f"writes more than {MOST_CHARACTERS} characters")
                pieces.append(piece)
        except TemplateError as error:
            raise _fault(name, error) from None
        except Exception as error:  # whatever a value's operation raises within user text
            raise TemplateFault(f"{type(error).__name__}: {str(error)[:200]}", name=name) from None
        return "".join(pieces)


def _fault(name: str, error: TemplateError) -> TemplateFault:
    message = str(error.message or error).splitlines()[0] if str(error.message or error) else "fails"
    if isinstance(error, TemplateSyntaxError):
        return TemplateFault(message.rstrip("."), name=error.name or name, position=(error.lineno, 1))
    if isinstance(error, TemplateNotFound):
        message = f"there is no template {error.name!r}"
    return TemplateFault(message.rstrip("."), name=name)
