"""`pelton up`: supervisor, API server and reconciler in one process; it starts and stops the others.

Wires `targets/local/supervisor`, `apiserver`, `controlplane/reconciler` and `targets/local/target`. Whoever
asks for the platform's state comes over up.sock (`pelton status`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uvloop

from pelton import log
from pelton.cli import cyclic_gc
from pelton.cli.announcement import announcement
from pelton.cli.home import MARKER, Endpoints, Home, Settings
from pelton.cli.ports_owner import claim
from pelton.clock import SystemClock
from pelton.dataplane import wire
from pelton.dataplane.link import Link
from pelton.errors import PeltonError, UsageError
from pelton.model.event_framework import EventPlan
from pelton.plan.aliases import NO_ALIASES, Aliases
from pelton.sdk.trace_export import endpoint_url
from pelton.targets.local import nats
from pelton.targets.local.supervisor import Part, Supervisor
from pelton.targets.local.target import LocalTarget

if TYPE_CHECKING:
    from pelton.cli.receivers import ConfigMaps, Secrets

__all__ = ["UpOptions", "up"]

_INHERITED: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "PYTHONPATH", "PELTON_ISOLATION", "PELTON_VISIBLE", "LD_LIBRARY_PATH",
)  # fmt: skip
_STOP_S: Final = 4.0
"""For stopping all parts; the promise is 5 s from SIGTERM to the exit."""

_DRAIN_S: Final = 2.0
"""For requests in flight to finish."""

_NOTIFICATION_MANAGER: Final = "notification-manager-svc"
"""The Service whose place the port for alerts takes; an alias like any other, which options may overrule."""

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What the command line asked for.

    Attributes:
        gateway, api: (host, port) pairs, port 0 for a free one.
        durability: `process` or `power`.
        tls: (host, port) of the gateway's port for TLS, or None.
        tls_cert, tls_key: PEM files shown where no Secret fits; "" for the platform's own certificate.
        access_log: `all`, `failures` or `off`.
        otlp_endpoint, otlp_headers: Where traces go, as OpenTelemetry's variables have it; "" for nowhere.
        external_scaler: Host and port where a KEDA elsewhere asks for values; None for nowhere.
        trace_percent: Share of requests and events that begin a trace when there is an endpoint.
        aliases: Host names that stand for other addresses, besides those of the home's file.
    """

    gateway: tuple[str, int]
    api: tuple[str, int]
    durability: str
    tls: tuple[str, int] | None = None
    tls_cert: str = ""
    tls_key: str = ""
    access_log: str = "failures"
    otlp_endpoint: str = ""
    otlp_headers: str = ""
    trace_percent: float = 100.0
    external_scaler: tuple[str, int] | None = None
    aliases: Aliases = NO_ALIASES


def up(home: Home, options: UpOptions) -> int:
    """Run the platform until SIGTERM or Ctrl-C; returns the exit code."""
    home.prepare()
    home.lock()
    log.setup("up", "WARNING" if sys.stderr.isatty() else "INFO")
    _sweep(home)
    try:
        options = replace(options, aliases=options.aliases.over(_aliases_of(home)))
        return uvloop.run(_Platform(home, options).run())
    finally:
        home.withdraw()
        home.unlock()


