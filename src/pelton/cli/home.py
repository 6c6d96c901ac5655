"""PELTON_HOME: where everything of one platform lives, and how commands find the platform that runs on it.

Paths, the lock, endpoints.json, and the settings that `up` hands to its parts. No other file spells these
names.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from pelton.errors import HomeError, HomeInUseError, NotRunningError

__all__ = ["Endpoints", "Home", "Settings"]

MARKER: Final = "PELTON_PLATFORM"
"""Environment variable that marks every process of a platform; its value is Home.tag."""

_LONGEST_NAME: Final = 120


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What endpoints.json holds: URLs or paths, and the pid of `up`; `https` is "" without --tls.

    `external_scaler` is host:port, "" without --external-scaler; `aliases` are host names and the addresses
    that they stand for.
    """

    gateway: str
    api: str
    ca: str
    kubeconfig: str
    nats: str
    notify: str
    pid: int
    internal: str = ""
    https: str = ""
    external_scaler: str = ""
    aliases: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `up` tells its parts, as a file in the run directory (mode 0600: it holds the bus password).

    Attributes:
        home, run: Directories.
        gateway_host, gateway_port: Where Envoy listens.
        nats_url: With user and password.
        notify_host, notify_port: Where alerts are taken.
        durability: `process` or `power`.
        internal_port: Port of the gateway on 127.0.0.1 that also serves what is cluster-local.
        https_host, https_port: Where Envoy speaks TLS; port 0 for nowhere.
        tls_cert, tls_key: PEM files for names that no Gateway has; "" for a certificate of our own.
        access_log: File of the gateway's access log, and `access_log_of`: `all`, `failures` or `off`.
        otlp_url: Where spans are posted as OTLP, "" for nowhere.
        otlp_headers: Further headers of those requests, `name=value,name=value`.
        trace_percent: Share of the requests and events without a trace that begin one, 0 to 100.
        aliases: Host names and the addresses that they stand for.
    """

    home: str
    run: str
    gateway_host: str
    gateway_port: int
    nats_url: str
    notify_host: str
    notify_port: int
    durability: str
    internal_port: int = 0
    https_host: str = "127.0.0.1"
    https_port: int = 0
    tls_cert: str = ""
    tls_key: str = ""
    access_log: str = ""
    access_log_of: str = "off"
    otlp_url: str = ""
    otlp_headers: str = ""
    trace_percent: float = 0.0
    aliases: dict[str, str] = field(default_factory=dict)

    def save(self) -> Path:
        """Write it for the parts; returns the path."""
        path = Path(self.run) / "platform.json"
        _write_private(path, json.dumps(asdict(self)))
        return path

    @staticmethod
    def load(path: str | Path) -> Settings:
        """Read what `save` wrote."""
        return Settings(**json.loads(Path(path).read_text()))


class Home:
    """One platform's directory.

    Args:
        path: The directory; None takes PELTON_HOME, else `~/.pelton`, as root `/var/lib/pelton`.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            named = os.environ.get("PELTON_HOME")
            if named:
                path = Path(named)
            else:
                path = Path("/var/lib/pelton") if os.geteuid() == 0 else Path.home() / ".pelton"
        self.path = path.expanduser().absolute()
        self._lock_fd = -1

    @property
    def tag(self) -> str:
        """Eight hex digits that stand for this home in short names."""
        return hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:8]

    @property
    def bundles(self) -> Path:
        """Source snapshots."""
        return self.path / "bundles"

    @property
    def environments(self) -> Path:
        """Python environments of functions."""
        return self.path / "environments"

    @property
    def spool(self) -> Path:
        """What instances print, until it is shipped."""
        return self.path / "spool"

    @property
    def log_positions(self) -> Path:
        """How far the log files of `bindings.logs` were read."""
        return self.path / "log-positions"

    @property
    def logs(self) -> Path:
        """Shipped lines, rotated; `platform/` has the parts' own logs."""
        return self.path / "logs"

    @property
    def platform_logs(self) -> Path:
        """Logs of the parts."""
        return self.logs / "platform"

    @property
    def access_log(self) -> Path:
        """The gateway's access log, JSON lines; rotated ones beside it."""
        return self.logs / "gateway" / "access.jsonl"

    @property
    def silences(self) -> Path:
        """Silences that were posted to the alerts' API."""
        return self.path / "silences.json"

    @property
    def alert_groups(self) -> Path:
        """What groups of alerts have to remember over a restart."""
        return self.path / "alert-groups.db"

    @property
    def dapr_apps(self) -> Path:
        """What apps of Dapr said that they want."""
        return self.path / "dapr-apps.json"

    def dapr_ledger(self, namespace: str, app_id: str) -> Path:
        """Return where retries and dead letters of an app are that runs without a platform."""
        return self.path / "dapr" / _segment(namespace) / _segment(app_id)

    @property
    def notifications(self) -> Path:
        """What became of notifications, and where messages are that later news belongs to."""
        return self.path / "notifications.db"

    @property
    def log_rules(self) -> Path:
        """What rules on logs have counted."""
        return self.path / "log-rules.db"

    @property
    def pki(self) -> Path:
        """CA and leaf of the API server."""
        return self.path / "pki"

    @property
    def store(self) -> Path:
        """The object store."""
        return self.path / "store.db"

    @property
    def bus(self) -> Path:
        """The event bus's data."""
        return self.path / "nats"

    @property
    def states(self) -> Path:
        """Functions' state in files, where a component names no place of its own."""
        return self.path / "states"

    @property
    def decisions(self) -> Path:
        """Changes of scaling and why, per function."""
        return self.path / "decisions"

    @property
    def trigger_files(self) -> Path:
        """Files of parameters that ClusterTriggerAuthentications name."""
        return self.path / "trigger-files"

    @property
    def kubeconfig(self) -> Path:
        """Credentials for kubectl and our own commands."""
        return self.path / "kubeconfig"

    @property
    def endpoints_file(self) -> Path:
        """Where the running platform can be reached."""
        return self.path / "endpoints.json"

    @property
    def aliases_file(self) -> Path:
        """Host names and the addresses that they stand for, a line each; users write it."""
        return self.path / "aliases"

    @property
    def secrets_file(self) -> Path:
        """Token of the API and password of the bus."""
        return self.path / "secrets.json"

    @property
    def state_file(self) -> Path:
        """Ports that must stay the same over restarts of a part."""
        return self.path / "state.json"

    def prepare(self) -> None:
        """Make the directories; raises HomeError when that is not possible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for directory in (self.bundles, self.environments):
                directory.mkdir(exist_ok=True)
                # Functions read theirs under their own uid; names are digests, and nobody may list them.
                directory.chmod(0o711)
            logs = (self.logs, self.platform_logs, self.access_log.parent)
            for directory in (self.spool, *logs, self.pki, self.bus, self.decisions):
                directory.mkdir(exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as exc:
            raise HomeError(
                f"PELTON_HOME {self.path} cannot be used: {exc.strerror}",
                hint="set PELTON_HOME to a directory that you may write to",
            ) from exc

    def lock(self) -> None:
        """Claim this home for this process; raises HomeInUseError while another `pelton up` has it."""
        fd = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(fd, 32).decode() or "unknown"
            os.close(fd)
            raise HomeInUseError(
                f"a platform already runs on {self.path} (pid {owner})",
                hint="`pelton status` shows it, `pelton down` ends it; or set another PELTON_HOME",
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        self._lock_fd = fd

    def _owner(self) -> int:
        """Return the pid of the `pelton up` that has this home, 0 without one."""
        fd = os.open(self.path / "up.lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(os.read(fd, 32) or b"0")
        finally:
            os.close(fd)
        return 0

    def unlock(self) -> None:
        """Give the home back."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def run_directory(self) -> Path:
        """Return the directory for sockets: short, 0700, ours. Made if missing.

        It is never under the home, since socket paths are limited to 107 bytes.
        """
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if runtime and len(runtime) < 40 and Path(runtime).is_dir() and os.access(runtime, os.W_OK):
            path = Path(runtime) / f"pelton-{self.tag}"
        else:
            path = Path(tempfile.gettempdir()) / f"pelton-{os.geteuid()}-{self.tag}"
            if len(str(path)) > 60:
                path = Path("/tmp") / path.name  # noqa: S108 -- owner and mode are checked below
        path.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
            raise HomeError(
                f"{path} is not a private directory of this user",
                hint="remove it, or set XDG_RUNTIME_DIR to a private directory",
            )
        return path

    def secrets(self) -> dict[str, str]:
        """Return the API token and the bus password, made on first use."""
        if not self.secrets_file.exists():
            import secrets as randomness

            made = {"token": randomness.token_urlsafe(32), "bus": randomness.token_urlsafe(24)}
            _write_private(self.secrets_file, json.dumps(made))
        loaded: dict[str, str] = json.loads(self.secrets_file.read_text())
        return loaded

    def state(self) -> dict[str, Any]:
        """Return what earlier runs left: ports."""
        try:
            loaded: dict[str, Any] = json.loads(self.state_file.read_text())
        except (OSError, ValueError):
            return {}
        return loaded

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep ports for later runs."""
        _write_private(self.state_file, json.dumps(state))

    def publish(self, endpoints: Endpoints) -> None:
        """Write endpoints.json: from now on commands find the platform."""
        _write_private(self.endpoints_file, json.dumps(asdict(endpoints), indent=2) + "\n")

    def withdraw(self) -> None:
        """Remove endpoints.json."""
        self.endpoints_file.unlink(missing_ok=True)

    def endpoints(self) -> Endpoints:
        """Return where the running platform is; raises NotRunningError when none runs on this home."""
        try:
            found = Endpoints(**json.loads(self.endpoints_file.read_text()))
            if self._owner() != found.pid:
                raise ProcessLookupError  # it was killed; its pid may be somebody else's by now
        except PermissionError:
            raise NotRunningError(
                f"the platform on {self.path} belongs to another user",
                hint="use the same user as `pelton up`",
            ) from None
        except (OSError, ValueError, TypeError):
            raise NotRunningError(
                f"no platform runs on {self.path}",
                hint="start one with `pelton up`, or set PELTON_HOME to the home of the one that runs",
            ) from None
        return found


def _segment(text: str) -> str:
    """Return a name in a path for any text: the text itself where it is a plain name."""
    name = quote(text, safe="").replace(".", "%2E")
    return (
        name
        if len(name) <= _LONGEST_NAME
        else f"{name[:80]}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    )


def _write_private(path: Path, text: str) -> None:
    """Replace a file atomically, mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
