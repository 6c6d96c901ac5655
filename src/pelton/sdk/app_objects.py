"""Where a source tree keeps its ASGI and WSGI applications, by syntax alone.

Called by `compat/asgi.py` and `compat/wsgi.py`, which each keep their own kind. Looked at: the files at the
top; where these have no application, also `PACKAGE/{main,app,api,asgi,wsgi,server,__init__}.py` (Django's and
FastAPI's layout). Names are followed through imports, other files of the tree, classes and factories of the
same file.

Of several applications in one file the usual names win, in the order app, application, api (what uvicorn and
gunicorn users write); others are a tie. An application that is wrapped in or mounted into another one is not
a candidate of its own. One that is only imported is weaker than the file that makes it.

A Django project has `wsgi.py` and `asgi.py` for the same site and counts as one candidate: WSGI, since its
views are synchronous unless somebody says otherwise, and Django runs those on one thread under ASGI. It is
ASGI when `asgi.py` does more than Django's template (Channels' ProtocolTypeRouter), or when asked for.
Source: `faas-conventions` contract, section 11; uvicorn's and gunicorn's notation `module:attribute`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from pelton.model.convention import Match, Tree
from pelton.sdk.app_target import FACTORY, USUAL_NAMES

__all__ = ["find"]

_FACTORIES: Final = ("create_app", "make_app", "get_app", "create_application")
_NESTED: Final = frozenset(
    {"main.py", "app.py", "api.py", "asgi.py", "wsgi.py", "server.py", "__init__.py", "application.py"}
)
_ASGI: Final = frozenset(
    {
        "a2wsgi.WSGIMiddleware",
        "ariadne.ASGI",
        "asgiref.WsgiToAsgi",
        "blacksheep.Application",
        "channels.ProtocolTypeRouter",
        "django.get_asgi_application",
        "engineio.ASGIApp",
        "esmerald.Esmerald",
        "falcon.asgi.App",
        "fastapi.FastAPI",
        "litestar.Litestar",
        "muffin.Application",
        "quart.Quart",
        "sanic.Sanic",
        "socketio.ASGIApp",
        "starlette.Starlette",
        "strawberry.GraphQL",
    }
)
_WSGI: Final = frozenset(
    {
        "a2wsgi.ASGIMiddleware",
        "apiflask.APIFlask",
        "bottle.Bottle",
        "bottle.default_app",
        "cherrypy.Application",
        "django.get_wsgi_application",
        "falcon.API",
        "falcon.App",
        "flask.Flask",
        "flask_openapi3.OpenAPI",
        "webapp2.WSGIApplication",
        "werkzeug.DispatcherMiddleware",
        "werkzeug.ProxyFix",
        "whitenoise.WhiteNoise",
    }
)
"""Callables that return an application: `package.Name`, whatever modules lie between the two."""
_CALLS: Final = {
    ("scope", "receive", "send"): "asgi",
    ("environ", "start_response"): "wsgi",
    ("env", "start_response"): "wsgi",
}
_DEEPEST: Final = 4
"""Files that a name is followed through."""


@dataclass(frozen=True, slots=True)
class _App:
    """An application as one file names it."""

    kind: str
    what: str
    line: int
    imported: bool = False
    factory: bool = False
    inner: bool = False
    template: bool = False


def find(tree: Tree, kind: str) -> tuple[Match, ...]:
    """Return a tree's applications of one kind, `asgi` or `wsgi`."""
    if tree.target:
        return _named(tree, kind)
    files = [source.name for source in tree.sources]
    found = {name: _of_file(tree, name) for name in files}
    if not any(found.values()):
        nested = [name for name in tree.files if _is_nested(name)]
        found = _one_per_site({name: _of_file(tree, name) for name in nested}, tree.asked)
    matches = [
        match
        for name, apps in found.items()
        for match in _matches(name, apps, kind, nested=name not in files)
    ]
    if not matches and tree.asked == kind:
        matches = list(_by_habit(tree, kind, files))
    return tuple(matches)


