import pytest

from pelton.errors import FunctionLoadError

HELLO = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]
"""


def test_application_answers(load, request_of):
    function = load(HELLO, "wsgi", target="application")

    reply = function.call(request_of(b"/x?y"))

    assert (reply.status, reply.headers, reply.body) == (200, [(b"content-type", b"text/plain")], b"/x")
    assert (function.sync, function.signature, function.target) == (True, "http", "application")


def test_event_is_a_request(load, event_of):
    assert load(HELLO, "wsgi").call(event_of()).body == b"/"


def test_missing_application_is_an_error(load):
    with pytest.raises(FunctionLoadError, match="there is no 'other'"):
        load(HELLO, "wsgi", target="other")


def test_crash_says_nothing_about_it(load):
    reply = load(HELLO, "wsgi").on_error(ValueError("secret"))

    assert (reply.status, reply.body, reply.error) == (
        *(500, b"Internal Server Error"),
        "ValueError: secret",
    )
