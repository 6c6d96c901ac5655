"""Route tables: kept up to date entry by entry they are what a table made at once would be."""

import random

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.desired import Route
from pelton.model.routing import (
    EXTERNAL,
    Backend,
    FieldMatch,
    HeaderChanges,
    Match,
    Mirror,
    PathChange,
    PathMatch,
    Redirect,
    Rewrite,
    Rule,
    StandaloneRoute,
)
from pelton.plan.routing import Entry, Request, decide, entries_of, virtual_hosts
from pelton.proto import xds_pb2 as xds
from pelton.targets.local.route_config import RouteTable, render_entry

_HOSTS = ["*", "*.com", "a.com", "b.a.com", "x.localhost", "y.localhost"]
_MATCHES = st.builds(
    Match,
    path=st.builds(
        PathMatch, type=st.sampled_from(["Exact", "PathPrefix"]), value=st.sampled_from(["/", "/a", "/a/b"])
    ),
    method=st.sampled_from(["", "GET"]),
)
_STANDALONE = st.builds(
    lambda name, hosts, matches: StandaloneRoute(
        namespace="default",
        name=name,
        hosts=((EXTERNAL, tuple(hosts)),),
        rules=tuple(Rule(matches=(match,), backends=(Backend(key=name),)) for match in matches),
    ),
    st.sampled_from("abcd"),
    st.lists(st.sampled_from(_HOSTS), min_size=1, max_size=3, unique=True),
    st.lists(_MATCHES, min_size=1, max_size=2),
)
_FUNCTIONS = st.builds(
    lambda name, hosts, tags: Route(
        namespace="default", name=name, hosts=tuple(hosts), path=f"/default/{name}", tags=tags
    ),
    st.sampled_from("efgh"),
    st.lists(st.sampled_from(_HOSTS[2:]), max_size=2, unique=True),
    st.sampled_from([(), (("t", "default/e:r1"),)]),
)
_STEPS = st.lists(st.tuples(st.one_of(_STANDALONE, _FUNCTIONS), st.booleans()), max_size=6)


def _owner(route: Route | StandaloneRoute) -> str:
    kind = "Function" if isinstance(route, Route) else "HTTPRoute"
    return f"{kind} {route.key}"


def _made(
    steps: list[tuple[Route | StandaloneRoute, bool]],
) -> tuple[RouteTable, dict[str, tuple[Entry, ...]]]:
    """Return a table after some changes, and what is in it."""
    table, held = RouteTable(EXTERNAL, listed=True), {}
    for route, there in steps:
        entries = entries_of(route, EXTERNAL) if there else ()
        table.set(_owner(route), entries)
        table.encode()  # fills what is kept
        held[_owner(route)] = entries
    return table, held


@given(_STEPS, st.randoms(use_true_random=False))
def test_table_after_changes_equals_one_made_at_once(steps, chance: random.Random):
    table, held = _made(steps)
    fresh = RouteTable(EXTERNAL, listed=True)
    owners = list(held)
    chance.shuffle(owners)
    for owner in owners:
        fresh.set(owner, held[owner])

    assert table.encode() == fresh.encode()


@given(
    _STEPS,
    st.sampled_from(["a.com", "b.a.com", "c.com", "x.localhost", "t-a.com"]),
    st.sampled_from(["/", "/a/b"]),
)
def test_table_decides_as_the_plan_does(steps, host, path):
    table, held = _made(steps)
    entries = [entry for listed in held.values() for entry in listed]
    request = Request(host=host, path=path)

    assert table.decide(request) == decide(virtual_hosts(entries), request)


@given(_STEPS)
def test_every_host_is_in_exactly_one_virtual_host(steps):
    table, held = _made(steps)

    read = xds.RouteConfiguration.FromString(table.encode())

    domains = [domain for host in read.virtual_hosts for domain in host.domains]
    wanted = {entry.host for listed in held.values() for entry in listed} | {"*"}
    assert sorted(domains) == sorted(wanted)
    assert len({host.name for host in read.virtual_hosts}) == len(read.virtual_hosts)


