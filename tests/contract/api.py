"""An API application over any store, with Pelton's kinds and the built-in ones, for tests."""

import logging
from dataclasses import replace

from pelton.apiserver import manifest_kinds
from pelton.apiserver.builtin import namespaces
from pelton.apiserver.calls import User
from pelton.apiserver.registry import Checked
from pelton.apiserver.service import ApiService
from pelton.apiserver.tokens import fixed
from pelton.clock import SystemClock
from pelton.manifest import kinds


class Passing:
    """Checks that let everything pass, unless a test gives its own check of the object."""

    def __init__(self, admit=None):
        self._admit = admit

    def default(self, obj, /):
        return obj

    def check(self, obj, old, /, *, subresource):
        if subresource or self._admit is None:
            return Checked(obj=obj)
        return self._admit(obj)

    def prune(self, obj, /):
        return obj, ()

    def read(self, obj, /):
        return obj


def users(**roles):
    """Return an Authenticate; token -> role, with `_` in the name of a token for `-`."""
    return fixed({token.replace("_", "-"): User(name=token, role=role) for token, role in roles.items()})


def own_rows(admit=None):
    """Return Pelton's kinds with `admit` in place of their checks."""
    return [replace(row, checks=Passing(admit)) for row in manifest_kinds.rows(kinds.KINDS)]


def service(store, *, rows=None, authenticate=None, clock=None, **options):
    """Return the API over a store, not entered: no controller runs."""
    return ApiService(
        store,
        own_rows() if rows is None else rows,
        authenticate=authenticate or users(t="admin"),
        version="1.2.3",
        log=logging.getLogger("test"),
        clock=clock or SystemClock(),
        **options,
    )


async def application(store, *, namespace=("default",), **options):
    """Return the application alone; `namespace` names those that exist."""
    await namespaces.ensure(store, namespace)
    return service(store, **options).app
