"""Finding applications on the syntax tree, through real detection; importing what a target names."""

import pytest

from pelton.builders.detect import Wanted, detect
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.errors import FunctionLoadError, SourceError, UnknownConventionError
from pelton.model.invocation import LoadRequest
from pelton.sdk.app_target import import_app

ALL = {name: resolve_convention(name) for name in CONVENTIONS}


@pytest.fixture
def tree(tmp_path):
    def write(files):
        files = {"main.py": files} if isinstance(files, str) else files
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


@pytest.fixture
def found(tree):
    def run(files, **wanted):
        result = detect(tree(files), ALL, Wanted(**wanted))
        return result.convention, result.target, result.source

    return run


FASTAPI = "from fastapi import FastAPI\n"
FLASK = "from flask import Flask\n"


@pytest.mark.parametrize(
    ("kind", "target", "text"),
    [
        ("asgi", "app", FASTAPI + "app = FastAPI(title='x')"),
        ("asgi", "app", "import fastapi as f\napp: f.FastAPI = f.FastAPI()"),
        ("asgi", "service", "from starlette.applications import Starlette as S\nservice = S(routes=[])"),
        ("asgi", "app", "from quart import Quart\napp = Quart(__name__)"),
        ("asgi", "app", "from litestar import Litestar\napp = Litestar([])"),
        ("asgi", "app", "from blacksheep import Application\napp = Application()"),
        ("asgi", "app", "import falcon.asgi\napp = falcon.asgi.App()"),
        ("asgi", "app", "from falcon.asgi import App\napp = App()"),
        (
            "asgi",
            "application",
            "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()",
        ),
        ("asgi", "handler", "async def handler(scope, receive, send): ..."),
        (
            "asgi",
            "app",
            "class App:\n    async def __call__(self, scope, receive, send): ...\napp = App()",
        ),
        ("asgi", "app", FASTAPI + "class Mine(FastAPI): ...\nclass Ours(Mine): ...\napp = Ours()"),
        ("asgi", "app", FASTAPI + "def build(): return FastAPI()\napp = build()"),
        ("asgi", "app", FASTAPI + "from x import Middleware\napp = FastAPI()\napp = Middleware(app)"),
        ("asgi", "app", FASTAPI + "app = application = FastAPI()"),
        ("asgi", "app", FASTAPI + "app = FastAPI()\nadmin = FastAPI()\ndb = connect(app)"),
        ("asgi", "app", FASTAPI + "import mangum\napp = FastAPI()\nhandler = mangum.Mangum(app)"),
        (
            "asgi",
            "wrapped",
            FLASK + "from asgiref.wsgi import WsgiToAsgi\nsite = Flask('x')\nwrapped = WsgiToAsgi(site)",
        ),
        (
            "asgi",
            "outer",
            FASTAPI
            + FLASK
            + "from a2wsgi import WSGIMiddleware\nouter = FastAPI()\ninner = Flask('x')\n"
            + "outer.mount('/old', WSGIMiddleware(inner))",
        ),
        ("wsgi", "app", FLASK + "app = Flask(__name__)"),
        ("wsgi", "server", "import flask\nserver = flask.Flask(__name__)"),
        ("wsgi", "app", "import bottle\napp = bottle.Bottle()"),
        ("wsgi", "app", "import falcon\napp = falcon.App()"),
        (
            "wsgi",
            "application",
            "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()",
        ),
        ("wsgi", "application", "def application(environ, start_response): ..."),
        ("wsgi", "app", "from pyramid.config import Configurator\napp = Configurator().make_wsgi_app()"),
        (
            "wsgi",
            "app",
            FLASK
            + "from werkzeug.middleware.proxy_fix import ProxyFix\nsite = Flask('x')\napp = ProxyFix(site)",
        ),
        ("wsgi", "create_app", FLASK + "def create_app(config=None):\n    app = Flask('x')\n    return app"),
    ],
)
def test_application_is_found_by_what_makes_it(found, kind, target, text):
    assert found(text) == (kind, target, "main.py")


@pytest.mark.parametrize(
    "text",
    [
        "async def app(scope, receive): ...",
        "def app(scope, receive, send): ...",
        "async def application(environ, start_response): ...",
        "app = object()",
        "from flask import request\napp = request",
        "from fastapi import APIRouter\napp = APIRouter()",
        "app = FastAPI()",  # nobody imported it
        FLASK + "def create_app(config):\n    return Flask('x')",
        FLASK + "def create_app():\n    Flask('x')",
        "import falcon.asgi\napp = falcon.asgi.Request()",
    ],
)
def test_what_only_looks_like_an_application_is_none(found, text):
    with pytest.raises(UnknownConventionError, match="no function is recognised"):
        found(text)


def test_several_applications_of_unusual_names_are_a_tie_that_a_target_settles(found):
    text = FASTAPI + "one = FastAPI()\ntwo = FastAPI()"

    with pytest.raises(UnknownConventionError, match=r"main.py:2 one .*main.py:3 two .*\n?.*--target"):
        found(text)
    assert found(text, target="two") == ("asgi", "two", "main.py")
    assert found(text, target="main:one") == ("asgi", "main:one", "main.py")


def test_one_application_of_each_kind_is_a_tie_between_conventions(found):
    text = FASTAPI + FLASK + "api = FastAPI()\nsite = Flask('x')"

    with pytest.raises(UnknownConventionError, match="2 conventions fit"):
        found(text)
    assert found(text, convention="wsgi") == ("wsgi", "site", "main.py")


