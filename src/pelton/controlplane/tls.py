"""Certificates of Secrets, parsed: what a listener may show, or why it may not.

`controlplane/routes` asks. A pair that Envoy would refuse is found here, with a sentence for the condition.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pelton.plan.attachment import Pair

__all__ = ["pair_of", "pair_of_files"]


def pair_of(secret: Mapping[str, Any]) -> Pair:
    """Return what is in a Secret of the type kubernetes.io/tls."""
    data = secret.get("data") or {}
    found = []
    for name in ("tls.crt", "tls.key"):
        try:
            found.append(base64.b64decode(data.get(name) or "", validate=True))
        except (binascii.Error, ValueError, TypeError):
            return Pair(problem=f"{name} is not base64")
        if not found[-1]:
            return Pair(problem=f"{name} is missing")
    return _parsed(*found, names=("tls.crt", "tls.key"))


def pair_of_files(certificate: Path, key: Path) -> Pair:
    """Return what is in two PEM files."""
    try:
        return _parsed(certificate.read_bytes(), key.read_bytes(), names=(str(certificate), str(key)))
    except OSError as error:
        return Pair(problem=f"{error.filename}: {error.strerror}")


def _parsed(chain: bytes, key: bytes, *, names: tuple[str, str]) -> Pair:
    try:
        first = x509.load_pem_x509_certificates(chain)[0]
    except (ValueError, IndexError):
        return Pair(problem=f"{names[0]} has no certificate in PEM")
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, OverflowError):
        return Pair(problem=f"{names[1]} has no private key in PEM, or it is encrypted")
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if first.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        return Pair(problem="the key is not that of the certificate")
    return Pair(chain=chain.decode(), key=key.decode())
