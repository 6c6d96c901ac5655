"""Cold start per convention: a hello function of each, from zero, through the gateway; and what imports cost.

Each convention has two functions on one platform, and each is woken five times, first of all as the first
wake ever, then whenever all are back at zero. A function whose imports are worth it has a template by then,
so the platform package's import is paid for when it is deployed and not when it wakes. The last rows say what
that import would cost a wake without one: measured in a process that has already loaded what the zygote has,
against the same import in a plain interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from bench.coldstart import PAUSE_S, first_byte_s
from bench.hellos import AZURE, DJANGO, FASTAPI, FLASK, PLAIN, Hello, write
from bench.hellos import HELLOS as ALL
from bench.load import Refused, quantile
from bench.platform import Platform, function, platform
from bench.served import environment_of
from bench.table import Row, render

__all__ = ["rows"]

FUNCTIONS = 2
"""Of each convention: more would not all keep their templates, whose memory has a limit."""
ROUNDS = 5
_WINDOW_S = 6
_ZERO_S = 30
_IMPORTS = 3
HELLOS = tuple(hello for hello in ALL if "reads" not in hello.name)
"""Without the one that differs only in what it does per request."""
PACKAGES = (
    ("flask", FLASK),
    ("azure.functions", AZURE),
    ("fastapi", FASTAPI),
    ("django.core.wsgi", DJANGO),
)
_WARM_IMPORT = """
import sys, time
import httptools, uvloop
import pelton.cli.zygote
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.dataplane import loader
for name in CONVENTIONS:
    resolve_convention(name)
loader.enter_environment(sys.argv[1], sys.argv[2])
began = time.perf_counter()
__import__({module!r})
print((time.perf_counter() - began) * 1e3)
"""
_PLAIN_IMPORT = """
import sys, time
sys.path.append({packages!r})
began = time.perf_counter()
__import__({module!r})
print((time.perf_counter() - began) * 1e3)
"""


def rows() -> list[Row]:
    """Measure and return the lines for a table; about a minute, and the installs of a first run."""
    took, templates, why = asyncio.run(_wakes())
    plain = took[PLAIN.slug]
    table = []
    for hello in HELLOS:
        found = took[hello.slug]
        if not found:
            table.append(Row(f"cold start, {hello.name}: p50", None, None, "ms", note=why[hello.slug]))
            continue
        table.append(
            Row(
                f"cold start, {hello.name}: p50",
                statistics.median(found) * 1e3,
                statistics.median(plain) * 1e3,
                "ms",
                note=f"{len(found)} wakes, slowest {quantile(found, 1.0) * 1e3:.1f} ms; "
                f"template {templates[hello.slug]}",
            )
        )
    return table + [_import_row(module, requirements) for module, requirements in PACKAGES]


# --- wakes ---


async def _wakes() -> tuple[dict[str, list[float]], dict[str, str], dict[str, str]]:
    """Return seconds to the first byte, what became of a template, and errors, each by the hello's slug."""
    for hello in HELLOS:
        await asyncio.to_thread(environment_of, hello.requirements)
    took: dict[str, list[float]] = {hello.slug: [] for hello in HELLOS}
    why: dict[str, str] = {}
    async with platform() as here:
        await here.deploy([obj for hello in HELLOS for obj in _functions(here, hello)])
        seen = await here.status()
        templates = {hello.slug: str(seen[_name(hello, 0)]["template"]) for hello in HELLOS}
        await asyncio.sleep(2)
        for turn in range(ROUNDS):
            if turn:
                await _all_at_zero(here)
            for number in range(FUNCTIONS):
                # One of each in turn, so that a busy second does not hit one convention alone.
                for hello in HELLOS:
                    if hello.slug in why:
                        continue
                    try:
                        took[hello.slug].append(
                            await first_byte_s(here.gateway, _name(hello, number), hello.path)
                        )
                    except (Refused, OSError, RuntimeError) as exc:
                        why[hello.slug] = str(exc)
                    await asyncio.sleep(PAUSE_S / 3)
    return took, templates, why


def _name(hello: Hello, number: int) -> str:
    return f"{hello.slug}-{number}"


def _functions(here: Platform, hello: Hello) -> list[dict[str, object]]:
    return [
        function(
            name := _name(hello, number),
            write(hello, here.root / name, comment=name),
            convention=hello.convention,
            target=hello.target,
            options=hello.options,
            window_s=_WINDOW_S,
        )
        for number in range(FUNCTIONS)
    ]


async def _all_at_zero(here: Platform) -> None:
    async with asyncio.timeout(_ZERO_S):
        while any(seen["instances"] for seen in (await here.status()).values()):
            await asyncio.sleep(0.2)
    await asyncio.sleep(0.5)


# --- imports ---


def _import_row(module: str, requirements: str) -> Row:
    packages = environment_of(requirements)
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        warm = _times([sys.executable, "-c", _WARM_IMPORT.format(module=module), packages, folder])
        plain_code = _PLAIN_IMPORT.format(module=module, packages=packages)
        plain = _times([sys.executable, "-I", "-S", "-c", plain_code])
    return Row(
        f"import of {module} in a worker without a template",
        statistics.median(warm),
        statistics.median(plain),
        "ms",
        note="peer: a plain interpreter",
    )


def _times(command: Sequence[str]) -> list[float]:
    """Run an import several times, each in a process of its own; the first, which compiles, is left out."""
    found = []
    for _ in range(_IMPORTS + 1):
        output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        found.append(float(output))
    return found[1:]


def main() -> None:
    """Print the rows."""
    with contextlib.suppress(KeyboardInterrupt):
        print(render(rows()))


if __name__ == "__main__":
    main()
