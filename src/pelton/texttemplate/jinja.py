"""Jinja2 templates in a sandbox, within bounds; the only module that imports the library.

Called by `notify/render.py` and on admission. The sandbox keeps templates away from Python; added to it are
bounds on steps and on what grows text, since a template runs where alerts are sent. Source: Jinja2's
documentation of its sandbox; contracts, log and notification, sections 7 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import DictLoader, TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pelton.texttemplate.fault import TemplateFault

__all__ = ["JinjaTemplates"]

_MOST_STEPS = 100_000
_MOST_CHARACTERS = 1_000_000
_TEXT_METHODS = frozenset(
    {
        "capitalize", "endswith", "find", "isdecimal", "lower", "lstrip", "partition", "removeprefix",
        "removesuffix", "replace", "rpartition", "rstrip", "split", "splitlines", "startswith", "strip",
        "title", "upper",
    }
)  # fmt: skip
_MAPPING_METHODS = frozenset({"get", "items", "keys", "values"})
_DROPPED_FILTERS = ("attr", "center", "format", "pprint", "xmlattr", "random")


class _Environment(ImmutableSandboxedEnvironment):
    """Counts the rounds of loops and the calls of macros; growing operators are off."""

    intercepted_binops = frozenset({"*", "**", "%", "<<"})

    def __init__(self, sources: Mapping[str, str], *, autoescape: bool) -> None:
        super().__init__(
            loader=DictLoader(dict(sources)),
            autoescape=autoescape,
            undefined=Undefined,
            keep_trailing_newline=False,
        )
        for name in _DROPPED_FILTERS:
            self.filters.pop(name, None)
        self.globals.pop("lipsum", None)
        self.globals.pop("cycler", None)
        self.steps = 0

    def tick(self) -> None:
        """Count one round."""
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise SecurityError(f"takes more than {_MOST_STEPS} steps")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Carry out an operator on numbers that stay small."""
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
                if written > _MOST_CHARACTERS:
                    raise SecurityError(f"writes more than {_MOST_CHARACTERS} characters")
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
