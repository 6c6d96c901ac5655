"""Where apps of Dapr reach the runtime: three ports for each, the same over restarts, and a token.

Kept in the home's state file, since a running instance has them in its environment. The token comes of the
platform's own secret and the app's name. Used by `cli/control_plane.py` for Functions that are apps.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
from contextlib import ExitStack
from typing import Any, Final

from pelton.cli.home import Home
from pelton.model.dapr_app import DaprPorts
from pelton.model.function import Function
from pelton.plan.dapr_app import is_enabled

__all__ = ["AppPortBook"]

_KEY: Final = "dapr"
_FIRST: Final = 13_500
_LAST: Final = 29_499
"""Below the ports that the kernel gives to clients, where a port could become somebody's near end."""


class AppPortBook:
    """Gives out ports.

    Args:
        home: Whose state file keeps them.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._secret = home.secrets()["bus"].encode()
        given: Any = home.state().get(_KEY)
        self._given: dict[str, list[int]] = dict(given) if isinstance(given, dict) else {}

    def of(self, function: Function) -> DaprPorts | None:
        """Return a Function's ports, new ones where it has none; None where it is no app."""
        if not is_enabled(function):
            return None
        key = function.key
        found = self._given.get(key)
        if found is None or len(found) != 3:
            taken = {port for pair in self._given.values() for port in pair}
            found = self._given[key] = _free(3, taken, begin=int(self._home.tag, 16))
            self._home.save_state({**self._home.state(), _KEY: self._given})
        token = hmac.new(self._secret, f"dapr {key}".encode(), hashlib.sha256).hexdigest()
        return DaprPorts(http=found[0], grpc=found[1], inner=found[2], token=token)


def _free(count: int, taken: set[int], *, begin: int) -> list[int]:
    """Return free ports; each home begins elsewhere, so that platforms in turn do not give out the same."""
    found: list[int] = []
    span = _LAST - _FIRST + 1
    for step in range(span):
        port = _FIRST + (begin + step) % span
        if port in taken:
            continue
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    with ExitStack() as stack:  # the range is full: any that are free
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]
