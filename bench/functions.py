"""The same function behind the same Envoy: a Pelton worker against the function's own framework.

One Envoy with a static file leads to every server by path, so all have the same way in: Pelton's workers as
the platform started them (their unix sockets), the frameworks as their own command lines start them (their
TCP ports). Servers have one CPU, Envoy and the load the other. CPU per request counts the server's processes
only and is the ratio that does not depend on what Envoy and the load can take: on two CPUs these two are
what limits Pelton's workers, which the note beside the requests shows. So the functions are also asked
without Envoy, straight at their sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from bench.load import Address, Refused, ask, load, quantile
from bench.machine import cpu_s, cpus, descendants, free_port, pin, pinned
from bench.peers import PEERS, PeerError, serving, until_answering, write_function
from bench.platform import Platform, function, platform
from bench.table import Row, spread
from pelton.targets.local.envoy import bootstrap, envoy_command

CONNECTIONS = 32
_NAMED = ("gcf", "openfunction")
"""Conventions whose function is called `hello` here; the others find theirs."""
ROUNDS = 4
TURN_S = 0.6
DIRECT_ROUNDS = 3

_GCF_PLAIN = """
    def hello(request):
        return "Hello, world!\\n"
"""
_GCF_FLASK = """
    import flask


    def hello(request):
        assert isinstance(request, flask.Request)
        return f"Hello, {request.args.get('name', 'world')}!\\n"
"""
_OFN_PLAIN = """
    from functions_framework.context.user_context import UserContext


    def hello(context: UserContext):
        return "Hello, world!\\n"
"""
_OFN_FLASK = """
    import flask
    from functions_framework.context.user_context import UserContext


    def hello(context: UserContext):
        request = context.get_http_request()
        assert isinstance(getattr(request, "_get_current_object", lambda: request)(), flask.Request)
        return f"Hello, {request.args.get('name', 'world')}!\\n"
