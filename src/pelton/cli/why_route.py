"""`pelton why route URL`: the rule that a request would meet, and why no other rule does.

No request is made: the node is asked, which answers from the same table that Envoy was given
(`cli/node_gateway`, `plan/routing`). Works for every port of the gateway; an address of another machine is
taken to mean this one's gateway.
"""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from shutil import get_terminal_size
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from pelton.cli.home import Endpoints, Home
from pelton.cli.printing import print_columns, to_yaml
from pelton.dataplane import wire
from pelton.errors import NotRunningError, UsageError
from pelton.model.routing import EXTERNAL, INTERNAL

__all__ = ["bare_host", "header", "port_name", "split_url", "why_route"]

_ASK_S: Final = 10.0
_SHOWN: Final = 12
"""Rules of other hosts that a table shows; `-o json` has them all."""


def why_route(home: Home, url: str, *, method: str, headers: Sequence[str], output: str) -> int:
    """Print which rule wins and why the others lose; 0 when one wins, 1 when nobody answers.

    Args:
        home: Of the running platform.
        url: What a client would ask; a path alone goes to the gateway.
        method: E.g. `GET`.
        headers: `Name: value`; `Host` takes the place of the URL's.
        output: `table`, `yaml` or `json`.

    Raises:
        UsageError: The URL or a header cannot be used.
        NotRunningError: No platform runs here.
    """
    endpoints = home.endpoints()
    parts = split_url(url, endpoints.gateway)
    sent = dict(header(each) for each in headers)
    host = bare_host(sent["host"]) if "host" in sent else (parts.hostname or "")
    asked = {
        "host": host,
        "path": (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        "method": method.upper(),
        "headers": sent,
        "port": port_name(parts, endpoints),
    }
    answer = asyncio.run(_ask(home, asked, parts))
    if output == "table":
        _show(asked, answer)
    else:
        report = {"request": asked, **answer}
        sys.stdout.write(json.dumps(report, indent=2) + "\n" if output == "json" else to_yaml(report))
    return 0 if answer["winner"] else 1


def split_url(url: str, gateway: str) -> SplitResult:
    """Return a URL's parts; a path alone goes to the gateway. Raises UsageError."""
    if url.startswith("/"):
        url = gateway + url
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is no URL", hint="write http://HOST:PORT/PATH, or /PATH for the gateway")
    return parts


def header(text: str) -> tuple[str, str]:
    """Read `Name: value`; the name in lower case. Raises UsageError."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"-H {text!r} is no header", hint="write it as 'Name: value'")
    return name.strip().lower(), value.strip()


def bare_host(host: str) -> str:
    """Return a Host header's name without its port."""
    return urlsplit(f"//{host}").hostname or host


def port_name(parts: SplitResult, endpoints: Endpoints) -> str:
    """Return the name of the gateway's port that a URL speaks of; by number where several are open."""
    number = parts.port or (443 if parts.scheme == "https" else 80)
    if endpoints.internal and number == urlsplit(endpoints.internal).port:
        return INTERNAL
    if parts.scheme == "https" and (number == 443 or number == urlsplit(endpoints.https).port):
        return "https"
    if number in (80, urlsplit(endpoints.gateway).port):
        return EXTERNAL
    return f"port-{number}"


async def _ask(home: Home, asked: dict[str, Any], parts: SplitResult) -> dict[str, Any]:
    try:
        node = await wire.connect(str(home.run_directory() / "node.sock"), name="node")
    except OSError as exc:
        raise NotRunningError(
            f"the node does not answer: {exc.strerror}", hint="pelton status says what runs"
        ) from exc
    try:
        answer: dict[str, Any] = await node.call("explain", asked, timeout=_ASK_S)
    finally:
        await node.close()
    return answer


def _show(asked: dict[str, Any], answer: dict[str, Any]) -> None:
    rule = answer["rule"]
    facts = [
        ("request", f"{asked['method']} {asked['host']}{asked['path']}"),
        ("port", answer["port"]),
        ("host", answer["host"] if answer["host"] != "*" else "* (no route names this host)"),
        ("route", answer["winner"] or "none: nobody answers, which is a 404"),
    ]
    if rule:
        facts += _outcome(rule["rule"], answer["split"])
    print_columns(None, facts)
    near = [one for one in answer["others"] if not one["why"].startswith(f"the host {asked['host']} is not")]
    far = [one for one in answer["others"] if one not in near]
    shown = near + far[: max(0, _SHOWN - len(near))]
    if shown:
        print()
        _table(shown)
    if len(shown) < len(answer["others"]):
        print(f"and {len(answer['others']) - len(shown)} routes of other hosts; -o json shows all")


def _outcome(rule: dict[str, Any], split: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    facts = []
    if rule["redirect"]:
        to = rule["redirect"]
        where = "".join(
            [
                f"{to['scheme']}://" if to["scheme"] else "",
                to["hostname"],
                f":{to['port']}" if to["port"] else "",
                to["path"]["value"] if to["path"] else "",
            ]
        )
        facts.append(("redirect", f"{to['status']} to {where or 'the same address'}"))
    total = sum(one["weight"] for one in split)
    for one in split:
        share = f"{one['weight'] * 100 / total:g} %" if total else "0 %"
        facts.append(("backend", f"{share} to {one['name']}"))
    if not split and not rule["redirect"]:
        facts.append(("backend", "none: 500"))
    if rule["rewrite"]:
        rewrite = rule["rewrite"]
        if rewrite["hostname"]:
            facts.append(("rewrite", f"host {rewrite['hostname']}"))
        if rewrite["path"]:
            facts.append(("rewrite", f"path, {rewrite['path']['type']} {rewrite['path']['value']}"))
    facts += [("mirror", one["key"]) for one in rule["mirrors"]]
    if rule["timeout_s"] is not None:
        facts.append(("timeout", f"{rule['timeout_s']:g} s" if rule["timeout_s"] else "none"))
    return facts


def _table(others: Sequence[dict[str, Any]]) -> None:
    width = max(30, get_terminal_size((120, 24)).columns // 2 - 2)
    rows: list[tuple[str, str]] = []
    for one in others:
        left = textwrap.wrap(one["name"], width) or [""]
        right = textwrap.wrap(one["why"], width) or [""]
        rows += zip_longest(left, right, fillvalue="")
    print_columns(("NOT", "WHY"), rows)
