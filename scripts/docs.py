"""The generated pages of docs/reference, and the checks of all pages: links, file names, drift.

`cli.md` is typer's own help, `errors.md` is read from the error classes, `conventions.md` from the FACTS
of `compat/`, `components.md` from the table of component types, `notification.md` from the tables of
fields; nobody edits them by hand. Run through
`scripts/docs`; `tests/test_docs.py` calls the same functions.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

import pelton.apiserver
from pelton import errors
from pelton.cli.commands import app
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.manifest import component_types, fields, notification, notification_fields, notification_routing
from pelton.notify import default_templates, template_data
from pelton.texttemplate.go_run import known_functions
from pelton.texttemplate.go_time import GoTime

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ("*.md", "docs/**/*.md", "examples/**/*.md", "bench/**/*.md")
NAMES_FILES: Final = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/adr/*.md", "docs/glossary.md")
"""Pages in which `path/file.py` means a file of this repository, from its root or from src/pelton."""

_GENERATED: Final = "<!-- Written by scripts/docs; edit {source}, then run it again. -->"
_WIDTH: Final = 100
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FILE: Final = re.compile(r"`([\w.-]+(?:/[\w.-]+)+\.py)`")
_HEADING: Final = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)


def pages(root: Path = ROOT) -> list[Path]:
    """Return every Markdown page of the project, sorted."""
    return sorted({path for pattern in PAGES for path in root.glob(pattern)})


def cli_page() -> str:
    """Return docs/reference/cli.md: the help of every command."""
    parts = [
        "# Command line",
        _GENERATED.format(source="src/pelton/cli/commands.py"),
        "Every command finds the running platform through `PELTON_HOME` (default `~/.pelton`, as root\n"
        "`/var/lib/pelton`). Exit codes: 0 success; 1 failure; 2 a command line, manifest or source that\n"
        "cannot be carried out as it is written (see [errors](errors.md)); 130 ended by Ctrl-C.",
    ]
    for name, text in _helps(typer.main.get_command(app), "pelton", None):
        parts.append(f"## {name}" if name != "pelton" else "## pelton")
        parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    """Yield (full name, help) of a command and of those below it."""
    context = command.context_class(
        command,
        info_name=name,
        parent=parent,
        **{**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH},
    )
    yield context.command_path, command.get_help(context).rstrip()
    for below, child in getattr(command, "commands", {}).items():
        yield from _helps(child, below, context)


def error_classes() -> list[type[errors.PeltonError]]:
    """Return the error classes of `pelton.errors` and of `pelton.apiserver`, by code."""
    found = pkgutil.iter_modules(pelton.apiserver.__path__)
    modules = [errors, *(importlib.import_module(f"pelton.apiserver.{each.name}") for each in found)]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, errors.PeltonError)
        and value.__module__ == module.__name__
    }
    return sorted(classes, key=lambda each: (each.code, each.__name__))


def errors_page() -> str:
    """Return docs/reference/errors.md: one entry per code."""
    parts = [
        "# Errors",
        _GENERATED.format(source="src/pelton/errors.py"),
        "A message has this form: where it happened, what happened, a code in brackets, and mostly a hint:",
        "```text\nerror: <where>: <what happened> [<code>]\n  hint: <what to do next>\n```",
        "Codes are stable: scripts may look for them. `exit` is the exit code of `pelton`, `HTTP` the\n"
        "status with which the API answers, in a Kubernetes `Status` object.",
    ]
    rows = ["| code | exit | HTTP | meaning |", "|---|---|---|---|"]
    for each in error_classes():
        meaning = _summary(each)
        rows.append(
            f"| [{each.code}](#{each.code.lower()}) | {each.exit_code} | {_status(each)} | {meaning} |"
        )
    parts.append("\n".join(rows))
    for each in error_classes():
        details = _attributes(each)
        text = [f"## {each.code}", f"`{each.__module__}.{each.__name__}`: {_summary(each)}"]
        if details:
            text.append("\n".join(f"- `{name}`: {meaning}" for name, meaning in details.items()))
        parts += text
    return "\n\n".join(parts) + "\n"


def _status(error: type[errors.PeltonError]) -> str:
    """Return the HTTP status; an error that takes one per instance has none of its own."""
    return "varies" if "status" in inspect.signature(error).parameters else str(error.http_status)


def _summary(error: type[errors.PeltonError]) -> str:
    if error is errors.PeltonError:
        return "A failure without a code of its own."
    text = inspect.getdoc(error) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _attributes(error: type[errors.PeltonError]) -> dict[str, str]:
    """Return what an error carries beyond message, where and hint: name -> sentence."""
    _, _, section = (inspect.getdoc(error) or "").partition("Args:\n")
    found = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE))
    shared = ("message", "where", "hint")
    return {name: " ".join(text.split()) for name, text in found.items() if name not in shared}


def conventions_page() -> str:
    """Return docs/reference/conventions.md: how each platform calls code, and the form of every trigger."""
    facts = {name: resolve_convention(name).FACTS for name in CONVENTIONS}
    parts = [
        "# Conventions",
        _GENERATED.format(source="FACTS in src/pelton/compat"),
        "A convention is how a platform calls code. Pelton finds it from the source (`pelton why detect`\n"
        "shows how), or is told by `--convention NAME` or the annotation `pelton.dev/convention`. Why they\n"
        "differ, and what Pelton chose: [function models](../explanation/function-models.md).",
        "## What calls a function, what it gets, what it gives",
        _table(
            ("convention", "name", "triggers", "input", "output"),
            [(f.title, f"`{name}`", f.triggers, f.input, f.output) for name, f in facts.items()],
        ),
        "## Where the original listens\n\nUnder Pelton every function is reached the same way: by the\n"
        "gateway, or at the address that `pelton run` prints.",
        _table(
            ("convention", "address", "protocol", "port"),
            [(f.title, f.address, f.protocol, f.port) for f in facts.values()],
        ),
        "## Code form",
        _table(
            ("convention", "file, entry, signature", "recognised by", "preinstalled"),
            [(f.title, f.code, f.looks_for, f.implied or "-") for f in facts.values()],
        ),
        "## Any trigger to any convention\n\nThe form in which each trigger reaches the code;\n"
        "`tests/conformance` runs every cell. A record is a message of JetStream or Kafka.",
        _table(
            ("convention", "HTTP request", "CloudEvent", "timer", "record"),
            [
                (f.title, *(f.forms.get(key, "-") for key in ("http", "cloudevent", "timer", "record")))
                for f in facts.values()
            ],
        ),
        "## Failure and concurrency",
        _table(
            ("convention", "a client sees", "invocations per process"),
            [(f.title, f.failure, f.concurrency) for f in facts.values()],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def components_page() -> str:
    """Return docs/reference/components.md: types of components and their metadata."""
    sections = {
        "pubsub": "Pub/sub",
        "bindings": "Bindings",
        "state": "State stores",
        "configuration": "Configuration stores",
        "lock": "Locks",
        "secretstores": "Secret stores",
    }
    parts = [
        "# Components",
        _GENERATED.format(source="src/pelton/manifest/component_types.py"),
        "Types and metadata are Dapr's where nothing else is said. Keys are taken in any case, durations as\n"
        "Go writes them or as plain seconds, booleans as `true`, `1`, `yes` or `on`. A value is written as\n"
        "`value`, taken from a Secret by `secretKeyRef`, or from a variable of the platform by `envRef`;\n"
        "`{namespace}` and `{appID}` in it are filled in. A key that its type does not know has no effect,\n"
        "and `pelton apply` says so.",
    ]
    for category, title in sections.items():
        parts.append(f"## {title}")
        if common := component_types.CATEGORIES[category]:
            parts += ["Every type of this section also takes:", _settings_table(common)]
        for kind in component_types.TYPES:
            if kind.names[0].partition(".")[0] == category:
                parts += _component_type(kind)
    return "\n\n".join(parts) + "\n"


def _component_type(kind: component_types.ComponentType) -> Iterator[str]:
    first, *others = kind.names
    yield f"### {first}"
    said = [kind.does]
    if kind.roles:
        said.append(f"Use: {' and '.join(kind.roles)}.")
    if kind.extra:
        said.append(f"Needs `pelton[{kind.extra}]`.")
    if others:
        said.append(f"Also written {' and '.join(f'`{each}`' for each in others)}.")
    yield " ".join(said)
    if kind.settings:
        yield _settings_table(kind.settings)
    if kind.request:
        asked = "; ".join(f"`{key}`: {does}" for key, does in kind.request.items())
        yield f"Metadata of a request, message or subscription: {asked}."


def _settings_table(settings: Sequence[component_types.Setting]) -> str:
    return _table(
        ("metadata", "meaning", "default"),
        [
            (f"`{each.name}`" + (", required" if each.required else ""), each.does, each.default or " ")
            for each in settings
        ],
    )


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


_SAID_ONCE: Final = (
    notification_fields.SELECTOR,
    notification_fields.CREDENTIAL,
    next(row.shape for row in notification_fields.SHARED if row.json == "tmplText"),
)


def notification_page() -> str:
    """Return docs/reference/notification.md: fields of Receivers, Configs and options, names of templates."""
    manager = notification_routing.NOTIFICATION_MANAGER.spec
    parts = [
        "# Notifications: fields and templates",
        _GENERATED.format(source="the tables in src/pelton/manifest/notification*.py"),
        "Kinds of `notification.kubesphere.io/v2beta2`. `[]` is a list, `*` is required. How to use them is\n"
        "told on the page about [receivers](../howto/receivers.md). A *secret text* is `value`, or\n"
        "`valueFrom.secretKeyRef` with `namespace`, `name` and `key`; conditions on labels are\n"
        "`matchLabels` and `matchExpressions`; a ConfigMap is named by `namespace`, `name` and `key`.",
    ]
    for title, spec in (
        ("Receiver", notification.SPEC),
        ("Config", notification_routing.CONFIG.spec),
        ("NotificationManager", manager),
    ):
        rows = [f"| `spec.{path}` | {doc} |" for path, doc in _fields(spec)]
        parts += [f"## {title}", "\n".join(["| field | what it is |", "|---|---|", *rows])]
    defaults = re.findall(r'define "([^"]+)"', default_templates.DEFAULT_TEMPLATES)
    names = [*defaults, "webhook.default.message", "nm.default.history"]
    functions = sorted(known_functions(template_data.alert_functions({}, chinese=False)))
    rows = [
        f"| {kind} | {', '.join(f'`.{name}`' for name in each.GO)} |"
        for kind, each in (
            ("data", template_data.Data),
            ("alerts", template_data.Alerts),
            ("alert", template_data.AlertData),
            ("labels, annotations", template_data.TextMap),
            ("pairs", template_data.Pairs),
            ("pair", template_data.Pair),
            ("time", GoTime),
        )
    ]
    parts += [
        "## Templates",
        "Default templates: " + ", ".join(f"`{name}`" for name in names) + ".",
        "Functions of Go templates: " + ", ".join(f"`{name}`" for name in functions) + ".",
        "\n".join(["| of | fields and methods |", "|---|---|", *rows]),
        "Jinja2 templates see `receiver`, `status`, `alerts`, `firing`, `resolved`, `groupLabels`,\n"
        "`commonLabels` and `commonAnnotations`, and have the filter `translate`. They run in a sandbox.",
    ]
    return "\n\n".join(parts) + "\n"


def _fields(shape: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, what it is) of every field below a shape, but for what the page says once."""
    if shape in _SAID_ONCE:
        return
    if isinstance(shape, fields.Items):
        yield from _fields(shape.shape, path + "[]")
    elif isinstance(shape, fields.Only):
        yield f"{path}.{shape.key}", shape.doc
        yield from _fields(shape.shape, f"{path}.{shape.key}")
    elif isinstance(shape, fields.Record):
        for row in shape.table:
            inner = f"{path}.{row.json}".lstrip(".")
            needed = row.required or (row.limits or {}).get("required")
            secret = row.shape is notification_fields.CREDENTIAL
            yield inner + ("*" if needed else ""), row.doc + (" Secret text." if secret else "")
            yield from _fields(row.shape, inner)


