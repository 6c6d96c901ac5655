"""What an Azure app says beside its functions: host.json, local.settings.json, app settings, keys.

Pure but for `read_json`. Used by detection (`found.py`) and by loading (`app.py`).
Source: `faas-conventions` contract, section 3.1. Decided where it is silent: keys come from the option
`function-keys` or the variable PELTON_AZURE_KEYS, `NAME=KEY` separated by commas or spaces, where NAME is
`master`, `host`, or a function.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.errors import FunctionLoadError

__all__ = [
    "Host",
    "Keys",
    "host_settings",
    "local_values",
    "parse_keys",
    "read_json",
    "resolve",
    "seconds_of",
]

_SETTING: Final = re.compile(r"%([A-Za-z_][A-Za-z0-9_.:-]*)%")
_SPAN: Final = re.compile(r"(?:(\d+)\.)?(\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.\d+)?")
_DEFAULT_PREFIX: Final = "api"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What host.json says.

    Attributes:
        prefix: First part of every route, without slashes; may be "".
        timeout_s: Seconds per invocation; None when it says nothing, 0 for no limit.
        handler: `customHandler` (or the older `httpWorker`); {} for none.
        retry: Retry policy of all functions; {} for none.
    """

    prefix: str = _DEFAULT_PREFIX
    timeout_s: float | None = None
    handler: Mapping[str, Any] = field(default_factory=dict)
    retry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Access keys.

    Attributes:
        master: Opens everything; "" for none.
        host: Open every function; in order.
        functions: Function name, lower case -> its keys.
    """

    master: str = ""
    host: tuple[str, ...] = ()
    functions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.master or self.host or self.functions)

    def opening(self, function: str, level: str) -> tuple[bytes, ...] | None:
        """Return the keys that open a function; None when it is open to all.

        Args:
            function: Its name.
            level: `anonymous`, `function` or `admin`.
        """
        if level == "anonymous":
            return None
        found = [self.master]
        if level != "admin":
            found += [*self.functions.get(function.lower(), ()), *self.host]
        return tuple(key.encode() for key in found if key)


def read_json(path: str) -> dict[str, Any]:
    """Return the object in a JSON file; {} when there is no such file.

    Raises:
        FunctionLoadError: It is no JSON object.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- pathlib costs a worker 8 ms of imports
            document = json.loads(file.read().decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as exc:
        raise FunctionLoadError(f"cannot be read as JSON: {exc}", where=path) from None
    if not isinstance(document, dict):
        raise FunctionLoadError("is not a JSON object", where=path)
    return document


def host_settings(document: Mapping[str, Any]) -> Host:
    """Read host.json; what has another shape than expected counts as absent."""
    extensions = document.get("extensions")
    http = extensions.get("http") if isinstance(extensions, Mapping) else None
    prefix = http.get("routePrefix") if isinstance(http, Mapping) else None
    handler = document.get("customHandler") or document.get("httpWorker")
    retry = document.get("retry")
    return Host(
        prefix=prefix.strip("/") if isinstance(prefix, str) else _DEFAULT_PREFIX,
        timeout_s=seconds_of(document.get("functionTimeout")),
        handler=handler if isinstance(handler, Mapping) else {},
        retry=retry if isinstance(retry, Mapping) else {},
    )


def seconds_of(span: Any) -> float | None:
    """Return the seconds of `hh:mm:ss` or `d.hh:mm:ss`, 0 for "-1" (unbounded), None for anything else."""
    if not isinstance(span, str):
        return None
    if span.strip() == "-1":
        return 0.0
    found = _SPAN.fullmatch(span.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(days * 86_400 + hours * 3600 + minutes * 60 + seconds)


def local_values(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the app settings of local.settings.json, name -> text."""
    values = document.get("Values")
    if document.get("IsEncrypted") is True or not isinstance(values, Mapping):
        return {}
    return {str(name): _text(value) for name, value in values.items() if value is not None}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolve(text: str, settings: Mapping[str, str]) -> str:
    """Put app settings in the places of `%NAME%`; one that does not exist stays as it is."""
    if "%" not in text:
        return text
    return _SETTING.sub(lambda found: settings.get(found[1], found[0]), text)


def parse_keys(text: str) -> Keys:
    """Read `master=KEY,host=KEY,FUNCTION=KEY`; a key without a name is a host key."""
    master, host = "", []
    functions: dict[str, tuple[str, ...]] = {}
    for part in text.replace(",", " ").split():
        name, given, key = part.partition("=")
        if not given:
            name, key = "host", part
        if name.lower() in {"master", "_master"}:
            master = key
        elif name.lower() in {"host", "default"}:
            host.append(key)
        else:
            functions[name.lower()] = (*functions.get(name.lower(), ()), key)
    return Keys(master=master, host=tuple(host), functions=functions)
