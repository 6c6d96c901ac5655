"""JSON merge patch and JSON patch on plain JSON values; neither changes what it is given.

Called by `rest.py`; server-side apply is in `managed.py`. Source: RFC 7386, RFC 6902, RFC 6901.
"""

from __future__ import annotations

import copy
from typing import Any

from pelton.errors import InvalidError, ProtocolError

__all__ = ["json_patch", "merge_patch"]

_FIELDS = {"add": "value", "replace": "value", "test": "value", "move": "from", "copy": "from", "remove": ""}


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` with `patch` merged in: null removes a key, mappings merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """Return `target` after all operations, in order.

    Raises:
        ProtocolError: `operations` is not a list of JSON patch operations.
        InvalidError: An operation does not apply: no such path, or a failed test. Nothing is applied then.
    """
    if not isinstance(operations, list):
        raise ProtocolError("a JSON patch is a list of operations")
    document = copy.deepcopy(target)
    for number, operation in enumerate(operations):
        if not isinstance(operation, dict) or operation.get("op") not in _FIELDS:
            raise ProtocolError(f"operation {number} has no 'op' out of {', '.join(_FIELDS)}")
        needed = _FIELDS[operation["op"]]
        if not isinstance(operation.get("path"), str) or (needed and needed not in operation):
            raise ProtocolError(f"operation {number} ({operation['op']}) lacks 'path' or {needed!r}")
        try:
            document = _apply(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise InvalidError(
                f"operation {number} ({operation['op']} {operation['path']}) does not apply: {error}",
                causes=((operation["path"], "the path does not exist, or the value there differs"),),
            ) from error
    return document


def _apply(document: Any, operation: dict[str, Any]) -> Any:
    op, path = operation["op"], _pointer(operation["path"])
    if op == "add":
        return _add(document, path, copy.deepcopy(operation["value"]))
    if op == "remove":
        return _remove(document, path)
    if op == "replace":
        _get(document, path)  # it must exist
        return _set(document, path, copy.deepcopy(operation["value"]))
    if op == "test":
        found = _get(document, path)
        if found != operation["value"] or isinstance(found, bool) != isinstance(operation["value"], bool):
            raise ValueError("the value there differs")
        return document
    source = _pointer(operation["from"])
    value = copy.deepcopy(_get(document, source))
    if op == "move":
        if path[: len(source)] == source and len(path) > len(source):
            raise ValueError("a value cannot be moved into itself")
        document = _remove(document, source)
    return _add(document, path, value)


def _pointer(text: Any) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise ValueError(f"{text!r} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(container: list[Any], part: str, *, end: bool) -> int:
    if part == "-" and end:
        return len(container)
    if not part.isascii() or not part.isdigit() or (len(part) > 1 and part[0] == "0"):
        raise ValueError(f"{part!r} is not an index")
    number = int(part)
    if number > len(container) - (0 if end else 1):
        raise IndexError(f"index {number} is out of range")
    return number


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(document, list):
            document = document[_index(document, part, end=False)]
        elif isinstance(document, dict):
            document = document[part]
        else:
            raise TypeError(f"there is nothing below {part!r}")
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _get(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        parent.insert(_index(parent, last, end=True), value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise TypeError("the parent is neither a mapping nor a list")
    return document


def _set(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    parent[_index(parent, path[-1], end=False) if isinstance(parent, list) else path[-1]] = value
    return document


def _remove(document: Any, path: list[str]) -> Any:
    if not path:
        return None
    parent = _get(document, path[:-1])
    _get(parent, path[-1:])
    del parent[_index(parent, path[-1], end=False) if isinstance(parent, list) else path[-1]]
    return document
