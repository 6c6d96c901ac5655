import asyncio
import os
import sys
import time
import zipfile

import pytest

from pelton.builders import environment
from pelton.builders.environment import NO_ENVIRONMENT, check_python, ensure, key_of, read_requirements
from pelton.errors import BuildError, SourceError


@pytest.fixture
def wheel(tmp_path):
    """A wheel of one module and one script, so that no test needs an index."""
    path = tmp_path / "tinything-1.0-py3-none-any.whl"
    info = "tinything-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinything.py", "VALUE = 42\ndef main():\n    print(VALUE)\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntiny = tinything:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"tinything @ file://{path}"


async def test_nothing_needed_means_no_environment(tmp_path):
    assert await ensure("# only a comment\n\n", (), envs_dir=tmp_path / "envs") == NO_ENVIRONMENT
    assert not (tmp_path / "envs").exists()


async def test_environment_is_made_once_and_its_scripts_run(tmp_path, wheel, monkeypatch):
    envs = tmp_path / "envs"

    first, second = await asyncio.gather(
        ensure(wheel, (), envs_dir=envs), ensure(f"{wheel}  # same\n", (), envs_dir=envs)
    )
    with monkeypatch.context() as patched:  # promised in 5 ms: nothing is made or started
        patched.setattr(environment, "_run", None)
        third = await ensure(wheel, (), envs_dir=envs)

    assert first == second == third
    assert os.path.exists(f"{first.site_packages}/tinything.py")
    process = await asyncio.create_subprocess_exec(f"{first.path}/bin/tiny", stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"42\n"
    assert [name for name in os.listdir(envs) if name.startswith(".new")] == []


async def test_failed_install_shows_the_installers_last_lines_and_leaves_nothing(tmp_path):
    with pytest.raises(BuildError, match="installing") as raised:
        await ensure("tinything @ file:///nowhere/tinything-1.0-py3-none-any.whl", (), envs_dir=tmp_path)

    assert 0 < len(raised.value.log_tail) <= 20
    assert any("nowhere" in line for line in raised.value.log_tail)
    assert [name for name in os.listdir(tmp_path) if not name.endswith(".lock")] == []


async def test_cancelling_kills_the_installers_process_group(tmp_path, monkeypatch):
    pids = tmp_path / "pids"
    script = tmp_path / "slow"
    script.write_text(f"#!/bin/sh\nsleep 60 &\necho $$ $! > {pids}.new\nmv {pids}.new {pids}\nwait\n")
    script.chmod(0o755)
    task = asyncio.create_task(environment._run([str(script)], tmp_path / "log", "failed"))
    deadline = time.monotonic() + 10
    while not pids.exists() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    for pid in pids.read_text().split():
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    break
            await asyncio.sleep(0.01)
        else:
            assert time.monotonic() < deadline


def test_key_ignores_order_spaces_and_comments_but_not_versions():
    key = key_of("b==1\na==2  # why\n", ())

    assert key == key_of("\na==2\n  b==1\n", ())
    assert key != key_of("a==2\nb==2\n", ())
    assert key != key_of("a==2\nb==1\n", ("flask",))


def test_implied_package_that_the_requirements_name_is_left_out():
    assert key_of("Flask==3.0\n", ("flask>=2",)) == key_of("Flask==3.0\n", ())


def test_nested_requirements_are_put_in(tmp_path):
    (tmp_path / "requirements.txt").write_text("a==1 # x\n-r more.txt\n")
    (tmp_path / "more.txt").write_text("b==2\n-r requirements.txt\n")

    assert read_requirements(tmp_path) == "a==1\nb==2"


def test_requirements_are_the_projects_where_there_is_no_file_of_them(tmp_path):
    assert read_requirements(tmp_path) == ""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "f"\ndependencies = ["a==1", "b>2"]\n')
    assert read_requirements(tmp_path) == "a==1\nb>2"
    (tmp_path / "requirements.txt").write_text("c\n")
    assert read_requirements(tmp_path) == "c"


@pytest.mark.parametrize("line", ["-e .", "./lib", "-c constraints.txt", "-r ../outside.txt", "-r nope.txt"])
def test_lines_that_cannot_be_honoured_are_refused_with_their_place(tmp_path, line):
    (tmp_path / "requirements.txt").write_text(f"a==1\n{line}\n")

    with pytest.raises(SourceError):
        read_requirements(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "accepted"),
    [
        (".python-version", "3.11\n", True),
        (".python-version", "3.11.2\n", True),
        (".python-version", "3\n", True),
        (".python-version", "system\n", True),
        (".python-version", "3.12\n", False),
        (".python-version", "pypy3.10\n", False),
        ("pyproject.toml", '[project]\nrequires-python = ">=3.10,<4"\n', True),
        ("pyproject.toml", '[project]\nrequires-python = "~=3.11"\n', True),
        ("pyproject.toml", '[project]\nrequires-python = "==3.11.*"\n', True),
        ("pyproject.toml", '[project]\nrequires-python = ">=3.12"\n', False),
        ("pyproject.toml", '[project]\nrequires-python = "<3.11"\n', False),
        ("pyproject.toml", '[project]\nrequires-python = ">3.9, !=3.11.*"\n', False),
        ("pyproject.toml", "[tool.x]\n", True),
    ],
)
def test_source_for_another_python_is_refused_with_both_versions(tmp_path, file, text, accepted):
    (tmp_path / file).write_text(text)

    if accepted:
        check_python(tmp_path, (3, 11, 7))
        return
    with pytest.raises(SourceError, match=r"run on Python 3\.11\.7"):
        check_python(tmp_path, (3, 11, 7))


def test_running_interpreter_is_the_default(tmp_path):
    (tmp_path / ".python-version").write_text(f"{sys.version_info[0]}.{sys.version_info[1]}\n")

    check_python(tmp_path)


def test_requirements_of_a_functions_own_folder_come_before_those_of_the_tree(tmp_path):
    (tmp_path / "orders").mkdir()
    (tmp_path / "requirements.txt").write_text("flask\n")
    (tmp_path / "orders" / "requirements.txt").write_text("boto3\n")

    assert environment.requirements_of(tmp_path, {"code-uri": "orders/"}) == "boto3"
    assert environment.requirements_of(tmp_path, {}) == "flask"
    (tmp_path / "orders" / "requirements.txt").unlink()
    assert environment.requirements_of(tmp_path, {"code-uri": "orders"}) == "flask"
