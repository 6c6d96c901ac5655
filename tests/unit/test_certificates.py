import ssl

import pytest

from pelton.certificates import PemFiles, client_context, is_pem, pem_text
from pelton.errors import ComponentError
from tests.contract.authority import Authority


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def pair(authority):
    """A client's certificate and key, as PEM text."""
    return authority.issue("client")


@pytest.mark.parametrize("form", ["text", "files"])
def test_certificates_are_taken_as_text_and_as_files(authority, pair, form, tmp_path):
    cert, key = pair
    given = {"ca": authority.pem, "cert": cert, "key": key}
    if form == "files":
        for name, text in given.items():
            (tmp_path / name).write_text(text)
            given[name] = str(tmp_path / name)

    context = client_context(where="here", **given)

    assert [found["subject"] for found in context.get_ca_certs()] == [((("commonName", "authority"),),)]
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


def test_paths_of_text_are_valid_until_closed(pair, tmp_path):
    files = PemFiles()
    path = files.path(pair[0])

    assert path is not None
    with open(path) as handle:
        assert handle.read() == pair[0]
    assert files.path("/a/b") == "/a/b"
    assert files.path("") is None
    files.close()
    files.close()
    with pytest.raises(FileNotFoundError), open(path):
        pass
