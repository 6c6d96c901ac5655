"""Run a command with servers beside it: `python -m tests.services kafka redis -- COMMAND ...`.

The command finds each as `host:port` in PELTON_SERVICE_<NAME>. Without a command: say what is here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack

from tests.services.table import SERVERS, started


def main(words: list[str]) -> int:
    """Return the command's exit code; 1 when a server is missing."""
    split = words.index("--") if "--" in words else len(words)
    names, command = words[:split], words[split + 1 :]
    unknown = [name for name in names if name not in SERVERS]
    if unknown:
        print(f"no service {', '.join(unknown)}; there are {', '.join(SERVERS)}", file=sys.stderr)
        return 2
    reasons = {name: SERVERS[name].missing() for name in (names or SERVERS)}
    if not command:
        for name, reason in reasons.items():
            print(f"{name:14}{reason or 'there'}")
        return 1 if any(reasons.values()) else 0
    missing = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
    if missing:
        print("\n".join(missing) + "\nscripts/services installs them", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        environment = dict(os.environ)
        for name in names:
            server = stack.enter_context(started(name))
            environment[f"PELTON_SERVICE_{name.upper()}"] = server.address
        return subprocess.run(command, check=False, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
