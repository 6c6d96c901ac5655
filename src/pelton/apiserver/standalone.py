"""The API server alone, for operators and controllers that are tried against it.

No function runs and no gateway listens. `cli/api.py` and `testing/api_server.py` enter it around a store
that is open; it brings certificates, a token and a kubeconfig, everything else is the API of the whole
platform. Objects of Deployments, Jobs and Functions are kept and checked, not carried out.
"""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pelton.apiserver import certificates
from pelton.apiserver.calls import User
from pelton.apiserver.certificates import Certificates
from pelton.apiserver.registry import Row
from pelton.apiserver.server import ApiServer
from pelton.apiserver.service import ApiService
from pelton.apiserver.store import ObjectStore
from pelton.apiserver.tokens import fixed
from pelton.clock import Clock

__all__ = ["Standalone"]

_ADMINS = ("system:masters", "system:authenticated")


class Standalone:
    """Serves the API over HTTPS while its context is entered.

    Args:
        store: Open; closed by the caller.
        directory: Gets `kubeconfig` and `pki/` (ca.crt, tls.crt, tls.key for localhost).
        sock: Bound; closed on leaving.
        rows: Kinds besides the built-in ones.
        version: Version of Pelton.
        host: Name or address that clients use, besides those of localhost.
        clock: Time.
        log: For failures that are ours.

    Attributes:
        url: Where it listens, once entered.
        token: Bearer token of the administrator.
        kubeconfig: The file that clients read.
        certificates: Authority, certificate and key; webhooks on this machine may serve with them.
    """

    def __init__(
        self,
        store: ObjectStore,
        directory: Path,
        sock: socket.socket,
        *,
        rows: Iterable[Row],
        version: str,
        host: str,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self.token = secrets.token_urlsafe(32)
        self.kubeconfig = directory / "kubeconfig"
        self.certificates: Certificates = certificates.ensure(
            directory / "pki", hosts=[host], now=clock.now()
        )
        self.url = ""
        self._sock = sock
        self._service = ApiService(
            store,
            rows,
            authenticate=fixed({self.token: User(name="kubernetes-admin", groups=_ADMINS)}),
            version=version,
            log=log,
            clock=clock,
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        files = self.certificates
        async with self._stack as stack:
            await stack.enter_async_context(self._service)
            server = await stack.enter_async_context(
                ApiServer(self._service.app, self._sock, files.cert, files.key)
            )
            self.url = server.url
            text = certificates.kubeconfig(server=server.url, ca_pem=files.ca.read_bytes(), token=self.token)
            certificates.write_private(self.kubeconfig, text.encode())
            self._stack = stack.pop_all()  # what was entered stays so, unless one of these lines failed
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()
