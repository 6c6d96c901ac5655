"""Who a bearer token belongs to. Called by `rest.py`; `cli/` says which tokens there are."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping

from pelton.apiserver.calls import User

__all__ = ["Authenticate", "fixed"]

Authenticate = Callable[[str], User | None]
"""Bearer token -> user, None when it is not valid."""


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
