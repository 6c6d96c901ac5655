"""A function's environment: a venv keyed by what goes into it, made once and shared by all who need the same.

Key = hash(normalised requirements, interpreter ABI, platform, implied packages). Made aside and renamed under
a lock, so two processes never build the same one and a torn one is never used. Called by `controlplane/` and
`cli/run.py`.
Source: design decision 7.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import signal
import sys
import sysconfig
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pelton.errors import BuildError, SourceError

__all__ = [
    "NO_ENVIRONMENT",
    "Environment",
    "check_python",
    "ensure",
    "key_of",
    "read_requirements",
    "requirements_of",
]

_LOG_TAIL_LINES: Final = 20
_LOCK_POLL_S: Final = 0.1
_ABI_PROGRAM: Final = (
    "import sys, sysconfig; print(sysconfig.get_config_var('SOABI'), sysconfig.get_platform())"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A ready environment; all fields are "" where none is needed.

    Attributes:
        path: The venv's directory, absolute.
        site_packages: Its package directory, absolute: what a Workload names.
        key: Hash that names it.
    """

    path: str = ""
    site_packages: str = ""
    key: str = ""


NO_ENVIRONMENT: Final = Environment()


def requirements_of(source_dir: Path | str, options: Mapping[str, str]) -> str:
    """Return what a detected function requires: its own folder's (a template's CodeUri), else the tree's.

    Raises:
        SourceError: As `read_requirements`.
    """
    folder = options.get("code-uri", "").strip("/")
    return (read_requirements(Path(source_dir) / folder) if folder else "") or read_requirements(source_dir)


def read_requirements(source_dir: Path | str) -> str:
    """Return what a source directory requires: requirements.txt with `-r` files put in, else pyproject.toml.

    Of pyproject.toml it is `project.dependencies`, which is where Knative func's templates have them; the
    project itself is not installed, its code is imported from the source. "" where there is neither.

    Raises:
        SourceError: A `-r` or `-c` file is missing or outside, a line installs from the source itself, or
            pyproject.toml is no TOML.
    """
    root = Path(source_dir)
    file = root / "requirements.txt"
    if file.is_file():
        return "\n".join(_lines(file, root, set()))
    listed = _project_table(root).get("dependencies")
    return "\n".join(str(item) for item in listed) if isinstance(listed, list) else ""


def _project_table(root: Path) -> dict[str, Any]:
    """Return the table `project` of a directory's pyproject.toml; {} where there is none."""
    file = root / "pyproject.toml"
    if not file.is_file():
        return {}
    import tomllib

    try:
        table = tomllib.loads(file.read_text(errors="replace")).get("project", {})
    except tomllib.TOMLDecodeError as exc:
        raise SourceError(f"not TOML: {exc}", where=str(file)) from exc
    return table if isinstance(table, dict) else {}


def _lines(file: Path, root: Path, seen: set[Path]) -> list[str]:
    real = file.resolve()
    if real in seen:
        return []
    seen.add(real)
    if not real.is_relative_to(root.resolve()) or not real.is_file():
        raise SourceError("there is no such requirements file in the source", where=str(file))
    found: list[str] = []
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        text = re.sub(r"(^|\s)#.*$", "", line).strip()
        option = re.match(r"(-r|--requirement|-c|--constraint)[ =]*(\S+)$", text)
        if option and option[1] in {"-r", "--requirement"}:
            found += _lines(file.parent / option[2], root, seen)
        elif option or re.match(r"(-e|--editable|\.{0,2}/|\.$)", text):
            raise SourceError(
                f"{text!r} is not supported in requirements",
                where=f"{file}:{number}",
                hint="Write constraints as requirements; own code needs no install, import it.",
            )
        elif text:
            found.append(text)
    return found


