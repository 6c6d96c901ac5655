import asyncio

import pytest

from pelton.drivers.http import HttpBinding
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component


class Destination:
    """An HTTP/1.1 server that answers every request the same way and keeps what it got."""

    def __init__(self):
        self.url = ""
        self.requests = []
        self.connections = 0
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nX-A: 2\r\n\r\nok"
        self.tasks = set()

    async def serve(self, reader, writer):
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                line, *lines = head.strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((line.rpartition(" ")[0], headers, body))
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def destination():
    found = Destination()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield found
    server.close()
    for task in found.tasks:
        task.cancel()
    await asyncio.gather(*found.tasks, return_exceptions=True)


@pytest.fixture
async def make(destination):
    made = []

    def build(**metadata):
        metadata.setdefault("url", destination.url)
        made.append(
            HttpBinding(Component(namespace="ns", name="hook", type="bindings.http", metadata=metadata))
        )
        return made[-1]

    yield build
    for binding in made:
        await binding.close()


async def test_create_posts_with_json_defaults(make, destination):
    delivered = await make().invoke("create", b"{}", {})

    ((line, headers, body),) = destination.requests
    assert (line, body) == ("POST /", b"{}")
    assert headers["content-type"] == headers["accept"] == "application/json; charset=utf-8"
    assert (delivered.ok, delivered.data) == (True, b"ok")
    assert delivered.metadata["statusCode"] == "200"
    assert delivered.metadata["status"] == "200 OK"
    assert delivered.metadata["X-A"] == "1, 2"


async def test_path_is_appended_and_capital_keys_are_headers(make, destination):
    binding = make(url=destination.url + "/base/")
    await binding.invoke(
        "put", b"x", {"path": "/a?b=1", "Content-Type": "text/plain", "X-B": "c", "note": "d"}
    )

    ((line, headers, body),) = destination.requests
    assert (line, body) == ("PUT /base/a?b=1", b"x")
    assert (headers["content-type"], headers["x-b"]) == ("text/plain", "c")
    assert "note" not in headers


async def test_trace_context_of_the_request_goes_on(make, destination):
    context = {"traceparent": "00-1-2-01", "tracestate": "a=b", "baggage": "c=d"}
    await make().invoke("create", b"", context)

    ((_, headers, _),) = destination.requests
    assert {name: headers[name] for name in context} == context


async def test_header_that_cannot_be_sent_is_refused_and_not_shown(make):
    with pytest.raises(DeliveryError, match="cannot be sent") as caught:
        await make(securityToken="s\u00e9cret", securityTokenHeader="X-T").invoke("create", b"", {})

    assert not caught.value.retriable
    assert "\\xe9" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("operation", ["get", "options"])
async def test_methods_without_body_send_none(make, destination, operation):
    await make().invoke(operation, b"ignored", {})

    ((line, headers, body),) = destination.requests
    assert (line, body) == (f"{operation.upper()} /", b"")
    assert "content-type" not in headers


async def test_connection_is_kept_between_calls(make, destination):
    binding = make()
    for _ in range(3):
        await binding.invoke("post", b"", {})

    assert destination.connections == 1


async def test_answer_that_is_not_2xx_fails_with_its_body(make, destination):
    destination.answer = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nslow"
    delivered = await make().invoke("post", b"", {})

    assert not delivered.ok
    assert delivered.data == b"slow"
    assert delivered.metadata["Retry-After"] == "7"
    assert "answered 429 Too Many Requests: slow" in delivered.error


@pytest.mark.parametrize("where", ["component", "request"])
async def test_error_if_not_2xx_can_be_switched_off(make, destination, where):
    destination.answer = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    binding = make(**({"errorIfNot2XX": "false"} if where == "component" else {}))
    delivered = await binding.invoke("post", b"", {} if where == "component" else {"errorIfNot2XX": "false"})

    assert (delivered.ok, delivered.metadata["statusCode"]) == (True, "500")


async def test_security_token_is_sent_in_its_header(make, destination):
    await make(securityToken="secret", securityTokenHeader="X-Token").invoke("post", b"", {})

    assert destination.requests[0][1]["x-token"] == "secret"


async def test_slow_destination_ends_at_the_response_timeout(make, destination):
    destination.answer = b""
    with pytest.raises(DeliveryError, match=r"no answer within 0\.05 s"):
        await make(responseTimeout="50ms").invoke("post", b"", {})


async def test_answer_over_the_limit_is_refused(make, destination):
    destination.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + bytes(2000)
    with pytest.raises(DeliveryError, match="exceeds 1024 bytes"):
        await make(maxResponseBodySize="1Ki").invoke("post", b"", {})


async def test_destination_that_is_not_there_is_told_without_its_address(make):
    binding = make(url="http://127.0.0.1:1/secret-path")
    with pytest.raises(DeliveryError) as caught:
        await binding.invoke("post", b"", {})

    assert "was not reached" in str(caught.value)
    assert "secret-path" not in str(caught.value)


async def test_unknown_operation_lists_the_known_ones(make):
    with pytest.raises(ComponentError) as caught:
        await make().invoke("push", b"", {})

    assert "create, post, get" in caught.value.hint


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"url": ""}, "http:// or https://"),
        ({"url": "ftp://x"}, "http:// or https://"),
        ({"responseTimeout": "soon"}, "soon"),
        ({"maxResponseBodySize": "big"}, "big"),
    ],
)
def test_bad_metadata_is_refused_when_the_component_is_made(metadata, message):
    metadata = {"url": "http://x", **metadata}
    with pytest.raises(ComponentError, match=message):
        HttpBinding(Component(namespace="ns", name="hook", type="bindings.http", metadata=metadata))


async def test_missing_certificate_file_is_told(make):
    with pytest.raises(ComponentError, match="certificate or key cannot be used"):
        await make(MTLSRootCA="/nonexistent.pem").invoke("post", b"", {})
