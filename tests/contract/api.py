"""An API application over any store, with Pelton's kinds and the built-in ones, for tests."""

import logging
from dataclasses import replace

from pelton.apiserver import manifest_kinds
from pelton.apiserver.builtin import namespaces, table
from pelton.apiserver.calls import User
from pelton.apiserver.registry import Checked, Registry
from pelton.apiserver.rest import create_app
from pelton.apiserver.tokens import fixed
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

    def read(self, obj, /):
        return obj


def users(**roles):
    """Return an Authenticate; token -> role, with `_` in the name of a token for `-`."""
    return fixed({token.replace("_", "-"): User(name=token, role=role) for token, role in roles.items()})


def registry(admit=None):
    """Return Pelton's kinds with `admit` in place of their checks, and the built-in kinds."""
    own = [replace(row, checks=Passing(admit)) for row in manifest_kinds.rows(kinds.KINDS)]
    return Registry([*table.ROWS, *own])


async def application(store, *, rows=None, authenticate=None, namespace=("default",), **options):
    """Return the application; `namespace` names those that exist."""
    await namespaces.ensure(store, namespace)
    return create_app(
        store,
        rows or registry(),
        authenticate=authenticate or users(t="admin"),
        version="1.2.3",
        log=logging.getLogger("test"),
        **options,
    )
