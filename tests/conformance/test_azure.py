"""Azure function apps with the real `azure-functions` package, served by `pelton run`."""

import json
import sys

import pytest

HOST = {"version": "2.0"}

V2 = """
    import json
    import logging
    import azure.functions as func
    from shop import shop

    app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
    app.register_functions(shop)

    @app.route(route="hello")
    def hello(req: func.HttpRequest) -> func.HttpResponse:
        return func.HttpResponse(f"hello {req.params.get('name', 'you')}", headers={"X-Own": "1"})

    @app.route(route="items/{id:int}", methods=["GET", "PUT"])
    def item(req: func.HttpRequest, context: func.Context) -> str:
        return json.dumps({
            "id": req.route_params["id"], "method": req.method, "url": req.url,
            "is": isinstance(req, func.HttpRequest),
            "function": context.function_name, "trace": context.trace_context.trace_parent,
            "invocation": context.invocation_id, "retries": context.retry_context.retry_count,
        })

    @app.route(route="items/new")
    def new(req: func.HttpRequest) -> func.HttpResponse:
        data = req.get_json()
        return func.HttpResponse(json.dumps(data), status_code=201, mimetype="application/json")

    @app.route(route="form")
    def form(req: func.HttpRequest):
        upload = req.files["file"]
        kind = req.headers["Content-TYPE"][:19]
        return f"{req.form['a']} {upload.filename} {upload.read().decode()} {kind}"

    @app.route(route="files/{*path}")
    def files(req: func.HttpRequest):
        return req.route_params.get("path", "none")

    @app.route(route="nothing")
    def nothing(req: func.HttpRequest):
        return None

    @app.route(route="bad")
    def bad(req: func.HttpRequest):
        return {"not": "an answer"}

    @app.route(route="crash")
    def crash(req: func.HttpRequest):
        raise RuntimeError("crashed on purpose")

    @app.function_name("tick")
    @app.timer_trigger(arg_name="timer", schedule="0 */5 * * * *")
    def on_tick(timer: func.TimerRequest) -> None:
        print("tick", timer.past_due, sorted(timer.schedule_status), timer.schedule)

    @app.queue_trigger(arg_name="msg", queue_name="orders", connection="")
    def on_order(msg: func.QueueMessage) -> None:
        print("order", msg.id, msg.get_body(), msg.dequeue_count)
        if msg.get_body() == b"poison":
            raise ValueError("poisonous order")
"""
SHOP = """
    import azure.functions as func

    shop = func.Blueprint()

    @shop.route(route="shop", methods=[func.HttpMethod.POST])
    @shop.queue_output(arg_name="out", queue_name="orders", connection="")
    def order(req: func.HttpRequest, out: func.Out[str]) -> func.HttpResponse:
        out.set(req.get_body().decode())
        return func.HttpResponse("ordered", status_code=202)
"""


@pytest.fixture
def v2(serve):
    return serve(
        {"function_app.py": V2, "shop.py": SHOP, "host.json": HOST, "requirements.txt": ""}, clients=True
    )


def test_v2_http_functions_answer_as_on_azure(v2):
    hello = v2.get("/api/hello?name=you")
    traced = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-request-id": "r-1"}
    item = v2.request("PUT", "/api/ITEMS/7", headers=traced)

    assert (hello.status_code, hello.text) == (200, "hello you")
    assert hello.headers["content-type"] == "text/plain; charset=utf-8"
    assert hello.headers["x-own"] == "1"
    assert item.json() == {
        "id": "7",
        "method": "PUT",
        "url": f"{v2.url}/api/ITEMS/7",
        "is": True,
        "function": "item",
        "trace": traced["traceparent"],
        "invocation": "r-1",
        "retries": 0,
    }
    assert v2.get("/api/items/x").status_code == 404
    assert v2.request("DELETE", "/api/items/7").status_code == 404
    assert v2.post("/api/items/new", json={"a": 1}).json() == {"a": 1}
    form = v2.post("/api/form", data={"a": "b"}, files={"file": ("f.txt", b"content")})
    assert form.text == "b f.txt content multipart/form-data"
    assert v2.get("/api/files/a/b%20c").text == "a/b c"
    assert v2.get("/api/files").text == "none"
    assert v2.get("/api/nothing").status_code == 204
    assert v2.get("/").status_code == 200
    assert v2.get("/hello").status_code == 404


