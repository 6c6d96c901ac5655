"""`bindings.logs`: log files of this machine, and what log shippers send, as a source of events.

Implements `ports.Bus`. Files are their own queue: each consumer has its positions, and a record is finished
when its outcome is known, so a restart goes on where it was. What comes over the network is acknowledged to
its sender then. Nothing is read or taken while too much is under way.
Source: `log-notification` contract, sections 2.1 to 2.3; the component type is Pelton's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pelton.cel.regex import RegexError, compile_regex
from pelton.clock import Clock
from pelton.drivers.log_intake.files import Entry, FileFollower, FileOptions
from pelton.drivers.log_intake.forward import ForwardServer, Keys
from pelton.drivers.log_intake.http import HttpOptions, HttpServer
from pelton.drivers.log_intake.intake import Chunk, Intake, Record
from pelton.drivers.log_intake.records import FORMATS, PARSERS, Multiline
from pelton.errors import ComponentError, DeliveryError
from pelton.holding import Holding
from pelton.model.desired import Component
from pelton.model.settings import ComponentSettings
from pelton.ports import Delivery, Message

__all__ = ["LogsBus"]

_POLL_S: Final = 0.02
_SYSTEM: Final = (
    "/boot",
    "/dev",
    "/etc",
    "/proc",
    "/root/.ssh",
    "/run/secrets",
    "/sys",
    "/usr",
    "/var/run/secrets",
)
_LONGEST: Final = 4 * 1024 * 1024

_Handle = Entry | Chunk


class LogsBus:
    """Logs as a bus that only gives.

    Args:
        component: At least one of `path`, `httpListen` and `forwardListen`.
        clock: Times lines that say no time, and rotation.
        folder: Where positions are kept.
        forbidden: Directories whose files are never read, beside those of the system.

    Raises:
        ComponentError: The metadata cannot be used.
    """

    def __init__(
        self, component: Component, *, clock: Clock, folder: Path, forbidden: Sequence[Path] = ()
    ) -> None:
        settings = ComponentSettings(component)
        self._settings = settings
        self._where = settings.where
        self._clock = clock
        self._folder = folder / f"{component.namespace}.{component.name}"
        self._files = self._file_options(settings, forbidden)
        self._http = _listen(settings, "httpListen")
        self._forward = _listen(settings, "forwardListen")
        if not (self._files.paths or self._http or self._forward):
            raise ComponentError(
                "metadata `path` is required",
                where=self._where,
                hint="For example `/var/log/containers/*.log`; or httpListen, or forwardListen.",
            )
        self._intake = Intake(self._where)
        self._servers: list[HttpServer | ForwardServer] = []
        self._users = 0
        self._lock = asyncio.Lock()
        self._subscriptions: dict[str, _Subscription] = {}

    async def publish(self, message: Message) -> None:
        """Refuse: records come from files and shippers."""
        raise DeliveryError("bindings.logs takes no events", retriable=False, where=self._where)

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches of records; see `ports.Bus`."""
        del options
        if consumer in self._subscriptions:
            raise DeliveryError(f"{consumer} is subscribed already", where=self._where)
        follower = None
        if self._files.paths:
            name = re.sub(r"[^A-Za-z0-9._-]", "_", consumer)[:100]
            digest = hashlib.sha256(consumer.encode()).hexdigest()[:8]
            state = self._folder / f"{name}-{digest}.json"
            follower = FileFollower(self._files, state, clock=self._clock, where=self._where)
        found = _Subscription(self._intake, follower, topic, max_in_flight)
        self._subscriptions[consumer] = found
        self._intake.add(found.offer)
        try:
            await self._listen()
            try:
                async for batch in found.batches():
                    yield batch
            finally:
                await self._silence()
        finally:
            del self._subscriptions[consumer]
            found.close()

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return what is held, and about how many records were not read yet; 0 for an unknown consumer."""
        found = self._subscriptions.get(consumer)
        return found.pending() if found is not None else 0

    async def close(self) -> None:
        """Stop listening; subscriptions end by being cancelled."""
        servers, self._servers = self._servers, []
        for server in servers:
            await server.close()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens, HTTP first."""
        return [server.address for server in self._servers]

    async def _listen(self) -> None:
        """Open the listeners with the first subscription."""
        async with self._lock:
            self._users += 1
            if self._servers:
                return
            settings, where = self._settings, self._where
            wanted: list[tuple[tuple[str, int], HttpServer | ForwardServer]] = []
            if self._http:
                options = HttpOptions(
                    user=settings.text("httpUser"),
                    password=settings.text("httpPassword"),
                    tag_header=settings.text("httpTagHeader"),
                    date_key=settings.text("dateKey", "date"),
                )
                wanted.append((self._http, HttpServer(self._intake, options, where=where)))
            if self._forward:
                keys = Keys(
                    shared=settings.text("sharedKey"),
                    user=settings.text("forwardUser"),
                    password=settings.text("forwardPassword"),
                    hostname=settings.text("selfHostname", "pelton"),
                )
                wanted.append(
                    (self._forward, ForwardServer(self._intake, keys, clock=self._clock, where=where))
                )
            for (host, port), server in wanted:
                try:
                    await server.start(host, port)
                except OSError as exc:
                    self._users -= 1
                    await self.close()
                    raise DeliveryError(
                        f"{host}:{port} cannot be listened on: {exc.strerror or exc}", where=where
                    ) from exc
                self._servers.append(server)

    async def _silence(self) -> None:
        """Close the listeners with the last subscription."""
        self._users -= 1
        if not self._users:
            await self.close()

    @staticmethod
    def _file_options(settings: ComponentSettings, forbidden: Sequence[Path]) -> FileOptions:
        form = settings.text("format", "auto").strip().lower()
        if form not in FORMATS:
            raise ComponentError(
                "metadata `format` is unknown", where=settings.where, hint=f"Use {', '.join(FORMATS)}."
            )
        rules: list[Multiline] = []
        for name in _words(settings.text("multiline")):
            if name.lower() not in PARSERS:
                raise ComponentError(
                    f"metadata `multiline` has no parser {name!r}",
                    where=settings.where,
                    hint=f"Use {', '.join(PARSERS)}, or multilineStart.",
                )
            rules.append(PARSERS[name.lower()])
        if settings.text("multilineStart"):
            try:
                rules.append(Multiline(start=compile_regex(settings.text("multilineStart"))))
            except RegexError as exc:
                raise ComponentError(f"metadata `multilineStart`: {exc}", where=settings.where) from exc
        longest = settings.number("maxLineBytes", 256 * 1024)
        if not 1 <= longest <= _LONGEST:
            raise ComponentError(
                f"metadata `maxLineBytes` is not within 1 and {_LONGEST}", where=settings.where
            )
        paths = _words(settings.text("path"))
        for path in paths:
            if not path.startswith("/"):
                raise ComponentError("metadata `path` is not absolute", where=settings.where)
        return FileOptions(
            paths=paths,
            exclude=_words(settings.text("exclude")),
            form=form,
            rules=tuple(rules),
            longest=longest,
            flush_s=settings.seconds("multilineFlush", 1.0),
            from_head=settings.flag("readFromHead"),
            forbidden=(*(Path(place) for place in _SYSTEM), *(place.resolve() for place in forbidden)),
        )


