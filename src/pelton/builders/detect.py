"""Which convention a source tree follows: syntax trees only, nothing is imported.

An explicit setting always wins; then FUNC_NAME/FUNCTION_TARGET and their kin; then the only candidate. A tie
is never guessed: the error lists the candidates and the flag that settles it. Conventions are handed in by
`cli/`.
Source: `faas-conventions` contract, section 11; `openfunction` contract, section 7.4 (build environment).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pelton.errors import SourceError, UnknownConventionError
from pelton.model.convention import Match

__all__ = ["Convention", "Detected", "Wanted", "detect", "from_build_env", "implied_packages"]

_BY_SIGNATURE = {
    "openfunction": "openfunction",
    "http": "gcf",
    "cloudevent": "gcf",
    "event": "gcf",
    "typed": "gcf",
}


class Convention(Protocol):
    """What detection needs of a convention's module."""

    IMPLIED: Mapping[str, str]

    def detect(self, tree: ast.Module, *, entry: bool) -> tuple[Match, ...]:
        """Return the functions that it recognises."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was said explicitly; "" for each thing that was not.

    Attributes:
        source: File relative to the source directory.
        target: Name of the function.
        signature: Signature type.
        convention: Name in the convention table.
    """

    source: str = ""
    target: str = ""
    signature: str = ""
    convention: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """What was found.

    Attributes:
        convention: Name in the convention table.
        target: Name of the function.
        signature: Signature type, e.g. `http`, `cloudevent`, `openfunction`.
        source: File relative to the source directory.
        rule: What settled it, one sentence fragment.
        implied: Requirements that the convention's platform preinstalls and the source imports, sorted.
    """

    convention: str
    target: str
    signature: str
    source: str
    rule: str
    implied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    convention: str
    source: str
    match: Match

    def __str__(self) -> str:
        return f"{self.source}:{self.match.line} {self.match.target} ({self.convention}: {self.match.rule})"


def from_build_env(env: Mapping[str, str]) -> Wanted:
    """Read FUNC_* of `spec.build.env`, else GOOGLE_FUNCTION_*, else the frameworks' FUNCTION_*."""

    def first(*names: str) -> str:
        return next((env[name] for name in names if env.get(name)), "")

    return Wanted(
        source=first("FUNC_SRC", "GOOGLE_FUNCTION_SOURCE", "FUNCTION_SOURCE"),
        target=first("FUNC_NAME", "GOOGLE_FUNCTION_TARGET", "FUNCTION_TARGET"),
        signature=first("FUNC_TYPE", "GOOGLE_FUNCTION_SIGNATURE_TYPE", "FUNCTION_SIGNATURE_TYPE"),
    )


def detect(
    source_dir: Path,
    conventions: Mapping[str, Any],
    wanted: Wanted | None = None,
    *,
    convention: str | None = None,
) -> Detected:
    """Find the function of a source directory.

    Args:
        source_dir: The directory.
        conventions: Name -> module with `detect` and `IMPLIED`, in order of precedence for messages.
        wanted: What was said explicitly.
        convention: Name in the convention table; wins over `wanted`'s.

    Raises:
        SourceError: No directory or file, a syntax error, or a target that is not there.
        UnknownConventionError: Nothing is recognised, or several things are.
    """
    wanted = wanted or Wanted()
    if convention:
        wanted = replace(wanted, convention=convention)
    if not source_dir.is_dir():
        raise SourceError(
            "there is no such source directory",
            where=str(source_dir),
            hint="Check the path and its spelling.",
        )
    if wanted.convention and wanted.convention not in conventions:
        raise UnknownConventionError(
            f"there is no convention {wanted.convention!r}",
            hint=f"Known conventions: {', '.join(conventions)}.",
        )
    if wanted.signature and wanted.signature not in _BY_SIGNATURE:
        raise UnknownConventionError(
            f"there is no signature type {wanted.signature!r}",
            hint=f"Known signature types: {', '.join(_BY_SIGNATURE)}; without one it is detected.",
        )
    trees = _trees(source_dir, wanted.source)
    found = _settle(_candidates(trees, conventions, wanted), trees, source_dir, wanted)
    implied = conventions[found.convention].IMPLIED if found.convention in conventions else {}
    return Detected(
        convention=found.convention,
        target=found.match.target,
        signature=wanted.signature or found.match.signature,
        source=found.source,
        rule=found.match.rule,
        implied=implied_packages(source_dir, implied),
    )


def _trees(source_dir: Path, source: str) -> dict[str, ast.Module]:
    """Parse the named file, or main.py and the other files beside it; main.py comes first."""
    if source:
        path = source_dir / source
        if not path.resolve().is_relative_to(source_dir.resolve()):
            raise SourceError(
                f"the source file {source!r} is outside of the source directory", where=str(source_dir)
            )
        if not path.is_file():
            raise SourceError(
                f"there is no file {source!r} in the source",
                where=str(source_dir),
                hint=f"Python files there: {_names(source_dir)}.",
            )
        return {source: _parse(path)}
    files = sorted(source_dir.glob("*.py"), key=lambda path: (path.name != "main.py", path.name))
    if not files:
        raise SourceError(
            "there is no Python file in the source directory",
            where=str(source_dir),
            hint="Put the function into main.py, or name its file with FUNC_SRC.",
        )
    trees = {files[0].name: _parse(files[0])}
    for path in files[1:]:
        try:
            trees[path.name] = _parse(path)
        except SourceError:
            if files[0].name != "main.py":
                raise
            # With a main.py the other files are its business: it may never import this one.
    return trees