def test_v2_failures_are_500_without_a_body_and_leave_the_traceback_in_the_log(v2):
    for path in ("/api/crash", "/api/bad", "/api/items/new"):
        answer = v2.get(path)
        assert (answer.status_code, answer.content) == (500, b"")

    v2.wait_for("crashed on purpose")
    v2.wait_for("HTTP request does not contain valid JSON data")
    v2.wait_for("returned a dict; return func.HttpResponse, str or None")


def test_v2_admin_addresses_list_and_run_functions(v2):
    status = v2.get("/admin/host/status").json()
    listed = {
        item["name"]: item["config"]["bindings"][0]["type"] for item in v2.get("/admin/functions").json()
    }

    assert status["state"] == "Running"
    assert listed["tick"] == "timerTrigger"
    assert listed["order"] in {"httpTrigger", "queue"}
    assert v2.post("/admin/functions/tick", json={"input": ""}).status_code == 202
    v2.wait_for(r"tick False \['Last', 'LastUpdated', 'Next'\] \{'AdjustForDST': True\}")
    assert v2.post("/admin/functions/on_order", json={"input": "poison"}).status_code == 202
    v2.wait_for("poisonous order")
    assert v2.post("/admin/functions/none", json={}).status_code == 404


def test_v2_events_find_their_function_and_outputs_name_what_is_missing(v2):
    event = {"ce-id": "e-1", "ce-source": "/shop", "ce-type": "order", "ce-specversion": "1.0"}
    taken = v2.post("/", content=b"apples", headers={**event, "content-type": "text/plain"})
    ordered = v2.post("/api/shop", content=b"pears")

    assert taken.status_code == 200
    v2.wait_for("order e-1 b'apples' 1")
    assert ordered.status_code == 500
    v2.wait_for("declare it in spec.serving.outputs")


V1 = {
    "host.json": {
        "version": "2.0",
        "extensions": {"http": {"routePrefix": "v1"}},
        "functionTimeout": "00:01:00",
    },
    "local.settings.json": {"IsEncrypted": False, "Values": {"GREETING": "good day", "QUEUE": "orders"}},
    "Greet/function.json": {
        "scriptFile": "handlers.py",
        "entryPoint": "greet",
        "bindings": [
            {
                "type": "httpTrigger",
                "direction": "in",
                "name": "req",
                "route": "greet/{who?}",
                "methods": ["get"],
            },
            {"type": "http", "direction": "out", "name": "$return"},
        ],
    },
    "Greet/handlers.py": """
        import os
        from ..shared import words

        def greet(req):
            return words.line(os.environ["GREETING"], req.route_params.get("who", "all"))
    """,
    "Greet/__init__.py": "",
    "shared/__init__.py": "",
    "shared/words.py": """
        def line(*parts):
            return ", ".join(parts)
    """,
    "Secret/function.json": {
        "bindings": [
            {"type": "httpTrigger", "direction": "in", "name": "req", "authLevel": "function"},
            {"type": "http", "direction": "out", "name": "res"},
        ],
    },
    "Secret/__init__.py": """
        import azure.functions as func

        async def main(req: func.HttpRequest, res: func.Out[func.HttpResponse]):
            res.set(func.HttpResponse("opened", status_code=203))
    """,
    "Work/function.json": {
        "bindings": [{"type": "queueTrigger", "direction": "in", "name": "msg", "queueName": "%QUEUE%"}],
        "retry": {"strategy": "fixedDelay", "maxRetryCount": 2, "delayInterval": "00:00:01"},
    },
    "Work/__init__.py": """
        def main(msg: str, context) -> None:
            print("work", msg, context.function_name, context.retry_context.max_retry_count)
    """,
    "Off/function.json": {
        "disabled": True,
        "bindings": [{"type": "httpTrigger", "direction": "in", "name": "req"}],
    },
    "Off/__init__.py": "raise RuntimeError('not to be imported')",
}


