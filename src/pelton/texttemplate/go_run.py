"""Carries out Go templates that `texttemplate/go_syntax.py` has read, within bounds.

Values are JSON values, and objects whose class says in `GO` (name in templates -> attribute) what may be
seen of them: nothing else of an object can be reached. What is absent is nothing, at any depth. Called by
`notify/render.py` through `GoTemplates`. Source: Go's package text/template; contracts, log and notification,
section 7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pelton.texttemplate import go_syntax as syntax
from pelton.texttemplate.fault import Position, TemplateFault
from pelton.texttemplate.go_functions import FUNCTIONS, SafeHtml, escape_html, show, truth
from pelton.texttemplate.weight import MOST_CHARACTERS, PER_STEP, weigh

__all__ = ["MOST_STEPS", "GoTemplates", "known_functions"]

MOST_STEPS = 300_000
"""Nodes and calls that one rendering may take: some tenths of a second."""

_MOST_DEPTH = 60
_SHALLOW = frozenset({"append", "dict", "index", "len", "list", "not", "slice", "stringSlice"})
"""Functions that do not look into what lists and maps hold."""
_SPECIAL = ("and", "call", "or")
_URL_ATTRIBUTE = re.compile(r"""(?:href|src|action)\s*=\s*["']?\s*$""", re.IGNORECASE)
_URL_SCHEME = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):")


def known_functions(further: Mapping[str, Callable[..., Any]] | None = None) -> frozenset[str]:
    """Return the names that a template may call."""
    return frozenset((*FUNCTIONS, *_SPECIAL, *(further or ())))


class GoTemplates:
    """A set of named templates.

    Args:
        functions: Further functions, by name; a fault of theirs is a TemplateFault.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._functions = {**FUNCTIONS, **(functions or {})}
        self._names = known_functions(functions)
        self._defined: dict[str, syntax.Block] = {}
        self._source: dict[str, str] = {}
        self._included: list[tuple[str, syntax.Include]] = []

    def with_text(self, text: str, *, name: str) -> GoTemplates:
        """Return a set with one text more; this one stays as it is."""
        more = GoTemplates.__new__(GoTemplates)
        more._functions, more._names = self._functions, self._names
        more._defined, more._source = dict(self._defined), dict(self._source)
        more._included = list(self._included)
        more.add(text, name=name)
        return more

    def add(self, text: str, *, name: str) -> set[str]:
        """Add a text's definitions, which replace those of the same name; its own body is called `name`.

        Returns:
            The names that it defines.

        Raises:
            TemplateFault: It cannot be read; nothing was added.
        """
        found = syntax.parse(text, name=name, functions=self._names)
        for key, body in found.defined.items():
            self._defined[key] = body
            self._source[key] = name
        self._defined[name] = found.body
        self._source[name] = name
        self._included += [(name, include) for include in found.included]
        return {*found.defined, name}

    def names(self) -> frozenset[str]:
        """Return the names that can be run."""
        return frozenset(self._defined)

    def missing(self) -> list[TemplateFault]:
        """Return a fault for every `template` whose name is not defined."""
        return [
            TemplateFault(f"there is no template {include.name!r}", name=name, position=include.at)
            for name, include in self._included
            if include.name not in self._defined
        ]

    def run(self, name: str, data: Any, *, escape: bool = False) -> str:
        """Return what a template writes.

        Args:
            name: Of the template.
            data: The first current value.
            escape: Whether values are escaped for HTML.

        Raises:
            TemplateFault: There is none of that name, it fails, or it goes beyond the bounds.
        """
        if name not in self._defined:
            raise TemplateFault(f"there is no template {name!r}")
        run = _Run(self._defined, self._source, self._functions, escape=escape)
        try:
            run.template(name, data)
        except RecursionError:
            raise TemplateFault("is nested too deeply", name=self._source[name]) from None
        return "".join(run.out)


class _Left(Exception):
    """A loop was left, or goes on with its next round."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.again = again