"""
_FUNC = {
    "func.yaml": "specVersion: 0.36.0\nname: hello\nruntime: python\n",
    "function/__init__.py": "from .func import new\n",
    "function/func.py": """
        def new():
            return Function()


        class Function:
            async def handle(self, scope, receive, send):
                headers = [(b"content-type", b"text/plain"), (b"content-length", b"14")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": b"Hello, world!\\n"})
    """,
}
"""With its length: hypercorn would answer in chunks, which the load cannot count."""


@dataclass
class Contest:
    """One function, served by Pelton and by its own framework.

    Attributes:
        name: Of the rows.
        peer: Key of PEERS.
        convention: Of Pelton.
        code: Of main.py, or files by name.
        direct: Turns without Envoy, ours and theirs; empty where the peer closes connections.
        times: How many times better than the peer ours has to be; 0 where nothing is promised.
        why: Why the peer has no figures, if so.
    """

    name: str
    peer: str
    convention: str
    code: str | Mapping[str, str]
    times: int
    ours: Measured = field(default_factory=lambda: Measured())
    theirs: Measured = field(default_factory=lambda: Measured())
    why: str = ""
    direct: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))

    @property
    def slug(self) -> str:
        """Name of the Function and of the route."""
        return self.name.lower().replace(" ", "-").replace(",", "").replace(".", "-")


@dataclass
class Measured:
    """What the turns of one server showed; `busy` is the share of its CPU it used."""

    pids: list[int] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)


def rows() -> list[Row]:
    """Measure and return the lines for a table; about a minute, and the installs of a first run."""
    contests = [
        Contest("gcf function", "functions-framework", "gcf", _GCF_PLAIN, 10),
        Contest("gcf function, flask.Request", "functions-framework", "gcf", _GCF_FLASK, 3),
        Contest("ofn function", "ofn-functions-framework", "openfunction", _OFN_PLAIN, 10),
        Contest("ofn function, flask.Request", "ofn-functions-framework", "openfunction", _OFN_FLASK, 3),
        Contest("func function", "func-python", "knative-func", _FUNC, 0),
    ]
    uvloop.run(_measure(contests))
    return [row for contest in contests for row in _rows(contest)]


def _rows(contest: Contest) -> list[Row]:
    ours, theirs, times = contest.ours, contest.theirs, contest.times
    median = statistics.median
    busy = f"server's CPU {100 * median(ours.busy):.0f} % busy"
    if contest.why:
        busy = f"no peer: {contest.why}"
    elif theirs.per_s:
        busy += f", the peer's {100 * median(theirs.busy):.0f} %"
    direct = []
    if all(contest.direct):
        mine, other = contest.direct
        name = f"{contest.name}, without Envoy: requests"
        direct.append(Row(name, median(mine), median(other), "1/s", "", spread(mine, other)))
    return [
        Row(
            f"{contest.name}: requests",
            median(ours.per_s),
            median(theirs.per_s) if theirs.per_s else None,
            "1/s",
            f">= {times}" if times else "",
            spread(ours.per_s, theirs.per_s),
            busy,
        ),
        Row(
            f"{contest.name}: CPU",
            median(ours.cpu_us),
            median(theirs.cpu_us) if theirs.cpu_us else None,
            "us/request",
            f"<= {1 / times:.3f}" if times else "",
            spread(ours.cpu_us, theirs.cpu_us),
        ),
        *(
            Row(
                f"{contest.name}: p{share * 100:.0f}",
                quantile(ours.latencies_s, share) * 1e3,
                quantile(theirs.latencies_s, share) * 1e3 if theirs.latencies_s else None,
                "ms",
                f"<= {1 / times:.3f}" if times and share > 0.5 else "",
            )
            for share in (0.5, 0.99)
        ),
        *direct,
    ]


async def _measure(contests: list[Contest]) -> None:
    servers, rest = cpus()
    with pinned(rest):
        async with contextlib.AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pb-")))
            here = await stack.enter_async_context(platform())
            await _deploy(here, contests)
            addresses: dict[str, Address] = {}
            for contest in contests:
                instance = (await here.workers())[contest.slug][0]
                contest.ours.pids = [instance["pid"]]
                addresses[f"ours-{contest.slug}"] = here.socket_of(instance["id"])
                source = write_function(folder / contest.slug, contest.code)
                try:
                    pid, address = await stack.enter_async_context(
                        serving(PEERS[contest.peer], source, "hello", request("peer"))
                    )
                except PeerError as exc:
                    contest.why = str(exc)
                    continue
                contest.theirs.pids = descendants(pid)
                addresses[f"peer-{contest.slug}"] = address
            for contest in contests:
                pin([*contest.ours.pids, *contest.theirs.pids], servers)
            port = await stack.enter_async_context(envoy(folder, addresses))
            for contest in contests:
                await _take_turns(contest, port)
                if f"peer-{contest.slug}" in addresses:
                    await _take_direct_turns(contest, addresses)


async def _deploy(here: Platform, contests: list[Contest]) -> None:
    await here.deploy(
        [
            function(
                contest.slug,
                write_function(here.root / contest.slug, contest.code),
                convention=contest.convention,
                target="hello" if contest.convention in _NAMED else "",
                min_replicas=1,
            )
            for contest in contests
        ],
        timeout_s=180,
    )
    async with asyncio.timeout(20):
        while sum(map(bool, (await here.workers()).values())) < len(contests):
            await asyncio.sleep(0.1)


async def _take_turns(contest: Contest, port: int) -> None:
    sides = [(contest.ours, f"ours-{contest.slug}")]
    if not contest.why:
        sides.append((contest.theirs, f"peer-{contest.slug}"))
    for turn in range(ROUNDS + 1):
        for measured, name in sides if turn % 2 else sides[::-1]:
            address = ("127.0.0.1", port)
            size = len(await ask(address, request(name)))
            before = cpu_s(*measured.pids)
            try:
                done = await load(address, request(name), seconds=TURN_S, connections=CONNECTIONS, size=size)
            except Refused as exc:
                contest.why = str(exc)
                return
            if turn == 0:
                continue  # warm-up
            cpu = cpu_s(*measured.pids) - before
            measured.per_s.append(done.per_s)
            measured.cpu_us.append(cpu / len(done.latencies_s) * 1e6)
            measured.busy.append(cpu / done.seconds)
            measured.latencies_s.extend(done.latencies_s)


async def _take_direct_turns(contest: Contest, addresses: dict[str, Address]) -> None:
    for turn in range(DIRECT_ROUNDS * 2):
        address = addresses[f"{('ours', 'peer')[turn % 2]}-{contest.slug}"]
        asked = request("direct")
        answer = await ask(address, asked)
        if b"\nconnection: close" in answer.lower():
            return
        done = await load(address, asked, seconds=TURN_S, connections=CONNECTIONS, size=len(answer))
        contest.direct[turn % 2].append(done.per_s)


def request(server: str) -> bytes:
    """Return a request that Envoy leads to one of the servers."""
    return (
        f"GET /{server}/hello?name=world HTTP/1.1\r\nhost: hello.default.localhost\r\n"
        "user-agent: bench/1\r\naccept: */*\r\n\r\n"
    ).encode()


@contextlib.asynccontextmanager
async def envoy(folder: Path, addresses: dict[str, Address]) -> Any:
    """Run an Envoy of one thread that leads /<name>/ to each address; yields its port."""
    port = free_port()
    config = static_config(port, str(folder / "admin.sock"), addresses)
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    log = folder / "envoy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            envoy_command(str(path), concurrency=1),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await until_answering(process, ("127.0.0.1", port), request(next(iter(addresses))), log)
        yield port
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)


def static_config(port: int, admin: str, addresses: dict[str, Address]) -> dict[str, Any]:
    """Return an Envoy configuration: one listener, one cluster and one prefix route per address.

    The first address also gets what no prefix matches. Statistics, headers and options are those of Pelton's
    own gateway, so that a comparison shows what being dynamic costs and nothing else.
    """
    prefix = "type.googleapis.com/envoy.extensions.filters"
    router = {
        "@type": f"{prefix}.http.router.v3.Router",
        "dynamic_stats": False,
        "suppress_envoy_headers": True,
    }
    routes = [
        {"match": {"prefix": f"/{name}/"}, "route": {"cluster": name, "timeout": "60s"}} for name in addresses
    ]
    routes.append({"match": {"prefix": "/"}, "route": {"cluster": next(iter(addresses))}})
    manager = {
        "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    ours = bootstrap(xds_socket="", admin_socket=admin)
    return {
        **{key: ours[key] for key in ("admin", "overload_manager", "stats_config", "stats_flush_on_admin")},
        "static_resources": {
            "listeners": [
                {
                    "name": "gateway",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [_cluster(name, address) for name, address in addresses.items()],
        },
    }


def _cluster(name: str, address: Address) -> dict[str, Any]:
    if isinstance(address, str):
        where: dict[str, Any] = {"pipe": {"path": address}}
    else:
        where = {"socket_address": {"address": address[0], "port_value": address[1]}}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": where}}]}],
        },
    }
