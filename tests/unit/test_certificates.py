import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pelton.certificates import client_context, is_pem, pem_text
from pelton.errors import ComponentError


@pytest.fixture(scope="module")
def pair():
    """A certificate that signs itself, and its key, both as PEM text."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()


@pytest.mark.parametrize("form", ["text", "files"])
def test_certificates_are_taken_as_text_and_as_files(pair, form, tmp_path):
    cert, key = pair
    if form == "files":
        for name, text in (("cert.pem", cert), ("key.pem", key)):
            (tmp_path / name).write_text(text)
        cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")

    context = client_context(where="here", ca=cert, cert=cert, key=key)

    assert [found["serialNumber"] for found in context.get_ca_certs()] == ["01"]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_key_that_does_not_fit_is_refused_without_being_shown(pair):
    cert, key = pair
    other = key.replace(key.splitlines()[1], key.splitlines()[1][::-1])

    with pytest.raises(ComponentError, match="here: a certificate or key cannot be used") as caught:
        client_context(where="here", cert=cert, key=other)
    assert key.splitlines()[1][::-1] not in str(caught.value)


def test_file_that_is_not_there_is_named_by_its_reason():
    with pytest.raises(ComponentError, match="No such file"):
        client_context(where="here", ca="/nowhere/ca.pem")
    with pytest.raises(ComponentError, match="No such file"):
        pem_text("/nowhere/ca.pem", where="here")


def test_without_verification_neither_name_nor_signature_counts():
    context = client_context(where="here", verify=False)

    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_pem_text_reads_files_and_keeps_text(pair, tmp_path):
    (tmp_path / "cert.pem").write_text(pair[0])

    assert pem_text(str(tmp_path / "cert.pem"), where="here") == pair[0]
    assert pem_text(pair[0], where="here") == pair[0]
    assert (pem_text("", where="here"), is_pem(pair[0]), is_pem("/a/b")) == ("", True, False)
