"""The CustomResourceDefinitions of deploy/crds, from the tables of `pelton.manifest`.

Run through `scripts/gen-crds`; `tests/test_crds.py` calls the same functions. Kinds of OpenFunction and of
notifications lie in deploy/crds, those of systems that bring their own definitions in deploy/crds/others: for
clusters without these. Groups of Kubernetes itself (`*.k8s.io`) may only be defined by their project.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from pelton.manifest.kinds import KINDS, Kind
from pelton.manifest.schema import definition_of
from pelton.manifest.text import write

ROOT: Final = Path(__file__).resolve().parent.parent
TARGET: Final = ROOT / "deploy" / "crds"
_HEAD: Final = "# Written by scripts/gen-crds; edit the tables of src/pelton/manifest, then run it again.\n"
_OWN: Final = ("openfunction.io", "notification.kubesphere.io")


def place(kind: Kind) -> str:
    """Return the file of a kind's definition, relative to deploy/crds; "" when none is written."""
    if kind.group.endswith(".k8s.io"):
        return ""
    name = f"{kind.group}_{kind.plural}.yaml"
    return name if kind.group.endswith(_OWN) else f"others/{name}"


def wanted() -> dict[str, str]:
    """Return the definitions: file relative to deploy/crds -> text."""
    return {name: _HEAD + write([definition_of(kind)]) for kind in KINDS if (name := place(kind))}


def drift(texts: dict[str, str], target: Path = TARGET) -> list[str]:
    """Return a sentence for each file that is missing, differs, or does not belong there."""
    found = {str(path.relative_to(target)): path for path in sorted(target.rglob("*.yaml"))}
    stale = [name for name in found if name not in texts]
    wrong = [
        name
        for name, text in texts.items()
        if name not in found or found[name].read_text(encoding="utf-8") != text
    ]
    return [f"deploy/crds/{name} is out of date: run scripts/gen-crds" for name in wrong + stale]


def main(arguments: list[str]) -> int:
    """Write the files, or with --check compare them."""
    texts = wanted()
    if arguments == ["--check"]:
        problems = drift(texts)
        print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
        return 1 if problems else 0
    if arguments:
        print("usage: scripts/gen-crds [--check]", file=sys.stderr)
        return 2
    for path in TARGET.rglob("*.yaml"):
        if str(path.relative_to(TARGET)) not in texts:
            path.unlink()
    for name, text in texts.items():
        path = TARGET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
