"""Text to tree: the lexer, the parser and the macros of the Common Expression Language.

Macros become `Fold` nodes here, so that nobody behind the parser knows their written form. `checker.py` gives
every node its type, `evaluator.py` makes it callable, `program.py` calls all three. Pure.
Source: the CEL language definition (grammar, lexis, macros), Kubernetes' optional and two-variable forms.
"""

from __future__ import annotations

import re
from typing import Any

from pelton.cel.types import DYN, Type
from pelton.cel.values import UInt
from pelton.errors import CelCompileError

__all__ = [
    "RESERVED",
    "Call",
    "Expr",
    "Fold",
    "Ident",
    "ListExpr",
    "Literal",
    "MapExpr",
    "Select",
    "fault",
    "parse",
    "qualified",
]

RESERVED = frozenset(
    (
        *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop"),
        *("package", "namespace", "return", "var", "void", "while"),
    )
)
"""Words that may not be identifiers."""

_MAX_DEPTH = 120  # nodes above each other; an evaluation needs two Python frames for each
_MAX_SIZE = 100_000  # code points


class Expr:
    """A node.

    Attributes:
        pos: Where it begins, in code points from 0.
        type: Set by the checker.
    """

    __slots__ = ("pos", "type")

    def __init__(self, pos: int) -> None:
        self.pos = pos
        self.type: Type = DYN

    def children(self) -> list[Expr]:
        """Return the nodes directly below."""
        return []


class Literal(Expr):
    """A constant: None, bool, int, UInt, float, str or bytes."""

    __slots__ = ("value",)

    def __init__(self, pos: int, value: Any) -> None:
        super().__init__(pos)
        self.value = value


class Ident(Expr):
    """A variable, or the name of a type; dotted when the checker found a declared dotted name."""

    __slots__ = ("name",)

    def __init__(self, pos: int, name: str) -> None:
        super().__init__(pos)
        self.name = name


class Select(Expr):
    """`operand.field`, `operand.?field`, or `has(operand.field)` when `test` is set.

    `key` is the name in the data, which differs from `field` where names are escaped; the checker sets it.
    """

    __slots__ = ("field", "key", "operand", "optional", "test")

    def __init__(
        self, pos: int, operand: Expr, field: str, *, test: bool = False, optional: bool = False
    ) -> None:
        super().__init__(pos)
        self.operand = operand
        self.field = field
        self.key = field
        self.test = test
        self.optional = optional

    def children(self) -> list[Expr]:
        """Return the operand."""
        return [self.operand]


class Call(Expr):
    """A function or operator; operators have names such as `_+_`, `!_`, `_[_]`, `_?_:_`, `@in`."""

    __slots__ = ("args", "function", "overloads", "target")

    def __init__(self, pos: int, function: str, args: list[Expr], target: Expr | None = None) -> None:
        super().__init__(pos)
        self.function = function
        self.args = args
        self.target = target
        self.overloads: tuple[Any, ...] = ()

    def operands(self) -> list[Expr]:
        """Return the target, if there is one, and the arguments."""
        return self.args if self.target is None else [self.target, *self.args]

    def children(self) -> list[Expr]:
        """Return the operands."""
        return self.operands()


class ListExpr(Expr):
    """`[a, ?b]`; `optional` holds the positions of optional items."""

    __slots__ = ("items", "optional")

    def __init__(self, pos: int, items: list[Expr], optional: frozenset[int]) -> None:
        super().__init__(pos)
        self.items = items
        self.optional = optional

    def children(self) -> list[Expr]:
        """Return the items."""
        return self.items


class MapExpr(Expr):
    """`{k: v, ?k: v}` as (key, value, optional)."""

    __slots__ = ("entries",)

    def __init__(self, pos: int, entries: list[tuple[Expr, Expr, bool]]) -> None:
        super().__init__(pos)
        self.entries = entries

    def children(self) -> list[Expr]:
        """Return keys and values."""
        return [node for key, value, _ in self.entries for node in (key, value)]


