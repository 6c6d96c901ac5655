"""The control plane inside `up`: store, API server, reconciler, wired together.

Apart from `cli/up.py` because importing all of this takes a third of a second, which passes while the other
processes start.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from pelton import __version__
from pelton.apiserver import certificates
from pelton.apiserver.rest import create_app
from pelton.apiserver.serving import ApiServer
from pelton.apiserver.store import SqliteStore
from pelton.cli.home import Home, Settings
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.clock import Clock
from pelton.controlplane.reconciler import Reconciler
from pelton.log import get
from pelton.manifest import kinds
from pelton.targets.local.target import LocalTarget

if TYPE_CHECKING:
    from pelton.ports import Store

__all__ = ["ControlPlane"]

_log = get(__name__)