def _names(source_dir: Path) -> str:
    return ", ".join(sorted(path.name for path in source_dir.glob("*.py"))) or "none"


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as exc:
        text = f" in `{exc.text.strip()}`" if exc.text and exc.text.strip() else ""
        raise SourceError(f"syntax error: {exc.msg}{text}", where=f"{path}:{exc.lineno}") from exc
    except ValueError as exc:  # null bytes
        raise SourceError(f"not Python: {exc}", where=str(path)) from exc
    except OSError as exc:
        raise SourceError(f"cannot be read: {exc.strerror}", where=str(path)) from exc


def _candidates(
    trees: Mapping[str, ast.Module], conventions: Mapping[str, Any], wanted: Wanted
) -> list[_Candidate]:
    names = [wanted.convention] if wanted.convention else list(conventions)
    found: list[_Candidate] = []
    for source, tree in trees.items():
        entry = bool(wanted.source) or source == "main.py" or len(trees) == 1
        here = [
            _Candidate(name, source, match)
            for name in names
            for match in conventions[name].detect(tree, entry=entry)
            if not wanted.target or match.target == wanted.target
        ]
        found += here
        if here and source == "main.py":
            break  # main.py is where every framework looks first; other files are its helpers
    by_signature = _BY_SIGNATURE.get(wanted.signature)
    if by_signature and any(item.convention == by_signature for item in found):
        found = [item for item in found if item.convention == by_signature]
    rank = min((item.match.rank for item in found), default=0)
    return [item for item in found if item.match.rank == rank]


def _settle(
    candidates: list[_Candidate], trees: Mapping[str, ast.Module], source_dir: Path, wanted: Wanted
) -> _Candidate:
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise _tie(candidates, source_dir)
    defined = {
        source: [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        for source, tree in trees.items()
    }
    if wanted.target:
        for source, names in defined.items():
            if wanted.target in names:
                return _said_outright(source, wanted, source_dir)
        listed = ", ".join(name for names in defined.values() for name in names) or "none"
        raise SourceError(
            f"there is no function {wanted.target!r}",
            where=str(source_dir / next(iter(trees))),
            hint=f"Functions found: {listed}.",
        )
    raise UnknownConventionError(
        "no function is recognised in the source",
        where=str(source_dir),
        hint=(
            "Recognised: `def f(context: UserContext)` (OpenFunction); functions decorated with "
            "@functions_framework.http or .cloud_event, main.py with `def f(request)` or `f(cloud_event)` "
            "(Google Cloud Functions). Or say it: --target with --signature or --convention."
        ),
    )


def _said_outright(source: str, wanted: Wanted, source_dir: Path) -> _Candidate:
    """Accept a function that no rule recognises when the user said what it is."""
    convention = wanted.convention or _BY_SIGNATURE.get(wanted.signature, "")
    if not convention:
        raise UnknownConventionError(
            f"the function {wanted.target!r} follows no convention that is recognised",
            where=str(source_dir / source),
            hint="Say which: --signature http|cloudevent|openfunction (FUNC_TYPE), or --convention.",
        )
    signature = wanted.signature or ("openfunction" if convention == "openfunction" else "http")
    match = Match(target=wanted.target, signature=signature, rule="said explicitly")
    return _Candidate(convention, source, match)


def _tie(candidates: list[_Candidate], source_dir: Path) -> UnknownConventionError:
    listed = "; ".join(str(item) for item in candidates)
    if len({item.match.target for item in candidates}) > 1:
        flag = "--target NAME (FUNC_NAME or FUNCTION_TARGET in the environment)"
    elif len({item.source for item in candidates}) > 1:
        flag = "FUNC_SRC or FUNCTION_SOURCE"
    else:
        flag = "--convention NAME"
    return UnknownConventionError(
        f"{len(candidates)} functions could be meant: {listed}",
        where=str(source_dir),
        hint=f"Choose with {flag}.",
    )


def implied_packages(source_dir: Path, implied: Mapping[str, str]) -> tuple[str, ...]:
    """Return the requirements of `implied` whose import names occur in the tree's files, sorted.

    Args:
        source_dir: The source directory; packages below it count too, files with syntax errors do not.
        implied: Import name -> requirement.
    """
    if not implied:
        return ()
    imported: set[str] = set()
    for path in source_dir.rglob("*.py"):
        if any(part.startswith(".") or part in {"node_modules", "__pycache__"} for part in path.parts):
            continue
        try:
            text = path.read_bytes()
            if any(name.encode() in text for name in implied):
                imported |= _imports(ast.parse(text))
        except (OSError, SyntaxError, ValueError):
            continue
    return tuple(sorted(requirement for name, requirement in implied.items() if name in imported))


def _imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(item.name.partition(".")[0] for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
