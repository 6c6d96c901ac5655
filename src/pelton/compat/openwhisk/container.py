"""The container protocol: POST /init and POST /run, and both at once in the single-entry form.

What the original platform's invoker says to a runtime. Called by `front.py`. /init works in a blank runtime
only (option `init=true` and no action in the source), since it executes what it is sent.
Source: `faas-conventions` contract, section 6.1; apache/openwhisk (BasicActionRunnerTests),
apache/openwhisk-runtime-go. Decided: parameters of the manifest hold under /run, too, and so does `final`; a
result that is no JSON is treated as no result; an action that calls sys.exit answers as one that crashed.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import json
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final

from pelton.compat.openwhisk import code
from pelton.compat.openwhisk.activation import DEVELOPER_ERROR, Outcome, dump
from pelton.compat.openwhisk.context import put
from pelton.compat.openwhisk.manifest import DEFAULT, ActionSpec, key_of
from pelton.compat.openwhisk.package import Action, Package, merge
from pelton.compat.openwhisk.web import Refused
from pelton.model.invocation import Reply

__all__ = ["SENTINEL", "Container", "mark_end", "text_of"]

SENTINEL: Final = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"
_JSON: Final = (b"content-type", b"application/json")
_BUILD: Final = "The action failed to generate or locate a binary. See logs for details."
_START: Final = "Cannot start action. Check logs for details."
_NO_RESULT: Final = "The action did not return a dictionary or array."
_OWN: Final = __file__.rpartition("/")[0] + "/"


def mark_end() -> None:
    """Write the line that ends an activation's log to both streams."""
    for stream in (sys.stdout, sys.stderr):
        stream.write(f"{SENTINEL}\n")
        stream.flush()


