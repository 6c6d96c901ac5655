"""Flags of `dapr run` and `daprd`: names, short forms and values as Dapr's own commands have them.

Not typer's: single-dash spellings, words for times, and flags that nobody knows must be taken, since scripts
bring them. Pure. Source: contracts, Dapr HTTP, sections 5 and 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.errors import UsageError
from pelton.quantity import parse_duration

__all__ = ["DAPRD", "RUN", "Flag", "Parsed", "help_text", "parse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag.

    Attributes:
        kind: `text`, `int`, `bool`, `seconds` (Go duration, or a number of `unit_s`), `size` or `list`.
        doc: One line.
        short: One letter, or "".
        default: Value when it is not given.
        unit_s: What a bare number of a `seconds` flag counts.
        used: Whether it has an effect here; one without is accepted all the same.
    """

    kind: str
    doc: str
    short: str = ""
    default: Any = None
    unit_s: float = 1.0
    used: bool = True


@dataclass(slots=True, kw_only=True)
class Parsed:
    """What a command line says.

    Attributes:
        values: Name -> value, defaults included.
        given: Names that were written.
        command: What stands behind `--`, or from the first word on that is no flag.
        unknown: Flags that are not known, as written.
        help: Whether help is asked for.
    """

    values: dict[str, Any]
    given: set[str] = field(default_factory=set)
    command: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    help: bool = False


_APP: Final[dict[str, Flag]] = {
    "app-id": Flag(kind="text", doc="Name of the app; default: a made-up one.", short="a", default=""),
    "app-port": Flag(kind="int", doc="Port at which the app listens.", short="p", default=0),
    "app-protocol": Flag(
        kind="text", doc="http, grpc, or h2c, which is called over HTTP/1.1.", short="P", default="http"
    ),
    "app-channel-address": Flag(kind="text", doc="Host of the app's port.", default="127.0.0.1"),
    "app-max-concurrency": Flag(kind="int", doc="Most calls at once; -1: no limit.", default=-1),
    "enable-app-health-check": Flag(kind="bool", doc="Probe the app.", default=False),
    "app-health-check-path": Flag(kind="text", doc="Path of the probe.", default="/healthz"),
    "app-health-probe-interval": Flag(kind="seconds", doc="Time between probes.", default=5.0),
    "app-health-probe-timeout": Flag(
        kind="seconds", doc="Time for a probe; a number counts ms.", default=0.5, unit_s=0.001
    ),
    "app-health-threshold": Flag(kind="int", doc="Failures that make it unhealthy.", default=3),
    "dapr-http-port": Flag(kind="int", doc="Port of the HTTP API.", short="H"),
    "dapr-grpc-port": Flag(kind="int", doc="Port of the gRPC API.", short="G"),
    "dapr-listen-addresses": Flag(kind="text", doc="Addresses of these ports.", default="127.0.0.1"),
    "unix-domain-socket": Flag(kind="text", doc="Directory for sockets instead.", short="u", default=""),
    "resources-path": Flag(kind="list", doc="Directory of resources; repeatable.", short="d", default=()),
    "components-path": Flag(kind="list", doc="The older name of it.", default=()),
    "config": Flag(kind="list", doc="File with a Configuration.", short="c", default=()),
    "max-body-size": Flag(kind="size", doc="Largest body: 4Mi, or a number.", default=4 * 1024 * 1024),
    "log-level": Flag(kind="text", doc="debug, info, warn, error or fatal.", default="info"),
    "metrics-port": Flag(
        kind="int", doc="Told to the app; metrics are the platform's.", short="M", default=9090
    ),
    "enable-api-logging": Flag(kind="bool", doc="", default=False, used=False),
    "enable-profiling": Flag(kind="bool", doc="", default=False, used=False),
    "profile-port": Flag(kind="int", doc="", default=7777, used=False),
    "dapr-internal-grpc-port": Flag(kind="int", doc="", short="I", default=0, used=False),
    "placement-host-address": Flag(kind="text", doc="", default="", used=False),
    "scheduler-host-address": Flag(kind="text", doc="", default="", used=False),
    "read-buffer-size": Flag(kind="size", doc="Largest head of a request: 4Ki, or a number.", default=4096),
}

RUN: Final[Mapping[str, Flag]] = {
    **_APP,
    "app-ssl": Flag(kind="bool", doc="", default=False, used=False),
    "dapr-http-max-request-size": Flag(kind="int", doc="The older --max-body-size, in MiB.", default=0),
    "dapr-http-read-buffer-size": Flag(kind="int", doc="The older --read-buffer-size, in KiB.", default=0),
    "log-as-json": Flag(kind="bool", doc="", default=False, used=False),
    "runtime-path": Flag(kind="text", doc="", default="", used=False),
    "run-file": Flag(kind="text", doc="", short="f", default="", used=False),
}
"""Flags of `dapr run`."""

