import base64
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from ruamel.yaml import YAML

from pelton.apiserver.certificates import ensure, kubeconfig, write_private
from pelton.errors import HomeError

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def leaf(files):
    return x509.load_pem_x509_certificate(files.cert.read_bytes())


def names(files):
    found = leaf(files).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def test_leaf_is_signed_by_the_authority_for_every_host(tmp_path):
    files = ensure(tmp_path / "pki", hosts=["10.1.2.3", "box.example", "0.0.0.0", "localhost"], now=NOW)

    leaf(files).verify_directly_issued_by(x509.load_pem_x509_certificate(files.ca.read_bytes()))
    assert names(files) == {"localhost", "127.0.0.1", "::1", "10.1.2.3", "box.example"}
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key)


def test_all_files_are_private(tmp_path):
    ensure(tmp_path / "pki", now=NOW)

    assert (tmp_path / "pki").stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "pki").iterdir()}
    assert modes == dict.fromkeys(["ca.crt", "ca.key", "tls.crt", "tls.key"], 0o600)


def test_certificates_are_kept_while_they_last(tmp_path):
    first = ensure(tmp_path, hosts=["10.0.0.1"], now=NOW)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    ensure(tmp_path, hosts=["10.0.0.1"], now=NOW + timedelta(days=300))
    ensure(tmp_path, now=NOW + timedelta(days=300))

    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert first.cert in before


def test_leaf_is_renewed_in_its_last_30_days_and_the_authority_stays(tmp_path):
    files = ensure(tmp_path, now=NOW)
    authority, old = files.ca.read_bytes(), leaf(files)

    ensure(tmp_path, now=NOW + timedelta(days=336))

    assert leaf(files).serial_number != old.serial_number
    assert files.ca.read_bytes() == authority


def test_authority_is_renewed_in_its_last_30_days_and_the_leaf_with_it(tmp_path):
    files = ensure(tmp_path, now=NOW)
    authority = files.ca.read_bytes()

    ensure(tmp_path, now=NOW + timedelta(days=3640))

    assert files.ca.read_bytes() != authority
    leaf(files).verify_directly_issued_by(x509.load_pem_x509_certificate(files.ca.read_bytes()))


def test_new_host_makes_a_new_leaf(tmp_path):
    files = ensure(tmp_path, now=NOW)

    ensure(tmp_path, hosts=["10.0.0.1"], now=NOW)

    assert "10.0.0.1" in names(files)


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize("damage", [b"", b"not pem", None])
def test_damaged_or_missing_files_are_replaced(tmp_path, name, damage):
    files = ensure(tmp_path, now=NOW)
    if damage is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(damage)

    ensure(tmp_path, now=NOW)

    leaf(files).verify_directly_issued_by(x509.load_pem_x509_certificate(files.ca.read_bytes()))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key)


def test_directory_that_cannot_be_made_is_a_home_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(HomeError) as caught:
        ensure(tmp_path / "file" / "pki", now=NOW)

    assert caught.value.where == str(tmp_path / "file" / "pki")


def test_kubeconfig_is_yaml_with_authority_and_token():
    text = kubeconfig(server="https://[::1]:8081", ca_pem=b"PEM", token='a"b: c')

    config = YAML(typ="safe").load(text)
    assert base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]) == b"PEM"
    assert config["clusters"][0]["cluster"]["server"] == "https://[::1]:8081"
    assert config["users"][0]["user"] == {"token": 'a"b: c'}
    context = config["contexts"][0]
    assert (config["current-context"], context["context"]["namespace"]) == (context["name"], "default")


def test_write_private_replaces_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text("old")
    path.chmod(0o644)

    write_private(path, b"new")

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
