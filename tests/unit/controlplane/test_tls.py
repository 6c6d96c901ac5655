"""Certificates of Secrets and files: what may be shown, or why not."""

import base64
from datetime import UTC, datetime

import pytest

from pelton.apiserver import certificates
from pelton.controlplane.tls import pair_of, pair_of_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return certificates.ensure(tmp_path_factory.mktemp("pki"), now=datetime.now(UTC))


def secret(chain, key):
    data = {"tls.crt": chain, "tls.key": key}
    return {"data": {name: base64.b64encode(text).decode() for name, text in data.items() if text}}


def test_pair_comes_out_as_pem(files):
    pair = pair_of(secret(files.cert.read_bytes(), files.key.read_bytes()))

    assert (pair.problem, pair.chain, pair.key) == ("", files.cert.read_text(), files.key.read_text())
    assert pair == pair_of_files(files.cert, files.key)
    assert files.key.read_text() not in repr(pair)


def test_what_envoy_would_refuse_is_said(files, tmp_path):
    chain, key = files.cert.read_bytes(), files.key.read_bytes()
    other = certificates.ensure(tmp_path, now=datetime.now(UTC))

    problems = [
        pair_of(one).problem
        for one in (
            secret(b"", key),
            secret(b"nonsense", key),
            secret(chain, b"nonsense"),
            secret(chain, other.key.read_bytes()),
            {"data": {"tls.crt": "%%%", "tls.key": "aGk="}},
        )
    ]

    assert problems == [
        "tls.crt is missing",
        "tls.crt has no certificate in PEM",
        "tls.key has no private key in PEM, or it is encrypted",
        "the key is not that of the certificate",
        "tls.crt is not base64",
    ]
    assert "No such file" in pair_of_files(tmp_path / "absent.crt", files.key).problem
