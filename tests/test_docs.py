"""What the pages say is so: commands do it, generated pages are up to date, links and names lead somewhere.

A fenced block marked `sh` is executed, one marked `bash` is not. A block marked `text` right after a `sh`
block is what it prints: these lines in that order, `…` for anything, a line of `…` for any number of lines.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pelton.model.kpa_settings import ANNOTATIONS, OWN_DOMAIN, OWN_SETTINGS
from pelton.plan import scaling

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
EXECUTED = (
    "README.md",
    "docs/tutorial/first-function.md",
    "docs/howto/events.md",
    "docs/howto/triggers.md",
    "docs/howto/alerts.md",
    "docs/howto/receivers.md",
    "docs/howto/bring-a-function.md",
    "docs/howto/debug-a-function.md",
    "docs/howto/observe.md",
    "docs/howto/kubernetes.md",
    "docs/howto/scaling.md",
    "docs/howto/revisions.md",
    "docs/howto/test-an-operator.md",
)
# Commands that only read: their blocks are repeated until they show what the page says.
READING = re.compile(
    r"(pelton (logs|status|get|why scale|"
    r"why trigger|dlq list|notify history|topic lag|topic tail)|cat ['\"$/])"
)


def load_script():
    spec = importlib.util.spec_from_file_location("docs_script", ROOT / "scripts" / "docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docs = load_script()


def blocks(page):
    """Return (shell text, expected output or None) of each executed block."""
    fences = list(re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    result = []
    for fence, following in zip(fences, [*fences[1:], None], strict=True):
        if fence[1] != "sh":
            continue
        shown = (
            following is not None
            and following[1] == "text"
            and not page[fence.end() : following.start()].strip()
        )
        result.append((fence[2], following[2] if following is not None and shown else None))
    return result


def matches(expected, output):
    pattern = ""
    for line in expected.splitlines():
        if line == "…":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(re.escape(part) for part in line.split("…")) + "\n"
    return re.fullmatch(pattern, output) is not None


class Shell:
    """A terminal in an empty directory, on a home of its own."""

    def __init__(self, folder, home, timeout_s=50.0):
        self.folder = folder
        self.timeout_s = timeout_s
        self.env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PELTON_HOME": str(home),
            "LANG": "C.UTF-8",
        }

    def run(self, text):
        # A platform for a page takes free ports, whatever the page says.
        text = text.replace("pelton up", "pelton up --gateway 127.0.0.1:0 --api 127.0.0.1:0")
        done = subprocess.Popen(
            ["bash", "-euc", text],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            printed, complaints = done.communicate(timeout=self.timeout_s)
        except BaseException:
            # The commands of the block too: one that never ends would stay behind its shell.
            os.killpg(done.pid, signal.SIGKILL)
            done.communicate()
            raise
        printed = printed if printed.endswith("\n") or not printed else printed + "\n"
        return done.returncode, printed, complaints

    def show(self, text, expected):
        """Run a block; one that only reads is repeated until it prints what is expected."""
        deadline = time.monotonic() + 40
        while True:
            code, printed, complaints = self.run(text)
            if code == 0 and (expected is None or matches(expected, printed)):
                return
            reading = all(READING.match(line) for line in text.splitlines())
            assert reading and time.monotonic() < deadline, (
                f"{text}\nended with {code} and printed\n{printed}{complaints}\nthe page says\n{expected}"
            )
            time.sleep(0.2)  # the platform works in other processes: nothing here can be waited on

    def end(self):
        """End the platform, whatever happened before."""
        endpoints = Path(self.env["PELTON_HOME"]) / "endpoints.json"
        if endpoints.exists():
            subprocess.run(
                [BIN / "pelton", "down"], env=self.env, capture_output=True, check=False, timeout=20
            )
        lock = Path(self.env["PELTON_HOME"]) / "up.lock"
        if endpoints.exists() and lock.exists() and lock.read_text().isdigit():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(lock.read_text()), signal.SIGKILL)
        alone = self.folder / "api.pid"
        if alone.exists():
            with contextlib.suppress(ProcessLookupError):  # the page ended it itself
                os.kill(int(alone.read_text()), signal.SIGKILL)


@pytest.fixture
def shell(tmp_path_factory):
    made = Shell(tmp_path_factory.mktemp("docs"), tmp_path_factory.mktemp("home"))
    yield made
    made.end()


@pytest.mark.connected
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("curl") is None, reason="pages use curl")
@pytest.mark.parametrize("page", EXECUTED)
def test_commands_of_a_page_do_what_it_says(page, shell):
    found = blocks((ROOT / page).read_text())
    if "pelton up" not in found[0][0] and "pelton api" not in found[0][0]:
        shell.show("pelton up --detach", None)

    for text, expected in found:
        shell.show(text, expected)


def test_a_command_that_never_ends_does_not_stay_behind_its_block(tmp_path):
    shell = Shell(tmp_path, tmp_path, timeout_s=1.0)
    with pytest.raises(subprocess.TimeoutExpired):
        shell.run("sleep 1000 & echo $! > pid; wait; true")

    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":  # dead; whoever reaps here takes its time
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} is still there")


def test_every_block_has_a_language():
    for page in docs.pages():
        opened = [line for line in page.read_text().splitlines() if line.startswith("```")]
        assert all(line != "```" for line in opened[::2]), page


def test_make_targets_that_pages_name_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in docs.pages():
        assert set(re.findall(r"(?:`|^)make ([\w-]+)", page.read_text(), re.MULTILINE)) <= targets, page


def test_generated_pages_are_up_to_date():
    assert docs.drift(docs.generated()) == []


def test_drift_names_the_page(tmp_path):
    assert docs.drift({"docs/reference/cli.md": "new"}, tmp_path) == [
        "docs/reference/cli.md is out of date: run scripts/docs"
    ]


def test_links_and_file_names_lead_somewhere():
    assert docs.broken_links() == []
    assert docs.missing_files() == []


def test_a_broken_link_and_a_missing_heading_are_found(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "there.md").write_text("# One heading\n")
    (tmp_path / "README.md").write_text(
        "[a](docs/there.md#one-heading) [b](docs/gone.md) [c](docs/there.md#two) [d](https://example.com/x)\n"
        "```text\n[e](gone.md)\n```\n"
    )

    assert docs.broken_links(tmp_path) == [
        "README.md: link docs/gone.md: no such file",
        "README.md: link docs/there.md#two: no such heading",
    ]


def test_a_file_name_that_does_not_exist_is_found(tmp_path):
    (tmp_path / "src" / "pelton" / "plan").mkdir(parents=True)
    (tmp_path / "src" / "pelton" / "plan" / "names.py").touch()
    (tmp_path / "ARCHITECTURE.md").write_text("`plan/names.py` and `plan/gone.py`\n")

    assert docs.missing_files(tmp_path) == ["ARCHITECTURE.md: there is no plan/gone.py"]


def test_every_error_has_a_code_of_its_own():
    assert docs.shared_codes() == []


def test_every_annotation_that_is_read_is_documented():
    page = (ROOT / "docs" / "reference" / "annotations.md").read_text()
    plan = ROOT / "src" / "pelton" / "plan" / "function.py"
    own = set(re.findall(r'"(pelton\.dev/[a-z-]+)"', plan.read_text()))
    for file in (ROOT / "src" / "pelton" / "compat").rglob("*.py"):
        read = re.findall(r'\boptions(?:\.get\(|\[)"([a-z-]+)"', file.read_text())
        own |= {f"pelton.dev/{name}" for name in read}
    own |= {f"{OWN_DOMAIN}{name}" for name in OWN_SETTINGS}
    names = {*ANNOTATIONS, scaling.CONCURRENCY}

    assert {name for name in own if f"`{name}`" not in page} == set()
    assert {name for name in names if f"`{name}`" not in page} == set()
