"""WebSocket for ASGI applications: uvicorn's protocol takes over the worker's connection.

Called by `compat/asgi.py`. uvicorn and wsproto are Pelton's own (`sdk/borrowed.py`) and cost 50 to 90 ms to
import, so that only functions pay that can need it: while their code loads when it speaks of WebSockets, else
at the first handshake.
Source: uvicorn, the hand-over in `uvicorn/protocols/http/httptools_impl.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pelton.model.invocation import Invocation
from pelton.sdk.asgi import Engine
from pelton.sdk.borrowed import borrow

__all__ = ["load", "mentioned", "upgrader"]

_TOPS: Final = ("uvicorn", "wsproto", "h11", "click", "typing_extensions", "colorama", "dotenv", "yaml")
_WORDS: Final = (b"websocket", b"socketio", b"engineio", b"strawberry", b"ariadne", b"nicegui", b"gradio")
_MOST_FILES: Final = 500


def mentioned(folder: str) -> bool:
    """Return whether a source directory's code speaks of WebSockets, or of a package that serves them."""
    import os

    seen = 0
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__")) and name != "node_modules"]
        for name in files:
            if not name.endswith(".py"):
                continue
            seen += 1
            if seen > _MOST_FILES:
                return False
            try:
                with open(f"{place}/{name}", "rb") as file:  # noqa: PTH123 -- pathlib costs a worker 8 ms of imports
                    text = file.read(1024 * 1024).lower()
            except OSError:
                continue
            if any(word in text for word in _WORDS):
                return True
    return False


def load() -> Any:
    """Return uvicorn's modules (config, protocol, server), importing them where that has not happened."""
    return borrow("uvicorn.config", "uvicorn.protocols.websockets.wsproto_impl", "uvicorn.server", tops=_TOPS)


def upgrader(engine: Engine) -> Callable[[Invocation, Any, bytes], Any]:
    """Return a LoadedFunction's `upgrade` for an application."""
    made: list[Any] = []

    def upgrade(invocation: Invocation, transport: Any, rest: bytes) -> Any:
        if (invocation.header(b"upgrade") or b"").lower() != b"websocket":
            return None
        if not made:
            config_module, protocol_module, server_module = load()
            # Read at most once per process: limits and keep-alive are uvicorn's defaults.
            config = config_module.Config(
                _of_gateway(engine.app), log_config=None, lifespan="off", ws="wsproto", interface="asgi3"
            )
            config.loaded_app = config.app
            config.loaded = True
            made.extend((config, protocol_module.WSProtocol, server_module.ServerState()))
        config, protocol_class, state = made
        protocol = protocol_class(config=config, server_state=state, app_state=engine.state)
        protocol.connection_made(transport)
        # What the gateway says about the client; the socket's own addresses are the gateway's.
        protocol.client = (invocation.client, 0) if invocation.client else None
        protocol.scheme = "wss" if invocation.scheme == "https" else "ws"
        protocol.data_received(_head(invocation) + rest)
        return protocol

    return upgrade


def _head(invocation: Invocation) -> bytes:
    """Return the request as it came, for a protocol that parses it itself.

    Only `connection` is written anew: several of them are one list (the activator adds its own), and wsproto
    reads the last one only.
    """
    lines = [b"%s %s HTTP/1.1" % (invocation.method.encode(), invocation.target), b"connection: Upgrade"]
    lines += [b"%s: %s" % header for header in invocation.headers if header[0] != b"connection"]
    return b"\r\n".join([*lines, b"", b""])


def _of_gateway(app: Any) -> Any:
    """Give the application the path prefix that the gateway took off, as its HTTP scopes have it."""

    async def prefixed(scope: Any, receive: Any, send: Any) -> None:
        for name, value in scope["headers"]:
            if name == b"x-forwarded-prefix":
                root = value.decode("latin-1").rstrip("/")
                scope["root_path"] = root
                scope["path"] = root + scope["path"]
                scope["raw_path"] = root.encode("latin-1") + scope["raw_path"]
        await app(scope, receive, send)

    return prefixed