def _normalised(requirements: str) -> list[str]:
    """Return lines without comments, spaces collapsed, sorted: what the key is made of."""
    lines = (re.sub(r"(^|\s)#.*$", "", line) for line in requirements.splitlines())
    return sorted({" ".join(line.split()) for line in lines if line.strip()})


def _needed(requirements: list[str], implied: Sequence[str]) -> list[str]:
    """Return the implied packages that the requirements do not name themselves."""
    named = {_project(line) for line in requirements}
    return sorted({item for item in implied if _project(item) not in named})


def _project(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


@lru_cache(maxsize=8)
def _abi(python: str) -> str:
    """Return ABI tag and platform of an interpreter."""
    if python == sys.executable:
        return f"{sysconfig.get_config_var('SOABI')} {sysconfig.get_platform()}"
    import subprocess

    result = subprocess.run(
        [python, "-c", _ABI_PROGRAM], capture_output=True, text=True, timeout=30, check=False
    )
    if result.returncode != 0:
        raise BuildError(f"the interpreter {python} does not run", log_tail=_tail(result.stderr))
    return result.stdout.strip()


def key_of(requirements: str, implied: Sequence[str], *, python: str = sys.executable) -> str:
    """Return the key of an environment, 32 hex digits; "" where nothing is needed."""
    wanted = _normalised(requirements)
    extra = _needed(wanted, implied)
    if not wanted and not extra:
        return ""
    text = "\n".join([_abi(python), *wanted, "--", *extra])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


async def ensure(
    requirements: str, implied: Sequence[str], *, envs_dir: Path | str, python: str = sys.executable
) -> Environment:
    """Return the environment with these packages, making it if it is not there.

    Waits while another process makes the same one. Cancelling kills the installer with its children and
    leaves no environment behind.

    Args:
        requirements: Text of a requirements file; may be empty.
        implied: Requirements of the convention; one that `requirements` names too is left out.
        envs_dir: Where environments live; made if missing.
        python: Interpreter that workers run on.

    Raises:
        BuildError: The install failed; `log_tail` holds its last 20 lines.
    """
    key = key_of(requirements, implied, python=python)
    if not key:
        return NO_ENVIRONMENT
    root = Path(envs_dir).absolute()
    ready = _ready(root, key)
    if ready is not None:
        return ready
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BuildError(f"environments cannot be written: {exc.strerror}", where=str(root)) from exc
    async with _locked(root / f".{key}.lock"):
        ready = _ready(root, key)
        if ready is None:
            lines = [*_normalised_order(requirements), *_needed(_normalised(requirements), implied)]
            await _make(root, key, lines, python)
            ready = _ready(root, key)
    if ready is None:
        raise BuildError("the environment has no package directory", where=str(root / key))
    return ready


def _normalised_order(requirements: str) -> list[str]:
    """Return the lines in the given order, without comments."""
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in requirements.splitlines())
    return [line for line in lines if line]


def _ready(root: Path, key: str) -> Environment | None:
    place = root / key
    for folder in place.glob("lib/python3*/site-packages"):
        with suppress(OSError):
            os.utime(place)  # when it was used last, for `collect.py`
        return Environment(path=str(place), site_packages=str(folder), key=key)
    return None


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold an advisory lock; polled, since a blocking flock would stop the event loop or need a thread."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


async def _make(root: Path, key: str, lines: list[str], python: str) -> None:
    # What a killed builder left; we hold the lock, so nobody works there now.
    fresh = root / f".new-{key}"
    shutil.rmtree(fresh, ignore_errors=True)
    log = root / f".{key}.log"
    try:
        await _run(
            [python, "-m", "venv", "--without-pip", str(fresh)], log, "the environment could not be made"
        )
        fresh.chmod(0o755)
        listing = fresh / "requirements.txt"
        listing.write_text("\n".join(lines) + "\n")
        inner = str(fresh / "bin" / "python")
        install = [
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--no-warn-script-location",
            "-r",
            str(listing),
        ]
        failed = f"installing {', '.join(lines[:5])}{', ...' if len(lines) > 5 else ''} failed"
        if _has_pip():
            await _run([sys.executable, "-m", "pip", "--python", inner, *install], log, failed)
        else:
            await _run([inner, "-m", "ensurepip", "--default-pip"], log, "pip could not be set up")
            await _run([inner, "-m", "pip", *install], log, failed)
        _move_scripts(fresh, root / key)
        fresh.rename(root / key)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        log.unlink(missing_ok=True)


