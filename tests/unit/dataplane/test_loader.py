"""Entering an environment cannot be undone, so each of those cases runs in an interpreter of its own."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from pelton.compat import gcf
from pelton.dataplane import loader
from pelton.errors import FunctionLoadError
from pelton.model.desired import Workload

OPENFUNCTION = "from functions_framework.context.user_context import UserContext\n"

PROGRAM = """
import json, logging, os, sys
import httptools, msgspec, uvloop
from pelton import log
from pelton.cli.tables import resolve_convention
from pelton.dataplane import loader, wire
from pelton.errors import FunctionLoadError
from pelton.model.desired import Workload
from pelton.model.invocation import Invocation
bundle, environment = sys.argv[1:3]
log.setup("worker")
convention = resolve_convention("openfunction")
loader.enter_environment(environment, bundle)
function = loader.load(
    Workload(namespace="d", name="f", revision="r", bundle=bundle), convention, None, None
)
reply = function.call(Invocation(id="1", method="GET", target=b"/", headers=[]))
wire.encode([1, {"still": "works"}])
sys.stdout.write(reply.body.decode())
"""


class Runner:
    def __init__(self, run, bundle, environment):
        self.run, self.bundle, self.environment = run, bundle, environment

    def __call__(self, *arguments, **files):
        return self.run(*arguments, **files)


@pytest.fixture
def in_worker(tmp_path):
    """Run a function's source in a fresh interpreter and return what it answers, decoded from JSON."""
    bundle, environment = tmp_path / "bundle", tmp_path / "env"
    bundle.mkdir()
    environment.mkdir()

    def run(body, **files):
        source = OPENFUNCTION + "import json, os, sys, logging\n" + body
        (bundle / "main.py").write_text(source)
        for name, text in files.items():
            (environment / f"{name}.py").write_text(text)
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(bundle), str(environment)],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return Runner(run, bundle, environment)


def test_function_sees_the_standard_library_its_bundle_and_its_environment_only(in_worker):
    found = in_worker("def f(context: UserContext):\n    return [sys.path[0], sys.path[-1], sys.path]\n")

    assert found[0] == str(in_worker.bundle)
    assert found[1] == str(in_worker.environment)
    others = found[2][1:-1]
    assert not [entry for entry in others if "site-packages" in entry or "/src" in entry]


def test_peltons_packages_are_gone_and_the_environments_are_found(in_worker):
    body = (
        "import importlib.util, msgspec\n"
        "def f(context: UserContext):\n"
        "    gone = [name for name in ('uvloop', 'httptools', 'typer', 'grpc', 'pytest')\n"
        "            if name in sys.modules or importlib.util.find_spec(name)]\n"
        "    return [gone, msgspec.MINE]\n"
    )

    assert in_worker(body, msgspec="MINE = 'from the environment'\n") == [[], "from the environment"]


def test_pelton_and_the_shims_need_no_install(in_worker):
    body = (
        "import functions_framework, pelton\n"
        "from functions_framework.openfunction.function_out import FunctionOut\n"
        "def f(context: UserContext):\n"
        "    return [pelton.UserContext is UserContext, pelton.FunctionOut is FunctionOut,\n"
        "            functions_framework.http.__name__]\n"
    )

    assert in_worker(body) == [True, True, "http"]


def test_installed_framework_wins_and_openfunctions_context_is_still_ours(in_worker):
    package = in_worker.environment / "functions_framework"
    (package / "context").mkdir(parents=True)
    (package / "__init__.py").write_text("REAL = 6\n")
    (package / "extra.py").write_text("VALUE = 7\n")
    (package / "context" / "__init__.py").write_text("raise ImportError('its objects are not made')\n")
    (package / "context" / "user_context.py").write_text("UserContext = None\n")
    (package / "context" / "more.py").write_text("VALUE = 8\n")
    body = (
        "import functions_framework, pelton\n"
        "from functions_framework.extra import VALUE\n"
        "from functions_framework.context.more import VALUE as MORE\n"
        "from functions_framework import aio\n"
        "def f(context: UserContext):\n"
        "    ours = UserContext is pelton.UserContext\n"
        "    return [functions_framework.REAL, VALUE, MORE, ours, aio.__name__]\n"
    )

    assert in_worker(body) == [6, 7, 8, True, "functions_framework.aio"]


