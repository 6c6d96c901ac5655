"""A platform of an ordinary user, for tests that root runs: every command goes through `as_user.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Platform

LAUNCHER = str(Path(__file__).with_name("as_user.py"))


class UserPlatform(Platform):
    """As Platform, of another user.

    Args:
        root: Scratch directory; becomes the user's, and its home.
        uid: The user; 0 for whoever runs the tests.
        isolation: Value of PELTON_ISOLATION.
    """

    def __init__(self, root, uid, isolation):
        super().__init__(root)
        self._uid = uid
        self._isolation = isolation
        if uid:
            for path in (root, *root.rglob("*")):
                os.chown(path, uid, uid)

    @property
    def environment(self):
        return {
            **os.environ,
            "PELTON_HOME": str(self.home),
            "COLUMNS": "250",
            "HOME": str(self.root),
            "XDG_RUNTIME_DIR": str(self.root / "x"),
            "PELTON_ISOLATION": self._isolation,
        }

    @property
    def run_directory(self):
        (found,) = (self.root / "x").glob("pelton-*")
        return found

    def _command(self, *words):
        own = [sys.executable, "-m", "pelton.cli.main", *map(str, words)]
        return [sys.executable, LAUNCHER, str(self._uid), *own] if self._uid else own

    def spawn(self, *words):
        """Start `pelton up` without waiting for it."""
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self._command("up", *words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.root,
                env=self.environment,
                start_new_session=True,
            )

    def start_cli(self, *words, cwd=None):
        """Start a command and leave it running."""
        return subprocess.Popen(
            self._command(*words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or self.root,
            env=self.environment,
        )

    def write(self, name, code, **more):
        """Write a function's source and manifest, and give them to the user."""
        place = super().write(name, code, **more)
        if self._uid:
            for path in (place, *place.iterdir()):
                os.chown(path, self._uid, self._uid)
        return place

    def status(self):
        """Return what `pelton status -o json` prints."""
        return json.loads(self.cli("status", "-o", "json", code=None).out)