def generated() -> dict[str, str]:
    """Return the generated pages: path from the root -> text."""
    return {
        "docs/reference/cli.md": cli_page(),
        "docs/reference/conventions.md": conventions_page(),
        "docs/reference/components.md": components_page(),
        "docs/reference/errors.md": errors_page(),
        "docs/reference/notification.md": notification_page(),
    }


def drift(wanted: Mapping[str, str], root: Path = ROOT) -> list[str]:
    """Return a sentence for each generated page that differs from what it should be."""
    return [
        f"{path} is out of date: run scripts/docs"
        for path, text in wanted.items()
        if not (root / path).is_file() or (root / path).read_text() != text
    ]


def broken_links(root: Path = ROOT) -> list[str]:
    """Return a sentence for each relative link that leads nowhere, headings included."""
    found = []
    for page in pages(root):
        for target in _LINK.findall(_FENCE.sub("", page.read_text())):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            path, _, heading = target.partition("#")
            place = (page.parent / path) if path else page
            where = f"{page.relative_to(root)}: link {target}"
            if not place.exists():
                found.append(f"{where}: no such file")
            elif heading and heading not in anchors(place.read_text()):
                found.append(f"{where}: no such heading")
    return found


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = _HEADING.findall(_FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def missing_files(root: Path = ROOT) -> list[str]:
    """Return a sentence for each `path/file.py` that is not in the repository."""
    return [
        f"{page.relative_to(root)}: there is no {name}"
        for pattern in NAMES_FILES
        for page in sorted(root.glob(pattern))
        for name in _FILE.findall(page.read_text())
        if not (root / name).is_file() and not (root / "src" / "pelton" / name).is_file()
    ]


def shared_codes() -> list[str]:
    """Return a sentence for each code that two error classes have."""
    owners: dict[str, str] = {}
    return [
        f"{each.__name__} and {owners[each.code]} share the code {each.code}"
        for each in error_classes()
        if owners.setdefault(each.code, each.__name__) != each.__name__
    ]


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check say what is wrong; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: scripts/docs [--check]", file=sys.stderr)
        return 2
    wanted = generated()
    if not arguments:
        for path, text in wanted.items():
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text)
        return 0
    problems = [*drift(wanted), *shared_codes(), *broken_links(), *missing_files()]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
