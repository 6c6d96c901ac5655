"""The way of an intercepted request, up to its upstream; whole ways are in tests/e2e/test_interception.py."""

import asyncio
from dataclasses import replace

import pytest

from pelton.dataplane.interceptor import Interceptor
from pelton.errors import WakeError
from pelton.model.interception import Answer, Fixed, Intercept, InterceptRule, InterceptTarget

NOWHERE = InterceptTarget(service="n/shop")
ROUTE = Intercept(namespace="n", name="r", rules=(InterceptRule(host="a.test", prefix="/x"),), target=NOWHERE)


class Asked:
    """One request and what came back."""

    def __init__(self, host="a.test", path="/x", headers=()):
        self.scope = {
            "type": "http",
            "method": "GET",
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"Host", host.encode()), *headers],
        }
        self.status = 0
        self.headers = {}
        self.body = b""

    async def receive(self):
        return {"type": "http.request", "body": b""}

    async def send(self, event):
        if event["type"] == "http.response.start":
            self.status, self.headers = event["status"], dict(event["headers"])
        else:
            self.body += event["body"]

    async def by(self, interceptor):
        await interceptor(self.scope, self.receive, self.send)
        return self


@pytest.fixture
def woken():
    return []


@pytest.fixture
async def interceptor(woken):
    async def wake(key):
        woken.append(key)
        raise WakeError("it does not start")

    one = Interceptor(wake=wake, ready=lambda key: False, activator_socket="/nowhere")
    yield one
    await one.close()


async def test_request_without_a_route_is_not_found(interceptor):
    interceptor.update([ROUTE])

    assert (await Asked(host="b.test").by(interceptor)).status == 404
    assert (await Asked(path="/xy").by(interceptor)).status == 404
    assert interceptor.queue() == {"n/r": {"Concurrency": 0, "RequestCount": 0}}


async def test_placeholder_is_answered_at_once_counted_and_wakes(interceptor, woken):
    function = InterceptTarget(service="n/f", function="n/f")
    interceptor.update([replace(ROUTE, target=function, placeholder=Answer(status=503, body="soon"))])

    asked = await Asked(host="A.test:8080", path="/x/y").by(interceptor)
    await asyncio.sleep(0)

    assert (asked.status, asked.body) == (503, b"soon")
    assert interceptor.queue()["n/r"] == {"Concurrency": 0, "RequestCount": 1}
    assert woken == ["n/f"]


@pytest.mark.parametrize(("always", "endpoints", "status"), [(False, (), 418), (True, (("::1", 1),), 418)])
async def test_fixed_answer_is_given_and_never_counted(interceptor, always, endpoints, status):
    fixed = Fixed(rules=(InterceptRule(),), answer=Answer(status=418), always=always)
    interceptor.update([replace(ROUTE, fixed=(fixed,), target=replace(NOWHERE, endpoints=endpoints))])

    assert (await Asked().by(interceptor)).status == status
    assert interceptor.queue()["n/r"]["RequestCount"] == 0


async def test_no_instance_in_time_is_a_gateway_timeout(interceptor):
    interceptor.update([replace(ROUTE, readiness_s=0.01)])

    assert (await Asked().by(interceptor)).status == 504


async def test_deadline_of_the_request_covers_the_wait(interceptor):
    interceptor.update([replace(ROUTE, request_s=0.01)])

    assert (await Asked().by(interceptor)).status == 504


async def test_target_that_cannot_be_reached_at_all_is_a_bad_gateway(interceptor):
    interceptor.update([replace(ROUTE, target=replace(NOWHERE, problem="no such Service"))])

    assert (await Asked().by(interceptor)).status == 502


async def test_function_that_does_not_start_is_a_bad_gateway(interceptor):
    interceptor.update([replace(ROUTE, target=InterceptTarget(service="n/f", function="n/f"))])

    assert (await Asked().by(interceptor)).status == 502


async def test_more_than_may_wait_get_503_or_the_placeholder(interceptor):
    limited = replace(ROUTE, max_pending=1)
    interceptor.update([limited])
    waiting = asyncio.create_task(Asked().by(interceptor))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert (await Asked().by(interceptor)).status == 503
    interceptor.update([replace(limited, overflow_placeholder=True, placeholder=Answer(status=202))])
    assert (await Asked().by(interceptor)).status == 202
    assert interceptor.queue()["n/r"] == {"Concurrency": 1, "RequestCount": 3}

    interceptor.update([replace(limited, target=replace(NOWHERE, problem="gone"))])
    assert (await waiting).status == 502


async def test_upgrade_is_refused(interceptor):
    interceptor.update([ROUTE])

    assert (await Asked(headers=[(b"Upgrade", b"websocket")]).by(interceptor)).status == 501


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [("/", b"<p>", b"text/html"), ("/a.css", b"p{}", b"text/css"), ("/none", b"", None)],
)
async def test_body_by_path_comes_from_the_entry_of_that_name(interceptor, path, body, kind):
    answer = Answer(status=200, files={"index.html": "<p>", "a.css": "p{}"})
    interceptor.update([replace(ROUTE, rules=(InterceptRule(),), placeholder=answer)])

    asked = await Asked(path=path).by(interceptor)

    assert (asked.status, asked.body, asked.headers.get(b"content-type")) == (200, body, kind)


async def test_body_that_is_missing_is_our_failure(interceptor):
    interceptor.update([replace(ROUTE, placeholder=Answer(status=200, files={}, key="a", missing=True))])

    assert (await Asked().by(interceptor)).status == 500
