"""Host names that stand for other addresses, such as a cluster's names on one machine. Pure.

`pelton up --alias NAME=ADDRESS` and the file `aliases` of the home make the table; `plan/eventing` applies it
to the metadata of components, the runtime to those of scalers. Only values that are addresses by their key
are looked at, and of those only host and port. A Kafka broker's advertised listeners are its own business: a
client goes from the first address to those that the broker names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.errors import UsageError

__all__ = ["NO_ALIASES", "Aliases", "Renamed"]

_KEYS: Final = ("broker", "server", "host", "url", "uri", "address", "endpoint", "connectionstring", "sink")
_ADDRESS: Final = re.compile(
    r"(?P<head>(?:[A-Za-z][A-Za-z0-9+.-]*://)?(?:[^@/?#\s]*@)?)"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)(?::(?P<port>[0-9]{1,5}))?(?P<tail>[/?#].*)?"
)
_DSN_HOST: Final = re.compile(r"(?<!\w)host=(?P<host>[^\s:]+)")
_DSN_PORT: Final = re.compile(r"(?<!\w)port=(?P<port>[0-9]+)")
_NAME: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_TARGET: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
)
_CLUSTER: Final = ((), ("svc",), ("svc", "cluster", "local"))

Renamed = tuple[str, str]
"""(address as written, address that it stands for)."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """The table.

    Attributes:
        table: Name -> address. A name is a host, `host:port`, or `*.suffix`; an address without a port keeps
            the one that was written. A host of one word also means its long names in a cluster
            (`kafka.team.svc.cluster.local`), one of two words those with `.svc` behind.
    """

    table: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, where: str) -> Aliases:
        """Read the lines of a file: name, blank, address; `#` begins a comment.

        Raises:
            UsageError: A line is something else.
        """
        found: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            if words:
                if len(words) != 2:
                    raise UsageError(
                        f"{where}:{number}: {line.strip()!r} is no alias", hint="A line is NAME ADDRESS."
                    )
                found |= _checked(words[0], words[1], f"{where}:{number}")
        return cls(found)

    @classmethod
    def of_options(cls, options: Iterable[str]) -> Aliases:
        """Read `NAME=ADDRESS` each; raises UsageError."""
        found: dict[str, str] = {}
        for option in options:
            name, equals, address = option.partition("=")
            if not equals:
                raise UsageError(f"--alias {option!r} is not NAME=HOST:PORT")
            found |= _checked(name, address, "--alias")
        return cls(found)

    def over(self, other: Aliases) -> Aliases:
        """Return both tables; where both have a name, this one counts."""
        return Aliases({**other.table, **self.table})

    def metadata(self, given: Mapping[str, str]) -> tuple[dict[str, str], tuple[Renamed, ...]]:
        """Return metadata with addresses in place of names, and what was replaced, each once."""
        found: dict[str, str] = {}
        renamed: dict[str, str] = {}
        for key, value in given.items():
            found[key] = value
            if self.table and any(word in key.lower() for word in _KEYS):
                found[key] = self.value(value, renamed)
        return found, tuple(renamed.items())

    def within(self, obj: Any) -> tuple[Renamed, ...]:
        """Return what of an object as written stands for something else, each once."""
        renamed: dict[str, str] = {}
        if self.table:
            self._walk(obj, "", renamed)
        return tuple(renamed.items())

    def _walk(self, value: Any, key: str, renamed: dict[str, str]) -> None:
        if isinstance(value, Mapping):
            if isinstance(value.get("name"), str) and isinstance(value.get("value"), str):
                self._walk(value["value"], value["name"], renamed)
            for name, child in value.items():
                self._walk(child, str(name), renamed)
        elif isinstance(value, list | tuple):
            for child in value:
                self._walk(child, key, renamed)
        elif isinstance(value, str):
            for found in self.metadata({key: value})[1]:
                renamed.setdefault(*found)

    def value(self, value: str, renamed: dict[str, str]) -> str:
        """Return an address, a URL, a list of them or a connection string, with its hosts replaced.

        `renamed` is added to: as written -> what it stands for.
        """
        if "host=" in value and "://" not in value:
            return self._connection_string(value, renamed)
        return ",".join(self._one(part, renamed) for part in value.split(","))

    def address(self, host: str, port: str) -> tuple[str, str] | None:
        """Return (host, port) that a host and a port, "" for none, stand for; None for themselves."""
        host = host.lower()
        names = [f"{host}:{port}", host] if port else [host]
        for suffix in (".svc.cluster.local", ".svc"):
            if host.endswith(suffix):
                bare = host.removesuffix(suffix)
                names += [f"{bare}:{port}", bare] if port else [bare]
                break
        first, *rest = host.split(".")
        if rest and tuple(rest[1:]) in _CLUSTER:
            names += [f"{first}:{port}", first] if port else [first]
        labels = host.split(".")
        for start in range(1, len(labels)):
            suffix = ".".join(labels[start:])
            names += [f"*.{suffix}:{port}", f"*.{suffix}"] if port else [f"*.{suffix}"]
        for name in names:
            if target := self.table.get(name):
                bare = target.rpartition(":")[0] if _ends_with_port(target) else target
                return bare, target.rpartition(":")[2] if _ends_with_port(target) else port
        return None

    def _one(self, part: str, renamed: dict[str, str]) -> str:
        blank = part[: len(part) - len(part.lstrip())]
        found = _ADDRESS.fullmatch(part.strip())
        if found is None:
            return part
        host, port = found["host"], found["port"] or ""
        target = self.address(host, port)
        if target is None:
            return part
        address = ":".join(word for word in target if word)
        renamed[":".join(word for word in (host, port) if word)] = address
        return f"{blank}{found['head']}{address}{found['tail'] or ''}"

    def _connection_string(self, value: str, renamed: dict[str, str]) -> str:
        host, port = _DSN_HOST.search(value), _DSN_PORT.search(value)
        target = self.address(host["host"], port["port"] if port else "") if host else None
        if host is None or target is None:
            return value
        before = ":".join(word for word in (host["host"], port["port"] if port else "") if word)
        renamed[before] = ":".join(word for word in target if word)
        text = value[: host.start("host")] + target[0] + value[host.end("host") :]
        if not target[1]:
            return text
        if _DSN_PORT.search(text):
            return _DSN_PORT.sub(f"port={target[1]}", text, count=1)
        return f"{text} port={target[1]}"


def _ends_with_port(address: str) -> bool:
    return re.search(r":[0-9]{1,5}$", address) is not None and (address.count(":") == 1 or "]" in address)


def _checked(name: str, address: str, where: str) -> dict[str, str]:
    name, address = name.strip().lower(), address.strip()
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{where}: {name!r} is no host name", hint="Such as kafka, kafka:9092 or *.svc.cluster.local."
        )
    if not _TARGET.fullmatch(address):
        raise UsageError(f"{where}: {address!r} is no address", hint="Such as 127.0.0.1:9092.")
    return {name: address}


NO_ALIASES: Final = Aliases()
"""Every name is itself."""
