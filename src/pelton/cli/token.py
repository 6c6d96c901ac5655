"""`pelton token create|list|revoke`: who else may use the API, and for what.

Works on the home, whether the platform runs or not; the API server sees changes at the next request.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

from pelton.apiserver import certificates
from pelton.apiserver.table import age
from pelton.apiserver.tokens import TokenFile
from pelton.cli.home import Home
from pelton.cli.printing import print_columns
from pelton.clock import SystemClock
from pelton.errors import UsageError
from pelton.quantity import parse_duration

__all__ = ["create", "list_tokens", "revoke", "token_file"]


def token_file(home: Home) -> TokenFile:
    """Return the tokens of a home."""
    return TokenFile(home.path / "tokens.json", SystemClock())


def create(home: Home, *, role: str, namespace: str, name: str, ttl: str, kubeconfig: str) -> int:
    """Make a token and print it, or write a kubeconfig with it."""
    home.prepare()
    try:
        life = timedelta(seconds=parse_duration(ttl)) if ttl else None
    except ValueError as exc:
        raise UsageError(f"--ttl {ttl!r} is not a duration: {exc}", hint="for example 30m, 12h") from exc
    endpoints = home.endpoints() if kubeconfig else None  # told before a token is made in vain
    token, text = token_file(home).create(role=role, namespace=namespace, name=name, ttl=life)
    if endpoints is None:
        print(text)
        return 0
    content = certificates.kubeconfig(
        server=endpoints.api,
        ca_pem=Path(endpoints.ca).read_bytes(),
        token=text,
        namespace=namespace or "default",
    )
    certificates.write_private(Path(kubeconfig), content.encode())
    print(f"token {token.id} written to {kubeconfig}", file=sys.stderr)
    return 0


def list_tokens(home: Home, *, output: str) -> int:
    """Print all tokens, without the secrets."""
    tokens = token_file(home).all()
    if output == "json":
        shown = [
            {k: getattr(t, k) for k in ("id", "name", "role", "namespace", "created", "expires")}
            for t in tokens
        ]
        print(json.dumps(shown, indent=2))
        return 0
    now = SystemClock().now()
    rows = [
        (
            token.id,
            token.name,
            token.role,
            token.namespace or "*",
            age(token.created, now),
            "expired" if token.expired(now) else token.expires or "never",
        )
        for token in tokens
    ]
    if not rows:
        print("no tokens besides the administrator's", file=sys.stderr)
        return 0
    print_columns(("ID", "NAME", "ROLE", "NAMESPACE", "AGE", "EXPIRES"), rows)
    return 0


def revoke(home: Home, which: str) -> int:
    """Make tokens void, by id or name."""
    for token in token_file(home).revoke(which):
        print(f"token {token.id} ({token.name}) revoked")
    return 0
