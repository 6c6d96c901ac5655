"""Requests of scalers: TLS, logins, deadlines, and errors that hold no secret.

Used by the files beside this one. A client is made at the first request and kept until `close`.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import httpx

from pelton.autoscale.scalers.http_login import HttpLogin
from pelton.clock import Clock
from pelton.errors import ScalerError

__all__ = ["HttpSource", "tls_context"]

_LOCAL: Final = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}
"""Never through a proxy of the environment: a server on this machine is not reachable from there."""
_LARGEST: Final = 8 * 1024 * 1024
_EARLY_S: Final = 10.0


def tls_context(*, verify: bool, ca: str, certificate: str, key: str, where: str) -> ssl.SSLContext:
    """Return the TLS settings of PEM texts; "" for none.

    Raises:
        ScalerError: A text is no certificate, or no key.
    """
    try:
        context = ssl.create_default_context(cadata=ca or None)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate:
            # The library takes files alone; these are ours only, and gone at once.
            with tempfile.TemporaryDirectory(prefix="pelton-tls-") as directory:
                names = []
                for name, text in (("cert", certificate), ("key", key)):
                    path = Path(directory) / name
                    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                        file.write(text)
                    names.append(str(path))
                context.load_cert_chain(names[0], names[1])
    except (ssl.SSLError, ValueError) as error:
        raise ScalerError(
            "a certificate of the authentication cannot be used",
            where=where,
            hint="ca, cert and key have to be PEM texts, and key the one of cert",
        ) from error
    return context


class HttpSource:
    """Where one trigger's numbers are fetched.

    Args:
        login: What goes with every request.
        clock: Tells when a token has ended.
        where: For messages.
    """

    def __init__(self, login: HttpLogin, *, clock: Clock, where: str) -> None:
        self._login = login
        self._clock = clock
        self._where = where
        self._client: httpx.AsyncClient | None = None
        self._token = ("", 0.0)

    async def get(
        self, url: str, parameters: Mapping[str, str] | None = None, *, address: str = ""
    ) -> httpx.Response:
        """Return an answer of any status, its body read.

        Args:
            url: Whole.
            parameters: Put behind it, beside those of the login.
            address: Of the one server to ask, of several that the URL's host stands for; "" for any.

        Raises:
            ScalerError: There was none.
        """
        client = self._opened()
        headers = dict(self._login.headers)
        extensions: dict[str, Any] = {}
        target = httpx.URL(url)
        if address:
            headers.setdefault("Host", target.netloc.decode())
            extensions["sni_hostname"] = target.host
            target = target.copy_with(host=address)
        query = {**(parameters or {}), **self._login.query}
        if self._login.oauth:
            headers["Authorization"] = f"Bearer {await self._bearer(client)}"
        try:
            request = client.build_request(
                "GET", target.copy_merge_params(query), headers=headers, extensions=extensions
            )
            answer = await client.send(request, stream=True, follow_redirects=True)
            try:
                await self._read(answer)
            finally:
                await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._failed(url, error) from error
        return answer

    async def json(self, url: str, parameters: Mapping[str, str] | None = None) -> Any:
        """Return the JSON of an answer of status 2xx. Raises ScalerError."""
        answer = await self.get(url, parameters)
        if not answer.is_success:
            raise self.refused(url, answer)
        try:
            return answer.json()
        except ValueError as error:
            raise ScalerError(
                f"the answer of {_place(url)} is no JSON", where=self._where, hint="check the address"
            ) from error

    def refused(self, url: str, answer: httpx.Response) -> ScalerError:
        """Return the error for a status that is none of success."""
        hints = {401: "check the login", 403: "check what this login may do", 404: "check the address"}
        excerpt = " ".join(answer.text[:200].split())
        return ScalerError(
            f"{_place(url)} answered {answer.status_code}" + (f": {excerpt}" if excerpt else ""),
            where=self._where,
            hint=hints.get(answer.status_code, ""),
        )

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            login = self._login
            context = tls_context(
                verify=login.verify,
                ca=login.ca,
                certificate=login.certificate,
                key=login.key,
                where=self._where,
            )
            self._client = httpx.AsyncClient(
                verify=context, timeout=login.timeout_s, auth=login.basic, mounts=_LOCAL
            )
        return self._client

    async def _read(self, answer: httpx.Response) -> None:
        body = bytearray()
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > _LARGEST:
                raise ScalerError(
                    f"the answer has more than {_LARGEST // 1024 // 1024} MiB",
                    where=self._where,
                    hint="name an endpoint that answers with less",
                )
        answer._content = bytes(body)  # what aread() would set; it has no bound

    async def _bearer(self, client: httpx.AsyncClient) -> str:
        """Return a token of the client-credentials flow, asked for again shortly before it ends."""
        token, until = self._token
        if token and self._clock.monotonic() < until:
            return token
        oauth = self._login.oauth
        form = {"grant_type": "client_credentials", **dict(parse_qsl(oauth.get("endpointParams", "")))}
        if oauth.get("scopes"):
            form["scope"] = oauth["scopes"]
        url = oauth["tokenUrl"]
        try:
            answer = await client.post(url, data=form, auth=(oauth["clientID"], oauth["clientSecret"]))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._failed(url, error) from error
        if not answer.is_success:
            raise self.refused(url, answer)
        try:
            data = answer.json()
            token, lasts_s = str(data["access_token"]), float(data.get("expires_in") or 60)
        except (ValueError, KeyError, TypeError) as error:
            raise ScalerError(f"{_place(url)} gave no access_token", where=self._where) from error
        self._token = (token, self._clock.monotonic() + max(0.0, lasts_s - _EARLY_S))
        return token

    def _failed(self, url: str, error: Exception) -> ScalerError:
        slow = isinstance(error, httpx.TimeoutException)
        why = f"did not answer within {self._login.timeout_s:g} s" if slow else "was not reached"
        detail = "" if slow else f": {type(error).__name__}"
        return ScalerError(
            f"{_place(url)} {why}{detail}",
            where=self._where,
            hint="check that the address is right and can be reached from here",
        )


def _place(url: str) -> str:
    """Return scheme, host and port of a URL: the rest may hold secrets."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return "the address"