class Fold(Expr):
    """A macro over a list, a map or an optional.

    Attributes:
        macro: all, exists, exists_one, filter, map, transformList, transformMap, transformMapEntry, optMap or
            optFlatMap.
        source: What it runs over.
        names: One or two variables.
        guard: Condition of `map` and of the transforms, None when there is none.
        body: Evaluated per element.
        slots: Set by the checker, unique in the expression.
    """

    __slots__ = ("body", "guard", "macro", "names", "slots", "source")

    def __init__(
        self, pos: int, macro: str, source: Expr, names: tuple[str, ...], guard: Expr | None, body: Expr
    ) -> None:
        super().__init__(pos)
        self.macro = macro
        self.source = source
        self.names = names
        self.guard = guard
        self.body = body
        self.slots: tuple[int, ...] = ()

    def children(self) -> list[Expr]:
        """Return source, guard and body."""
        return [self.source, *([self.guard] if self.guard else []), self.body]


def fault(source: str, pos: int, message: str) -> CelCompileError:
    """Return the error for a place: the line, a row of dots and a mark below it."""
    line = source.count("\n", 0, pos)
    start = source.rfind("\n", 0, pos) + 1
    end = source.find("\n", start)
    text = source[start : len(source) if end < 0 else end]
    column = pos - start
    return CelCompileError(
        f"ERROR: <input>:{line + 1}:{column + 1}: {message}\n | {text}\n | {'.' * column}^",
        position=(line + 1, column + 1),
    )


def qualified(node: Expr) -> str:
    """Return `a.b.c` for plain selections of an identifier, "" for anything else."""
    if isinstance(node, Ident):
        return node.name
    if isinstance(node, Select) and not node.test and not node.optional:
        below = qualified(node.operand)
        return f"{below}.{node.field}" if below else ""
    return ""


