"""What a function sees of its route in a real Flask, against what Flask's own URL adapter says."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pelton

COMPARE = """
    import itertools
    import sys

    sys.path.extend(sys.argv[1:])  # Pelton and what it needs, behind the environment's own packages
    import flask

    from pelton.model.invocation import Invocation
    from pelton.sdk.flask_app import FlaskApp, environ

    ours, flasks = FlaskApp(flask, "m", "/tmp"), FlaskApp(flask, "m", "/tmp")
    del flasks.app.create_url_adapter

    METHODS = ("GET", "HEAD", "POST", "TRACE", "get")
    TARGETS = (
        b"/", b"", b"/a", b"/a/", b"//", b"//a", b"/a//b", b"/a/b/c?x=1", b"/%C3%A9", b"/%ff", b"/a%2Fb",
        b"/static/x", b"/static/", b"/static", b"/?q", b"/a b", b"/a%0Ab", b"/%2F%2Fx", b"/;x",
        b"http://h/abs",
    )
    HEADERS = (
        [(b"host", b"h.test")],
        [(b"host", b"h:8080")],
        [],
        [(b"host", b"bad host")],
        [(b"host", b"h"), (b"upgrade", b"websocket"), (b"connection", b"upgrade")],
    )


    def seen(bridge, method, target, headers):
        invocation = Invocation("i", method, target, headers, b"")
        with bridge.app.request_context(environ(invocation)):
            request, error = flask.request, flask.request.routing_exception
            return (
                str(request.url_rule), request.view_args, request.endpoint, request.blueprint,
                type(error), getattr(error, "new_url", None),
                flask.url_for("run", path="x y", _external=True), flask.url_for("static", filename="a"),
                request.path, request.url,
            )


    for case in itertools.product(METHODS, TARGETS, HEADERS):
        mine, theirs = seen(ours, *case), seen(flasks, *case)
        assert mine == theirs, (case, mine, theirs)
    ours.app.config["TRUSTED_HOSTS"] = flasks.app.config["TRUSTED_HOSTS"] = ["h.test"]
    for host in (b"h.test", b"other.test"):
        answers = [app.app.test_client().get("/a", headers={"host": host.decode()}) for app in (ours, flasks)]
        assert answers[0].status_code == answers[1].status_code, host
    print("same")
"""


def test_rules_arguments_and_addresses_are_what_flask_says(clients_python):
    places = [str(Path(pelton.__file__).parents[1]), *(path for path in sys.path if "site-packages" in path)]
    done = subprocess.run(
        [clients_python, "-W", "ignore", "-c", textwrap.dedent(COMPARE), *places],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "same\n", done.stderr
