"""From bytes of a log file to records: line formats, partial lines, several lines, Fluent Bit's keys.

Pure: an Assembler is fed bytes in file order and says which records are whole, and from which byte on the
file has to be read again to get the rest. A line that is not in the file's format is a record all the same.
Called by `files.py` and, for records that come over the network, by `http.py` and `forward.py`.
Source: `log-notification` contract, sections 2.1 and 2.2; CRI's and Docker's file formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Final, Protocol

import msgspec

__all__ = [
    "FORMATS",
    "PARSERS",
    "Assembler",
    "Multiline",
    "Pattern",
    "Whole",
    "encode",
    "from_shipper",
    "kubernetes_of",
    "tag_of",
]

FORMATS: Final = ("auto", "cri", "docker", "text")
_CRI: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\S+) (stdout|stderr) ([^ ]+) ?(.*)", re.DOTALL)
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
_FILE: Final = re.compile(
    r"(?P<pod>[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)_(?P<namespace>[^_]+)_(?P<container>.+)-(?P<id>[a-z0-9]{64})"
)
_CUT: Final = " [line cut]"
_GROUP_LINES: Final = 1000


class Pattern(Protocol):
    """A compiled expression, Python's or RE2's."""

    def search(self, text: str, /) -> object | None:
        """Return something if it is found anywhere in the text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiline:
    """How records of several lines are told.

    Attributes:
        start: A line in which this is found begins a record that may go on.
        goes_on: A line in which this is found goes on with it; None: every line that does not begin one.
        last: The first line that does not go on belongs to it all the same, as a Python exception's does.
    """

    start: Pattern
    goes_on: Pattern | None = None
    last: bool = False


PARSERS: Final[Mapping[str, Multiline]] = {
    "python": Multiline(
        start=re.compile(r"^Traceback \(most recent call last\):"), goes_on=re.compile(r"^[\t ]+"), last=True
    ),
    "java": Multiline(
        start=re.compile(r"(?:Exception|Error|Throwable)\b"),
        goes_on=re.compile(r"^\s+at |^\s+\.\.\. \d+ |^\s*Caused by: |^\s*Suppressed: "),
    ),
    "go": Multiline(
        start=re.compile(r"^(?:panic|fatal error): "),
        goes_on=re.compile(r"^$|^goroutine |^\[signal |^\s|^created by |^\S+\(.*\)$|^exit status "),
    ),
}
"""Names of Fluent Bit's parsers of several lines that are known here."""


@dataclass(slots=True, kw_only=True)
class _Piece:
    """What one line says."""

    start: int
    text: str
    stream: str = ""
    time: str = ""
    logtag: str = ""
    partial: bool = False


@dataclass(slots=True, kw_only=True)
class Whole:
    """A record of which everything is there.

    Attributes:
        start: Offset of its first byte in the file.
        record: Its keys in order.
    """

    start: int
    record: dict[str, Any]


@dataclass(slots=True)
class _Stream:
    """What is not whole yet of one of a file's streams."""

    partial: _Piece | None = None
    group: list[_Piece] = field(default_factory=list)
    rule: Multiline | None = None
    since: float = 0.0
    size: int = 0


