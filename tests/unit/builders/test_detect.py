import pytest

from pelton.builders.detect import Wanted, detect, from_build_env
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.errors import SourceError, UnknownConventionError

ALL = {name: resolve_convention(name) for name in CONVENTIONS}
OPENFUNCTION = "from functions_framework.context.user_context import UserContext\n"


@pytest.fixture
def tree(tmp_path):
    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        return tmp_path

    return write


def test_user_context_annotation_means_openfunction(tree):
    found = detect(tree(main=OPENFUNCTION + "def f(context: UserContext): ...\n"), ALL)

    assert (found.convention, found.target, found.signature) == ("openfunction", "f", "openfunction")
    assert (found.source, found.implied) == ("main.py", ())


@pytest.mark.parametrize(
    ("imports", "decorator", "signature"),
    [
        ("import functions_framework", "functions_framework.http", "http"),
        ("import functions_framework as ff", "ff.cloud_event", "cloudevent"),
        ("from functions_framework import http as web", "web", "http"),
        ("import functions_framework.aio", "functions_framework.aio.http", "http"),
        ("from functions_framework import aio", "aio.cloud_event", "cloudevent"),
        ("import functions_framework", "functions_framework.typed(dict)", "typed"),
    ],
)
def test_decorator_means_gcf_under_any_name(tree, imports, decorator, signature):
    found = detect(tree(app=f"{imports}\n@{decorator}\ndef f(x): ...\n"), ALL)

    assert (found.convention, found.target, found.signature, found.source) == (
        "gcf",
        "f",
        signature,
        "app.py",
    )


@pytest.mark.parametrize(
    ("parameters", "signature"),
    [
        ("request", "http"),
        ("cloud_event", "cloudevent"),
        ("data, context", "event"),
    ],
)
def test_main_with_the_usual_parameters_means_gcf(tree, parameters, signature):
    found = detect(tree(main=f"def f({parameters}): ...\n"), ALL)

    assert (found.convention, found.signature) == ("gcf", signature)


def test_event_and_context_in_main_fit_several_platforms_and_are_never_guessed(tree):
    folder = tree(main="def f(event, context): ...\n")

    with pytest.raises(UnknownConventionError, match="conventions fit") as raised:
        detect(folder, ALL)

    assert "--convention gcf|" in raised.value.hint
    assert detect(folder, ALL, convention="gcf").signature == "event"


def test_lambda_handler_in_main_is_lambdas(tree):
    assert detect(tree(main="def lambda_handler(event, context): ...\n"), ALL).convention == "lambda"


def test_decorated_function_wins_over_helpers_with_the_usual_parameters(tree):
    source = (
        "import functions_framework\n"
        "def parse(request): ...\n"
        "@functions_framework.http\n"
        "def f(request): ...\n"
    )

    assert detect(tree(main=source), ALL).target == "f"


def test_main_wins_over_other_files(tree):
    assert detect(tree(main="def f(request): ...\n", other="def g(request): ...\n"), ALL).source == "main.py"


def test_several_functions_are_listed_with_the_flag_that_settles_it(tree):
    with pytest.raises(
        UnknownConventionError, match=r"2 functions could be meant: main.py:1 a .*main.py:2 b"
    ) as raised:
        detect(tree(main="def a(request): ...\ndef b(request): ...\n"), ALL)

    assert "--target" in raised.value.hint
    assert "FUNC_NAME" in raised.value.hint


def test_explicit_target_settles_a_tie(tree):
    folder = tree(main="def a(request): ...\ndef b(request): ...\n")

    assert detect(folder, ALL, Wanted(target="b")).target == "b"


def test_explicit_convention_wins_over_what_the_source_says(tree):
    folder = tree(main=OPENFUNCTION + "def f(context: UserContext): ...\ndef g(request): ...\n")

    assert detect(folder, ALL, convention="gcf").target == "g"


def test_target_that_is_not_there_lists_the_functions(tree):
    with pytest.raises(SourceError, match="no function 'c'") as raised:
        detect(tree(main="def a(request): ...\ndef b(x): ...\n"), ALL, Wanted(target="c"))

    assert "a, b" in raised.value.hint


def test_unusual_function_is_accepted_when_its_signature_is_said(tree):
    folder = tree(main="def f(anything): ...\n")

    found = detect(folder, ALL, Wanted(target="f", signature="cloudevent"))

    assert (found.convention, found.signature) == ("gcf", "cloudevent")
    with pytest.raises(UnknownConventionError, match="follows no convention"):
        detect(folder, ALL, Wanted(target="f"))


