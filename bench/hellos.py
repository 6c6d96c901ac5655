"""One hello function per convention, written as its platform's users write it: sources, options, the request.

Used by the sections that compare conventions with each other. Each answers the same text to the same request
and builds no more than its own signature makes it build. Where a framework that the function imports does the
work (a FastAPI application, a Flask application), there is no budget: the worker can only be as fast as that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import write_function

__all__ = ["AZURE", "DJANGO", "FASTAPI", "FLASK", "HELLOS", "PLAIN", "PLAIN_ASYNC", "TEXT", "Hello", "write"]

TEXT = b"Hello, world!\n"
FLASK = "flask==3.1.3\nwerkzeug==3.1.9\n"
AZURE = "azure-functions==1.26.0\n"
FASTAPI = "fastapi==0.165.0\n"
DJANGO = "django==5.2.19\n"
_BUDGET = ">= 0.7"


@dataclass(frozen=True, kw_only=True)
class Hello:
    """A function and how it is asked.

    Attributes:
        name: Of its row.
        convention: Name in the convention table.
        files: Name -> text, indented or not; main.py goes through `textwrap.dedent`.
        target: As `--target`; "" lets the convention find it.
        requirements: Text of its requirements.txt.
        options: Annotations `pelton.dev/KEY` without the prefix.
        path: That it is asked at.
        asynchronous: Whether its signature makes it a coroutine, so that it is compared with the async one.
        budget: Of its requests/s against the plain function.
        note: What a reader of its row must know.
    """

    name: str
    convention: str
    files: Mapping[str, str]
    target: str = ""
    requirements: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    path: str = "/hello"
    asynchronous: bool = False
    budget: str = _BUDGET
    note: str = ""

    @property
    def slug(self) -> str:
        """Name for a Function, a directory or a socket."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())

    @property
    def request(self) -> bytes:
        """A whole request."""
        return (
            f"GET {self.path}?name=bench HTTP/1.1\r\nhost: hello.default.localhost\r\n"
            "user-agent: bench/1\r\naccept: */*\r\n\r\n"
        ).encode()


def write(hello: Hello, place: Path, *, comment: str = "") -> Path:
    """Write a hello into a directory; a comment makes it differ from others with the same code."""
    write_function(place, hello.files)
    if hello.requirements:
        (place / "requirements.txt").write_text(hello.requirements)
    if comment:
        (place / "README").write_text(comment)
    return place


_ASGI_ANSWER = """
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"Hello, world!\\n"})
"""

PLAIN = Hello(
    name="gcf, plain",
    convention="gcf",
    files={"main.py": "def hello(request):\n    return 'Hello, world!\\n'\n"},
    target="hello",
    budget="",
)
"""What the others are compared with."""

PLAIN_ASYNC = Hello(
    name="gcf, plain async",
    convention="gcf",
    files={"main.py": "async def hello(request):\n    return 'Hello, world!\\n'\n"},
    target="hello",
    budget="",
    note="a task per request",
)
"""What those are compared with that are asynchronous by their signature."""