class Assembler:
    """Turns the bytes of one file into records.

    Args:
        path: The file's name as it was found: pod, namespace and container are read from it.
        position: Offset of the first byte that will be fed.
        form: One of FORMATS.
        rules: How records of several lines are told, tried in order.
        longest: Bytes of a record; more is cut off and said so.
        flush_s: Seconds without a further line after which what is there counts as whole.
    """

    def __init__(
        self,
        path: str,
        *,
        position: int = 0,
        form: str = "auto",
        rules: tuple[Multiline, ...] = (),
        longest: int = 256 * 1024,
        flush_s: float = 1.0,
    ) -> None:
        self.position = position
        self.cut = 0
        """Lines of which something was dropped."""
        self._path = path
        self._form = form
        self._rules = rules
        self._longest = longest
        self._flush_s = flush_s
        self._rest = bytearray()
        self._skipping = False
        self._streams: dict[str, _Stream] = {}
        self._kubernetes = kubernetes_of(PurePath(path).name)

    @property
    def from_here(self) -> int:
        """Offset from which on the file has to be read to get what was not returned as whole."""
        starts = [self.position - len(self._rest)]
        for stream in self._streams.values():
            if stream.partial is not None:
                starts.append(stream.partial.start)
            if stream.group:
                starts.append(stream.group[0].start)
        return min(starts)

    def feed(self, data: bytes, *, now: float, time_ns: int) -> list[Whole]:
        """Take what follows `position`, return what is whole.

        Args:
            data: Bytes of the file.
            now: Monotonic seconds.
            time_ns: Epoch nanoseconds: the time of lines that say none.
        """
        whole: list[Whole] = []
        self._rest += data
        self.position += len(data)
        start = self.position - len(self._rest)
        lines = bytes(self._rest).split(b"\n")
        for line in lines[:-1]:
            if self._skipping:
                self._skipping = False
            else:
                self._line(line, start, now, time_ns, whole)
            start += len(line) + 1
        self._rest = bytearray(lines[-1])
        if len(self._rest) > self._longest + 1024:  # room for what CRI writes in front
            if not self._skipping:
                self._line(bytes(self._rest[: self._longest + 1024]), start, now, time_ns, whole)
                self._skipping = True
            self._rest.clear()
        return whole

    def ripe(self, *, now: float, time_ns: int) -> list[Whole]:
        """Return what has waited for `flush_s` for further lines."""
        whole: list[Whole] = []
        for name, stream in self._streams.items():
            if (stream.partial or stream.group) and now - stream.since >= self._flush_s:
                self._flush(name, stream, time_ns, whole)
        return whole

    def finish(self, *, now: float, time_ns: int) -> list[Whole]:
        """Return the rest: nothing will follow, so a last line without an end counts."""
        whole: list[Whole] = []
        if self._rest and not self._skipping:
            start = self.position - len(self._rest)
            self._line(bytes(self._rest), start, now, time_ns, whole)
        self._rest.clear()
        for name, stream in self._streams.items():
            self._flush(name, stream, time_ns, whole)
        return whole

    def _line(self, line: bytes, start: int, now: float, time_ns: int, whole: list[Whole]) -> None:
        piece = self._parse(line.removesuffix(b"\r"), start)
        stream = self._streams.setdefault(piece.stream, _Stream())
        if stream.partial is not None:
            first = stream.partial
            if stream.size <= self._longest:
                first.text += piece.text
            first.partial, first.logtag = piece.partial, piece.logtag
            piece = first
        stream.size = len(piece.text)
        if piece.partial:
            stream.partial, stream.since = piece, now
            return
        stream.partial = None
        self._group(stream, piece, now, time_ns, whole)

    def _group(self, stream: _Stream, piece: _Piece, now: float, time_ns: int, whole: list[Whole]) -> None:
        """Put a line with those before it, or let it begin, or stand alone."""
        rule, group = stream.rule, stream.group
        if group and rule is not None:
            if rule.goes_on is None:
                more = rule.start.search(piece.text) is None
            else:
                more = rule.goes_on.search(piece.text) is not None
            full = len(group) >= _GROUP_LINES or sum(len(each.text) for each in group) > self._longest
            if more and not full:
                group.append(piece)
                stream.since = now
                return
            if rule.last and not more and piece.text.strip() and not full:
                group.append(piece)
                self._emit(stream, time_ns, whole)
                return
            self._emit(stream, time_ns, whole)
        for candidate in self._rules:
            if candidate.start.search(piece.text) is not None:
                stream.group, stream.rule, stream.since = [piece], candidate, now
                return
        whole.append(self._whole([piece], time_ns))

    def _flush(self, _name: str, stream: _Stream, time_ns: int, whole: list[Whole]) -> None:
        piece, stream.partial = stream.partial, None
        if piece is not None:
            if stream.group and stream.rule is not None and piece.start > stream.group[0].start:
                stream.group.append(piece)
            else:
                whole.append(self._whole([piece], time_ns))
        self._emit(stream, time_ns, whole)

    def _emit(self, stream: _Stream, time_ns: int, whole: list[Whole]) -> None:
        group, stream.group, stream.rule = stream.group, [], None
        if group:
            whole.append(self._whole(group, time_ns))

    def _whole(self, pieces: list[_Piece], time_ns: int) -> Whole:
        first = pieces[0]
        text = "\n".join(piece.text for piece in pieces)
        if len(text) > self._longest:
            text = text[: self._longest] + _CUT
            self.cut += 1
        seconds, time = _moment(first.time, time_ns)
        record: dict[str, Any] = {"@timestamp": seconds, "time": time, "log": text + "\n"}
        if first.stream:
            record["stream"] = first.stream
        if first.logtag:
            record["logtag"] = first.logtag
        if self._kubernetes:
            record["kubernetes"] = self._kubernetes
        else:
            record["path"] = self._path
        return Whole(start=first.start, record=record)

    def _parse(self, line: bytes, start: int) -> _Piece:
        if self._form in {"auto", "cri"}:
            found = _CRI.match(line)
            if found is not None:
                time, stream, tag, text = found.groups()
                tags = tag.decode(errors="replace")
                return _Piece(
                    start=start,
                    text=text.decode(errors="replace"),
                    stream=stream.decode(),
                    time=time.decode(errors="replace"),
                    logtag=tags,
                    partial=tags.split(":")[0] == "P",
                )
        if self._form in {"auto", "docker"} and line[:1] == b"{":
            found_json = _docker(line)
            if found_json is not None:
                text = found_json["log"]
                return _Piece(
                    start=start,
                    text=text.removesuffix("\n"),
                    stream=str(found_json.get("stream", "")),
                    time=str(found_json.get("time", "")),
                    partial=not text.endswith("\n"),
                )
        return _Piece(start=start, text=line.decode(errors="replace"))


