"""A program that a worker runs as its child: start it, wait until it listens, end it, notice its end.

Used by conventions whose user code is an executable of its own (`compat/process.py`, Lambda's `bootstrap`,
Azure's custom handlers). The child dies with its worker (PDEATHSIG), has its own process group, so that a
Ctrl-C reaches only the worker, which ends it in order, and writes straight into the worker's descriptors 1
and 2, so that its lines reach the log. Standard library and the running asyncio loop only; its processes are
watched by pidfd, without SIGCHLD, since a worker's signals belong to the worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

from pelton.errors import FunctionLoadError

__all__ = ["Program", "command_line", "free_port", "socket_path", "what_happened"]

_FIRST_PORT: Final = 10_000
_PR_SET_PDEATHSIG: Final = 1
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.02
_DOUBT_S: Final = 0.5
"""How long a port may belong to somebody else before it is believed to be the program's after all."""
_LISTEN: Final = b"0A"
_libc = ctypes.CDLL(None, use_errno=True)

# Started by posix_spawn where this process has threads: code of this process must not run after such a fork.
# argv: parent pid, directory, program, its argv. Descriptor 3 takes the error number of a failed exec.
_SHIM: Final = """
import ctypes, os, signal, sys
if ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) or os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.set_inheritable(3, False)
os.closerange(4, 65536)
for name in ("SIGPIPE", "SIGXFSZ"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
try:
    os.chdir(sys.argv[2])
    os.execv(sys.argv[3], sys.argv[4:])
except OSError as exc:
    os.write(3, b"%d" % (exc.errno or 0))
    os._exit(126)
"""