class _Run:
    """One rendering."""

    def __init__(
        self,
        defined: Mapping[str, syntax.Block],
        source: Mapping[str, str],
        functions: Mapping[str, Callable[..., Any]],
        *,
        escape: bool,
    ) -> None:
        self._defined = defined
        self._source = source
        self._functions = functions
        self._escape = escape
        self._variables: list[tuple[str, Any]] = []
        self._steps = 0
        self._written = 0
        self._depth = 0
        self._name = ""
        self.out: list[str] = []

    def template(self, name: str, data: Any) -> None:
        """Run one template with variables of its own."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise TemplateFault(f"templates call each other more than {_MOST_DEPTH} deep", name=self._name)
        before, self._variables = self._variables, [("$", data)]
        source, self._name = self._name, self._source[name]
        self._block(self._defined[name], data)
        self._variables, self._name = before, source
        self._depth -= 1

    def _block(self, nodes: syntax.Block, dot: Any) -> None:
        known = len(self._variables)
        for node in nodes:
            self._step()
            match node:
                case syntax.Text(text):
                    self._write(text)
                case syntax.Action(pipeline):
                    value = self._pipeline(pipeline, dot)
                    if pipeline.assign is None:
                        self._weigh("a value", value, pipeline.at)
                        self._write(self._shown(value))
                case syntax.Branch():
                    self._branch(node, dot)
                case syntax.Loop():
                    self._loop(node, dot)
                case syntax.Include(name, pipeline, at):
                    if name not in self._defined:
                        raise self._fault(f"there is no template {name!r}", at)
                    self.template(name, None if pipeline is None else self._pipeline(pipeline, dot))
                case syntax.Leave(again):
                    raise _Left(again=again)
        del self._variables[known:]

    def _branch(self, node: syntax.Branch, dot: Any) -> None:
        known = len(self._variables)
        value = self._pipeline(node.pipeline, dot)
        if truth(value):
            self._block(node.body, value if node.sets_dot else dot)
        else:
            self._block(node.otherwise, dot)
        del self._variables[known:]

    def _loop(self, node: syntax.Loop, dot: Any) -> None:
        known = len(self._variables)
        assign = node.pipeline.assign
        value = self._pipeline(node.pipeline, dot, keep=False)
        names = assign.names if assign is not None else ()
        if assign is not None and assign.new:
            self._variables += [(name, None) for name in names]
        rounds = 0
        for key, item in self._rounds(value, node.pipeline.at):
            rounds += 1
            self._step()
            if names:
                self._set(names[-1], item)
            if len(names) == 2:
                self._set(names[0], key)
            inner = len(self._variables)
            try:
                self._block(node.body, item)
            except _Left as left:
                del self._variables[inner:]
                if not left.again:
                    break
        if not rounds:
            self._block(node.otherwise, dot)
        del self._variables[known:]

    def _rounds(self, value: Any, at: Position) -> Iterator[tuple[Any, Any]]:
        if value is None:
            return iter(())
        if isinstance(value, Mapping):
            return iter([(key, value[key]) for key in sorted(value)])
        if isinstance(value, list | tuple):
            return iter(enumerate(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return ((number, number) for number in range(value))
        raise self._fault(f"range needs a list or a map, found {type(value).__name__}", at)

    # --- values ---

    def _pipeline(self, pipeline: syntax.Pipeline, dot: Any, *, keep: bool = True) -> Any:
        value: Any = None
        for number, command in enumerate(pipeline.commands):
            value = self._command(command, dot, (value,) if number else ())
        if keep and pipeline.assign is not None:
            (name,) = pipeline.assign.names
            if pipeline.assign.new:
                self._variables.append((name, value))
            else:
                self._set(name, value)
        return value

    def _command(self, command: syntax.Command, dot: Any, last: tuple[Any, ...]) -> Any:
        self._step()
        first, *rest = command.words
        if isinstance(first, syntax.Function):
            return self._call(first, rest, dot, last)
        if isinstance(first, syntax.Field):
            arguments = (*(self._operand(word, dot) for word in rest), *last)
            return self._field(first, dot, arguments)
        if rest or last:
            raise self._fault("a value that is no function has arguments", command.at)
        return self._operand(first, dot)

    def _operand(self, operand: syntax.Operand, dot: Any) -> Any:
        match operand:
            case syntax.Constant(value):
                return value
            case syntax.Dot():
                return dot
            case syntax.Variable(name):
                return next(value for known, value in reversed(self._variables) if known == name)
            case syntax.Function():
                return self._call(operand, (), dot, ())
            case syntax.Field():
                return self._field(operand, dot, ())
        return self._pipeline(operand, dot)

    def _field(self, field: syntax.Field, dot: Any, arguments: tuple[Any, ...]) -> Any:
        self._step()
        value = self._operand(field.of, dot)
        visible = getattr(type(value), "GO", {})
        if field.name in visible:
            found = getattr(value, visible[field.name])
            if callable(found):
                return self._invoke(field.name, found, arguments, field.at)
        elif isinstance(value, Mapping):
            found = value.get(field.name)
        elif value is None:
            found = None
        else:
            kind = type(value).__name__
            raise self._fault(f"{kind} has no field {field.name}", field.at)
        if arguments:
            raise self._fault(f"{field.name} is no method but has arguments", field.at)
        return found

    def _call(self, function: syntax.Function, words: Any, dot: Any, last: tuple[Any, ...]) -> Any:
        if function.name in ("and", "or"):
            return self._logic(function, words, dot, last)
        arguments = (*(self._operand(word, dot) for word in words), *last)
        if function.name == "call":
            raise self._fault("call: there are no functions among the values", function.at)
        return self._invoke(function.name, self._functions[function.name], arguments, function.at)

    def _logic(self, function: syntax.Function, words: Any, dot: Any, last: tuple[Any, ...]) -> Any:
        """Evaluate no more than is needed."""
        value: Any = None
        for number in range(len(words) + len(last)):
            value = self._operand(words[number], dot) if number < len(words) else last[0]
            if truth(value) == (function.name == "or"):
                return value
        if not words and not last:
            raise self._fault(f"{function.name} needs an argument", function.at)
        return value

    def _invoke(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...], at: Position) -> Any:
        self._step()
        for argument in arguments:
            self._weigh(name, argument, at, deep=name not in _SHALLOW)
        try:
            value = call(*arguments)
        except TemplateFault as fault:
            raise self._fault(f"{name}: {fault.message}", at) from None
        except (TypeError, ValueError, OverflowError):
            count = "1 argument" if len(arguments) == 1 else f"{len(arguments)} arguments"
            raise self._fault(f"{name} cannot be called with these {count}", at) from None
        if isinstance(value, str) and len(value) > MOST_CHARACTERS:
            raise self._fault(f"{name} makes more than {MOST_CHARACTERS} characters", at)
        return value

    def _set(self, name: str, value: Any) -> None:
        for number in range(len(self._variables) - 1, -1, -1):
            if self._variables[number][0] == name:
                self._variables[number] = (name, value)
                return

    # --- output and bounds ---

    def _shown(self, value: Any) -> str:
        text = show(value)
        if not self._escape or isinstance(value, SafeHtml):
            return text
        if _URL_ATTRIBUTE.search("".join(self.out[-3:])[-80:]):
            scheme = _URL_SCHEME.match(text)
            if scheme is not None and scheme[1].lower() not in ("http", "https", "mailto"):
                return "#unsafe-address"
        return escape_html(text)

    def _write(self, text: str) -> None:
        self._written += len(text)
        if self._written > MOST_CHARACTERS:
            raise TemplateFault(f"writes more than {MOST_CHARACTERS} characters", name=self._name)
        self.out.append(text)

    def _weigh(self, name: str, value: Any, at: Position, *, deep: bool = True) -> None:
        """Count what is handled as steps; refuse a value that is too large to write."""
        weight = weigh(value, deep=deep)
        if weight > MOST_CHARACTERS:
            raise self._fault(f"{name} has more than {MOST_CHARACTERS} characters to handle", at)
        self._steps += weight // PER_STEP

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise TemplateFault(f"takes more than {MOST_STEPS} steps", name=self._name)

    def _fault(self, message: str, at: Position) -> TemplateFault:
        return TemplateFault(message, name=self._name, position=at)
