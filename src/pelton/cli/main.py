"""The `pelton` command: Dapr's own two straight, all others by `commands.py`.

Scripts start `pelton dapr run` or `pelton daprd` for each app, and `dapr_flags.py` reads their flags: typer,
which reads none of them, and what it imports would be a third of their start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from pelton.errors import PeltonError

__all__ = ["main"]

# httpx would import its own command line with it, which no command of ours needs: rich and pygments.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]


def _command(words: Sequence[str]) -> Callable[[], object]:
    """Return what the words after `pelton` ask for."""
    if words[:1] == ["daprd"]:
        from pelton.cli.dapr_run import daprd

        return lambda: sys.exit(daprd(words[1:]))
    if words[:2] == ["dapr", "run"]:
        from pelton.cli.dapr_run import dapr_run

        return lambda: sys.exit(dapr_run(words[2:]))
    from pelton.cli.commands import app

    return app


def _guard(command: Callable[[], object]) -> int:
    try:
        command()
    except PeltonError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    return 0


def main() -> None:
    """Run the command line; user errors end with their own exit code and one message."""
    sys.exit(_guard(_command(sys.argv[1:])))


if __name__ == "__main__":
    main()