def _docker(line: bytes) -> dict[str, Any] | None:
    """Return a line of Docker's file, None for any other JSON."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(found, dict) and isinstance(found.get("log"), str) and "time" in found:
        return found
    return None


def _moment(text: str, time_ns: int) -> tuple[float, str]:
    """Return epoch seconds and RFC 3339 UTC of a line's own time, or of its reading."""
    found = _TIME.fullmatch(text)
    if found is not None:
        whole, fraction, zone = found.groups()
        try:
            seconds = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).timestamp()
        except ValueError:
            pass
        else:
            if zone == "Z":
                return round(seconds + float(fraction or 0), 6), text
            moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            return round(seconds + float(fraction or 0), 6), f"{moment}{fraction or ''}Z"
    seconds_, nanoseconds = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds_, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return round(time_ns / 1e9, 6), f"{moment}.{nanoseconds:09d}Z"


def kubernetes_of(name: str) -> dict[str, str]:
    """Return what `<pod>_<namespace>_<container>-<64 digits>.log` says, nothing for another name.

    Image, labels and annotations are known to the cluster's API only and are not added.
    """
    found = _FILE.fullmatch(name.removesuffix(".log"))
    if found is None:
        return {}
    return {
        "pod_name": found["pod"],
        "namespace_name": found["namespace"],
        "container_name": found["container"],
        "docker_id": found["id"],
    }


def tag_of(path: str) -> str:
    """Return the tag that Fluent Bit gives to a file's records: `kube.` and the path with dots."""
    return "kube." + path.strip("/").replace("/", ".")


def from_shipper(record: Mapping[Any, Any], *, seconds: float | None, tag: str = "") -> dict[str, Any]:
    """Return a record of a shipper's as it is, with `@timestamp` first.

    Args:
        record: Its keys and values.
        seconds: The entry's time in epoch seconds; None when the record says it itself.
        tag: Names a container's file for records without `kubernetes`.
    """
    made: dict[str, Any] = {}
    if seconds is not None:
        made["@timestamp"] = seconds
    # JSON would have bytes as base64, inside of labels as well.
    made |= {
        _name(key): _clean(value) if isinstance(value, bytes | dict | list) else value
        for key, value in record.items()
    }
    if "kubernetes" not in made and (found := kubernetes_of(tag.rpartition("containers.")[2])):
        made["kubernetes"] = found
    return made


def encode(record: Mapping[str, Any]) -> bytes:
    """Return compact JSON; what a shipper sent as bytes, or as text that is no UTF-8, is made text."""
    try:
        return msgspec.json.encode(record, enc_hook=str)
    except (UnicodeEncodeError, TypeError):
        return msgspec.json.encode(_clean(record), enc_hook=str)


def _name(key: Any) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode(errors="replace")
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {_clean(_name(key)): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value