class _Subscription:
    """Records of one consumer."""

    def __init__(self, intake: Intake, follower: FileFollower | None, topic: str, max_in_flight: int) -> None:
        self._intake = intake
        self._follower = follower
        self._topic = topic
        self.holding = Holding[_Handle](max_in_flight, finish=self._finish)

    async def batches(self) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate until cancelled."""
        holding, follower = self.holding, self._follower
        if follower is not None:
            follower.open()
        while True:
            holding.changed.clear()
            if follower is not None:
                for entry in follower.read(holding.room):
                    message = Message(topic=self._topic, data=entry.data, headers=_headers(entry.tag))
                    holding.offer(f"{entry.file}:{entry.start}", message, entry)
            batch = holding.take()
            if batch:
                yield batch
                continue
            try:
                async with asyncio.timeout(_POLL_S if follower is not None else None):
                    await holding.changed.wait()
            except TimeoutError:
                pass

    def offer(self, chunk: Chunk, records: Sequence[Record]) -> None:
        """Take in what came over the network."""
        for index, record in enumerate(records):
            message = Message(topic=self._topic, data=record.data, headers=_headers(record.tag))
            self.holding.offer(f"{chunk.name}:{index}", message, chunk)

    def pending(self) -> int:
        """Return what is held and about what waits in files."""
        return len(self.holding) + (self._follower.backlog() if self._follower is not None else 0)

    def close(self) -> None:
        """Let go of everything: files are read again from their positions, shippers send again."""
        self._intake.remove(self.offer)
        self.holding.forget()
        if self._follower is not None:
            self._follower.close()

    async def _finish(self, handle: _Handle, _success: bool) -> None:
        if isinstance(handle, Chunk):
            self._intake.done(handle)
        elif self._follower is not None:
            self._follower.finish(handle)


def _headers(tag: str) -> dict[str, str]:
    return {"Content-Type": "application/json", **({"tag": tag} if tag else {})}


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _listen(settings: ComponentSettings, key: str) -> tuple[str, int] | None:
    """Return host and port of `host:port` or `:port` (this machine only)."""
    text = settings.text(key).strip()
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ComponentError(
            f"metadata `{key}` is not host:port", where=settings.where, hint="For example 127.0.0.1:24224."
        )
    return host.strip("[]") or "127.0.0.1", int(port)