def test_usual_names_win(found):
    text = FASTAPI + "api = FastAPI()\napplication = FastAPI()\nother = FastAPI()"

    assert found(text) == ("asgi", "application", "main.py")


def test_file_that_makes_an_application_wins_over_those_that_import_it(found):
    files = {"server.py": FASTAPI + "app = FastAPI()", "run.py": "from server import app\n"}

    assert found(files) == ("asgi", "app", "server.py")


def test_application_is_followed_to_the_file_that_makes_it(found):
    files = {"wsgi.py": "from shop import create_app\napp = create_app('prod')\n"}
    files["shop/__init__.py"] = FLASK + "def create_app(name):\n    return Flask(name)\n"

    assert found(files) == ("wsgi", "app", "wsgi.py")


def test_package_is_searched_when_the_top_has_no_application(found):
    files = {"app/main.py": FASTAPI + "app = FastAPI()", "app/__init__.py": "", "setup.py": ""}

    assert found(files) == ("asgi", "app.main:app", "app/main.py")
    assert found(files, target="app.main:app") == ("asgi", "app.main:app", "app/main.py")


def test_tests_of_a_project_hold_no_applications(found):
    files = {"main.py": "x = 1", "tests/app.py": FASTAPI + "app = FastAPI()"}

    with pytest.raises(UnknownConventionError):
        found(files)


DJANGO = {
    "manage.py": "import os\n",
    "site1/settings.py": "",
    "site1/wsgi.py": "from django.core.wsgi import get_wsgi_application as get\napplication = get()\n",
    "site1/asgi.py": "from django.core.asgi import get_asgi_application as get\napplication = get()\n",
}


def test_django_project_is_wsgi_unless_asked_for_otherwise(found):
    assert found(DJANGO) == ("wsgi", "site1.wsgi:application", "site1/wsgi.py")
    assert found(DJANGO, convention="asgi") == ("asgi", "site1.asgi:application", "site1/asgi.py")
    assert found(DJANGO, target="site1.asgi:application")[0] == "asgi"


def test_django_project_with_channels_is_asgi(found):
    channels = (
        "from channels.routing import ProtocolTypeRouter\n"
        "from django.core.asgi import get_asgi_application\n"
        "application = ProtocolTypeRouter({'http': get_asgi_application()})\n"
    )

    assert found({**DJANGO, "site1/asgi.py": channels})[:2] == ("asgi", "site1.asgi:application")


def test_with_a_convention_anything_of_a_usual_name_will_do(found):
    text = "from elsewhere import make\napp = make()\n"

    assert found(text, convention="asgi") == ("asgi", "app", "main.py")
    assert found(text + "shop = make()\n", convention="wsgi", target="shop") == ("wsgi", "shop", "main.py")
    with pytest.raises(SourceError):
        found(text, convention="asgi", target="missing")


def test_factory_is_an_option_unless_the_target_calls_it(tree):
    folder = tree(FASTAPI + "def create_app():\n    return FastAPI()\n")

    assert detect(folder, ALL).options == {"factory": "true"}
    assert detect(folder, ALL, Wanted(target="main:create_app")).options == {"factory": "true"}
    called = detect(folder, ALL, Wanted(target="main:create_app()"))
    assert (called.convention, called.target, called.options) == ("asgi", "main:create_app()", {})


# --- importing ---


@pytest.fixture
def imported(tree, monkeypatch):
    import sys

    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(files, target, source="main.py", **options):
        folder = tree(files)
        sys.path.insert(0, str(folder))
        return import_app(
            LoadRequest(
                source=f"{folder}/{source}",
                target=target,
                signature="",
                context={},
                send=None,  # type: ignore[arg-type]  # nothing is sent
                send_async=None,  # type: ignore[arg-type]  # the same
                bundle=str(folder),
                options=options,
            )
        )

    yield run
    for name in set(sys.modules) - modules:
        if not name.startswith("pelton"):
            del sys.modules[name]


APP = """
class Holder:
    app = print

holder = Holder()

def make(name='x', *, tag=''):
    return lambda: name + tag
"""


@pytest.mark.parametrize("target", ["holder.app", "main:holder.app"])
def test_target_may_name_an_attribute_of_an_object(imported, target):
    assert imported(APP, target) is print


@pytest.mark.parametrize(
    ("target", "options", "made"),
    [
        ("make", {"factory": "true"}, "x"),
        ("main:make()", {}, "x"),
        ("make('a', tag='b')", {}, "ab"),
        ("main:make()", {"factory": "true"}, "x"),
    ],
)
def test_factory_is_called(imported, target, options, made):
    assert imported(APP, target, **options)() == made


def test_module_of_a_package_is_imported_as_such(imported):
    files = {"inside/web.py": "from .other import app\n", "inside/other.py": "def app(): ...\n"}

    assert imported(files, "inside.web:app", "inside/web.py").__module__ == "inside.other"


def test_module_called_like_one_of_the_standard_library_is_the_users(imported):
    assert imported({"code.py": "def app(): ...\n"}, "code:app", "code.py").__module__ == "function_code"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing", "no 'missing' in the module 'main'"),
        ("make(open('x'))", "neither a name nor a call with literal arguments"),
        ("1 + 1", "neither a name nor a call"),
        ("number", "'number' is a int, not an application"),
    ],
)
def test_bad_target_says_what_is_wrong(imported, target, message):
    with pytest.raises(FunctionLoadError, match=message.replace("(", r"\(")):
        imported(APP + "number = 1\n", target)
