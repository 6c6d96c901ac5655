"""Go's template language, read into a tree: text, actions, control structures, definitions.

`texttemplate/go_run.py` carries the tree out; admission reads only, for the faults. Every fault has line and
column. Source: Go's package text/template, as its documentation describes the language; contracts, log and
notification, section 7.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from pelton.texttemplate.fault import Position, TemplateFault, position_of

__all__ = [
    "Action",
    "Assign",
    "Block",
    "Branch",
    "Command",
    "Constant",
    "Definition",
    "Dot",
    "Field",
    "Function",
    "Include",
    "Leave",
    "Loop",
    "Node",
    "Operand",
    "Pipeline",
    "Text",
    "Variable",
    "parse",
]


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal: text, number, truth value or nil (None)."""

    value: str | int | float | bool | None
    at: Position


@dataclass(frozen=True, slots=True)
class Dot:
    """The current value."""

    at: Position


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, `$` included in its name."""

    name: str
    at: Position


@dataclass(frozen=True, slots=True)
class Function:
    """A function by name."""

    name: str
    at: Position


@dataclass(frozen=True, slots=True)
class Field:
    """A field, method or map entry of a value."""

    of: Operand
    name: str
    at: Position


@dataclass(frozen=True, slots=True)
class Command:
    """An operand with arguments."""

    words: tuple[Operand, ...]
    at: Position


@dataclass(frozen=True, slots=True)
class Assign:
    """What a pipeline's value is kept under; `new` tells `:=` from `=`."""

    names: tuple[str, ...]
    new: bool


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each of which gets the value of the one before as its last argument."""

    commands: tuple[Command, ...]
    assign: Assign | None
    at: Position


Operand = Constant | Dot | Variable | Function | Field | Pipeline
"""What a command is made of."""


@dataclass(frozen=True, slots=True)
class Text:
    """Literal text."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """A pipeline whose value is written, unless it is only kept."""

    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    """`if` and `with`; the latter makes the value current."""

    pipeline: Pipeline
    body: Block
    otherwise: Block
    sets_dot: bool


@dataclass(frozen=True, slots=True)
class Loop:
    """`range`."""

    pipeline: Pipeline
    body: Block
    otherwise: Block


@dataclass(frozen=True, slots=True)
class Include:
    """`template` and `block`: runs another template on a value, or on none."""

    name: str
    pipeline: Pipeline | None
    at: Position


@dataclass(frozen=True, slots=True)
class Leave:
    """`break` and `continue`."""

    again: bool
    at: Position


Node = Text | Action | Branch | Loop | Include | Leave
"""What a template consists of."""

Block = tuple[Node, ...]
"""Nodes in order."""


@dataclass(slots=True)
class Definition:
    """One text as read.

    Attributes:
        body: What is outside of definitions.
        defined: Name -> body of `define` and `block`.
        included: What `template` and `block` ask for, with the place.
    """

    body: Block = ()
    defined: dict[str, Block] = field(default_factory=dict)
    included: list[Include] = field(default_factory=list)


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<raw>`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.[^']*)')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:\d[\d_]*)?\.?\d[\d_]*(?:[eE][+-]?\d+)?))
    |(?P<variable>\$\w*)
    |(?P<field>\.[^\W\d]\w*)
    |(?P<dot>\.)
    |(?P<word>[^\W\d]\w*)
    |(?P<mark>:=|=|\||\(|\)|,)""",
    re.VERBOSE,
)
_OPEN, _CLOSE = "{{", "}}"
_BLANK = " \t\r\n"
_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\", '"': '"',
    "'": "'",
}  # fmt: skip
_KEYWORDS = frozenset(
    {"if", "else", "end", "range", "with", "define", "block", "template", "break", "continue"}
)
_MOST_DEPTH = 100


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: Position
    spaced: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """Text, or the tokens of one action."""

    text: str
    tokens: tuple[_Token, ...] | None
    at: Position


def parse(text: str, *, name: str, functions: Collection[str]) -> Definition:
    """Read a text.

    Args:
        text: The template, with any number of definitions.
        name: For messages.
        functions: Names that may be called.

    Raises:
        TemplateFault: It cannot be read.
    """
    try:
        return _Parser(_pieces(text, name), name, functions).parse()
    except RecursionError:
        raise TemplateFault("is nested too deeply", name=name) from None


