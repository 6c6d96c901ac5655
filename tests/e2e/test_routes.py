"""Routes on a whole platform: HTTPRoutes by `apply`, TLS from a Secret, the internal port, reasons."""

import asyncio
import base64
import json
import os
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pelton.cli.home import Home

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

HELLO = """
def main(request):
    return f"hello {request.path} {request.headers.get('host')}"
"""


@pytest.fixture(scope="module")
def site(with_tls):
    """A platform with TLS and one function."""
    with_tls.apply("hello", HELLO)
    return with_tls


def get(site, path, *, host, port="gateway"):
    return httpx.get(site.endpoints[port] + path, headers={"host": host}, timeout=20)


def apply(site, *objects):
    text = "\n---\n".join(json.dumps(one) for one in objects)
    site.cli("apply", "-f", "-", stdin=text)


def programmed(site, name):
    status = json.loads(site.cli("get", "httproutes", name, "-o", "json").out).get("status") or {}
    conditions = [c for parent in status.get("parents", ()) for c in parent["conditions"]]
    return any(c["type"] == "Programmed" and c["status"] == "True" for c in conditions)


def http_route(name, host, rules):
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": "pelton", "namespace": "openfunction"}],
            "hostnames": [host],
            "rules": rules,
        },
    }


def test_httproute_reaches_a_function_and_why_route_explains_it(site):
    rewrite = {
        "type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
    }
    rules = [
        {
            "matches": [{"path": {"value": "/api"}}],
            "filters": [rewrite],
            "backendRefs": [{"name": "hello", "port": 80}],
        },
        {"matches": [{"path": {"value": "/api/none"}}], "backendRefs": [{"name": "none", "port": 80}]},
    ]  # fmt: skip
    apply(site, http_route("web", "web.test", rules))
    site.until("the route is programmed", lambda: programmed(site, "web"))

    answer = get(site, "/api/x", host="web.test")
    missing = get(site, "/api/none", host="web.test")
    why = json.loads(site.cli("why", "route", "/api/x", "-H", "Host: web.test", "-o", "json").out)
    nobody = site.cli("why", "route", "/other", "-H", "Host: web.test", code=1)

    assert (answer.status_code, answer.text) == (200, "hello /x web.test")
    assert missing.status_code == 500
    assert missing.headers["x-pelton-reason"].startswith("BackendNotFound")
    assert why["winner"].startswith("HTTPRoute default/web rule 0")
    assert why["split"] == [{"name": "default/hello", "weight": 1}]
    assert {one["why"] for one in why["others"] if one["route"] == "default/web"} == {
        "the path is not /api/none or below it"
    }
    assert "nobody answers" in nobody.out


def test_internal_port_answers_to_internal_names(site):
    inside = get(site, "/", host="hello.default.svc.cluster.local", port="internal")
    outside = get(site, "/", host="hello.default.svc.cluster.local")

    assert inside.status_code == 200
    assert outside.status_code == 404


def make_certificate(host):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(pem), private


def shown(site, host):
    """Return the PEM of the certificate that the TLS port shows for a name."""
    parts = urlsplit(site.endpoints["https"])
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der
    return ssl.DER_cert_to_PEM_cert(der).encode()


def test_tls_port_shows_the_secret_of_a_gateway_and_its_successor(site):
    def secret(pair):
        data = {
            name: base64.b64encode(text).decode()
            for name, text in zip(("tls.crt", "tls.key"), pair, strict=True)
        }
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "cert", "namespace": "default"},
            "data": data,
        }  # fmt: skip

    listener = {
        "name": "https",
        "port": 443,
        "protocol": "HTTPS",
        "hostname": "hello.default.localhost",
        "tls": {"certificateRefs": [{"name": "cert"}]},
    }
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "tls", "namespace": "default"},
        "spec": {"gatewayClassName": "pelton", "listeners": [listener]},
    }
    host = "hello.default.localhost"
    first, second = make_certificate(host), make_certificate(host)

    with httpx.Client(verify=False, timeout=20) as client:
        own = client.get(site.endpoints["https"] + "/", headers={"host": host})
        apply(site, secret(first), gateway)
        site.until("the Secret's certificate is shown", lambda: shown(site, host) == first[0])
        apply(site, secret(second))
        site.until("its successor is shown", lambda: shown(site, host) == second[0])
        other = shown(site, "another.name")

    assert own.status_code == 200
    assert other not in (first[0], second[0])


def test_access_log_names_function_and_start(site):
    get(site, "/logged", host="hello.default.localhost")

    def lines():
        return [json.loads(line) for line in Home(site.home).access_log.read_text().splitlines()]

    site.until("the request is in the log", lambda: any(one["path"] == "/logged" for one in lines()))
    (line,) = [one for one in lines() if one["path"] == "/logged"]
    assert (line["function"], line["status"]) == ("default/hello", 200)
    assert line["start"] in ("warm", "cold")
    assert line["instance"] or line["found"]


def test_restarted_node_keeps_httproutes(site):
    backend = {"backendRefs": [{"name": "hello", "port": 80}]}
    apply(site, http_route("kept", "kept.test", [backend]))
    site.until("the route is programmed", lambda: programmed(site, "kept"))
    before = site.part("node")

    os.kill(before["pid"], signal.SIGKILL)
    site.until(
        "another node runs",
        lambda: site.part("node")["pid"] != before["pid"] and site.part("node")["state"] == "running",
    )
    site.until(
        "it knows the route",
        lambda: "kept" in site.cli("why", "route", "/", "-H", "Host: kept.test").out,
    )

    answers = {get(site, "/", host="kept.test").status_code for _ in range(20)}

    assert answers == {200}


def test_burst_on_a_function_with_a_hard_limit_is_queued_not_refused(site):
    site.apply(
        "serial",
        """
import time

def main(request):
    time.sleep(0.01)
    return "done"
""",
        scale={"knative": {"autoscaling.knative.dev/container-concurrency": "1"}},
    )

    async def burst():
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=120)) as client:
            url = site.endpoints["gateway"] + "/default/serial"
            return await asyncio.gather(*(client.get(url) for _ in range(120)))

    answers = asyncio.run(burst())

    assert {answer.status_code for answer in answers} == {200}