def test_directory_called_like_the_framework_hides_nothing(in_worker):
    (in_worker.bundle / "functions_framework").mkdir()

    assert in_worker(
        "from functions_framework import http\ndef f(context: UserContext):\n    return [http.__name__]\n"
    ) == ["http"]


def test_working_directory_and_logging_belong_to_the_function(in_worker):
    body = (
        "def f(context: UserContext):\n"
        "    root, own = logging.getLogger(), logging.getLogger('pelton')\n"
        "    return [os.getcwd(), len(root.handlers), root.level, len(own.handlers)]\n"
    )

    assert in_worker(body) == [str(in_worker.bundle), 0, 30, 1]


def test_path_files_of_the_environment_are_honoured(in_worker, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "linked_module.py").write_text("VALUE = 5\n")
    (in_worker.environment / "linked.pth").write_text(str(tmp_path / "linked") + "\n")

    assert in_worker(
        "import linked_module\ndef f(context: UserContext):\n    return [linked_module.VALUE]\n"
    ) == [5]


def refuse(_output):
    raise AssertionError("nothing is sent while loading")


@pytest.fixture
def failure(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def fail(source):
        (tmp_path / "main.py").write_text(textwrap.dedent(source))
        workload = Workload(namespace="d", name="f", revision="r", bundle=str(tmp_path))
        with pytest.raises(FunctionLoadError) as raised:
            loader.load(workload, gcf, refuse, refuse)
        return raised.value

    return fail


def test_import_that_raises_shows_the_users_traceback_without_peltons_frames(failure):
    error = failure("def g():\n    raise ValueError('no stock')\n\ng()\n")

    assert error.message == "main.py raised ValueError: no stock"
    assert error.where == "main.py:2"
    assert error.log_tail[0] == "Traceback (most recent call last):"
    assert error.log_tail[1] == '  File "main.py", line 4, in <module>'
    assert error.log_tail[-1] == "ValueError: no stock"
    assert not [line for line in error.log_tail if "pelton" in line or "importlib" in line]


def test_chained_exceptions_are_stripped_too(failure):
    error = failure(
        """
        try:
            {}["a"]
        except KeyError as exc:
            raise RuntimeError("outer") from exc
        """
    )

    assert "KeyError: 'a'" in error.log_tail
    assert error.log_tail[-1] == "RuntimeError: outer"


def test_long_traceback_keeps_its_last_20_lines(failure):
    error = failure("raise ValueError('\\n'.join(str(n) for n in range(50)))\n")

    assert len(error.log_tail) == 20
    assert error.log_tail[-1] == "49"


def test_syntax_error_names_file_and_line(failure):
    error = failure("x = 1\ndef f(:\n")

    assert error.where == "main.py:2"
    assert "syntax error" in error.message
    assert '  File "main.py", line 2' in error.log_tail


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit(3)", "called sys.exit(3) while it was imported"),
        ("import no_such_module_here", "needs a module that is not there"),
        ("class Odd(BaseException): ...\nraise Odd('x')", "raised Odd: x"),
    ],
)
def test_every_way_to_fail_has_its_own_sentence(failure, source, message):
    assert message in failure(source).message


def test_missing_source_file_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    workload = Workload(namespace="d", name="f", revision="r", bundle=str(tmp_path), source="nope.py")

    with pytest.raises(FunctionLoadError, match=r"no file 'nope\.py'"):
        loader.load(workload, gcf, refuse, refuse)


def test_failed_import_leaves_no_half_module(failure):
    failure("raise ValueError\n")

    assert "main" not in sys.modules