# -- lexer -------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<space>[\s]+|//[^\n]*)
    |(?P<string>(?:[rR][bB]?|[bB][rR]?)?(?:'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"
        |'(?:[^\\'\r\n]|\\.)*'|"(?:[^\\"\r\n]|\\.)*"))
    |(?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<int>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
    |(?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
    |(?P<op>&&|\|\||==|!=|<=|>=|\.\?|\[\?|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE | re.DOTALL,
)
_RAW = re.compile(r"""(?P<prefix>[rRbB]*)(?P<quote>'''|\"\"\"|'|")(?P<body>.*)(?P=quote)""", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\?\"'`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.?))",
    re.DOTALL,
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class _Token:
    __slots__ = ("kind", "pos", "text")

    def __init__(self, kind: str, text: str, pos: int) -> None:
        self.kind = kind
        self.text = text
        self.pos = pos


def _tokens(source: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise fault(source, at, f"Syntax error: token recognition error at: '{source[at]}'")
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(_Token(kind, match[0], at))
        at = match.end()
    found.append(_Token("end", "<EOF>", len(source)))
    return found


def _string(source: str, token: _Token) -> str | bytes:
    match = _RAW.fullmatch(token.text)
    if match is None:  # unreachable: the lexer matched the same form
        raise fault(source, token.pos, "Syntax error: malformed string")
    prefix, body = match["prefix"].lower(), match["body"]
    if "r" in prefix:
        return body.encode() if "b" in prefix else body
    if "b" not in prefix:
        return _ESCAPE.sub(lambda found: _unescaped(source, token, found), body)
    parts: list[bytes] = []
    at = 0
    for found in _ESCAPE.finditer(body):
        parts.append(body[at : found.start()].encode())
        # In bytes, hexadecimal and octal escapes are octets, not code points.
        text = _unescaped(source, token, found)
        parts.append(bytes([ord(text)]) if found[2] or found[5] else text.encode())
        at = found.end()
    return b"".join([*parts, body[at:].encode()])


def _unescaped(source: str, token: _Token, found: re.Match[str]) -> str:
    simple, hexadecimal, short, long, octal, _ = found.groups()
    if simple:
        return _SIMPLE.get(simple, simple)
    if octal:
        return chr(int(octal, 8))
    digits = hexadecimal or short or long
    if not digits:
        raise fault(source, token.pos, f"Syntax error: invalid escape {found[0]!r}")
    number = int(digits, 16)
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        raise fault(source, token.pos, f"Syntax error: invalid code point in {found[0]!r}")
    return chr(number)


# -- parser ------------------------------------------------------------------------------------------------

_BINARY = {
    "||": 1, "&&": 2, "==": 3, "!=": 3, "<": 3, "<=": 3, ">": 3, ">=": 3, "in": 3,
    "+": 4, "-": 4, "*": 5, "/": 5, "%": 5,
}  # fmt: skip
_FOLDS = {"all", "exists", "exists_one", "existsOne", "filter", "map", "transformList", "transformMap"}
_FOLDS |= {"transformMapEntry", "optMap", "optFlatMap"}


def parse(source: str) -> Expr:
    """Return the tree of an expression.

    Raises:
        CelCompileError: With the position of the first fault.
    """
    if len(source) > _MAX_SIZE:
        raise CelCompileError(
            f"expression code point size exceeds limit: size: {len(source)}, limit {_MAX_SIZE}",
            position=(1, 1),
        )
    return _Parser(source).whole()


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = _tokens(source)
        self._at = 0
        self._depth = 0

    def whole(self) -> Expr:
        node = self._expr()
        if self._token.kind != "end":
            raise self._unexpected("<EOF>")
        if _depth(node) > _MAX_DEPTH:
            raise self._too_deep()
        return node

    @property
    def _token(self) -> _Token:
        return self._tokens[self._at]

    def _is(self, text: str) -> bool:
        token = self._token
        return token.text == text and token.kind in ("op", "name")

    def _take(self, text: str) -> bool:
        if self._is(text):
            self._at += 1
            return True
        return False

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise self._unexpected(f"'{text}'")

    def _unexpected(self, wanted: str) -> CelCompileError:
        token = self._token
        shown = "<EOF>" if token.kind == "end" else f"{token.text}"
        return fault(self._source, token.pos, f"Syntax error: mismatched input '{shown}' expecting {wanted}")

    def _too_deep(self) -> CelCompileError:
        return fault(self._source, 0, f"expression recursion limit exceeded: {_MAX_DEPTH}")

    def _expr(self) -> Expr:
        self._depth += 1
        if self._depth > _MAX_DEPTH // 2:
            raise self._too_deep()
        node = self._binary(1)
        if self._is("?"):
            pos = self._token.pos
            self._at += 1
            then = self._binary(1)
            self._need(":")
            node = Call(pos, "_?_:_", [node, then, self._expr()])
        self._depth -= 1
        return node

    def _binary(self, level: int) -> Expr:
        node = self._unary()
        while True:
            operator = self._token
            power = _BINARY.get(operator.text, 0) if operator.kind in ("op", "name") else 0
            if power < level:
                return node
            if power <= 2:
                node = self._logical(node, operator.text, power)
                continue
            self._at += 1
            right = self._binary(power + 1)
            name = "@in" if operator.text == "in" else f"_{operator.text}_"
            node = Call(operator.pos, name, [node, right])

    def _logical(self, first: Expr, operator: str, power: int) -> Expr:
        """Read a chain of `&&` or `||`, balanced: a hundred terms are seven nodes deep."""
        terms, places = [first], []
        while self._is(operator):
            places.append(self._token.pos)
            self._at += 1
            terms.append(self._binary(power + 1))

        def join(low: int, high: int) -> Expr:
            if low == high:
                return terms[low]
            middle = (low + high) // 2
            return Call(places[middle], f"_{operator}_", [join(low, middle), join(middle + 1, high)])

        return join(0, len(terms) - 1)

    def _unary(self) -> Expr:
        token = self._token
        if token.kind == "op" and token.text in ("!", "-"):
            count = 0
            while self._take(token.text):
                count += 1
            following = self._token
            if token.text == "-" and count == 1 and following.kind in ("int", "float"):
                self._at += 1
                return self._member(Literal(token.pos, self._number(following, "-")))
            node = self._member(self._primary())
            return Call(token.pos, f"{token.text}_", [node]) if count % 2 else node
        return self._member(self._primary())

    def _member(self, node: Expr) -> Expr:
        while True:
            token = self._token
            if token.kind != "op" or token.text not in (".", ".?", "[", "[?"):
                return node
            self._at += 1
            if token.text in ("[", "[?"):
                index = self._expr()
                self._need("]")
                node = Call(token.pos, "_[_]" if token.text == "[" else "_[?_]", [node, index])
                continue
            field = self._token
            if field.kind != "name" or field.text in ("in", "true", "false", "null"):
                raise self._unexpected("IDENTIFIER")
            self._at += 1
            if token.text == "." and self._take("("):
                node = self._call(field, self._list(")"), node, token.pos)
            else:
                node = Select(token.pos, node, field.text, optional=token.text == ".?")

    def _primary(self) -> Expr:
        token = self._token
        self._at += 1
        if token.kind == "string":
            return Literal(token.pos, _string(self._source, token))
        if token.kind in ("int", "float"):
            return Literal(token.pos, self._number(token, ""))
        if token.kind == "name":
            return self._named(token)
        if token.text == "(" and token.kind == "op":
            node = self._expr()
            self._need(")")
            return node
        if token.text in ("[", "[?") and token.kind == "op":
            if token.text == "[?":
                self._tokens.insert(self._at, _Token("op", "?", token.pos + 1))
            return self._list_literal(token.pos)
        if token.text == "{" and token.kind == "op":
            return self._map_literal(token.pos)
        if token.text == "." and token.kind == "op" and self._token.kind == "name":
            self._at += 1
            return self._named(self._tokens[self._at - 1])
        self._at -= 1
        raise self._unexpected("an expression")

    def _named(self, token: _Token) -> Expr:
        word = token.text
        if word in ("true", "false"):
            return Literal(token.pos, word == "true")
        if word == "null":
            return Literal(token.pos, None)
        if word in RESERVED:
            raise fault(self._source, token.pos, f"reserved identifier: {word}")
        if word == "in":
            self._at -= 1
            raise self._unexpected("an expression")
        if self._take("("):
            return self._call(token, self._list(")"), None, token.pos)
        return Ident(token.pos, word)

    def _number(self, token: _Token, sign: str) -> int | float | UInt:
        if token.kind == "float":
            return float(sign + token.text)
        text = token.text.rstrip("uU")
        number = int(sign + text, 16 if text[:2].lower() == "0x" else 10)
        if text != token.text:
            if not 0 <= number < 2**64:
                raise fault(self._source, token.pos, "invalid uint literal")
            return UInt(number)
        if not -(2**63) <= number < 2**63:
            raise fault(self._source, token.pos, "invalid int literal")
        return number

    def _list(self, end: str) -> list[Expr]:
        items: list[Expr] = []
        while not self._take(end):
            items.append(self._expr())
            if not self._take(","):
                self._need(end)
                break
        return items

    def _list_literal(self, pos: int) -> Expr:
        items: list[Expr] = []
        optional = set()
        while not self._take("]"):
            if self._take("?"):
                optional.add(len(items))
            items.append(self._expr())
            if not self._take(","):
                self._need("]")
                break
        return ListExpr(pos, items, frozenset(optional))

    def _map_literal(self, pos: int) -> Expr:
        entries: list[tuple[Expr, Expr, bool]] = []
        while not self._take("}"):
            optional = self._take("?")
            key = self._expr()
            self._need(":")
            entries.append((key, self._expr(), optional))
            if not self._take(","):
                self._need("}")
                break
        return MapExpr(pos, entries)

    # -- macros ------------------------------------------------------------------------------------------

    def _call(self, name: _Token, args: list[Expr], target: Expr | None, pos: int) -> Expr:
        if target is None and name.text == "has" and len(args) == 1:
            tested = args[0]
            if not isinstance(tested, Select) or tested.test or tested.optional:
                raise fault(self._source, pos, "invalid argument to has() macro")
            return Select(tested.pos, tested.operand, tested.field, test=True)
        if target is not None and name.text in _FOLDS:
            folded = self._fold(name, args, target, pos)
            if folded is not None:
                return folded
        return Call(pos, name.text, args, target)

    def _fold(self, name: _Token, args: list[Expr], source: Expr, pos: int) -> Expr | None:
        macro = "exists_one" if name.text == "existsOne" else name.text
        count = len(args)
        if macro in ("all", "exists", "exists_one"):
            shape = {2: (1, False), 3: (2, False)}.get(count)
        elif macro == "map":
            shape = {2: (1, False), 3: (1, True)}.get(count)
        elif macro in ("filter", "optMap", "optFlatMap"):
            shape = {2: (1, False)}.get(count)
        else:
            shape = {3: (2, False), 4: (2, True)}.get(count)
        if shape is None:
            return None
        variables, guarded = shape
        names = []
        for arg in args[:variables]:
            if not isinstance(arg, Ident):
                raise fault(self._source, arg.pos, "argument must be a simple name")
            names.append(arg.name)
        if len(set(names)) < len(names):
            raise fault(self._source, args[1].pos, "duplicate variable name")
        guard = args[variables] if guarded else None
        return Fold(pos, macro, source, tuple(names), guard, args[-1])


def _depth(root: Expr) -> int:
    """Return how many nodes are above each other at most; without recursion, since that is what it guards."""
    deepest, waiting = 0, [(root, 1)]
    while waiting:
        node, level = waiting.pop()
        deepest = max(deepest, level)
        waiting += [(child, level + 1) for child in node.children()]
    return deepest