def text_of(value: Any) -> str:
    """Return a JSON value as an environment variable holds it: text as it is, null empty, all else JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def answer(status: int, value: Any) -> Reply:
    """Return a protocol answer."""
    data = dump(value) + b"\n"
    error = value.get("error", "") if isinstance(value, dict) and status >= 400 else ""
    return Reply(status, [_JSON], data, error=str(error))


class Container:
    """The protocol's state: whether an action was sent.

    Args:
        package: What runs; /init puts an action into a blank one.
    """

    def __init__(self, package: Package) -> None:
        self._package = package
        self._accepts = package.blank
        self._folder = ""

    @property
    def accepts(self) -> bool:
        """Whether this is a blank runtime, initialised or not."""
        return self._accepts

    def clear(self) -> None:
        """Remove the code that was sent."""
        if self._folder:
            import shutil

            os.chdir("/")
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    # --- init ---

    def init(self, body: bytes) -> Reply:
        """Answer POST /init."""
        try:
            message = json.loads(body or b"{}")
        except (ValueError, RecursionError) as exc:
            return answer(400, {"error": f"Error unmarshaling request: {exc}"})
        value = message.get("value") if isinstance(message, dict) else None
        return self.initialise(value if isinstance(value, dict) else {})

    def initialise(self, value: Mapping[str, Any]) -> Reply:
        """Take an action: {name, main, code, binary, env}."""
        if not self._package.blank or not self._accepts:
            text = "Cannot initialize the action more than once."
            sys.stderr.write(f"{text}\n")
            return answer(403, {"error": text})
        source = value.get("code")
        if not isinstance(source, str) or not source:
            return answer(403, {"error": "Missing main/no code to execute."})
        main = value.get("main") or "main"
        if not isinstance(main, str) or not main.isidentifier():
            return answer(403, {"error": "Missing main/no code to execute."})
        data = b""
        if value.get("binary"):
            try:
                data = base64.b64decode(source, validate=True)
            except (binascii.Error, ValueError) as exc:
                return answer(400, {"error": f"cannot decode the request: {exc}"})
        env = value.get("env")
        _export(env if isinstance(env, dict) else {})
        error = self._load(str(value.get("name") or "action"), main, source, data)
        if error:
            mark_end()
            return answer(502, {"error": error})
        return answer(200, {"ok": True})

    def _load(self, name: str, main: str, source: str, data: bytes) -> str:
        """Load code; returns what went wrong, "" for nothing. The log has the reason."""
        import tempfile

        self.clear()
        self._folder = tempfile.mkdtemp(prefix="pelton-action-")
        os.chdir(self._folder)
        spec = ActionSpec(package=DEFAULT, name=name.rpartition("/")[2], main=main)
        action = Action(spec, self._package.namespace, {"web-export": True})
        try:
            if data:
                code.unzip(data, self._folder)
                action.function = code.from_directory(self._folder, main)
            else:
                action.function = code.from_text(source, main)
        except code.CodeError as exc:
            sys.stderr.write(f"{exc.message}\n")
            return _START if exc.started else _BUILD
        except SyntaxError as exc:
            sys.stderr.write("".join(traceback.format_exception_only(exc)))
            return _BUILD
        except (Exception, SystemExit) as exc:
            tb = exc.__traceback__
            while tb is not None and tb.tb_frame.f_code.co_filename.startswith((_OWN, "<frozen importlib")):
                tb = tb.tb_next
            sys.stderr.write("".join(traceback.format_exception(type(exc), exc, tb)))
            return _START
        action.is_async = inspect.iscoroutinefunction(action.function)
        self._package.put(action)
        return ""

    # --- run ---

    def parse(self, body: bytes) -> tuple[Action, Any]:
        """Read POST /run, write its context into the environment; returns (action, whole parameters).

        Raises:
            Refused: There is no action, or the body is no such message.
        """
        try:
            message = json.loads(body or b"{}")
        except (ValueError, RecursionError) as exc:
            raise Refused(400, f"Error unmarshaling request: {exc}") from exc
        if not isinstance(message, dict):
            raise Refused(400, "Error unmarshaling request: it is no JSON object")
        value = message.pop("value", None)
        return self.enter(message, value)

    def enter(self, context: Mapping[str, Any], value: Any) -> tuple[Action, Any]:
        """Write an activation's context into the environment; returns and raises as `parse`."""
        package = self._package
        if package.blank:
            raise Refused(500, "no action defined yet")
        action = package.only or self._named(context.get("action_name"))
        value = {} if value is None else value
        if not isinstance(value, dict | list):
            raise Refused(400, "Error unmarshaling request: value is no JSON object or array")
        if isinstance(value, dict) and not action.final.isdisjoint(value):
            raise Refused(400, "Request defines parameters that are not allowed (e.g., reserved properties).")
        for key, item in context.items():
            name = f"__OW_{key.upper()}"
            if name.isidentifier() and name.isascii():
                put(name.encode(), text_of(item).replace("\0", ""))
        return action, merge(action, value)

    def _named(self, name: Any) -> Action:
        key = key_of(name) if isinstance(name, str) else ""
        found = self._package.exposed.get(key)
        if found is None:
            listed = ", ".join(self._package.exposed)
            raise Refused(404, f"action_name names none of the actions here: {listed}")
        return found

    def reply(self, outcome: Outcome) -> Reply:
        """Answer POST /run with what the action returned, and mark the end of its log."""
        if outcome.crashed:
            made = answer(400, {"error": "command exited"})
        elif outcome.status == DEVELOPER_ERROR:
            made = answer(502, {"error": outcome.value["error"]})
        else:
            try:
                made = Reply(200, [_JSON], dump(outcome.value) + b"\n")
            except (TypeError, ValueError, RecursionError) as exc:
                sys.stderr.write(f"the action's result is no JSON: {exc}\n")
                made = answer(502, {"error": _NO_RESULT})
        mark_end()
        return made


def _export(env: Mapping[str, Any]) -> None:
    for name, value in env.items():
        if name and "=" not in name and "\0" not in name:
            os.environ[name] = text_of(value).replace("\0", "")