def _is_nested(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return (
        file in _NESTED
        and folder.isidentifier()
        and not folder.startswith(("test", "_"))
        and folder != "docs"
    )


def _matches(name: str, apps: dict[str, _App], kind: str, *, nested: bool) -> Iterator[Match]:
    outer = {key: app for key, app in apps.items() if not app.inner} or apps
    for key, app in outer.items():
        if app.kind != kind:
            continue
        target = f"{_module_of(name)}:{key}" if nested else key
        rank = _usual(key)
        rank += (5 if app.factory else 0) + (10 if app.imported else 0) + (20 if nested else 0)
        yield _match(target, kind, name, app, rank)


def _match(target: str, kind: str, name: str, app: _App, rank: int) -> Match:
    return Match(
        target=target,
        signature="http",
        rule=app.what,
        row=kind,
        stage="object",
        rank=rank,
        source=name,
        line=app.line,
        options={FACTORY: "true"} if app.factory else {},
    )


def _module_of(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _one_per_site(found: dict[str, dict[str, _App]], asked: str) -> dict[str, dict[str, _App]]:
    """Keep one of a Django project's two entry points, see the module's text."""
    kept = dict(found)
    for name, apps in found.items():
        folder, _, file = name.rpartition("/")
        other = f"{folder}/asgi.py"
        if file != "wsgi.py" or not found.get(other):
            continue
        if not any("django" in app.what for app in apps.values()):
            continue
        plain = all(app.template for app in found[other].values())
        wanted = asked if asked in ("asgi", "wsgi") else "wsgi" if plain else "asgi"
        kept.pop(other if wanted == "wsgi" else name)
    return kept


def _named(tree: Tree, kind: str) -> tuple[Match, ...]:
    """Return the application that the user named: `attribute` or `module:attribute`, `()` for a factory."""
    module, colon, attribute = tree.target.rpartition(":")
    key = attribute.partition("(")[0].partition(".")[0]
    called = "(" in attribute
    if colon:
        stem = module.replace(".", "/")
        names = [name for name in (f"{stem}.py", f"{stem}/__init__.py") if name in tree.files]
    else:
        names = [source.name for source in tree.sources]
    found: list[Match] = []
    for name in names:
        app = _of_file(tree, name).get(key)
        parsed = tree.module(name)
        if app is None and parsed is not None:  # a named function that makes one is meant as a factory
            app = _factories(parsed, _origins(parsed), _classes(parsed, _origins(parsed))).get(key)
        if app is None and tree.asked == kind and parsed is not None and key in _defined(parsed):
            app = _App(kind, "said explicitly", _defined(parsed)[key])
        if app is not None and app.kind == kind:
            found.append(_match(tree.target, kind, name, replace(app, factory=app.factory and not called), 0))
    return tuple(found)


def _by_habit(tree: Tree, kind: str, files: Iterable[str]) -> Iterator[Match]:
    """Take the usual names for applications, whatever they are: the user said that there is one."""
    for name in files:
        parsed = tree.module(name)
        defined = _defined(parsed) if parsed is not None else {}
        for rank, key in enumerate(USUAL_NAMES):
            if key in defined:
                yield _match(key, kind, name, _App(kind, f"the name {key}", defined[key]), rank + 30)


# --- one file ---


def _of_file(tree: Tree, name: str, depth: int = 0) -> dict[str, _App]:
    """Return a file's applications, name -> what is known."""
    parsed = tree.module(name)
    if parsed is None:
        return {}
    origins = _origins(parsed)
    classes = _classes(parsed, origins)
    factories = _factories(parsed, origins, classes)
    found: dict[str, _App] = {}
    for node in parsed.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = _kind_of_function(node, method=False)
            if kind:
                args = ", ".join(item.arg for item in node.args.args)
                found[node.name] = _App(kind, f"def {node.name}({args})", node.lineno)
        elif isinstance(node, ast.ImportFrom) and depth < _DEEPEST:
            found.update(_imported(tree, name, node, depth))
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            app = _value(node.value, names, found, origins, classes, factories)
            if app is None and depth < _DEEPEST and isinstance(node.value, ast.Call):
                app = _from_other_factory(tree, name, parsed, node.value)
            if app is not None:
                app = replace(app, line=node.lineno)
                # `app = application = ...` is one object: its most usual name is enough
                key = min(names, key=_usual, default="")
                if key:
                    _mark_inner(found, node.value, key)
                    found[key] = app
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr in ("mount", "wsgi", "register_app"):
                _mark_inner(found, node.value, called.value.id if isinstance(called.value, ast.Name) else "")
    if not found or all(app.imported for app in found.values()):
        found |= {key: app for key, app in factories.items() if key in _FACTORIES}
    return found


def _usual(name: str) -> int:
    return USUAL_NAMES.index(name) if name in USUAL_NAMES else len(USUAL_NAMES)


def _mark_inner(found: dict[str, _App], value: ast.expr, outer: str) -> None:
    """Note which applications are handed to a call: they are part of what it makes."""
    used = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
    for name in used & found.keys():
        if name != outer:
            found[name] = replace(found[name], inner=True)


def _origins(parsed: ast.Module) -> dict[str, str]:
    """Return local name -> dotted name that it was imported as."""
    found: dict[str, str] = {}
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            for item in node.names:
                found[item.asname or item.name.partition(".")[0]] = (
                    item.name if item.asname else item.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for item in node.names:
                found[item.asname or item.name] = f"{node.module}.{item.name}"
    return found


def _dotted(node: ast.expr, origins: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return origins.get(node.id, "")
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value, origins)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def _kind_of(dotted: str) -> str:
    """Return the kind of application that a callable makes; "" for others."""
    parts = dotted.split(".")
    short = f"{parts[0]}.{parts[-1]}"
    if dotted.startswith("falcon.asgi"):
        return "asgi" if parts[-1] == "App" else ""
    if short in _ASGI or (short == "ariadne.GraphQL" and "asgi" in parts):
        return "asgi"
    return "wsgi" if short in _WSGI else ""


def _kind_of_function(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool) -> str:
    names = tuple(item.arg for item in [*node.args.posonlyargs, *node.args.args])
    kind = _CALLS.get(names[1:] if method else names, "")
    return kind if kind == ("asgi" if isinstance(node, ast.AsyncFunctionDef) else "wsgi") else ""


def _classes(parsed: ast.Module, origins: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return the file's own classes whose instances are applications: name -> (kind, why)."""
    found: dict[str, tuple[str, str]] = {}
    for node in parsed.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for base in node.bases:
            dotted = _dotted(base, origins)
            kind = _kind_of(dotted) or (
                found[base.id][0] if isinstance(base, ast.Name) and base.id in found else ""
            )
            if kind:
                found[node.name] = (kind, f"class {node.name}({dotted or ast.unparse(base)})")
        for item in node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == "__call__":
                kind = _kind_of_function(item, method=True)
                if kind:
                    found[node.name] = (kind, f"class {node.name} with __call__")
    return found


def _factories(
    parsed: ast.Module, origins: dict[str, str], classes: dict[str, tuple[str, str]]
) -> dict[str, _App]:
    """Return functions without required parameters that make an application in their body."""
    found: dict[str, _App] = {}
    for node in parsed.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        arguments = node.args
        if len(arguments.args) + len(arguments.posonlyargs) > len(arguments.defaults) or any(
            default is None for default in arguments.kw_defaults
        ):
            continue
        if not any(isinstance(item, ast.Return) and item.value is not None for item in ast.walk(node)):
            continue
        for call in ast.walk(node):
            made = _constructed(call, origins, classes) if isinstance(call, ast.Call) else None
            if made is not None:
                what = f"def {node.name}() that makes {made[1]}"
                found[node.name] = _App(made[0], what, node.lineno, factory=True)
                break
    return found


def _constructed(
    call: ast.Call, origins: dict[str, str], classes: dict[str, tuple[str, str]]
) -> tuple[str, str] | None:
    dotted = _dotted(call.func, origins)
    kind = _kind_of(dotted) if dotted else ""
    if kind:
        return kind, f"{dotted}()"
    if isinstance(call.func, ast.Attribute) and call.func.attr == "make_wsgi_app":
        return "wsgi", "make_wsgi_app()"
    if isinstance(call.func, ast.Name):
        return classes.get(call.func.id)
    return None


def _value(
    value: ast.expr,
    names: list[str],
    found: dict[str, _App],
    origins: dict[str, str],
    classes: dict[str, tuple[str, str]],
    factories: dict[str, _App],
) -> _App | None:
    """Return what an assigned expression is, if it is an application."""
    if isinstance(value, ast.Name) and value.id in found:
        return found[value.id]
    if not isinstance(value, ast.Call):
        return None
    made = _constructed(value, origins, classes)
    if made is not None:
        plain = made[1] == "django.core.asgi.get_asgi_application()"
        return _App(*made, value.lineno, template=plain)
    called = value.func
    if isinstance(called, ast.Name) and called.id in factories:
        app = factories[called.id]
        return replace(app, factory=False, what=f"{called.id}(), {app.what}")
    # A wrapper that nobody knows, around an application: `app = SomeMiddleware(app)`.
    last = (
        called.attr
        if isinstance(called, ast.Attribute)
        else called.id
        if isinstance(called, ast.Name)
        else ""
    )
    inner = [item for item in value.args if isinstance(item, ast.Name)]
    inner += [item.value for item in value.keywords if isinstance(item.value, ast.Name)]
    for item in inner:
        if item.id in found and (last.endswith("Middleware") or item.id in names):
            return replace(found[item.id], what=f"{last}() around {found[item.id].what}", template=False)
    return None


# --- other files ---


def _file_of(tree: Tree, name: str, node: ast.ImportFrom) -> str:
    """Return the file that an import names, "" when it is not in the tree."""
    stem = (node.module or "").replace(".", "/")
    if node.level:
        folder = name.split("/")[: -node.level]
        stem = "/".join([*folder, stem] if stem else folder)
    return next((file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in tree.files), "")


def _imported(tree: Tree, name: str, node: ast.ImportFrom, depth: int) -> dict[str, _App]:
    file = _file_of(tree, name, node)
    if not file or file == name:
        return {}
    there = _of_file(tree, file, depth + 1)
    found = {}
    for item in node.names:
        app = there.get(item.name)
        if app is not None and not app.factory:
            found[item.asname or item.name] = replace(app, line=node.lineno, imported=True)
    return found


def _from_other_factory(tree: Tree, name: str, parsed: ast.Module, call: ast.Call) -> _App | None:
    """Follow `app = create_app()` to a factory in another file of the tree."""
    if not isinstance(call.func, ast.Name):
        return None
    for node in parsed.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for item in node.names:
            if (item.asname or item.name) != call.func.id:
                continue
            file = _file_of(tree, name, node)
            there = tree.module(file) if file else None
            if there is None:
                return None
            origins = _origins(there)
            app = _made_by(there, item.name, origins)
            return None if app is None else replace(app, factory=False)
    return None


def _made_by(parsed: ast.Module, name: str, origins: dict[str, str]) -> _App | None:
    """Return what a function makes, with or without parameters."""
    classes = _classes(parsed, origins)
    for node in parsed.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            for call in ast.walk(node):
                made = _constructed(call, origins, classes) if isinstance(call, ast.Call) else None
                if made is not None:
                    return _App(made[0], f"{name}() that makes {made[1]}", node.lineno)
    return None


def _defined(parsed: ast.Module) -> dict[str, int]:
    """Return the names that a file's top level binds, with their lines."""
    found: dict[str, int] = {}
    for node in parsed.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {item.asname or item.name: node.lineno for item in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {
                inner.id: node.lineno
                for target in targets
                for inner in ast.walk(target)
                if isinstance(inner, ast.Name)
            }
    return found
