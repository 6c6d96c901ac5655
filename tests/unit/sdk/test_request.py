import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.invocation import Invocation
from pelton.sdk.request import HTTPError, Request


def request(target=b"/", method="GET", body=b"", scheme="http", client="", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(
        Invocation(
            id="1", method=method, target=target, headers=pairs, body=body, scheme=scheme, client=client
        )
    )


def test_url_parts_are_those_of_flask():
    found = request(b"/a%20b/c?x=1&x=2&y=%C3%A4", host="example.org:81", scheme="https")

    assert (found.path, found.full_path) == ("/a b/c", "/a b/c?x=1&x=2&y=%C3%A4")
    assert found.query_string == b"x=1&x=2&y=%C3%A4"
    assert found.url == "https://example.org:81/a%20b/c?x=1&x=2&y=%C3%A4"
    assert (found.base_url, found.host_url) == ("https://example.org:81/a%20b/c", "https://example.org:81/")
    assert (found.view_args, found.is_secure) == ({"path": "a b/c"}, True)


def test_absolute_form_target_is_understood():
    assert request(b"http://example.org/a?b=1").path == "/a"


def test_query_has_first_values_lists_and_conversion():
    args = request(b"/?x=1&x=2&empty=&bad=q").args

    assert (args["x"], args.getlist("x"), args.get("x", type=int)) == ("1", ["1", "2"], 1)
    assert (args.get("empty"), args.get("nope", "d"), args.get("bad", 7, type=int)) == ("", "d", 7)
    assert args.to_dict() == {"x": "1", "empty": "", "bad": "q"}
    assert ("x" in args, len(args), dict(args)["x"]) == (True, 3, "1")


def test_missing_field_is_a_400_and_a_key_error():
    with pytest.raises(KeyError) as raised:
        request().args["x"]

    assert isinstance(raised.value, HTTPError)
    assert raised.value.status == 400


def test_headers_are_found_in_any_case():
    headers = request(content_type="text/plain", x_count="3").headers

    assert (headers["CONTENT-TYPE"], headers.get("X-Count", type=int)) == ("text/plain", 3)
    assert dict(headers) == {"Content-Type": "text/plain", "X-Count": "3"}
    assert "x-nope" not in headers
    assert headers.get("x-nope") is None


def test_json_follows_the_media_type():
    body = b'{"a": [1, 2]}'

    assert request(method="POST", body=body, content_type="application/json; charset=utf-8").json == {
        "a": [1, 2]
    }
    assert request(method="POST", body=body, content_type="application/vnd.x+json").is_json
    assert request(method="POST", body=body).get_json(force=True) == {"a": [1, 2]}
    assert request(method="POST", body=body).get_json(silent=True) is None
    assert request(method="POST", body=b"{", content_type="application/json").get_json(silent=True) is None


@pytest.mark.parametrize(("content_type", "status"), [("application/json", 400), ("text/plain", 415)])
def test_json_that_cannot_be_is_an_http_error(content_type, status):
    with pytest.raises(HTTPError) as raised:
        _ = request(method="POST", body=b"{", content_type=content_type).json

    assert raised.value.status == status


def test_form_leaves_data_empty_as_in_flask():
    found = request(
        method="POST",
        body=b"a=1&b=%20x&a=2",
        content_type="application/x-www-form-urlencoded",
        target=b"/?q=9",
    )

    assert (found.form["a"], found.form.getlist("a"), found.form["b"]) == ("1", ["1", "2"], " x")
    assert (found.data, found.get_data(as_text=True)) == (b"", "a=1&b=%20x&a=2")
    assert (found.values["q"], found.values["a"]) == ("9", "1")


def test_multipart_form_has_fields_and_files(tmp_path):
    body = (
        b'--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\nvalue\r\n'
        b'--XX\r\nContent-Disposition: form-data; name="f"; filename="x.bin"\r\n'
        b"Content-Type: application/x-thing\r\n\r\n\x00\r\n\xff\r\n--XX--\r\n"
    )
    found = request(method="POST", body=body, content_type="multipart/form-data; boundary=XX")

    file = found.files["f"]
    assert found.form.to_dict() == {"a": "value"}
    assert (file.filename, file.content_type) == ("x.bin", "application/x-thing")
    file.save(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"\x00\r\n\xff"
    file.seek(0)
    target = io.BytesIO()
    file.save(target)
    assert target.getvalue() == b"\x00\r\n\xff"


@given(st.binary(max_size=200), st.binary(max_size=30))
def test_no_body_breaks_the_multipart_reader(body, boundary):
    found = request(
        method="POST", body=body, content_type=f"multipart/form-data; boundary={boundary.decode('latin-1')}"
    )

    assert len(found.form) + len(found.files) >= 0


def test_cookies_authorization_and_agent():
    found = request(cookie='a=1; b="x y"; junk', authorization="Basic dTpwOnE=", user_agent="curl/8")

    assert found.cookies.to_dict() == {"a": "1", "b": "x y"}
    assert (found.authorization.type, found.authorization.username, found.authorization.password) == (
        "basic",
        "u",
        "p:q",
    )
    assert found.user_agent.string == "curl/8"
    assert request(authorization="Bearer t0").authorization.token == "t0"
    assert request().authorization is None


def test_address_and_route():
    assert (request(client="1.2.3.4").remote_addr, request().remote_addr) == ("1.2.3.4", None)
    assert request(x_forwarded_for="9.9.9.9, 8.8.8.8", client="1.2.3.4").access_route == [
        "9.9.9.9",
        "8.8.8.8",
    ]


def test_wsgi_environment_is_there_for_who_needs_it():
    environ = request(
        b"/a%C3%A4?x=1", method="PUT", body=b"abc", host="h:1", content_type="t/p", x_y="z"
    ).environ

    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a\u00c3\u00a4", "x=1")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"], environ["HTTP_X_Y"]) == ("h", "1", "z")
    assert (environ["CONTENT_TYPE"], environ["wsgi.input"].read()) == ("t/p", b"abc")


def test_unknown_attribute_says_how_to_get_the_real_request():
    with pytest.raises(AttributeError, match=r"flask in requirements\.txt"):
        _ = request().if_modified_since


def test_nothing_is_parsed_before_it_is_asked_for():
    found = request(b"/?x=1", body=b"{}", content_type="application/json")

    assert list(vars(found)) == ["_invocation"]
