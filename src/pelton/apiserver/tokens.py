"""Bearer tokens: who they belong to, and the file of those that users made.

`rest.py` asks an `Authenticate` at every request; `cli/token.py` makes, lists and revokes tokens through
`TokenFile`, whether or not the platform runs. Only hashes are stored: a token is shown once.

Source: contracts operator-webhook.md 6.7 (kubeconfig tokens); the rest is our own format.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pelton.apiserver.calls import ROLES, User
from pelton.apiserver.certificates import write_private
from pelton.clock import Clock, rfc3339
from pelton.errors import HomeError, NotFoundError, UsageError

__all__ = ["Authenticate", "Token", "TokenFile", "either", "fixed"]

Authenticate = Callable[[str], User | None]
"""Bearer token -> user, None when it is not valid."""

_PREFIX = "pelton"
_MOST = 1000


def fixed(tokens: Mapping[str, User]) -> Authenticate:
    """Return an Authenticate for a few tokens; the mapping is read at every request, so it may change."""

    def find(given: str) -> User | None:
        found = None
        # Every token is compared, in constant time each, so that the time taken tells nothing.
        for token, user in tokens.items():
            if hmac.compare_digest(token.encode(), given.encode()):
                found = user
        return found

    return find


def either(*ways: Authenticate) -> Authenticate:
    """Return an Authenticate that takes the first user that one of the ways finds."""
    return lambda given: next((user for way in ways if (user := way(given)) is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is stored of a token.

    Attributes:
        id: Names it, part of the token itself.
        name: Who uses it; the API sees the user `pelton:token:<name>`, or the name of a service account.
        role: view, edit or admin.
        namespace: Where the role holds, "" for everywhere.
        created: RFC 3339.
        expires: RFC 3339, "" for never.
        sha256: Hash of the secret part, hexadecimal.
    """

    id: str
    name: str
    role: str
    namespace: str
    created: str
    expires: str
    sha256: str

    def expired(self, now: datetime) -> bool:
        """Return whether it is over."""
        return bool(self.expires) and datetime.fromisoformat(self.expires) <= now


class TokenFile:
    """Tokens in a JSON file, mode 0600.

    Args:
        path: The file; made by the first token.
        clock: For creation and expiry.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._stamp: tuple[int, int] | None = None
        self._tokens: dict[str, Token] = {}

    def create(
        self, *, role: str, namespace: str = "", name: str = "", ttl: timedelta | None = None
    ) -> tuple[Token, str]:
        """Make a token.

        Args:
            role: view, edit or admin.
            namespace: Where the role holds, "" for everywhere.
            name: Who will use it; the id when "".
            ttl: How long it is valid, None for ever.

        Returns:
            What is stored, and the token itself, which is shown this once.

        Raises:
            UsageError: Unknown role, a lifetime that is not positive, or too many tokens.
            HomeError: The file cannot be written.
        """
        if role not in ROLES:
            raise UsageError(f"role {role!r} is not known", hint=f"one of: {', '.join(ROLES)}")
        if ttl is not None and ttl <= timedelta(0):
            raise UsageError("a token cannot expire before it is made", hint="for example --ttl 12h")
        now = self._clock.now()
        key, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        token = Token(
            id=key,
            name=name or key,
            role=role,
            namespace=namespace,
            created=rfc3339(now),
            expires=rfc3339(now + ttl) if ttl else "",
            sha256=_hash(secret),
        )
        with self._locked() as tokens:
            for old in [each.id for each in tokens.values() if each.expired(now)]:
                del tokens[old]
            if len(tokens) >= _MOST:
                raise UsageError(f"there are {_MOST} tokens", hint="revoke some: pelton token list")
            tokens[key] = token
        return token, f"{_PREFIX}_{key}_{secret}"

    def issue(self, user: str, role: str, namespace: str, seconds: int) -> tuple[str, str]:
        """Make a token of a service account; returns it and when it ends, RFC 3339."""
        token, text = self.create(role=role, namespace=namespace, name=user, ttl=timedelta(seconds=seconds))
        return text, token.expires

    def all(self) -> list[Token]:
        """Return all tokens, oldest first, expired ones too."""
        return sorted(self._read().values(), key=lambda token: (token.created, token.id))

    def revoke(self, which: str) -> list[Token]:
        """Remove tokens by id or by name; returns them. Raises NotFoundError."""
        with self._locked() as tokens:
            gone = [token for token in tokens.values() if which in (token.id, token.name)]
            if not gone:
                raise NotFoundError(f"no token {which!r}", hint="see: pelton token list")
            for token in gone:
                del tokens[token.id]
        return gone

    def authenticate(self, given: str) -> User | None:
        """Return the user of a token; the file is read again when it changed."""
        prefix, _, rest = given.partition("_")
        key, _, secret = rest.partition("_")
        if prefix != _PREFIX:
            return None
        token = self._current().get(key)
        if token is None or not hmac.compare_digest(token.sha256, _hash(secret)):
            return None
        if token.expired(self._clock.now()):
            return None
        groups = ("system:masters",) if token.role == "admin" and not token.namespace else ()
        account = token.name.startswith("system:serviceaccount:")
        return User(
            name=token.name if account else f"pelton:token:{token.name}",
            uid=token.id,
            groups=(*groups, "system:authenticated"),
            role=token.role,
            namespace=token.namespace,
        )

    def _current(self) -> dict[str, Token]:
        try:
            info = self._path.stat()
        except OSError:
            self._stamp, self._tokens = None, {}
            return self._tokens
        stamp = (info.st_mtime_ns, info.st_ino)
        if stamp != self._stamp:
            self._tokens = self._read()
            self._stamp = stamp
        return self._tokens

    def _read(self) -> dict[str, Token]:
        try:
            entries = json.loads(self._path.read_bytes())
            return {entry["id"]: Token(**entry) for entry in entries}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise HomeError(
                f"the tokens cannot be read: {error}",
                where=str(self._path),
                hint="Remove the file; tokens made before are then void.",
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Token]]:
        """Yield the tokens to change; stores them when the block ends well."""
        try:
            fd = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeError(
                f"tokens cannot be written: {error.strerror}",
                where=str(self._path),
                hint="Check owner and mode.",
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            tokens = self._read()
            yield tokens
            write_private(self._path, json.dumps([asdict(token) for token in tokens.values()]).encode())
        finally:
            os.close(fd)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