def _has_pip() -> bool:
    import importlib.util

    return importlib.util.find_spec("pip") is not None


def _move_scripts(fresh: Path, place: Path) -> None:
    """Make scripts name the interpreter at its final place: they carry the path of the install."""
    for script in (fresh / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        content = script.read_bytes()
        if str(fresh).encode() in content:
            script.write_bytes(content.replace(str(fresh).encode(), str(place).encode()))


async def _run(command: list[str], log: Path, failed: str) -> None:
    """Run one step in its own process group, output in a file; raises BuildError with its tail."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PIP_NO_INPUT"] = "1"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            status = await process.wait()
        except BaseException:
            _kill_group(process.pid)
            await process.wait()
            raise
    if status != 0:
        raise BuildError(
            failed,
            log_tail=_tail(log.read_text(errors="replace")),
            hint="Check the names and versions in requirements.txt.",
        )


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself in the meantime


def _tail(text: str) -> tuple[str, ...]:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(lines[-_LOG_TAIL_LINES:])


def check_python(source_dir: Path | str, version: tuple[int, int, int] = sys.version_info[:3]) -> None:
    """Refuse a source that asks for another Python in `.python-version` or pyproject's `requires-python`.

    Args:
        source_dir: The source directory.
        version: Version that workers run on.

    Raises:
        SourceError: It does; the message names both versions.
    """
    root = Path(source_dir)
    running = ".".join(str(part) for part in version)
    file = root / ".python-version"
    if file.is_file():
        wanted = next(
            (line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()), ""
        )
        parts = re.match(r"(?:cpython-|python-)?(\d+)(?:\.(\d+))?(?:\.\d+)?$", wanted)
        # A patch release more or less is the same ABI and language.
        if (
            wanted
            and wanted != "system"
            and not (
                parts and int(parts[1]) == version[0] and (parts[2] is None or int(parts[2]) == version[1])
            )
        ):
            raise _other_python(f"Python {wanted}", running, str(file))
    wanted = str(_project_table(root).get("requires-python", ""))
    if wanted and not all(
        _satisfies(version, clause.strip()) for clause in wanted.split(",") if clause.strip()
    ):
        raise _other_python(f"Python {wanted}", running, str(root / "pyproject.toml"))


def _other_python(wanted: str, running: str, where: str) -> SourceError:
    return SourceError(
        f"the source asks for {wanted}, functions here run on Python {running}",
        where=where,
        hint="Install Pelton on that Python, or change the source's requirement.",
    )


def _satisfies(version: tuple[int, int, int], clause: str) -> bool:
    """Evaluate one clause of a version specifier (PEP 440, release numbers only)."""
    match = re.match(r"(===|==|!=|~=|>=|<=|>|<)\s*(\d+(?:\.\d+)*)(\.\*)?", clause)
    if match is None:
        return True  # nothing that we could judge
    operator, text, wildcard = match.groups()
    release = tuple(int(part) for part in text.split("."))
    padded = (*release, 0, 0, 0)[:3]
    if operator in {"==", "===", "!="}:
        same = version[: len(release)] == release[:3] if wildcard else version == padded
        return same if operator != "!=" else not same
    if operator == "~=":
        return version >= padded and version[: len(release) - 1] == release[: len(release) - 1]
    return {
        ">=": version >= padded,
        "<=": version <= padded,
        ">": version > padded,
        "<": version < padded,
    }[operator]
