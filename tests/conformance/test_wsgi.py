"""Real Flask and Django applications behind `pelton run`."""

import httpx

FLASK = """
import time
from flask import Flask, Response, abort, jsonify, request, session, stream_with_context, url_for

app = Flask(__name__)
app.secret_key = "x"

@app.get("/")
def root():
    return jsonify(args=request.args.to_dict(), agent=request.headers.get("User-Agent"))

@app.post("/form")
def form():
    return {"form": request.form.to_dict(), "files": {k: len(f.read()) for k, f in request.files.items()}}

@app.get("/count")
def count():
    session["count"] = session.get("count", 0) + 1
    return str(session["count"])

@app.get("/stream")
def stream():
    @stream_with_context
    def lines():
        for number in range(3):
            yield f"{request.args['word']} {number}\\n"
    return Response(lines(), mimetype="text/plain")

@app.get("/endless")
def endless():
    def lines():
        try:
            while True:
                yield b"x" * 1000
                time.sleep(0.01)
        finally:
            print("the stream ended", flush=True)
    return Response(lines(), mimetype="text/event-stream")

@app.get("/teapot")
def teapot():
    abort(418)

@app.get("/boom")
def boom():
    raise RuntimeError("secret")

@app.get("/url")
def url():
    return url_for("root", _external=True)

@app.post("/echo")
def echo():
    return request.get_data()
"""


def test_flask_application_does_everything_it_does_elsewhere(serve):
    served = serve({"app.py": FLASK}, clients=True)

    assert served.get("/?a=1", headers={"user-agent": "u"}).json() == {"args": {"a": "1"}, "agent": "u"}
    form = served.post("/form", data={"a": "1"}, files={"f": ("f.txt", b"x" * 1000)})
    assert form.json() == {"form": {"a": "1"}, "files": {"f": 1000}}
    with httpx.Client(base_url=served.url) as client:
        assert [client.get("/count").text for _ in range(3)] == ["1", "2", "3"]
    assert served.get("/stream?word=line").text == "line 0\nline 1\nline 2\n"
    assert served.get("/teapot").status_code == 418
    assert served.request("DELETE", "/").status_code == 405
    head = served.request("HEAD", "/?a=1")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0
    assert served.get("/url").text == f"{served.url}/"
    assert (
        served.get("/url", headers={"x-forwarded-prefix": "/default/shop"}).text
        == f"{served.url}/default/shop/"
    )
    large = b"x" * 3_000_000
    assert served.post("/echo", content=large).content == large
    boom = served.get("/boom")
    assert boom.status_code == 500
    assert "secret" not in boom.text
    served.wait_for("RuntimeError: secret")
    with httpx.stream("GET", served.url + "/endless", timeout=20) as endless:
        assert next(endless.iter_raw())
    served.wait_for("^the stream ended$")
    assert served.stop() == 0


def test_django_project_is_found_and_served(serve):
    files = {
        "manage.py": "",
        "site1/__init__.py": "",
        "site1/settings.py": """
            SECRET_KEY = "x"
            ALLOWED_HOSTS = ["*"]
            ROOT_URLCONF = "site1.urls"
            MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
        """,
        "site1/urls.py": """
            from django.http import JsonResponse, StreamingHttpResponse
            from django.urls import path
            from django.views.decorators.csrf import csrf_exempt

            def hello(request, name):
                return JsonResponse({"hello": name, "kind": type(request).__name__, "path": request.path})

            def stream(request):
                return StreamingHttpResponse(f"{number} " for number in range(3))

            def boom(request):
                raise ValueError("secret")

            urlpatterns = [path("hello/<name>", hello), path("stream", stream), path("boom", boom)]
        """,
    }
    for kind in ("asgi", "wsgi"):
        files[f"site1/{kind}.py"] = f"""
            import os
            from django.core.{kind} import get_{kind}_application
            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")
            application = get_{kind}_application()
        """
    served = serve(files, clients=True)

    assert served.get("/hello/you").json() == {"hello": "you", "kind": "WSGIRequest", "path": "/hello/you"}
    served.wait_for("convention=wsgi target=site1.wsgi:application")
    behind = served.get("/hello/you", headers={"x-forwarded-prefix": "/default/shop"})
    assert behind.json()["path"] == "/default/shop/hello/you"
    assert served.get("/stream").text == "0 1 2 "
    assert served.get("/missing").status_code == 404
    assert served.get("/boom").status_code == 500


def test_factory_in_a_package_is_found(serve):
    files = {
        "shop/__init__.py": """
            from flask import Flask

            def create_app(config=None):
                app = Flask(__name__)
                app.get("/")(lambda: f"made, {config}")
                return app
        """
    }
    served = serve(files, clients=True)

    assert served.get("/").text == "made, None"
