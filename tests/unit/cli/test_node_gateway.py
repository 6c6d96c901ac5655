"""The way of requests that Envoy has no route for yet: which function, and the head that it is to see."""

import pytest

from pelton.cli.node_gateway import find_way
from pelton.model.desired import Route
from pelton.model.routing import EXTERNAL, INTERNAL, Match, PathMatch, Redirect, Rule
from pelton.plan.routing import decide, entries_of, virtual_hosts


class Known:
    """A gateway that knows routes and nothing else."""

    def __init__(self, *routes):
        self.routes = routes

    def find(self, request, port=EXTERNAL):
        return decide(virtual_hosts(e for one in self.routes for e in entries_of(one, port)), request)


def route(**changes):
    values = {
        "namespace": "default",
        "name": "hello",
        "hosts": ("hello.localhost",),
        "path": "/default/hello",
    }
    return Route(**(values | changes))


def head(target, host, *more, method="GET"):
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", *more, "", ""]
    return "\r\n".join(lines).encode()


def test_host_leads_to_its_function_with_the_path_kept():
    way = find_way(Known(route()), head("/a?b", "Hello.localhost:8080", "x-pelton-function: -"))

    assert way is not None
    assert way.key == "default/hello"
    assert way.head.startswith(b"GET /a?b HTTP/1.1\r\nhost: Hello.localhost:8080\r\n")
    assert way.head.endswith(b"x-pelton-function: default/hello\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "seen"),
    [("/default/hello/x?y", b"/x?y"), ("/default/hello", b"/"), ("/default/hello?q", b"/?q")],
)
def test_path_leads_to_its_function_without_the_prefix(target, seen):
    way = find_way(Known(route()), head(target, "any", method="POST"))

    assert way is not None
    assert way.head.startswith(b"POST " + seen + b" HTTP/1.1\r\n")
    assert b"\r\nx-forwarded-prefix: /default/hello\r\n" in way.head


def test_internal_function_is_found_by_its_port_only():
    known = Known(route(internal=True))

    assert find_way(known, head("/", "hello.localhost", f"x-pelton-port: {EXTERNAL}")) is None
    assert find_way(known, head("/", "hello.localhost", f"x-pelton-port: {INTERNAL}")) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"split": (("default/hello:a", 50), ("default/hello:b", 50))},
        {"rules": (Rule(redirect=Redirect(scheme="https")),)},
        {"rules": (Rule(matches=(Match(path=PathMatch(value="/other")),)),)},
        {"hosts": ("another.localhost",)},
    ],
)
def test_what_takes_more_than_a_choice_of_function_is_left_to_envoy(changes):
    assert find_way(Known(route(**changes)), head("/", "hello.localhost")) is None


def test_head_that_is_no_http_leads_nowhere():
    assert find_way(Known(route()), b"nonsense\r\n\r\n") is None