HELLOS = (
    PLAIN,
    PLAIN_ASYNC,
    Hello(
        name="openfunction",
        convention="openfunction",
        files={
            "main.py": """
                from functions_framework.context.user_context import UserContext


                def hello(context: UserContext):
                    return "Hello, world!\\n"
            """
        },
        target="hello",
    ),
    Hello(
        name="lambda, function URL",
        convention="lambda",
        files={
            "lambda_function.py": """
                def lambda_handler(event, context):
                    headers = {"content-type": "text/plain"}
                    return {"statusCode": 200, "headers": headers, "body": "Hello, world!\\n"}
            """
        },
        note="one invocation at a time; builds the whole event",
    ),
    Hello(
        name="azure, HTTP route",
        convention="azure",
        files={
            "function_app.py": """
                import azure.functions as func

                app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


                @app.route(route="hello")
                def hello(req: func.HttpRequest) -> func.HttpResponse:
                    return func.HttpResponse("Hello, world!\\n")
            """,
            "host.json": '{"version": "2.0"}\n',
        },
        requirements=AZURE,
        path="/api/hello",
        note="the function makes the package's own HttpResponse",
    ),
    Hello(
        name="fission",
        convention="fission",
        files={"main.py": "def main():\n    return 'Hello, world!\\n'\n"},
    ),
    Hello(
        name="fission, reads flask.request",
        convention="fission",
        files={
            "main.py": """
                from flask import request


                def main():
                    request.args.get("name")
                    return "Hello, world!\\n"
            """
        },
        requirements=FLASK,
        budget="",
        note="flask's request object is most of it",
    ),
    Hello(
        name="openwhisk, web action",
        convention="openwhisk",
        files={
            "__main__.py": """
                def main(params):
                    headers = {"content-type": "text/plain"}
                    return {"statusCode": 200, "headers": headers, "body": "Hello, world!\\n"}
            """
        },
        note="one activation at a time; builds params",
    ),
    Hello(
        name="kubeless",
        convention="kubeless",
        files={"main.py": "def hello(event, context):\n    return 'Hello, world!\\n'\n"},
        target="main.hello",
    ),
    Hello(
        name="knative-func",
        convention="knative-func",
        asynchronous=True,
        files={
            "func.yaml": "specVersion: 0.36.0\nname: hello\nruntime: python\n",
            "function/__init__.py": "from .func import new\n",
            "function/func.py": f"""
def new():
    return Function()


class Function:
    async def handle(self, scope, receive, send):{_ASGI_ANSWER}""",
        },
    ),
    Hello(
        name="asgi, bare",
        convention="asgi",
        asynchronous=True,
        files={
            "main.py": f"async def app(scope, receive, send):\n    if scope['type'] == 'http':{_ASGI_ANSWER}"
        },
    ),
    Hello(
        name="asgi, FastAPI",
        convention="asgi",
        asynchronous=True,
        files={
            "main.py": """
                from fastapi import FastAPI
                from fastapi.responses import PlainTextResponse

                app = FastAPI()


                @app.get("/hello", response_class=PlainTextResponse)
                async def hello(name: str = "world") -> str:
                    return "Hello, world!\\n"
            """
        },
        requirements=FASTAPI,
        budget="",
        note="FastAPI's own work is most of it",
    ),
    Hello(
        name="wsgi, bare",
        convention="wsgi",
        files={
            "main.py": """
                def application(environ, start_response):
                    start_response("200 OK", [("content-type", "text/plain"), ("content-length", "14")])
                    return [b"Hello, world!\\n"]
            """
        },
    ),
    Hello(
        name="wsgi, Flask",
        convention="wsgi",
        files={
            "app.py": """
                from flask import Flask

                app = Flask(__name__)


                @app.get("/hello")
                def hello():
                    return "Hello, world!\\n"
            """
        },
        requirements=FLASK,
        budget="",
        note="Flask's own work is most of it",
    ),
    Hello(
        name="wsgi, Django",
        convention="wsgi",
        files={
            "main.py": """
                from django.conf import settings
                from django.core.wsgi import get_wsgi_application
                from django.http import HttpResponse
                from django.urls import path

                settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="bench")


                def hello(request):
                    return HttpResponse("Hello, world!\\n")


                urlpatterns = [path("hello", hello)]
                application = get_wsgi_application()
            """
        },
        requirements=DJANGO,
        budget="",
        note="Django's own work is most of it",
    ),
    Hello(
        name="process, node",
        convention="process",
        files={
            "server.js": """
                const http = require("http");
                const headers = { "content-type": "text/plain", "content-length": 14 };
                http
                  .createServer((request, response) => {
                    response.writeHead(200, headers);
                    response.end("Hello, world!\\n");
                  })
                  .listen(process.env.PORT, "127.0.0.1");
            """
        },
        options={"command": "node server.js"},
        budget="",
        note="node and the worker before it share one CPU",
    ),
)
