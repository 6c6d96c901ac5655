"""Which convention a source tree follows: file names, documents and syntax trees only, nothing is imported.

An explicit setting always wins. Then marker files (first match wins; markers of two platforms are a tie),
then objects and annotations that say it (OpenFunction, ASGI, WSGI), then looks of functions: all such rules
are evaluated, and several are a tie unless a platform's own import decides. A tie is never guessed: the error
lists the candidates and the flag that settles it. Conventions are handed in by `cli/`; `examine` keeps the
whole reasoning for `pelton why detect`.
Source: `faas-conventions` contract, section 11; `openfunction` contract, section 7.4 (build environment).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pelton.builders.foreign import UNSUPPORTED
from pelton.builders.tree import SourceTree
from pelton.errors import PeltonError, SourceError, UnknownConventionError
from pelton.model.convention import ALIASES, Facts, Match, Tree, Trigger

__all__ = [
    "Considered",
    "Convention",
    "Detected",
    "Report",
    "Wanted",
    "detect",
    "examine",
    "from_build_env",
    "implied_packages",
]

_BY_SIGNATURE = {
    "openfunction": "openfunction",
    "http": "gcf",
    "cloudevent": "gcf",
    "event": "gcf",
    "typed": "gcf",
}
_STAGES = ("marker", "object", "source")


class Convention(Protocol):
    """What detection needs of a convention's module."""

    IMPLIED: Mapping[str, str]
    FACTS: Facts

    def detect(self, tree: Tree) -> tuple[Match, ...]:
        """Return the functions that it recognises."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was said explicitly; "" for each thing that was not.

    Attributes:
        source: File relative to the source directory.
        target: Name of the function, as the convention writes it.
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
        source: File relative to the source directory; "" when there is no single one.
        rule: What settled it, one sentence fragment.
        implied: Requirements that the convention's platform preinstalls: those that the source imports, and
            those that it needs without importing them; sorted.
        options: What the tree says about how to serve it, see `model/convention.Match`.
        triggers: Triggers that the source declares.
    """

    convention: str
    target: str
    signature: str
    source: str
    rule: str
    implied: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    triggers: tuple[Trigger, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """One convention's verdict.

    Attributes:
        convention: Its name.
        verdict: `chosen`, `candidate` (part of a tie), `outweighed` (a stronger rule decided) or `no match`.
        why: The rule that matched and where, or what it looks for.
    """

    convention: str
    verdict: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of a detection's reasoning.

    Attributes:
        detected: The outcome, or None.
        error: Why there is no outcome, or None.
        considered: Every convention's verdict, in the table's order.
    """

    detected: Detected | None
    error: PeltonError | None
    considered: tuple[Considered, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    convention: str
    match: Match

    def __str__(self) -> str:
        match = self.match
        place = f"{match.source}:{match.line} " if match.line else f"{match.source} " if match.source else ""
        return f"{place}{match.target or '(no target)'} ({self.convention}: {match.rule})"


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
        conventions: Name -> module with `detect`, `IMPLIED` and `FACTS`, in order of precedence for messages.
        wanted: What was said explicitly.
        convention: Name in the convention table; wins over `wanted`'s.

    Raises:
        SourceError: No directory or file, a syntax error, or a target that is not there.
        UnknownConventionError: Nothing is recognised, or several things are, or a platform that is not
            supported.
    """
    report = examine(source_dir, conventions, wanted, convention=convention)
    if report.error is not None:
        raise report.error
    assert report.detected is not None  # noqa: S101 -- one of the two is always there
    return report.detected


def examine(
    source_dir: Path,
    conventions: Mapping[str, Any],
    wanted: Wanted | None = None,
    *,
    convention: str | None = None,
) -> Report:
    """Detect with all reasons; arguments as for `detect`. Nothing is raised for what the source is."""
    wanted = wanted or Wanted()
    asked = convention or wanted.convention
    wanted = replace(wanted, convention=ALIASES.get(asked, asked))
    candidates: list[_Candidate] = []
    kept: list[_Candidate] = []
    chosen: _Candidate | None = None
    error: PeltonError | None = None
    detected: Detected | None = None
    try:
        tree = _open(source_dir, conventions, wanted)
        candidates = _candidates(tree, conventions, wanted)
        kept = _weigh(candidates, wanted)
        chosen = _settle(kept, tree, wanted)
        if chosen.convention not in conventions:
            raise _unsupported(chosen, conventions, source_dir)
        detected = _detected(chosen, conventions, source_dir, wanted)
    except PeltonError as exc:
        error = exc
    return Report(
        detected=detected,
        error=error,
        considered=_considered(conventions, candidates, kept, chosen if error is None else None),
    )


def _open(source_dir: Path, conventions: Mapping[str, Any], wanted: Wanted) -> SourceTree:
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
    if wanted.signature and not wanted.convention and wanted.signature not in _BY_SIGNATURE:
        raise UnknownConventionError(
            f"there is no signature type {wanted.signature!r}",
            hint=f"Known signature types: {', '.join(_BY_SIGNATURE)}; without one it is detected.",
        )
    tree = SourceTree(source_dir, source=wanted.source, target=wanted.target, asked=wanted.convention)
    if not tree.files:
        raise SourceError(
            "the source directory is empty",
            where=str(source_dir),
            hint="Put the function into main.py, or name another directory.",
        )
    return tree


def _candidates(tree: SourceTree, conventions: Mapping[str, Any], wanted: Wanted) -> list[_Candidate]:
    asked = {wanted.convention: conventions[wanted.convention]} if wanted.convention else conventions
    found = [_Candidate(name, match) for name, module in asked.items() for match in module.detect(tree)]
    if not wanted.convention:
        found += [
            _Candidate(name, match) for name, rule in UNSUPPORTED.items() for match in rule.detect(tree)
        ]
    if wanted.target:
        found = [item for item in found if item.match.target == wanted.target]
    by_signature = _BY_SIGNATURE.get(wanted.signature)
    if by_signature and any(item.convention == by_signature for item in found):
        found = [item for item in found if item.convention == by_signature]
    return found


def _weigh(candidates: list[_Candidate], wanted: Wanted) -> list[_Candidate]:
    """Keep the candidates of the strongest stage, and of each convention the strongest rule."""
    for stage in _STAGES:
        kept = [item for item in candidates if item.match.stage == stage]
        if not kept:
            continue
        if stage != "marker":
            # main.py is where every framework looks first; other files are its helpers.
            main = [item for item in kept if item.match.source == "main.py"]
            kept = main or kept
        if stage == "source" and any(item.match.own_import for item in kept):
            kept = [item for item in kept if item.match.own_import]
        best = {
            name: min(_weight(item.match) for item in kept if item.convention == name)
            for name in {item.convention for item in kept}
        }
        return [item for item in kept if _weight(item.match) == best[item.convention]]
    return []


def _weight(match: Match) -> tuple[int, int]:
    """Order a convention's own matches: marker rows by their number, then by rank."""
    row = int(match.row) if match.stage == "marker" and match.row.isdigit() else 0
    return row, match.rank


def _settle(candidates: list[_Candidate], tree: SourceTree, wanted: Wanted) -> _Candidate:
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise _tie(candidates, tree.directory)
    if wanted.target:
        defined = {
            item.name: [
                n.name for n in item.module.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            for item in tree.sources
        }
        for source, names in defined.items():
            if wanted.target in names:
                return _said_outright(source, wanted, tree.directory)
        listed = ", ".join(name for names in defined.values() for name in names) or "none"
        raise SourceError(
            f"there is no function {wanted.target!r}",
            where=str(tree.directory / next(iter(defined), "")),
            hint=f"Functions found: {listed}.",
        )
    if not any(name.endswith(".py") for name in tree.files):
        raise UnknownConventionError(
            "no function is recognised in the source, and there is no Python file",
            where=str(tree.directory),
            hint="For a program that listens on $PORT name it with --command or the annotation "
            "pelton.dev/command; for a function put it into main.py, or name its file with FUNC_SRC.",
        )
    raise UnknownConventionError(
        f"no function of the convention {wanted.convention} is recognised in the source"
        if wanted.convention
        else "no function is recognised in the source",
        where=str(tree.directory),
        hint=(
            "`pelton why detect` lists what each convention looks for, e.g. `def f(context: UserContext)` "
            "(OpenFunction) or a function decorated with @functions_framework.http (Google Cloud Functions). "
            "Or say it: --target with --signature or --convention."
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
    signature = wanted.signature or {"gcf": "http"}.get(convention, convention)
    match = Match(target=wanted.target, signature=signature, rule="said explicitly", source=source)
    return _Candidate(convention, match)


def _tie(candidates: list[_Candidate], source_dir: Path) -> UnknownConventionError:
    listed = "; ".join(str(item) for item in candidates)
    conventions = {item.convention for item in candidates}
    if len(conventions) > 1:
        what = f"{len(conventions)} conventions fit"
        flag = f"--convention {'|'.join(dict.fromkeys(item.convention for item in candidates))}"
        flag += " (annotation pelton.dev/convention)"
        if len({item.match.target for item in candidates}) > 1:
            flag += " or --target NAME (FUNC_NAME)"
    elif len({item.match.target for item in candidates}) > 1:
        what = f"{len(candidates)} functions could be meant"
        flag = "--target NAME (FUNC_NAME or FUNCTION_TARGET in the environment)"
    else:
        what = f"{len(candidates)} functions could be meant"
        flag = "FUNC_SRC or FUNCTION_SOURCE"
    return UnknownConventionError(f"{what}: {listed}", where=str(source_dir), hint=f"Choose with {flag}.")


def _unsupported(
    chosen: _Candidate, conventions: Mapping[str, Any], source_dir: Path
) -> UnknownConventionError:
    return UnknownConventionError(
        f"this is a function for {UNSUPPORTED[chosen.convention].title}, which is not supported: {chosen}",
        where=str(source_dir),
        hint="Give it the signature of one that is and name it with --convention, or run it as a program of "
        f"its own with --command. Supported: {', '.join(conventions)}.",
    )


def _detected(
    chosen: _Candidate, conventions: Mapping[str, Any], source_dir: Path, wanted: Wanted
) -> Detected:
    match = chosen.match
    return Detected(
        convention=chosen.convention,
        target=match.target,
        signature=wanted.signature or match.signature,
        source=match.source,
        rule=match.rule,
        implied=tuple(
            sorted({*implied_packages(source_dir, conventions[chosen.convention].IMPLIED), *match.implied})
        ),
        options=match.options,
        triggers=match.triggers,
    )


def _considered(
    conventions: Mapping[str, Any],
    candidates: list[_Candidate],
    kept: list[_Candidate],
    chosen: _Candidate | None,
) -> tuple[Considered, ...]:
    made: list[Considered] = []
    titles = {name: module.FACTS.looks_for for name, module in conventions.items()}
    titles |= {name: rule.looks_for for name, rule in UNSUPPORTED.items()}
    for name, looks_for in titles.items():
        own = [item for item in candidates if item.convention == name]
        if chosen is not None and chosen.convention == name:
            made.append(Considered(convention=name, verdict="chosen", why=_rule(chosen)))
            own = [item for item in own if item is not chosen]
        elif not own:
            made.append(Considered(convention=name, verdict="no match", why=f"looks for {looks_for}"))
            continue
        for item in own:
            verdict = "candidate" if item in kept and chosen is None else "outweighed"
            made.append(Considered(convention=name, verdict=verdict, why=_rule(item)))
    return tuple(made)


def _rule(item: _Candidate) -> str:
    match = item.match
    place = f"{match.source}:{match.line}" if match.line else match.source
    row = f"row {match.row}: " if match.row.isdigit() else ""
    return f"{row}{match.rule}" + (f" ({place})" if place else "")


def implied_packages(source_dir: Path, implied: Mapping[str, str]) -> tuple[str, ...]:
    """Return the requirements of `implied` whose import names occur in the tree's files, sorted.

    Args:
        source_dir: The source directory; packages below it count too, files with syntax errors do not.
        implied: Import name -> requirement.
    """
    if not implied:
        return ()
    imported: set[str] = set()
    tree = SourceTree(source_dir)
    for path in tree.files:
        if not path.endswith(".py"):
            continue
        text = tree.text(path)
        if any(name in text for name in implied):
            module = tree.module(path)
            imported |= _imports(module.body) if module is not None else set()
    return tuple(sorted(requirement for name, requirement in implied.items() if name in imported))


def _imports(body: Iterable[ast.AST]) -> set[str]:
    """Return the imported names, dotted ones in all their prefixes."""
    names: set[str] = set()
    for top in body:
        for node in ast.walk(top):
            if isinstance(node, ast.Import):
                for item in node.names:
                    names |= _prefixes(item.name)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= _prefixes(node.module)
    return names


def _prefixes(dotted: str) -> set[str]:
    parts = dotted.split(".")
    return {".".join(parts[: end + 1]) for end in range(len(parts))}