class _Platform:
    def __init__(self, home: Home, options: UpOptions) -> None:
        self._external_scaler = ""
        self._home = home
        self._options = options
        self._clock = SystemClock()
        self._secrets = home.secrets()
        self._run = home.run_directory()
        _clear(self._run)
        self._stop = asyncio.Event()
        self._endpoints: Endpoints | None = None
        self._node = Link(str(self._run / "node.sock"), name="node", clock=self._clock, on_up=self._node_up)
        self._runtime = Link(
            str(self._run / "runtime.sock"), name="runtime", clock=self._clock, on_up=self._runtime_up
        )
        self._target = LocalTarget(self._node, self._runtime)
        self._receivers: dict[str, Any] | None = None  # None: not known yet
        self._dapr: dict[str, Any] | None = None
        self._call_rules: dict[str, Any] | None = None
        self._events: dict[str, Any] | None = None  # as above
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment[MARKER] = home.tag
        self._supervisor = Supervisor(logs_dir=home.platform_logs, clock=self._clock, environment=environment)
        self._settings_path = ""
        self._held: list[socket.socket] = []

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        settings, api_socket = self._claim_ports()
        self._settings_path = str(settings.save())
        try:
            async with AsyncExitStack() as stack:
                started = loop.create_task(self._start(settings, api_socket, stack))
                stopped = loop.create_task(self._stop.wait())
                await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if started.done():
                    started.result()
                else:
                    started.cancel()
                    await asyncio.gather(started, return_exceptions=True)
                await stopped
                self._home.withdraw()
        finally:
            await self._stop_parts()
        return 0

    # -- starting --------------------------------------------------------------------------------------------

    def _claim_ports(self) -> tuple[Settings, socket.socket]:
        """Take the two public ports and choose the private ones; parts keep theirs over restarts."""
        state = self._home.state()
        api_socket = claim(*self._options.api, "--api")
        api_socket.listen(256)
        api_socket.setblocking(False)
        gateway = claim(*self._options.gateway, "--gateway")
        https = claim(*self._options.tls, "--tls") if self._options.tls else None
        chosen = {name: _private_port(state.get(name, 0)) for name in ("nats", "notify", "internal")}
        ports = {name: sock.getsockname()[1] for name, sock in chosen.items()}
        settings = Settings(
            home=str(self._home.path),
            run=str(self._run),
            gateway_host=self._options.gateway[0],
            gateway_port=gateway.getsockname()[1],
            nats_url=f"nats://pelton:{self._secrets['bus']}@127.0.0.1:{ports['nats']}",
            notify_host="127.0.0.1",
            notify_port=ports["notify"],
            durability=self._options.durability,
            internal_port=ports["internal"],
            https_host=self._options.tls[0] if self._options.tls else "127.0.0.1",
            https_port=https.getsockname()[1] if https else 0,
            tls_cert=str(Path(self._options.tls_cert).absolute()) if self._options.tls_cert else "",
            tls_key=str(Path(self._options.tls_key).absolute()) if self._options.tls_key else "",
            access_log=str(self._home.access_log),
            access_log_of=self._options.access_log,
            otlp_url=endpoint_url(self._options.otlp_endpoint) if self._options.otlp_endpoint else "",
            otlp_headers=self._options.otlp_headers,
            trace_percent=self._options.trace_percent if self._options.otlp_endpoint else 0.0,
            aliases={_NOTIFICATION_MANAGER: f"127.0.0.1:{ports['notify']}", **self._options.aliases.table},
        )
        # Bound, not listening, as long as we live: parts bind the same ports beside us (SO_REUSEADDR), and
        # nobody else is given one of them as a free port meanwhile, nor while a part is being restarted.
        self._held = [gateway, *chosen.values(), *([https] if https else [])]
        self._home.save_state({**state, **ports})
        return settings, api_socket

    async def _start(self, settings: Settings, api_socket: socket.socket, stack: AsyncExitStack) -> None:
        self._start_parts(settings)
        await stack.enter_async_context(self._node)
        await stack.enter_async_context(self._runtime)
        server = await wire.serve(str(self._run / "up.sock"), {"status": self._status}, name="status-client")
        stack.callback(server.close)
        api_url = await self._start_control_plane(settings, api_socket, stack)
        for name in ("nats", "zygote", "node", "envoy", "runtime"):
            await self._supervisor.wait_ready(name)
        rotating = asyncio.create_task(self._keep_access_log(), name="access-log")
        stack.callback(rotating.cancel)
        self._endpoints = Endpoints(
            gateway=_url("http", settings.gateway_host, settings.gateway_port),
            api=api_url,
            ca=str(self._home.pki / "ca.crt"),
            kubeconfig=str(self._home.kubeconfig),
            nats=settings.nats_url,
            notify=_url("http", settings.notify_host, settings.notify_port),
            pid=os.getpid(),
            internal=_url("http", "127.0.0.1", settings.internal_port),
            https=_url("https", settings.https_host, settings.https_port) if settings.https_port else "",
            aliases=settings.aliases,
            external_scaler=self._external_scaler,
        )
        cyclic_gc.rarely()
        self._home.publish(self._endpoints)
        # After the file: who reads these lines finds the platform.
        print(announcement(self._home, self._endpoints), end="", flush=True)

    def _start_parts(self, settings: Settings) -> None:
        config = self._run / "nats.conf"
        port = int(settings.nats_url.rpartition(":")[2])
        config.write_text(
            nats.config(
                port=port,
                user="pelton",
                password=self._secrets["bus"],
                store_dir=str(self._home.bus),
                durability=settings.durability,
            )
        )
        config.chmod(0o600)
        start = self._supervisor.start
        start(Part("nats", lambda: nats.command(str(config)), ready=lambda: _listening("127.0.0.1", port)))
        start(
            Part(
                "zygote",
                lambda: self._python("zygote", str(self._home.path), str(self._run)),
                ready=lambda: _socket_there(self._run / "zygote.sock"),
            )
        )
        start(Part("node", lambda: self._python("node"), ready=self._node.wait_up))
        start(
            Part(
                "envoy",
                self._envoy_command,
                ready=lambda: _listening(_dial(settings.gateway_host), settings.gateway_port),
                stop_timeout_s=1.0,
            )
        )
        start(Part("runtime", lambda: self._python("runtime"), ready=self._runtime.wait_up))

    def _python(self, module: str, *told: str) -> Sequence[str]:
        # -P: the directory that `up` was started in has no business on the parts' import path.
        return (sys.executable, "-P", "-m", f"pelton.cli.{module}", *(told or (self._settings_path,)))

    def _envoy_command(self) -> Sequence[str]:
        """Write the bootstrap and return Envoy's command; imported late, it is not needed to begin."""
        import json

        from pelton.targets.local.envoy import bootstrap, envoy_command

        path = self._run / "envoy.json"
        path.write_text(
            json.dumps(
                bootstrap(
                    xds_socket=str(self._run / "xds.sock"),
                    admin_socket=str(self._run / "admin.sock"),
                    collector=endpoint_url(self._options.otlp_endpoint)
                    if self._options.otlp_endpoint
                    else "",
                )
            )
        )
        path.chmod(0o600)
        return envoy_command(str(path), concurrency=max(1, min(2, os.cpu_count() or 1)))

    async def _start_control_plane(
        self, settings: Settings, api_socket: socket.socket, stack: AsyncExitStack
    ) -> str:
        """Open the store, serve the API, reconcile. Imports here overlap with the start of the parts."""
        from pelton.cli.control_plane import ControlPlane

        plane = ControlPlane(
            home=self._home,
            settings=settings,
            token=self._secrets["token"],
            target=self._target,
            clock=self._clock,
            receivers_changed=self._push_receivers,
            receiver_problems=lambda: self._runtime.call("problems", {}),
            rule_states=lambda: self._runtime.call("logRules", {}),
            event_counters=lambda: self._runtime.call("stats", {}),
            dapr_changed=self._push_dapr,
            events_changed=self._push_events,
            event_states=self._event_states,
            observe=lambda: self._status(None, {}),
        )
        url = await stack.enter_async_context(plane.serving(api_socket, self._options.api[0]))
        if self._options.external_scaler is not None:
            self._external_scaler = await stack.enter_async_context(
                plane.answering_keda(*self._options.external_scaler)
            )
        return url

    # -- bringing parts up to date ---------------------------------------------------------------------------

    async def _node_up(self, peer: wire.Peer) -> None:
        if self._call_rules is not None:
            await peer.call("dapr", self._call_rules, timeout=30)
        await peer.call("sync", self._target.snapshot(), timeout=120)

    async def _runtime_up(self, peer: wire.Peer) -> None:
        if self._receivers is not None:
            await peer.call("receivers", self._receivers, timeout=30)
        if self._dapr is not None:
            await peer.call("dapr", self._dapr, timeout=30)
        if self._events is not None:
            await peer.call("events", self._events, timeout=120)
        await peer.call("sync", self._target.snapshot(), timeout=120)

    async def _push_receivers(
        self, items: list[dict[str, Any]], secrets: Secrets, config_maps: ConfigMaps
    ) -> None:
        self._receivers = {"items": items, "secrets": secrets, "configMaps": config_maps}
        await self._runtime.call("receivers", self._receivers)

    async def _push_dapr(
        self, items: list[dict[str, Any]], secrets: list[tuple[str, str, dict[str, str]]]
    ) -> None:
        self._dapr = {"items": items, "secrets": secrets}
        from pelton.cli.dapr_resources import call_rules

        self._call_rules = {"rules": msgspec.to_builtins(call_rules(items))}
        await self._node.call("dapr", self._call_rules)
        await self._runtime.call("dapr", self._dapr)

    async def _push_events(self, plan: EventPlan) -> None:
        self._events = {"plan": msgspec.to_builtins(plan)}
        await self._runtime.call("events", self._events, timeout_s=120)

    async def _event_states(self) -> dict[str, dict[str, Any]]:
        answer: dict[str, dict[str, dict[str, Any]]] = await self._runtime.call(
            "event_states", {}, timeout_s=5
        )
        return answer["states"]

    # -- status ----------------------------------------------------------------------------------------------

    async def _status(self, _peer: wire.Peer | None, _body: Any) -> dict[str, Any]:
        parts = [{"name": "up", "pid": os.getpid(), "state": "running", "restarts": 0}]
        parts += [msgspec.to_builtins(part) for part in self._supervisor.observe()]
        stats = await _optional(self._node, "stats")
        events = await _optional(self._runtime, "stats")
        return {"parts": parts, "node": stats, "runtime": events}

    async def _keep_access_log(self) -> None:
        from pelton.targets.local import access_log
        from pelton.targets.local.envoy import reopen_logs

        admin = str(self._run / "admin.sock")
        await access_log.keep(self._home.access_log, lambda: reopen_logs(admin), self._clock)

    # -- stopping --------------------------------------------------------------------------------------------

    async def _stop_parts(self) -> None:
        """First what takes requests in, then what works on them, then what they rest on; under 5 s in all."""
        from pelton.targets.local.envoy import drain

        try:
            async with asyncio.timeout(_STOP_S):
                await drain(str(self._run / "admin.sock"), timeout_s=_DRAIN_S)
                await self._supervisor.stop(["envoy"])
                await asyncio.gather(self._supervisor.stop(["runtime"]), self._supervisor.stop(["node"]))
                await self._supervisor.stop(["zygote"])
                await self._supervisor.stop(["nats"])
        except TimeoutError:
            _log.warning("not all parts ended within %g s; what is left is killed", _STOP_S)
            await self._supervisor.kill()
        shutil.rmtree(self._run, ignore_errors=True)


