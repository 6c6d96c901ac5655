"""Programs at the gateway: what the node is told, whose their ports are, and the runtime's second tries."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from pelton.cli.dapr_platform import DaprPlatform
from pelton.cli.dapr_settings import AppSettings
from pelton.compat.dapr.apps import App, AppHealth
from pelton.errors import PeltonError, PortInUseError
from tests.unit.cli.dapr_platforms import bare


class Node:
    """Stands for the node: listens at the ports of callers, as the gateway would."""

    def __init__(self, *, why: str = "", away: bool = False) -> None:
        self.why = why
        self.away = away
        self.told: dict[str, Any] = {}
        self._servers: dict[str, socket.socket] = {}

    async def tell(self, programs: dict[str, Any]) -> dict[str, Any]:
        """Take the programs."""
        if self.away:
            raise PeltonError("the node process did not answer")
        self.told = programs
        listed = {one["name"]: one for one in programs["callers"]}
        for name in [name for name in self._servers if name not in listed]:
            self._servers.pop(name).close()
        for name, one in listed.items():
            if not self.why and name not in self._servers:
                self._servers[name] = socket.create_server((one["host"], one["port"]))
        return {"refused": dict.fromkeys(listed, self.why) if self.why else {}, "connected": True}

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers.values():
            server.close()


class Peer:
    """A connection of `pelton dapr run`."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def note(self, *_: Any) -> None:
        """Take what nobody looks at here."""


@asynccontextmanager
async def platform(folder: Path, node: Node) -> AsyncIterator[DaprPlatform]:
    served = bare(folder, tell=node.tell)
    try:
        async with served, asyncio.timeout(20):
            yield served
    finally:
        node.close()


async def join(served: DaprPlatform, peer: Peer, app: App, **changes: Any) -> dict[str, Any]:
    settings = AppSettings(app=app, ask=False, **changes)
    return await served.join(cast(Any, peer), msgspec.to_builtins(settings))


async def request(port: int | str, head: str, body: str = "") -> tuple[str, str]:
    """Return the status line and the body of an answer."""
    opened = (
        asyncio.open_connection("127.0.0.1", port)
        if isinstance(port, int)
        else asyncio.open_unix_connection(port)
    )
    reader, writer = await opened
    writer.write(f"{head}\r\nhost: h\r\nconnection: close\r\n\r\n{body}".encode())
    found = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    first, _, rest = found.partition("\r\n\r\n")
    return first.partition("\r\n")[0], rest


async def test_join_tells_the_node_who_calls_and_who_is_called_until_the_program_ends(tmp_path: Path) -> None:
    node, peer = Node(), Peer()
    app = App(app_id="p", port=18_000, api_token="mine", app_token="theirs")
    async with platform(tmp_path, node) as served:
        found = await join(served, peer, app)
        (caller,), (called,) = node.told["callers"], node.told["called"]

        assert (caller["port"], caller["app_id"], caller["token"], caller["direct"]) == (
            found["http"],
            "p",
            "mine",
            True,
        )
        assert caller["inner"] not in (0, found["http"])
        assert (called["app_id"], called["token"]) == ("p", "theirs")
        assert called["endpoints"] == ({"host": "127.0.0.1", "port": 18_000},)
        assert Path(called["fallback"]).is_socket()

        peer.closed.set()
        while node.told["callers"]:
            await asyncio.sleep(0)
        assert node.told["called"] == []
        while Path(called["fallback"]).exists():
            await asyncio.sleep(0)


async def test_join_further_program_of_an_app_has_a_port_of_its_own_and_is_called_in_turn(
    tmp_path: Path,
) -> None:
    node, first, second = Node(), Peer(), Peer()
    async with platform(tmp_path, node) as served:
        one = await join(served, first, App(app_id="p", port=18_000))
        two = await join(served, second, App(app_id="p", port=18_001))

        assert {each["port"] for each in node.told["callers"]} == {one["http"], two["http"]}
        assert [each["port"] for each in node.told["called"][0]["endpoints"]] == [18_000, 18_001]
        first.closed.set()
        while len(node.told["callers"]) > 1:
            await asyncio.sleep(0)
        assert [each["port"] for each in node.told["called"][0]["endpoints"]] == [18_001]


