"""Golden cases: `<topic>/<case>.txt` holds an input, a line of dashes, and what has to come out.

Adding a file adds a case. PELTON_UPDATE_GOLDEN=1 rewrites the expected parts; review that like code, and
never do it in a commit that changes logic without saying so. All inputs are written for this project.
A case of `render` may begin with the flags of `pelton render`, as a comment.
"""

import os
import re
from pathlib import Path

import pytest

from pelton.cli.render import ClusterOptions, kubernetes_objects, read_inputs
from pelton.errors import PeltonError
from pelton.manifest.kinds import admit
from pelton.manifest.text import parse, write
from pelton.targets.kubernetes.render import PARTS

HERE = Path(__file__).parent
DASHES = "-" * 70


def manifest(text: str) -> str:
    """Admit each document: its defaulted form with warnings, or its error; then what could not be parsed."""
    parsed = parse(text, "case.yaml")
    parts = []
    for document in parsed.documents:
        try:
            admitted = admit(document.data, where=document.where)
        except PeltonError as error:
            parts.append(f"error: {error}\n")
            continue
        parts.append("".join(f"warning: {line}\n" for line in admitted.warnings) + write([admitted.obj]))
    if parsed.errors:
        parts.append("".join(f"error: {error}\n" for error in parsed.errors))
    return "---\n".join(parts)


def render(text: str) -> str:
    """Render for a cluster: warnings, errors, then the objects to apply."""
    found = re.match(r"# pelton render ?(.*)\n", text)
    words = iter(found[1].split() if found else ())
    flags = {word.removeprefix("--").replace("-", "_"): next(words) for word in words}
    parts = (flags.pop("only"),) if "only" in flags else PARTS
    options = ClusterOptions(**{FLAGS.get(name, name): value for name, value in flags.items()})
    parsed = parse(text, "case.yaml")
    inputs = read_inputs(parsed.documents, namespace="default", local=False)
    objects = kubernetes_objects(inputs, options, parts=parts)
    lines = [f"warning: {line}\n" for line in inputs.warnings]
    lines += [f"error: {error}\n" for error in (*parsed.errors, *inputs.errors)]
    return "".join(lines) + (write(objects) if objects else "")


FLAGS = {"keda_http": "http_add_on", "keda_http_namespace": "http_add_on_namespace"}
TOPICS = {"manifest": manifest, "render": render}
CASES = sorted(path for topic in TOPICS for path in (HERE / topic).glob("*.txt"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden(path):
    text = path.read_text(encoding="utf-8")
    found = re.split(r"^-{20,}\n", text, maxsplit=1, flags=re.MULTILINE)

    actual = TOPICS[path.parent.name](found[0])

    if os.environ.get("PELTON_UPDATE_GOLDEN") == "1":
        path.write_text(f"{found[0]}{DASHES}\n{actual}", encoding="utf-8")
        return
    assert len(found) == 2, (
        f"{path.name} has no line of dashes; PELTON_UPDATE_GOLDEN=1 writes the expected part"
    )
    assert found[1] == actual