def test_nothing_recognised_names_what_would_be(tree):
    with pytest.raises(UnknownConventionError) as raised:
        detect(tree(main="x = 1\n"), ALL)

    assert "UserContext" in raised.value.hint
    assert "functions_framework" in raised.value.hint


def test_unknown_convention_lists_the_known_ones(tree):
    with pytest.raises(UnknownConventionError) as raised:
        detect(tree(main="x = 1\n"), ALL, convention="nope")

    assert "openfunction, gcf" in raised.value.hint


def test_unknown_signature_lists_the_known_ones(tree):
    with pytest.raises(UnknownConventionError, match="no signature type 'htpp'") as caught:
        detect(tree(main=OPENFUNCTION + "def f(context: UserContext): ...\n"), ALL, Wanted(signature="htpp"))

    assert "cloudevent" in caught.value.hint


def test_syntax_error_is_reported_with_file_and_line(tree):
    with pytest.raises(SourceError, match="syntax error") as raised:
        detect(tree(main="x = 1\ndef f(:\n"), ALL)

    assert raised.value.where.endswith("main.py:2")


def test_broken_file_beside_main_does_not_matter(tree):
    assert detect(tree(main="def f(request): ...\n", old="def f(:\n"), ALL).target == "f"


def test_source_is_never_imported(tree):
    assert detect(tree(main="raise SystemExit(1)\ndef f(request): ...\n"), ALL).target == "f"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [(Wanted(source="nope.py"), "no file 'nope.py'"), (Wanted(source="../x.py"), "outside of the source")],
)
def test_source_file_must_be_in_the_directory(tree, wanted, message):
    with pytest.raises(SourceError, match=message):
        detect(tree(main="x = 1\n"), ALL, wanted)


def test_missing_directory_and_directory_without_python_are_said(tmp_path):
    with pytest.raises(SourceError, match="no such source directory"):
        detect(tmp_path / "nope", ALL)
    with pytest.raises(SourceError, match="is empty"):
        detect(tmp_path, ALL)


def test_packages_of_the_platform_are_implied_by_imports_anywhere_in_the_tree(tree, tmp_path):
    folder = tree(main="import functions_framework\n@functions_framework.http\ndef f(request): ...\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "views.py").write_text("def g():\n    from flask import jsonify\n")

    assert detect(folder, ALL).implied == ("flask>=2.2,<4",)


def test_own_variables_win_over_googles_over_the_frameworks():
    env = {"FUNC_NAME": "a", "GOOGLE_FUNCTION_TARGET": "b", "FUNCTION_SOURCE": "c.py", "FUNC_TYPE": ""}

    assert from_build_env(env) == Wanted(target="a", source="c.py")


@pytest.mark.parametrize(
    ("imports", "decorator"),
    [
        ("import functions_framework.aio", "functions_framework.aio.http"),
        ("import functions_framework.aio as fa", "fa.http"),
        ("from functions_framework import aio", "aio.cloud_event"),
        ("from functions_framework.aio import http as web", "web"),
        ("import functions_framework as ff", "ff.aio.http"),
    ],
)
def test_asgi_decorators_bring_the_starlette_that_their_platform_has(tree, imports, decorator):
    found = detect(tree(main=f"{imports}\n@{decorator}\nasync def f(x): ...\n"), ALL)

    assert (found.convention, found.target) == ("gcf", "f")
    assert [item.partition(">")[0] for item in found.implied] == ["starlette"]
    assert "functions_framework.aio." in found.rule


@pytest.mark.parametrize(
    ("definition", "signature"),
    [
        ("def f(anything): ...", "http"),
        ("def f(x: CloudEvent): ...", "cloudevent"),
        ("def f(a, b): ...", "event"),
    ],
)
def test_any_function_will_do_where_google_was_asked_for(tree, definition, signature):
    folder = tree(main=f"from cloudevents.http import CloudEvent\n{definition}\n")

    found = detect(folder, ALL, convention="gcf")

    assert (found.target, found.signature) == ("f", signature)
    with pytest.raises(UnknownConventionError):
        detect(folder, ALL)


def test_import_of_googles_context_decides_a_tie(tree):
    source = "from google.cloud.functions.context import Context\ndef f(event, context): ...\n"

    found = detect(tree(main=source), ALL)

    assert (found.convention, found.signature) == ("gcf", "event")
    assert found.implied == ("functions-framework>=3.5,<4",)
