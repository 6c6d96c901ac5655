"""Damaged definitions and webhook configurations: refused or served, never a failure of the server."""

import asyncio
import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.testing.asgi_client import AsgiClient
from pelton.testing.memory_store import MemoryStore
from tests.contract import api
from tests.unit.apiserver.test_crd_controller import CRDS, THINGS, definition, thing, two_versions
from tests.unit.apiserver.webhooks.test_configuration import GOOD

JSON = {"content-type": "application/json"}
HOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 2**70, "", "x", "(?=", "self.", "a" * 300),
    *([], {}, ["a"], [{}], [None], [["x"]], {"a": 1}, {"$ref": "x"}, {"type": "string"}, {"type": 5}),
]
KEYS = [
    *("x-kubernetes-list-type", "x-kubernetes-validations", "x-kubernetes-map-type", "default", "nullable"),
    *("type", "items", "anyOf", "not", "enum", "extra", "metadata", "additionalProperties", "properties"),
]


def places(value, path=()):
    """Yield the path of everything inside of a value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def damaged(value, chance: random.Random):
    """Return a copy with one to three values replaced, removed or added."""
    result = copy.deepcopy(value)
    for _ in range(chance.choice([1, 1, 2, 3])):
        path = chance.choice(list(places(result)))
        at = result
        for key in path[:-1]:
            at = at[key]
        what = chance.random()
        if what < 0.6:
            at[path[-1]] = copy.deepcopy(chance.choice(JUNK))
        elif what < 0.8:
            del at[path[-1]]
        elif isinstance(at, dict):
            at[chance.choice(KEYS)] = copy.deepcopy(chance.choice(JUNK))
    return result


async def attack(seed: int) -> None:
    """Send damaged objects to a server of their own; what is accepted is used."""
    chance = random.Random(seed)
    async with MemoryStore() as store, api.service(store, rows=[]) as service:
        client = AsgiClient(service.app, headers={"authorization": "Bearer t"})
        for _ in range(10):
            crd = damaged(chance.choice([definition(), two_versions()]), chance)
            answer = await client.request("POST", CRDS, json.dumps(crd).encode(), headers=JSON)
            assert answer.status < 500, (answer.json(), crd)
            if answer.status == 201:
                for _ in range(20):
                    await asyncio.sleep(0)
                used = json.dumps(damaged(thing(), chance)).encode()
                answer = await client.request("POST", THINGS, used, headers=JSON)
                assert answer.status < 500, (answer.json(), crd, used)
                assert (await client.request("GET", CRDS)).status == 200
            hook = json.dumps(damaged(GOOD, chance)).encode()
            answer = await client.request("POST", f"{HOOKS}?dryRun=All", hook, headers=JSON)
            assert answer.status < 500, (answer.json(), hook)


@pytest.mark.timeout(60)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_damaged_objects_never_break_the_server(seed):
    asyncio.run(attack(seed))