DAPRD: Final[Mapping[str, Flag]] = {
    **_APP,
    "dapr-http-port": Flag(kind="int", doc="Port of the HTTP API.", default=3500),
    "dapr-grpc-port": Flag(kind="int", doc="Port of the gRPC API.", default=50001),
    "dapr-graceful-shutdown-seconds": Flag(kind="int", doc="Time for what is under way.", default=5),
    "dapr-block-shutdown-duration": Flag(kind="seconds", doc="Time to go on after SIGTERM.", default=0.0),
    "disable-init-endpoints": Flag(kind="text", doc="config, subscribe: what is not asked.", default=""),
    "log-as-json": Flag(kind="bool", doc="Log lines as JSON.", default=False),
    "version": Flag(kind="bool", doc="Print the version.", default=False),
    "build-info": Flag(kind="bool", doc="Print the version.", default=False),
    "hot-reload-reconcile-interval": Flag(kind="seconds", doc="", default=60.0, used=False),
    "app-binding-options-timeout": Flag(kind="seconds", doc="", default=5.0, used=False),
    "mode": Flag(kind="text", doc="", default="standalone", used=False),
    "enable-metrics": Flag(kind="bool", doc="", default=True, used=False),
    "enable-mtls": Flag(kind="bool", doc="", default=False, used=False),
    "wait": Flag(kind="bool", doc="", default=False, used=False),
    "allowed-origins": Flag(kind="text", doc="Origins that browsers may call from.", default="*"),
    "dapr-public-port": Flag(kind="int", doc="Port for health and metadata only.", default=0),
    "dapr-public-listen-address": Flag(kind="text", doc="Address of that port.", default=""),
    "dapr-http-max-request-size": Flag(kind="int", doc="The older --max-body-size, in MiB.", default=0),
    "dapr-http-read-buffer-size": Flag(kind="int", doc="The older --read-buffer-size, in KiB.", default=0),
    "dapr-internal-grpc-listen-address": Flag(kind="text", doc="", default="", used=False),
    "metrics-listen-address": Flag(kind="text", doc="", default="", used=False),
    "control-plane-address": Flag(kind="text", doc="", default="", used=False),
    "control-plane-trust-domain": Flag(kind="text", doc="", default="localhost", used=False),
    "control-plane-namespace": Flag(kind="text", doc="", default="default", used=False),
    "sentry-address": Flag(kind="text", doc="", default="", used=False),
    "sentry-request-jwt-audiences": Flag(kind="text", doc="", default="", used=False),
    "scheduler-job-streams": Flag(kind="int", doc="", default=3, used=False),
    "actors-disseminate-timeout": Flag(kind="seconds", doc="", default=30.0, used=False),
    "disable-builtin-k8s-secret-store": Flag(kind="bool", doc="", default=False, used=False),
}
"""Flags of `daprd`."""

_SIZES: Final = {"": 1, "k": 1000, "ki": 1024, "m": 1000**2, "mi": 1024**2, "g": 1000**3, "gi": 1024**3}


def parse(arguments: Sequence[str], flags: Mapping[str, Flag], *, command: bool) -> Parsed:
    """Read a command line.

    Args:
        arguments: Words behind the command's name.
        flags: What is known.
        command: Whether a command may follow.

    Raises:
        UsageError: A value is missing or makes no sense, or a word stands where none may.
    """
    parsed = Parsed(values={name: flag.default for name, flag in flags.items()})
    shorts = {flag.short: name for name, flag in flags.items() if flag.short}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--" or not word.startswith("-") or word == "-":
            parsed.command = words if word == "--" else [word, *words]
            break
        name, equals, value = word.lstrip("-").partition("=")
        name = shorts.get(name, name) if not word.startswith("--") else name
        if name in ("h", "help"):
            parsed.help = True
            continue
        flag = flags.get(name)
        if flag is None:
            parsed.unknown.append(word)
            if not equals and words and not words[0].startswith("-"):
                if command:
                    raise UsageError(
                        f"flag {word} is not known", hint="Write --flag=value for it, or leave it out."
                    )
                words.pop(0)
            continue
        if not equals:
            if flag.kind == "bool":
                value = "true"
                if words and words[0].lower() in ("true", "false"):
                    value = words.pop(0)
            elif words:
                value = words.pop(0)
            else:
                raise UsageError(f"{word} needs a value")
        _take(parsed, name, flag, value)
    if parsed.command and not command:
        raise UsageError(f"{parsed.command[0]!r} is no flag", hint="daprd starts no program.")
    return parsed


def _take(parsed: Parsed, name: str, flag: Flag, text: str) -> None:
    try:
        value = _value(flag, text)
    except ValueError:
        raise UsageError(f"--{name} {text!r} cannot be used", hint=f"It takes: {_form(flag)}.") from None
    parsed.values[name] = (*parsed.values[name], value) if flag.kind == "list" else value
    parsed.given.add(name)


def _value(flag: Flag, text: str) -> Any:
    match flag.kind:
        case "int":
            return int(text)
        case "bool":
            if text.lower() not in ("true", "false", "1", "0"):
                raise ValueError(text)
            return text.lower() in ("true", "1")
        case "seconds":
            return float(text) * flag.unit_s if text.replace(".", "", 1).isdigit() else parse_duration(text)
        case "size":
            number = text.rstrip("KMGikmgB ")
            unit = text[len(number) :].strip().lower().rstrip("b")
            return int(float(number) * _SIZES[unit]) if unit in _SIZES else int(text)
    return text


def _form(flag: Flag) -> str:
    return {
        "int": "a whole number",
        "bool": "true or false",
        "seconds": "a time such as 5s or 500ms",
        "size": "a number of bytes, or 4Mi",
    }.get(flag.kind, "text")


def help_text(usage: str, flags: Mapping[str, Flag]) -> str:
    """Return the help of a command."""
    lines = [f"Usage: {usage}", "", "Flags:"]
    for name, flag in flags.items():
        if flag.used:
            short = f"-{flag.short}, " if flag.short else "    "
            lines.append(f"  {short}--{name:<28} {flag.doc}")
    accepted = ", ".join(f"--{name}" for name, flag in flags.items() if not flag.used)
    return "\n".join([*lines, "", f"Accepted, without effect: {accepted}"])
