"""One build: detect, snapshot, environment; the order in which a user wants to hear of mistakes.

Called by `cli/control_plane.py` for the reconciler, and by `cli/render.py` to foresee the outcome. Idempotent
and content-addressed: the same source and requirements give the same result without work.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

from pelton.builders import detect, environment
from pelton.builders.bundle import digest_of, snapshot
from pelton.errors import BuildError, SourceError
from pelton.model.build import BuildResult
from pelton.model.desired import BuildRun

__all__ = ["build", "foresee", "source_directory"]

_DEFAULT_TIMEOUT_S = 600.0


async def build(
    run: BuildRun,
    *,
    convention: str,
    conventions: Mapping[str, ModuleType],
    bundles_dir: Path,
    environments_dir: Path,
) -> BuildResult:
    """Turn a source directory into a bundle with its environment.

    Args:
        run: What to build.
        convention: Name asked for by the user; "" to detect it.
        conventions: Name -> module.
        bundles_dir: Where bundles live.
        environments_dir: Where environments live.

    Raises:
        SourceError: The source is missing, broken or not recognised.
        BuildError: Bundle or environment could not be made; `log_tail` has the last 20 lines.
    """
    source = source_directory(run)
    limit = run.timeout_s or _DEFAULT_TIMEOUT_S
    try:
        async with asyncio.timeout(limit):
            found, requirements = _look(source, run, convention, conventions)
            bundle = await snapshot(source, bundles_dir)
            made = await environment.ensure(requirements, found.implied, envs_dir=environments_dir)
    except TimeoutError:
        raise BuildError(f"the build took longer than {limit:g} s", where=str(source)) from None
    made_of = _result(found, bundle=bundle.path, digest=bundle.digest, site_packages=made.site_packages)
    return replace(made_of, size_bytes=bundle.size_bytes)


async def foresee(
    run: BuildRun,
    *,
    convention: str,
    conventions: Mapping[str, ModuleType],
    bundles_dir: Path,
    environments_dir: Path,
) -> BuildResult:
    """Return what `build` will return for the source as it is now, making nothing; arguments as there.

    Raises:
        SourceError: As `build`.
    """
    source = source_directory(run)
    found, requirements = _look(source, run, convention, conventions)
    digest = await digest_of(source)
    key = environment.key_of(requirements, found.implied)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    place = environments_dir.absolute() / key / "lib" / version / "site-packages"
    return _result(
        found,
        bundle=str(bundles_dir.absolute() / digest.removeprefix("sha256:")),
        digest=digest,
        site_packages=str(place) if key else "",
    )


def _look(
    source: Path, run: BuildRun, convention: str, conventions: Mapping[str, ModuleType]
) -> tuple[detect.Detected, str]:
    """Return what the source is, and its requirements."""
    said = detect.from_build_env(run.env)
    wanted = detect.Wanted(
        source=said.source, target=said.target, signature=said.signature, convention=convention
    )
    found = detect.detect(source, conventions, wanted)
    environment.check_python(source)
    return found, environment.requirements_of(source, found.options)


def _result(found: detect.Detected, *, bundle: str, digest: str, site_packages: str) -> BuildResult:
    return BuildResult(
        bundle=bundle,
        digest=digest,
        environment=site_packages,
        convention=found.convention,
        target=found.target,
        signature=found.signature,
        source=found.source,
        options=dict(found.options),
    )


def source_directory(run: BuildRun) -> Path:
    """Return the directory that a `file:` URL (or an absolute path) and a sub-path mean."""
    parts = urlsplit(run.source_url)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise SourceError(
            f"{run.source_url} is not on this machine", hint="give a file: URL, or use `pelton deploy DIR`"
        )
    root = Path(unquote(parts.path))
    if not root.is_absolute():
        raise SourceError(
            f"{run.source_url} is a relative path, and the server does not know relative to what",
            hint="`pelton apply -f FILE` resolves it against the manifest; with kubectl give a file: URL",
        )
    directory = (root / run.sub_path).resolve() if run.sub_path else root
    if not directory.is_relative_to(root.resolve()) and run.sub_path:
        raise SourceError(f"sourceSubPath {run.sub_path!r} leads out of {root}")
    if not directory.is_dir():
        raise SourceError("there is no such source directory", where=str(directory))
    return directory