def free_port() -> int:
    """Return a TCP port that nothing listens on now, below those that the kernel gives to clients.

    A port of the kernel's own choice could become the near end of somebody's connection before the program
    binds it.
    """
    last = 32_767
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", "rb") as file:  # noqa: PTH123 -- no pathlib here
            last = int(file.read().split()[0]) - 1
    except (OSError, ValueError, IndexError):
        pass
    span = last - _FIRST_PORT + 1
    for _ in range(64 if span > 1024 else 0):
        port = _FIRST_PORT + int.from_bytes(os.urandom(4), "little") % span
        if _bindable(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(("", port))
        except OSError:
            return False
    return True


def socket_path(folder: str = "") -> str:
    """Return a path for a socket that nobody can guess before it is there; `Program.stop` removes it.

    A file and no directory: of a worker that is killed nothing stays behind unless its program made one.

    Args:
        folder: Where; $TMPDIR or /tmp when "".
    """
    return f"{folder or os.environ.get('TMPDIR') or '/tmp'}/pelton-{os.urandom(8).hex()}.sock"  # noqa: S108 -- see above


def command_line(command: str, bundle: str) -> list[str]:
    """Return the argv of a command, its program as an absolute path.

    No shell: quotes group words, nothing is expanded. The program is looked up in the bundle, then in PATH.

    Args:
        command: E.g. `node server.js`.
        bundle: Directory of the source, absolute.

    Raises:
        FunctionLoadError: The command is empty or badly quoted, or its program is missing or not executable.
    """
    import shlex
    import shutil

    where = "pelton.dev/command"
    try:
        argv = shlex.split(command)
    except ValueError as exc:
        raise FunctionLoadError(
            f"the command {command!r} is badly quoted: {exc}", where=where, hint="Close every quote."
        ) from None
    if not argv:
        raise FunctionLoadError(
            "no command is given",
            where=where,
            hint='Name the program with --command or the annotation, e.g. "node server.js".',
        )
    name = argv[0]
    inside = os.path.normpath(f"{bundle}/{name}") if not name.startswith("/") else name
    if os.path.isfile(inside):  # noqa: PTH113 -- no pathlib here
        if not os.access(inside, os.X_OK):
            raise FunctionLoadError(
                f"the program {name} is not executable",
                where=where,
                hint=f"Run `chmod +x {name}`, or name its interpreter first, e.g. `node {name}`.",
            )
        return [inside, *argv[1:]]
    found = None if "/" in name else shutil.which(name)
    if found is None:
        raise FunctionLoadError(
            f"there is no program {name!r}",
            where=where,
            hint="It is looked up in the source directory"
            + (", then in PATH: " + os.environ.get("PATH", "") if "/" not in name else "")
            + ".",
        )
    return [os.path.abspath(found), *argv[1:]]  # noqa: PTH100 -- no pathlib here


def what_happened(status: int) -> str:
    """Return a return code in words: `exited with status 3`, `was killed by SIGKILL`."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class Program:
    """A child process of this worker; everything in the loop that runs when `start` is called.

    Args:
        argv: Program (absolute path) and arguments; see `command_line`.
        env: Added to this process's environment.
        cwd: Working directory; "" keeps this process's.
        port: TCP port on loopback where it is expected to listen; 0 for none.
        socket: Unix socket where it is expected to listen; "" for none. Either will do.
        on_exit: Called with the return code when it ends without `stop`; see also `exited`.
        output: Descriptor that it prints into instead of the worker's 1 and 2; -1 for these.

    Attributes:
        pid: Its process id, 0 before `start`.
        exited: Its return code, negative for a signal; made by `start`.
        address: Where it listens, since `ready`: (host, port), or the socket's path.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        port: int = 0,
        socket: str = "",
        on_exit: Callable[[int], None] | None = None,
        output: int = -1,
    ) -> None:
        self.argv = list(argv)
        self.name = os.path.basename(self.argv[0])  # noqa: PTH119 -- no pathlib here
        self.pid = 0
        self.address: tuple[str, int] | str = ""
        self.exited: asyncio.Future[int]
        self._env = dict(env or {})
        self._cwd = cwd or os.getcwd()  # noqa: PTH109 -- as above
        self._port = port
        self._socket = socket
        self._on_exit = on_exit
        self._output = output
        self._pidfd = -1
        self._stopping = False

    async def start(self) -> None:
        """Spawn it; its environment and working directory are as given, its stdin is empty.

        Raises:
            FunctionLoadError: The kernel refuses to run it.
        """
        loop = asyncio.get_running_loop()
        self.exited = loop.create_future()
        env = {**os.environ, **self._env}
        sys.stdout.flush()
        sys.stderr.flush()
        alone = threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 -- as above
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._fork(env, write_end) if alone else self._spawn(env, write_end)
        finally:
            os.close(write_end)
        try:
            failed = os.read(read_end, 16)  # ends when exec closes the other side
        finally:
            os.close(read_end)
        if failed:
            os.waitpid(pid, 0)  # noqa: ASYNC222 -- it is ending already
            raise self._not_run(int(failed))
        self.pid = pid
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._reap)

    def _fork(self, env: Mapping[str, str], failed: int) -> int:
        """Fork and exec by hand: twice as fast as through an interpreter, and safe without threads."""
        parent = os.getpid()
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(env, parent, null, failed)
            return pid
        finally:
            os.close(null)

    def _become(self, env: Mapping[str, str], parent: int, null: int, failed: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            os.setpgid(0, 0)
            os.dup2(null, 0)
            if self._output >= 0:
                os.dup2(self._output, 1)
                os.dup2(self._output, 2)
            if failed != 3:
                os.dup2(failed, 3, inheritable=False)
            os.closerange(4, 65536)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, and that survives exec
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.chdir(self._cwd)
            os.execve(self.argv[0], self.argv, env)  # noqa: S606 -- running the user's program is the point
        except OSError as exc:
            os.write(3, b"%d" % (exc.errno or 0))
        finally:
            os._exit(126)

    def _spawn(self, env: Mapping[str, str], failed: int) -> int:
        shim = [sys.executable, "-I", "-S", "-c", _SHIM]
        printing = [(os.POSIX_SPAWN_DUP2, self._output, fd) for fd in (1, 2) if self._output >= 0]
        return os.posix_spawn(
            sys.executable,
            [*shim, str(os.getpid()), self._cwd, self.argv[0], *self.argv],
            env,
            file_actions=[
                *printing,
                (os.POSIX_SPAWN_DUP2, failed, 3),
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            ],
            setpgroup=0,
            setsigmask=(),
        )

    def _not_run(self, code: int) -> FunctionLoadError:
        hint = "A script needs a first line such as `#!/bin/sh`, or its interpreter before it in the command."
        return FunctionLoadError(
            f"the program {self.argv[0]} cannot be run: {os.strerror(code)}",
            where="pelton.dev/command",
            hint=hint if os.strerror(code).startswith("Exec format") else "",
        )

    def _reap(self) -> None:
        loop = self.exited.get_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        _pid, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.exited.set_result(code)
        if self._on_exit is not None and not self._stopping:
            self._on_exit(code)

    async def ready(self, timeout_s: float) -> None:
        """Return when it accepts connections; `address` then says where.

        Raises:
            FunctionLoadError: It ended before, or does not listen within `timeout_s` seconds.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        pause = _FIRST_PAUSE_S
        expected = " or ".join(
            [f"the socket $PELTON_SOCKET ({self._socket})"] * bool(self._socket)
            + [f"the port $PORT ({self._port})"] * bool(self._port)
        )
        while True:
            if self.exited.done():
                raise FunctionLoadError(
                    f"{self.name} {what_happened(self.exited.result())} before it listened",
                    where="pelton.dev/command",
                    hint=f"What it printed is in the log. It must go on running and listen on {expected}.",
                )
            address = await self._listening()
            passed = loop.time() - begun
            if address and (isinstance(address, str) or passed > _DOUBT_S or self._owns(address[1])):
                self.address = address
                return
            if passed >= timeout_s:
                raise FunctionLoadError(
                    f"{self.name} did not listen within {timeout_s:g} s",
                    where="pelton.dev/command",
                    hint=f"It must listen on {expected}; pelton.dev/start-timeout gives it more seconds.",
                )
            await asyncio.wait({self.exited}, timeout=min(pause, timeout_s - passed))
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)

    async def _listening(self) -> tuple[str, int] | str:
        """Return where it accepts connections, "" when nowhere."""
        if self._socket and os.path.exists(self._socket) and await _accepts(socket.AF_UNIX, self._socket):  # noqa: PTH110 -- as above
            return self._socket
        if self._port:
            if await _accepts(socket.AF_INET, ("127.0.0.1", self._port)):
                return ("127.0.0.1", self._port)
            # `listen(port, "localhost")` binds only this one where the resolver puts it first
            if socket.has_ipv6 and await _accepts(socket.AF_INET6, ("::1", self._port)):
                return ("::1", self._port)
        return ""

    def _owns(self, port: int) -> bool:
        """Return whether it is this program that listens; True where the kernel does not say.

        Two programs given the same port at the same moment would otherwise get each other's requests until
        the second one, which could not bind it, has ended.
        """
        inodes = _listeners(port)
        if not inodes:
            return True
        wanted = {f"socket:[{inode}]" for inode in inodes}
        if _holds(self.pid, wanted):
            return True
        for entry in os.listdir("/proc"):  # noqa: PTH208 -- as above
            try:
                if entry.isdigit() and os.getpgid(int(entry)) == self.pid and _holds(int(entry), wanted):
                    return True
            except OSError:
                continue
        return False

    async def stop(self, grace_s: float = 5.0) -> None:
        """End it: SIGTERM, after `grace_s` seconds SIGKILL for its whole process group. Safe to repeat."""
        self._stopping = True
        try:
            if self.pid and not self.exited.done():
                self._signal(signal.SIGTERM)
                await asyncio.wait({self.exited}, timeout=grace_s)
            if self.pid:
                self._signal(signal.SIGKILL)  # also what it left behind in its group
                if not self.exited.done():
                    await self.exited
        finally:
            self._remove_socket()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            # The group does not exist yet, or only for a moment longer; the process itself is still ours.
            if not self.exited.done():
                os.kill(self.pid, number)

    def _remove_socket(self) -> None:
        if self._socket.rpartition("/")[2].startswith("pelton-"):
            try:
                os.unlink(self._socket)  # noqa: PTH108 -- no pathlib here
            except OSError:
                pass


async def _accepts(family: int, address: tuple[str, int] | str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(1.0):
                await asyncio.get_running_loop().sock_connect(sock, address)
        except (OSError, TimeoutError):
            return False
        # A connection can be made to oneself when the client's own port happens to be the wanted one.
        return family == socket.AF_UNIX or sock.getsockname()[:2] != address


def _listeners(port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a TCP port; empty where the kernel does not say."""
    found = set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        try:
            # Listening sockets come first; to list the rest, perhaps tens of thousands, takes long.
            with open(table, "rb", buffering=4096) as file:  # noqa: PTH123 -- no pathlib here
                next(file, None)
                for line in file:
                    fields = line.split(None, 10)
                    if fields[3] != _LISTEN:
                        break
                    if int(fields[1].rpartition(b":")[2], 16) == port:
                        found.add(fields[9].decode())
        except (OSError, IndexError, ValueError):
            continue
    return found


def _holds(pid: int, sockets: set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        for fd in os.listdir(folder):  # noqa: PTH208 -- as above
            try:
                if os.readlink(f"{folder}/{fd}") in sockets:  # noqa: PTH115 -- as above
                    return True
            except OSError:
                continue
    except OSError:
        return False
    return False