def test_v1_app_is_served_with_its_folders_settings_and_keys(serve):
    served = serve(V1, clients=True, env={"PELTON_AZURE_KEYS": "master=m,secret=s"})

    assert served.get("/v1/greet/you", headers={"x-functions-key": "s"}).status_code == 401  # another's key
    assert served.get("/v1/greet/you?code=m").text == "good day, you"
    assert served.get("/v1/greet?code=m").text == "good day, all"
    assert served.get("/v1/Secret").status_code == 401
    assert served.get("/v1/Secret?code=no").status_code == 401
    assert served.get("/v1/secret?code=s").text == "opened"
    assert served.get("/v1/secret?code=s", headers={"x-functions-key": "no"}).status_code == 401
    assert served.get("/v1/off?code=m").status_code == 404
    assert served.get("/admin/functions?code=s").status_code == 401
    assert served.post("/admin/functions/work?code=m", json={"input": "hard"}).status_code == 202
    served.wait_for("work hard Work 2")


def test_asgi_app_is_served_by_the_librarys_middleware_with_lifespan(serve):
    served = serve(
        {
            "host.json": {"version": "2.0", "extensions": {"http": {"routePrefix": ""}}},
            "function_app.py": """
            import contextlib
            import azure.functions as func
            from fastapi import FastAPI

            @contextlib.asynccontextmanager
            async def lifespan(app):
                print("started")
                yield
                print("stopped")

            api = FastAPI(lifespan=lifespan)

            @api.get("/users/{name}")
            async def user(name: str, q: int = 0):
                return {"name": name, "q": q}

            app = func.AsgiFunctionApp(app=api, http_auth_level=func.AuthLevel.ANONYMOUS)

            @app.timer_trigger(arg_name="timer", schedule="0 0 * * * *")
            def hourly(timer: func.TimerRequest) -> None:
                print("hourly")
            """,
        },
        clients=True,
    )

    assert served.get("/users/ann?q=3").json() == {"name": "ann", "q": 3}
    assert served.get("/users/ann?q=x").status_code == 422
    assert served.get("/none").json() == {"detail": "Not Found"}
    assert served.post("/admin/functions/hourly", json={}).status_code == 202
    served.wait_for("^hourly$")
    assert served.stop() == 0
    assert served.output.count("started") == 1
    assert "stopped" in served.output


def test_wsgi_app_is_served(serve):
    served = serve(
        {
            "host.json": HOST,
            "function_app.py": """
            import azure.functions as func
            from flask import Flask, request

            site = Flask("site")

            @site.post("/api/echo")
            def echo():
                return request.get_json(), 201

            app = func.WsgiFunctionApp(app=site.wsgi_app, http_auth_level=func.AuthLevel.ANONYMOUS)
            """,
        },
        clients=True,
    )

    answer = served.post("/api/echo", json={"a": 1})

    assert (answer.status_code, answer.json()) == (201, {"a": 1})


