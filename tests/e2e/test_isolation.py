"""What docs/security.md says of isolation, tried by a function, once per mode that this machine has.

The table there is the list of attacks and of what is expected. As root the modes of ordinary users are tried
as one, through `isolation/as_user.py`; as an ordinary user those are all there is.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pelton.dataplane import landlock
from tests.e2e.conftest import Platform
from tests.e2e.isolation.attacks import ATTACKER, VICTIM
from tests.e2e.isolation.user_platform import UserPlatform

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

DOC = Path(__file__).parents[2] / "docs" / "security.md"
MODES = ("uid", "userns", "landlock", "none")
UID = 54_321


def _claims():
    """Read the table: attack -> {mode: `held` or `open`}, for this kernel."""
    scoped = landlock.abi() >= landlock.SCOPE_ABI
    found = {}
    for line in DOC.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 6 and re.fullmatch(r"`[a-z-]+`", cells[1]):
            values = ["open" if "¹" in cell and not scoped else cell.rstrip(" ¹") for cell in cells[2:]]
            found[cells[1].strip("`")] = dict(zip(MODES, values, strict=True))
    return found


CLAIMS = _claims()


class Arena:
    """One platform in one mode, with both functions on it.

    Attributes:
        mode: As in the table.
        platform: It.
        told: What the attacker is told.
    """

    def __init__(self, mode, platform, root):
        self.mode, self.platform, self.root = mode, platform, root
        self.told = {}

    def set_up(self):
        """Deploy both and gather what is worth attacking."""
        abstract = f"pelton-{secrets.token_hex(6)}"
        half, rest = secrets.token_hex(8), secrets.token_hex(8)
        # One instance that stays: an attack on what has gone would be held by nothing.
        self.platform.apply(
            "victim",
            VICTIM,
            serving=_environment(ABSTRACT=abstract, SECRET=half + rest),
            scale={"minReplicas": 1, "maxReplicas": 1},
        )
        self.platform.apply("attacker", ATTACKER)
        victim = self.platform.request("victim").json()
        self.platform.request("attacker", method="POST", json={"attack": "see-processes"})
        run, home = self.platform.run_directory, self.platform.home
        outer = [pid for pid, words in self.platform.processes().items() if "pelton.cli" in words]
        (mine,) = self.platform.function("victim")["workers"]
        stem = next(
            path.with_suffix("")
            for path in (run / "w").glob("*.http")
            if _holds(path.with_suffix(".workload"), "victim")
        )
        self.told = {
            "home": str(home),
            "victim": victim,
            "abstract": abstract,
            "secret": half,
            "rest": hashlib.sha256(rest.encode()).hexdigest(),
            "files": [
                str(home / name)
                for name in (
                    "secrets.json",
                    "kubeconfig",
                    "store.db",
                    "pki/ca.key",
                    "state.json",
                    "spool",
                )
            ]
            + [str(run / "platform.json"), str(run / "nats.conf"), str(run / "envoy.json")],
            "private": str(self.root / "private"),
            "writable": str(self.root / "open"),
            "pids": [victim["pid"], mine["pid"], *outer],
            "deep": self.mode != "none",
            "control": [str(run / f"{n}.sock") for n in ("node", "runtime", "zygote", "up")]
            + [f"{stem}.ctl"],
            "gateway": [str(run / f"{name}.sock") for name in ("admin", "xds", "activator")],
            "http": [f"{stem}.http"],
            "pages": [f"{stem}.page"],
            "service": str(self.root / "x" / "bus"),
            "api": self.platform.endpoints["api"],
            "bus": _bus(self.platform.endpoints["nats"]),
            "python": sys.executable,
        }
        return self

    def attack(self, name, **more):
        """Have the function attack; returns what it says."""
        answer = self.platform.request(
            "attacker", method="POST", json={**self.told, "attack": name, **more}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["said"]


def _environment(**variables):
    env = [{"name": name, "value": value} for name, value in variables.items()]
    return {"template": {"containers": [{"name": "function", "env": env}]}}


def _holds(path, name):
    try:
        return name.encode() in path.read_bytes()
    except OSError:
        return False


def _bus(url):
    host, _, port = url.rpartition("@")[2].rpartition(":")
    return [host, int(port)]


@pytest.fixture(scope="module", params=MODES)
def arena(request):
    mode = request.param
    if mode == "uid" and os.geteuid():
        pytest.skip("takes root")
    # Not below /tmp: where Landlock guards the files, that would close /tmp altogether.
    base = "/srv" if os.access("/srv", os.W_OK) else str(Path.home())
    root = Path(tempfile.mkdtemp(prefix="pi-", dir=base))
    (root / "private").write_text("the user's own")
    for name in ("open", "x"):
        (root / name).mkdir()
    service = socket.socket(socket.AF_UNIX)
    service.bind(str(root / "x" / "bus"))
    service.listen()
    if mode == "uid":
        root.chmod(0o755)
        (root / "private").chmod(0o600)
        (root / "x").chmod(0o700)
        platform: Platform = Platform(root)
    else:
        asked = {"userns": "", "landlock": "landlock", "none": "none"}[mode]
        platform = UserPlatform(root, 0 if os.geteuid() else UID, asked)
    try:
        platform.start()
        found = _kind(platform)
        if found.partition(" ")[0] != mode:
            platform.stop()
            pytest.skip(f"this machine gives {found}")
        yield Arena(mode, platform, root).set_up()
        platform.stop()
    finally:
        platform.discard()
        service.close()
        shutil.rmtree(root, ignore_errors=True)


def _kind(platform):
    return platform.status()["isolation"]


def test_the_table_names_every_attack_there_is():
    written = set(re.findall(r"^def ([a-z_]+)\(told\)", ATTACKER, re.MULTILINE))

    assert {name.replace("-", "_") for name in CLAIMS} | {"linger"} == written
    assert {value for row in CLAIMS.values() for value in row.values()} == {"held", "open"}


@pytest.mark.parametrize("name", list(CLAIMS))
def test_an_attack_ends_as_the_table_says(arena, name):
    said = arena.attack(name)

    assert said.partition(":")[0] == CLAIMS[name][arena.mode], said


def test_what_a_function_leaves_behind_ends_with_its_instance(arena):
    mark = f"linger-{secrets.token_hex(6)}"
    if arena.mode == "none":
        pytest.skip("nothing but a watchdog there, tried with landlock")
    assert arena.attack("linger", mark=mark) == "held: started"
    assert _running(mark)

    arena.platform.until_at_zero("attacker")

    arena.platform.until("what it started is gone", lambda: not _running(mark))


def _running(mark):
    found = subprocess.run(["pgrep", "-f", mark], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_refused_functions_are_in_the_log(arena):
    if arena.mode not in ("landlock", "none"):
        pytest.skip("there they cannot even connect")
    arena.attack("control-sockets")

    log = (arena.platform.home / "logs" / "platform" / "node.log").read_text()

    assert "a function tried to use node-client; refused" in log


def test_status_names_the_isolation_and_the_means_of_limits(arena):
    status = arena.platform.cli("status").out

    assert f"isolation {arena.mode}" in status
    assert re.search(r"limits +(cgroup v[12] \(|rlimits and watchdog)", status)
    assert json.loads(arena.platform.cli("status", "-o", "json").out)["limits"]["default"]["pids"] == 1024
