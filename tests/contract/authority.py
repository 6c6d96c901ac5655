"""A certificate authority of a test's own."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs certificates for a day."""

    def __init__(self):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._own = self._certificate("authority", self._key, authority=True)
        self.pem = self._own.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name):
        """Return certificate and key as PEM text, for a host by its address or for a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        made = self._certificate(name, key)
        return made.public_bytes(serialization.Encoding.PEM).decode(), text.decode()

    def _certificate(self, name, key, *, authority=False):
        now = datetime.now(UTC)
        alternative = x509.IPAddress(ip_address(name)) if name[:1].isdigit() else x509.DNSName(name)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