@pytest.mark.parametrize(
    "app",
    [
        App(app_id="p"),
        App(app_id="p", port=18_000, protocol="grpc"),
        App(app_id="p", port=18_000, protocol="h2c"),
        App(app_id="p", port=18_000, address="app.example"),
        App(app_id="p", port=18_000, max_concurrency=1),
        App(app_id="p", port=18_000, health=AppHealth(interval_s=100.0)),
    ],
)
async def test_join_program_that_needs_the_runtime_is_not_called_past_it(tmp_path: Path, app: App) -> None:
    node = Node()
    async with platform(tmp_path, node) as served:
        await join(served, Peer(), app)

        assert (len(node.told["callers"]), node.told["called"]) == (1, [])


async def test_join_programs_that_are_shown_different_tokens_are_called_by_the_runtime(
    tmp_path: Path,
) -> None:
    node = Node()
    async with platform(tmp_path, node) as served:
        await join(served, Peer(), App(app_id="p", port=18_000, app_token="a"))
        await join(served, Peer(), App(app_id="p", port=18_001, app_token="b"))

        assert node.told["called"] == []


@pytest.mark.parametrize("node", [Node(why="address in use"), Node(away=True)])
async def test_join_where_the_gateway_does_not_listen_the_runtime_does(
    tmp_path: Path, node: Node, caplog: Any
) -> None:
    async with platform(tmp_path, node) as served:
        found = await join(served, Peer(), App(app_id="p"))

        status, _ = await request(found["http"], "GET /v1.0/metadata HTTP/1.1")
        assert status == "HTTP/1.1 200 OK"
        assert not node.told.get("callers")
    assert "the runtime has the port" in caplog.text


async def test_join_port_of_somebody_else_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    node = Node(why="address in use")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with platform(tmp_path, node) as served:
            with pytest.raises(PortInUseError):
                await join(served, Peer(), App(app_id="p", port=18_000), http=taken.getsockname()[1])

            while node.told != {"callers": [], "called": []}:
                await asyncio.sleep(0)
            assert served._main.find("default/p") is None


async def test_second_try_is_made_by_the_runtime_for_the_caller(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    node = Node()
    async with platform(tmp_path, node) as served:
        await join(served, Peer(), App(app_id="p", port=port))
        await join(served, Peer(), App(app_id="c"))
        path = node.told["called"][0]["fallback"]
        told = "dapr-caller-app-id: {}\r\ndapr-caller-namespace: default\r\nx-forwarded-for: 10.1.2.3"

        status, body = await request(path, f"GET /v1.0/x?y=1 HTTP/1.1\r\n{told.format('c')}")
        unknown, _ = await request(path, f"GET /x HTTP/1.1\r\n{told.format('nobody')}")
        server.close()

    assert (status, body) == ("HTTP/1.1 200 OK", "hi")
    (head,) = seen
    assert head.startswith(b"GET /v1.0/x?y=1 HTTP/1.1\r\n")
    assert b"dapr-caller-app-id: c\r\n" in head
    assert b"x-forwarded-for: 10.1.2.3\r\n" in head
    assert unknown.startswith("HTTP/1.1 503")


async def test_second_try_that_is_refused_is_told_as_dapr_tells_it(tmp_path: Path) -> None:
    node = Node()
    async with platform(tmp_path, node) as served:
        await join(served, Peer(), App(app_id="p", port=18_000))
        caller = App(app_id="c", body_limit_bytes=10)
        await join(served, Peer(), caller)
        path = node.told["called"][0]["fallback"]
        lines = "dapr-caller-app-id: c\r\ndapr-caller-namespace: default\r\ncontent-length: 11"

        status, body = await request(path, f"POST /x HTTP/1.1\r\n{lines}", "x" * 11)

    assert status.startswith("HTTP/1.1 413")
    assert json.loads(body)["errorCode"] == "ERR_DIRECT_INVOKE"