def _pieces(text: str, name: str) -> Iterator[_Piece]:
    at, trim = 0, False
    while True:
        start = text.find(_OPEN, at)
        literal = text[at:] if start < 0 else text[at:start]
        if trim:
            literal = literal.lstrip(_BLANK)
        if start < 0:
            yield _Piece(literal, None, position_of(text, at))
            return
        inner = start + len(_OPEN)
        if text.startswith("-", inner) and text[inner + 1 : inner + 2] in tuple(_BLANK):
            literal = literal.rstrip(_BLANK)
            inner += 1
        yield _Piece(literal, None, position_of(text, at))
        tokens, at, trim = _action(text, inner, start, name)
        if tokens is not None:
            yield _Piece("", tokens, position_of(text, start))


def _action(text: str, at: int, start: int, name: str) -> tuple[tuple[_Token, ...] | None, int, bool]:
    """Return the tokens of an action (None for a comment), where it ends, and whether blanks after it go."""
    begin = len(text[at:]) - len(text[at:].lstrip(_BLANK)) + at
    if text.startswith("/*", begin):
        end = text.find("*/", begin)
        if end < 0:
            raise TemplateFault("comment is not closed", name=name, position=position_of(text, start))
        end += 2
        trim = text[end : end + 1] in tuple(_BLANK) and text.startswith("-}}", end + 1)
        end += 2 if trim else 0
        if not text.startswith(_CLOSE, end):
            raise TemplateFault(
                "comment does not end its action", name=name, position=position_of(text, start)
            )
        return None, end + len(_CLOSE), trim
    tokens: list[_Token] = []
    spaced = True
    while True:
        if text.startswith(_CLOSE, at):
            return tuple(tokens), at + len(_CLOSE), False
        if spaced and at > 0 and text[at - 1] in _BLANK and text.startswith("-" + _CLOSE, at):
            return tuple(tokens), at + 1 + len(_CLOSE), True
        found = _TOKEN.match(text, at)
        if found is None:
            if at >= len(text):
                raise TemplateFault(
                    "action is not closed with }}", name=name, position=position_of(text, start)
                )
            shown = text[at : at + 1]
            what = "text is not closed" if shown in "\"'`" else f"unexpected {shown!r}"
            raise TemplateFault(what, name=name, position=position_of(text, at))
        kind = str(found.lastgroup)
        if kind == "space":
            spaced = True
        else:
            tokens.append(_Token(kind, found[0], position_of(text, at), spaced))
            spaced = False
        at = found.end()