def _aliases_of(home: Home) -> Aliases:
    """Read the home's file of aliases, if there is one; raises UsageError."""
    try:
        text = home.aliases_file.read_text()
    except FileNotFoundError:
        return NO_ALIASES
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{home.aliases_file} cannot be read: {exc}") from exc
    return Aliases.parse(text, where=str(home.aliases_file))


async def _optional(link: Link, op: str) -> dict[str, Any]:
    if not link.connected:
        return {}
    try:
        answer: dict[str, Any] = await link.call(op, {}, timeout_s=2)
    except PeltonError:
        return {}
    return answer


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{_dial(host)}]' if ':' in host else _dial(host)}:{port}"


def _dial(host: str) -> str:
    """Return the address to connect to for an address that was bound."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _private_port(preferred: int) -> socket.socket:
    """Take a loopback port that only parts use: the last run's if it is free."""
    for port in (preferred, 0):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            return sock
        except OSError:
            sock.close()
    raise PeltonError("no free port on 127.0.0.1")


async def _listening(host: str, port: int) -> None:
    while True:
        try:
            _reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.01)
            continue
        writer.close()
        return


async def _socket_there(path: Path) -> None:
    while True:
        try:
            _reader, writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            await asyncio.sleep(0.01)
            continue
        writer.close()
        return


def _clear(run: Path) -> None:
    """Remove what an earlier run left in the run directory; nobody uses it, the home is locked."""
    for path in [*run.glob("*.*"), *run.glob("w/*")]:
        path.unlink(missing_ok=True)


def _sweep(home: Home) -> None:
    """Kill what an earlier platform left behind; without a PID namespace grandchildren may live on."""
    marker = f"{MARKER}={home.tag}".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if marker in (process / "environ").read_bytes().split(b"\0"):
                _log.warning("killing pid %s, left behind by an earlier run", process.name)
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue
