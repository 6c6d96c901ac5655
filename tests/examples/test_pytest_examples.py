"""Every example that brings tests of its own: pytest runs them as a reader would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(300)]


def examples():
    """Return (folder, what is expected) of the examples with tests."""
    found = []
    for file in sorted(EXAMPLES.glob("*/expect.yaml")):
        said = YAML(typ="safe", pure=True).load(file.read_text())
        if "pytest" in said:
            found.append(pytest.param(file.parent, said, id=file.parent.name))
    return found


@pytest.mark.parametrize(("folder", "said"), examples())
def test_example_passes_its_own_tests(folder, said, tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for program in said.get("needs", ()):
        if shutil.which(program, path=path) is None:
            pytest.skip(f"needs {program}")
    for file in folder.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", said["pytest"]],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) == said["passed"]