class _Parser:
    """Reads pieces into a tree, by descent."""

    def __init__(self, pieces: Iterator[_Piece], name: str, functions: Collection[str]) -> None:
        self._pieces = pieces
        self._name = name
        self._functions = functions
        self._result = Definition()
        self._variables: list[str] = ["$"]
        self._loops = 0
        self._depth = 0
        self._tokens: list[_Token] = []
        self._here: Position = (1, 1)

    def parse(self) -> Definition:
        body, end = self._block(())
        if end:
            raise self._fault(f"unexpected {{{{{end}}}}}")
        self._result.body = body
        return self._result

    # --- structure ---

    def _block(self, ends: tuple[str, ...]) -> tuple[Block, str]:
        """Read nodes up to one of `ends`; returns them and which it was, "" at the end of the text."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise self._fault("is nested too deeply")
        start, known = self._here, len(self._variables)
        nodes: list[Node] = []
        for piece in self._pieces:
            self._here = piece.at
            if piece.tokens is None:
                if piece.text:
                    nodes.append(Text(piece.text))
                continue
            self._tokens = list(piece.tokens)
            if not self._tokens:
                raise self._fault("action is empty")
            word = self._tokens[0].text if self._tokens[0].kind == "word" else ""
            if word in ("end", "else"):
                if word not in ends:
                    raise self._fault(f"unexpected {{{{{word}}}}}")
                self._tokens.pop(0)
                if word == "end" and self._tokens:
                    raise self._fault(f"unexpected {self._tokens[0].text!r} behind end")
                del self._variables[known:]
                self._depth -= 1
                return tuple(nodes), word
            if (node := self._node(word)) is not None:
                nodes.append(node)
        if ends:
            raise TemplateFault("has no {{end}}", name=self._name, position=start)
        self._depth -= 1
        return tuple(nodes), ""

    def _node(self, word: str) -> Node | None:
        if word not in _KEYWORDS:
            pipeline = self._whole_pipeline("action")
            return Action(pipeline)
        at = self._tokens.pop(0).at
        if word in ("if", "with", "range"):
            return self._control(word)
        if word in ("break", "continue"):
            self._nothing_left(word)
            if not self._loops:
                raise self._fault(f"{word} is outside of range", at)
            return Leave(word == "continue", at)
        name = self._quoted(word)
        if word == "define":
            self._nothing_left(word)
            self._define(name, at)
            return None
        value = self._whole_pipeline(word) if self._tokens else None
        if word == "block":
            if value is None:
                raise self._fault("block needs a value", at)
            self._define(name, at, weak=True)
        include = Include(name, value, at)
        self._result.included.append(include)
        return include

    def _define(self, name: str, at: Position, *, weak: bool = False) -> None:
        if not weak and self._depth > 1:
            raise self._fault("define is inside of another structure", at)
        variables, loops = self._variables, self._loops
        self._variables, self._loops = ["$"], 0
        body, _ = self._block(("end",))
        self._variables, self._loops = variables, loops
        if not (weak and name in self._result.defined):
            self._result.defined[name] = body

    def _control(self, word: str) -> Node:
        known = len(self._variables)
        pipeline = self._whole_pipeline(word, loop=word == "range")
        self._loops += word == "range"
        body, end = self._block(("end", "else"))
        self._loops -= word == "range"
        otherwise: Block = ()
        if end == "else":
            if self._tokens and self._tokens[0].text in ("if", "with") and word != "range":
                again = self._tokens.pop(0).text
                if again == "with" and word != "with":
                    raise self._fault("else with belongs to with")
                otherwise = (self._control(again),)
            elif self._tokens:
                raise self._fault(f"unexpected {self._tokens[0].text!r} behind else")
            else:
                otherwise, _ = self._block(("end",))
        del self._variables[known:]
        if word == "range":
            return Loop(pipeline, body, otherwise)
        return Branch(pipeline, body, otherwise, sets_dot=word == "with")

    # --- pipelines ---

    def _whole_pipeline(self, what: str, *, loop: bool = False) -> Pipeline:
        if not self._tokens:
            raise self._fault(f"{what} has no value")
        pipeline = self._pipeline(loop=loop)
        self._nothing_left(what)
        return pipeline

    def _pipeline(self, *, loop: bool = False, inner: bool = False) -> Pipeline:
        at = self._tokens[0].at if self._tokens else self._here
        assign = None if inner else self._assign(loop=loop)
        commands = [self._command()]
        while self._tokens and self._tokens[0].text == "|":
            self._tokens.pop(0)
            commands.append(self._command())
            first = commands[-1].words[0]
            if isinstance(first, Constant | Dot):
                raise self._fault("what follows | is not a function", first.at)
        if assign is not None and assign.new:
            self._variables += assign.names
        return Pipeline(tuple(commands), assign, at)

    def _assign(self, *, loop: bool) -> Assign | None:
        names: list[str] = []
        tokens = self._tokens
        position = 0
        while position < len(tokens) and tokens[position].kind == "variable":
            names.append(tokens[position].text)
            if position + 1 >= len(tokens):
                return None
            mark = tokens[position + 1].text
            if mark in (":=", "="):
                if len(names) > (2 if loop else 1):
                    raise self._fault("too many variables", tokens[0].at)
                if mark == "=":
                    for name in names:
                        self._known(name, tokens[0].at)
                del tokens[: position + 2]
                return Assign(tuple(names), mark == ":=")
            if mark != ",":
                return None
            if not loop:
                raise self._fault("several variables are for range only", tokens[0].at)
            position += 2
        return None

    def _command(self) -> Command:
        at = self._tokens[0].at if self._tokens else self._here
        words: list[Operand] = []
        while self._tokens and self._tokens[0].text not in ("|", ")"):
            if words and not self._tokens[0].spaced and self._tokens[0].kind not in ("mark",):
                raise self._fault(f"blank is missing before {self._tokens[0].text!r}", self._tokens[0].at)
            words.append(self._operand())
        if not words:
            raise self._fault("a command is missing", at)
        return Command(tuple(words), at)

    def _operand(self) -> Operand:
        token = self._tokens.pop(0)
        operand: Operand
        match token.kind:
            case "string" | "raw" | "char":
                text = self._literal(token)
                operand = Constant(ord(text) if token.kind == "char" else text, token.at)
            case "number":
                operand = Constant(self._number(token), token.at)
            case "variable":
                self._known(token.text, token.at)
                operand = Variable(token.text, token.at)
            case "field":
                operand = Field(Dot(token.at), token.text[1:], token.at)
            case "dot":
                operand = Dot(token.at)
            case "word":
                operand = self._word(token)
            case _:
                if token.text != "(":
                    raise self._fault(f"unexpected {token.text!r}", token.at)
                operand = self._pipeline(inner=True)
                if not self._tokens or self._tokens[0].text != ")":
                    raise self._fault("parenthesis is not closed", token.at)
                self._tokens.pop(0)
        while self._tokens and self._tokens[0].kind == "field" and not self._tokens[0].spaced:
            if isinstance(operand, Constant | Function):
                raise self._fault(f"{token.text} has no fields", token.at)
            step = self._tokens.pop(0)
            operand = Field(operand, step.text[1:], step.at)
        return operand

    def _word(self, token: _Token) -> Operand:
        if token.text in ("true", "false"):
            return Constant(token.text == "true", token.at)
        if token.text == "nil":
            return Constant(None, token.at)
        if token.text in _KEYWORDS:
            raise self._fault(f"unexpected {token.text}", token.at)
        if token.text not in self._functions:
            raise self._fault(f"function {token.text} is not defined", token.at)
        return Function(token.text, token.at)

    def _known(self, name: str, at: Position) -> None:
        if name not in self._variables:
            raise self._fault(f"variable {name} is not defined", at)

    def _quoted(self, word: str) -> str:
        if not self._tokens or self._tokens[0].kind not in ("string", "raw"):
            raise self._fault(f"{word} needs a name in quotes")
        return self._literal(self._tokens.pop(0))

    def _nothing_left(self, what: str) -> None:
        if self._tokens:
            raise self._fault(f"unexpected {self._tokens[0].text!r} in {what}", self._tokens[0].at)

    # --- literals ---

    def _literal(self, token: _Token) -> str:
        if token.kind == "raw":
            return token.text[1:-1].replace("\r", "")
        text = _unescape(token.text[1:-1])
        if text is None or (token.kind == "char" and len(text) != 1):
            raise self._fault(f"{token.text} is no valid text", token.at)
        return text

    def _number(self, token: _Token) -> int | float:
        text = token.text.replace("_", "")
        try:
            if re.fullmatch(r"[+-]?0[0-7]+", text):  # Go reads a leading zero as octal
                return int(text, 8)
            return int(text, 0) if re.fullmatch(r"[+-]?(0[xXoObB].*|\d+)", text) else float(text)
        except ValueError:
            raise self._fault(f"{token.text} is no number", token.at) from None

    def _fault(self, message: str, at: Position | None = None) -> TemplateFault:
        return TemplateFault(message, name=self._name, position=at or self._here)


def _unescape(text: str) -> str | None:
    """Return a quoted text's value, or None when it has an escape that Go does not know."""
    out: list[str] = []
    at = 0
    while at < len(text):
        if text[at] != "\\":
            out.append(text[at])
            at += 1
            continue
        code = text[at + 1 : at + 2]
        if code in _ESCAPES:
            out.append(_ESCAPES[code])
            at += 2
            continue
        width = {"x": 2, "u": 4, "U": 8}.get(code, 0)
        digits = text[at + 2 : at + 2 + width] if width else text[at + 1 : at + 4]
        try:
            out.append(chr(int(digits, 16 if width else 8)))
        except (ValueError, OverflowError):
            return None
        if len(digits) != (width or 3):
            return None
        at += 2 + width if width else 4
    return "".join(out)
