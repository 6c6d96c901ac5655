"""Certificates of the API server, and the kubeconfig that trusts them.

An own certificate authority signs one leaf; both live in a directory of the home, keys and all files mode
0600. HTTPS is needed even on loopback, because kubectl sends no token over plain HTTP. Called by `cli/`;
the files go to `server.py`. Source: contracts operator-webhook.md section 9 (ECDSA P-256) and 6.7
(kubeconfig).
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pelton.errors import HomeError

__all__ = ["Certificates", "ensure", "kubeconfig", "write_private"]

_RENEW_BEFORE = timedelta(days=30)
_CA_LIFE = timedelta(days=3650)
_LEAF_LIFE = timedelta(days=365)
_SKEW = timedelta(minutes=5)  # clocks of clients differ
_ALWAYS = ("localhost", "127.0.0.1", "::1")
_ANY = ("", "0.0.0.0", "::")  # addresses to listen on, which no client connects to


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files: the authority's certificate, the leaf with its chain, the leaf's key."""

    ca: Path
    cert: Path
    key: Path


def ensure(directory: Path, *, hosts: Iterable[str] = (), now: datetime, leaf: str = "tls") -> Certificates:
    """Return certificates that are valid for at least 30 more days, making or renewing what is needed.

    The authority stays while it is valid, so that kubeconfigs written earlier go on working.

    Args:
        directory: Where the files are; made with mode 0700.
        hosts: Names and addresses besides localhost, 127.0.0.1 and ::1, e.g. the one that is bound.
        now: The time of day.
        leaf: Name of the leaf's files; each has its own under the one authority.

    Raises:
        HomeError: The directory cannot be written.
    """
    files = Certificates(directory / "ca.crt", directory / f"{leaf}.crt", directory / f"{leaf}.key")
    ca_key_file = directory / "ca.key"
    names = list(dict.fromkeys([*_ALWAYS, *(host for host in hosts if host not in _ANY)]))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = _load(files.ca, ca_key_file)
        if authority is None or authority[0].not_valid_after_utc - now < _RENEW_BEFORE:
            authority = _authority(now)
            write_private(ca_key_file, _key_pem(authority[1]))
            write_private(files.ca, authority[0].public_bytes(serialization.Encoding.PEM))
        if not _usable(_load(files.cert, files.key), authority[0], names, now):
            certificate, key = _leaf(authority, names, now)
            write_private(files.key, _key_pem(key))
            chain = certificate.public_bytes(serialization.Encoding.PEM)
            write_private(files.cert, chain + authority[0].public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise HomeError(
            f"certificates cannot be written: {error.strerror}",
            where=str(directory),
            hint="Check owner, mode and free space.",
        ) from error
    return files


def kubeconfig(
    *, server: str, ca_pem: bytes, token: str, name: str = "pelton", namespace: str = "default"
) -> str:
    """Return a kubeconfig as text, with the authority and the token inside; write it with `write_private`.

    Args:
        server: URL of the API, e.g. `https://127.0.0.1:8081`.
        ca_pem: The authority's certificate.
        token: Bearer token.
        name: Name of cluster, user and context.
        namespace: Where commands that name none work.
    """
    authority = base64.b64encode(ca_pem).decode()
    # JSON strings are YAML strings, so quoting is right whatever the values hold.
    return (
        "apiVersion: v1\n"
        "kind: Config\n"
        f"current-context: {json.dumps(name)}\n"
        "clusters:\n"
        f"- name: {json.dumps(name)}\n"
        "  cluster:\n"
        f"    server: {json.dumps(server)}\n"
        f"    certificate-authority-data: {authority}\n"
        "users:\n"
        f"- name: {json.dumps(name)}\n"
        "  user:\n"
        f"    token: {json.dumps(token)}\n"
        "contexts:\n"
        f"- name: {json.dumps(name)}\n"
        "  context:\n"
        f"    cluster: {json.dumps(name)}\n"
        f"    user: {json.dumps(name)}\n"
        f"    namespace: {json.dumps(namespace)}\n"
    )


def write_private(path: Path, data: bytes) -> None:
    """Replace a file atomically, mode 0600; never is a part of it, or a wider mode, to be seen."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _load(certificate: Path, key: Path) -> _Pair | None:
    """Return a stored pair; None when it is absent, damaged, or the two do not belong together."""
    try:
        cert = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or cert.public_key() != private.public_key():
        return None
    return cert, private


def _usable(pair: _Pair | None, authority: x509.Certificate, names: list[str], now: datetime) -> bool:
    if pair is None or pair[0].not_valid_after_utc - now < _RENEW_BEFORE:
        return False
    try:
        pair[0].verify_directly_issued_by(authority)
        found = pair[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # any doubt about a stored leaf is settled by making a new one
        return False
    return set(_general_names(names)) <= set(found)


def _authority(now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial in the name keeps a replaced authority apart from its predecessor in trust stores.
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"pelton-ca-{serial % 10**8:08d}")])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _leaf(authority: _Pair, names: list[str], now: datetime) -> _Pair:
    ca, ca_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pelton-api")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(now + _LEAF_LIFE, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return certificate, key


def _general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    result: list[x509.GeneralName] = []
    for name in names:
        try:
            result.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            result.append(x509.DNSName(name))
    return result


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