HANDLER = f"""#!{sys.executable}
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, f"{{self.command}} {{self.path}} {{self.headers['x-own']}}".encode(), "text/plain")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.path.startswith("/api/"):
            call = json.loads(body)
            name = self.path[1:]
            if name == "Echo":
                request = call["Data"]["req"]
                seen = {{name.lower(): request[name] for name in ("Method", "Params", "Body")}}
                answer = {{"statusCode": 201, "headers": {{"X-Handler": "yes"}}, "body": seen}}
                value = {{"Outputs": {{"res": answer}}, "Logs": ["echo was called"]}}
            elif name == "Broken":
                self.answer(500, b"", "text/plain")
                return
            else:
                metadata = call["Metadata"]
                line = [name, "got", call["Data"]["msg"], metadata["DequeueCount"]]
                line.append(metadata["sys"]["MethodName"])
                value = {{"Logs": [" ".join(map(str, line))]}}
            self.answer(200, json.dumps(value).encode(), "application/json")

    def answer(self, status, body, kind):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["FUNCTIONS_CUSTOMHANDLER_PORT"])), Handler).serve_forever()
"""


def custom_app(folder, forward=False):
    http = [
        {
            "type": "httpTrigger",
            "direction": "in",
            "name": "req",
            "route": "echo/{id}",
            "authLevel": "anonymous",
        },
        {"type": "http", "direction": "out", "name": "res"},
    ]
    queue = [{"type": "queueTrigger", "direction": "in", "name": "msg", "queueName": "orders"}]
    files = {
        "host.json": {
            "version": "2.0",
            "customHandler": {
                "description": {"defaultExecutablePath": "handler"},
                "enableForwardingHttpRequest": forward,
            },
        },
        "Echo/function.json": {"bindings": http},
        "Broken/function.json": {"bindings": [{**http[0], "route": "broken"}, http[1]]},
        "Work/function.json": {"bindings": queue},
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (folder / "handler").write_text(HANDLER)
    (folder / "handler").chmod(0o755)
    return folder


def test_custom_handler_is_called_with_data_and_answers_with_outputs(serve, tmp_path):
    served = serve(custom_app(tmp_path / "app"))

    answer = served.post("/api/echo/7", content=b"text")
    event = {"ce-id": "e-1", "ce-source": "/shop", "ce-type": "order", "ce-specversion": "1.0"}

    assert answer.status_code == 201
    assert answer.headers["x-handler"] == "yes"
    assert answer.json() == {"method": "POST", "params": {"id": "7"}, "body": "text"}
    served.wait_for("echo was called")
    assert served.post("/api/broken").status_code == 500
    assert served.post("/", content=b"apples", headers=event).status_code == 200
    served.wait_for("Work got apples 1 Work")
    assert served.stop() == 0


def test_custom_handler_gets_the_original_request_where_forwarding_is_on(serve, tmp_path):
    served = serve(custom_app(tmp_path / "app", forward=True))

    assert served.get("/api/echo/7?x=1", headers={"x-own": "2"}).text == "GET /api/echo/7?x=1 2"


APP = "import azure.functions as func\napp = func.FunctionApp()\n"
QUEUE = "@app.queue_output(arg_name='q', queue_name='x', connection='')\n"
TIMER = "@app.timer_trigger(arg_name='t', schedule='0 * * * * *')\n"
BROKEN = {
    "two apps": (f"{APP}other = func.FunctionApp()\n", "there are 2 function apps: app, other"),
    "two triggers": (
        f"{APP}@app.route(route='x')\n{TIMER}def f(req, t):\n    pass\n",
        "trigger was already registered",
    ),
    "no trigger": (f"{APP}{QUEUE}def f(q):\n    pass\n", "does not have a trigger"),
    "parameters": (
        f"{APP}@app.route(route='x')\ndef f(request):\n    pass\n",
        "function 'f': parameters without a binding: request",
    ),
    "out": (
        f"{APP}@app.route(route='x')\n{QUEUE}def f(req, q: str):\n    pass\n",
        "the binding 'q' has direction out",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_app_that_azure_would_refuse_is_refused_with_the_reason(serve, case):
    source, message = BROKEN[case]

    served = serve({"function_app.py": source, "host.json": HOST}, clients=True)

    served.wait_for(message, timeout_s=60)
    assert served.process.wait(20) != 0
