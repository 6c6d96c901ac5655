"""How scalers that ask over HTTP log in: basic, bearer, TLS, custom header, API key; what they share.

Read by `prometheus.py` and `metrics_api.py` beside this file, carried out by `drivers/scalers/http.py`. Pure.

Source: contracts, autoscaling sections 4.6 and 4.10.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.autoscale.scalers.parameters import HTTP_TIMEOUT_S, Parameters

__all__ = ["HttpLogin", "read_api_key_login", "read_login", "read_oauth"]

_EXCLUSIVE = ("basic", "bearer", "oauth")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLogin:
    """What goes with every request.

    Attributes:
        headers: Name -> value. May be secret.
        query: Name -> value, put behind the URL. May be secret.
        basic: User and password, or None. Secret.
        verify: Whether the server's certificate is checked.
        ca, certificate, key: PEM; "" for none.
        timeout_s: Of a request, seconds.
        oauth: `tokenUrl`, `clientID`, `clientSecret`, `scopes`, `endpointParams` (as in a query) for a token
            to ask for; empty for none.
    """

    headers: dict[str, str] = field(default_factory=dict, repr=False)
    query: dict[str, str] = field(default_factory=dict, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    verify: bool = True
    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)
    timeout_s: float = HTTP_TIMEOUT_S
    oauth: dict[str, str] = field(default_factory=dict, repr=False)


def read_login(found: Parameters, *, headers: dict[str, str] | None = None) -> HttpLogin:
    """Read `authModes` (or `authMode`) of a trigger; problems are left in `found`.

    Args:
        found: The trigger's parameters.
        headers: Others that the trigger asks for.
    """
    modes = found.items("authModes", "authMode")
    known = ("basic", "bearer", "tls", "custom", "oauth")
    for mode in modes:
        if mode not in known:
            found.refuse(f'authModes has "{mode}"; there are: {", ".join(known)}')
    if sum(mode in _EXCLUSIVE for mode in modes) > 1:
        found.refuse("authModes may have one of basic, bearer and oauth")
    return _made(found, modes, dict(headers or {}), {})


def read_api_key_login(found: Parameters) -> HttpLogin:
    """Read the authentication of a metrics-api trigger; problems are left in `found`."""
    modes = found.items("authMode", "authModes")
    known = ("apiKey", "basic", "tls", "bearer")
    for mode in modes:
        if mode not in known:
            found.refuse(f'authMode has "{mode}"; it must be one of: {", ".join(known)}')
    if sum(mode in _EXCLUSIVE for mode in modes) > 1:
        found.refuse("authMode may have one of basic and bearer")
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    if "apiKey" in modes:
        value = found.required("apiKey")
        if found.choice("method", "header", "header", "query") == "query":
            query[found.text("keyParamName", default="api_key")] = value
        else:
            headers[found.text("keyParamName", default="X-API-KEY")] = value
    return _made(found, modes, headers, query)


def read_oauth(found: Parameters) -> dict[str, str]:
    """Read the client that asks for tokens; problems are left in `found`."""
    return {
        "tokenUrl": found.required("oauthTokenURI"),
        "clientID": found.required("clientID"),
        "clientSecret": found.required("clientSecret"),
        "scopes": found.text("scopes", "scope").replace(",", " "),
        "endpointParams": found.text("endpointParams"),
    }


def _made(
    found: Parameters, modes: tuple[str, ...], headers: dict[str, str], query: dict[str, str]
) -> HttpLogin:
    basic: tuple[str, str] | None = None
    oauth: dict[str, str] = {}
    certificate = key = ""
    if "basic" in modes:
        basic = (found.required("username"), found.text("password"))
    if "bearer" in modes:
        headers["Authorization"] = f"Bearer {found.required('bearerToken', 'token')}"
    if "custom" in modes:
        headers[found.required("customAuthHeader")] = found.required("customAuthValue")
    if "oauth" in modes:
        oauth = read_oauth(found)
    if "tls" in modes:
        certificate, key = found.required("cert"), found.required("key")
    return HttpLogin(
        headers={name: value for name, value in headers.items() if name},
        query=query,
        basic=basic,
        verify=not found.flag("unsafeSsl"),
        ca=found.text("ca"),
        certificate=certificate,
        key=key,
        timeout_s=found.seconds("timeout", HTTP_TIMEOUT_S),
        oauth=oauth,
    )