def test_hosts_that_lead_to_one_function_share_a_virtual_host_until_one_is_claimed():
    table = RouteTable(EXTERNAL, listed=True)
    route = Route(namespace="default", name="f", hosts=("a.com", "b.com"))
    table.set("Function default/f", entries_of(route, EXTERNAL))
    shared = xds.RouteConfiguration.FromString(table.encode())
    other = StandaloneRoute(
        namespace="default",
        name="o",
        hosts=((EXTERNAL, ("b.com",)),),
        rules=(Rule(matches=(Match(path=PathMatch(value="/x")),), backends=(Backend(key="o"),)),),
    )
    table.set("HTTPRoute default/o", entries_of(other, EXTERNAL))
    apart = xds.RouteConfiguration.FromString(table.encode())

    assert [list(host.domains) for host in shared.virtual_hosts] == [["a.com", "b.com"], ["*"]]
    assert [list(host.domains) for host in apart.virtual_hosts] == [["a.com"], ["b.com"], ["*"]]


def rendered(rule: Rule, match: Match | None = None) -> str:
    entry = Entry(kind="HTTPRoute", route="default/r", host="h", match=match or Match(), rule=rule)
    message = render_entry(entry)
    message.ClearField("name")
    text: str = text_format.MessageToString(message, as_one_line=True)
    return text


BACKEND = (Backend(key="default/f"),)


@pytest.mark.parametrize(
    ("rule", "match", "expected"),
    [
        (
            Rule(backends=BACKEND),
            Match(path=PathMatch(value="/a/"), method="GET"),
            'match { headers { name: ":method" string_match { exact: "GET" } } path_separated_prefix: "/a" } '
            'route { cluster: "default/f" timeout { } }',
        ),
        (
            Rule(backends=BACKEND, timeout_s=1.5),
            Match(
                path=PathMatch(type="RegularExpression", value="/x.*"),
                query=(FieldMatch(name="q", value="1"),),
            ),
            'match { query_parameters { name: "q" string_match { exact: "1" } } '
            'safe_regex { regex: "/x.*" } } '
            'route { cluster: "default/f" timeout { seconds: 1 nanos: 500000000 } }',
        ),
        (
            Rule(backends=(Backend(key="a", weight=3), Backend(key="", weight=1, problem="gone"))),
            None,
            'match { prefix: "/" } route { weighted_clusters { clusters { name: "a" weight { value: 3 } } '
            'clusters { name: "no such backend" weight { value: 1 } } } timeout { } '
            "cluster_not_found_response_code: 2 }",
        ),
        (
            Rule(backends=BACKEND, mirrors=(Mirror(key="m", numerator=1, denominator=3),)),
            None,
            'match { prefix: "/" } route { cluster: "default/f" timeout { } request_mirror_policies '
            '{ cluster: "m" runtime_fraction { default_value { numerator: 333333 denominator: 2 } } } }',
        ),
        (
            Rule(redirect=Redirect(scheme="https", port=8443, status=308)),
            None,
            'match { prefix: "/" } redirect { response_code: 4 https_redirect: true port_redirect: 8443 }',
        ),
        (
            Rule(
                backends=BACKEND,
                rewrite=Rewrite(hostname="n", path=PathChange(type="ReplacePrefixMatch", value="/n")),
            ),
            Match(path=PathMatch(value="/o")),
            'match { path_separated_prefix: "/o" } route { cluster: "default/f" prefix_rewrite: "/n" '
            'host_rewrite_literal: "n" timeout { } }',
        ),
        (
            Rule(
                backends=BACKEND,
                request_headers=HeaderChanges(set=(("a", "1%"),), remove=("B",)),
                response_headers=HeaderChanges(add=(("c", "2"),)),
            ),
            None,
            'match { prefix: "/" } route { cluster: "default/f" timeout { } } request_headers_to_add '
            '{ header { key: "a" value: "1%%" } append_action: 2 } response_headers_to_add '
            '{ header { key: "c" value: "2" } } request_headers_to_remove: "b"',
        ),
    ],
)
def test_entry_is_written_as_envoy_reads_it(rule, match, expected):
    assert rendered(rule, match) == expected
