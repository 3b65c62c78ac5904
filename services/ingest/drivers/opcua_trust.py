"""Certificates of OPC UA: our own, made once and kept, and those of servers, trusted by a person and by nothing else.

    own/certs/wattring.der          to be trusted at the server
    own/private/wattring.pem        0600
    trusted/certs/*.der, *.pem      servers that we speak with
    rejected/certs/<thumbprint>.der what a server showed that nobody has trusted yet: move it to trusted/certs

Source:
    OPC UA Part 6 (1.05), 6.2.2 application instance certificate; Part 12 (1.05), 7.8.3 trust lists, for the folders.
"""

import datetime as dt
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from libs.common.errors import InvalidInput

NAME = "wattring"
KEY_BITS = 2048
LIFE_DAYS = 3650
"""Of our certificate: every server has to trust a new one by hand, so it is not renewed behind anybody's back."""
MAX_REJECTED = 100
"""Certificates kept for a person to look at."""
MAX_BYTES = 64 * 1024


class Untrusted(InvalidInput):
    """A server's certificate is not among those that are trusted, or cannot be used."""

    code = "untrusted_certificate"
    title_zh = "证书不受信任"


@dataclass(frozen=True, slots=True)
class Own:
    """Our certificate and its key."""

    certificate: bytes
    """DER."""
    key: bytes = field(repr=False)
    """PEM, PKCS 8."""
    application_uri: str


class TrustStore:
    """One folder of certificates."""

    def __init__(self, folder: Path) -> None:
        """Prepare; nothing is made before it is needed."""
        self.folder = folder
        self.own_place = folder / "own" / "certs" / f"{NAME}.der"
        """Where our certificate is, once it has been made; for whoever has to trust it at a server."""

    def own(self) -> Own:
        """Return our certificate; make it when there is none.

        Raises:
            Untrusted: It cannot be made, kept or read.
        """
        place = self.own_place
        key_place = self.folder / "own" / "private" / f"{NAME}.pem"
        try:
            if not place.exists() or not key_place.exists():
                self._make(place, key_place)
            der, key = place.read_bytes(), key_place.read_bytes()
        except OSError as exc:
            raise Untrusted(
                f"our certificate in {self.folder} cannot be kept: {exc.strerror}",
                message_zh=f"无法在 {self.folder} 保存本方证书:{exc.strerror}",
            ) from exc
        try:
            return Own(der, key, _application_uri(x509.load_der_x509_certificate(der)))
        except ValueError as exc:
            raise Untrusted(
                f"{place}: expected a certificate with an application URI: {exc}",
                message_zh=f"{place}:应为含应用 URI 的证书",
            ) from exc

    def check(self, der: bytes, now: dt.datetime) -> None:
        """Do nothing when a server's certificate is trusted; else keep it for a person to look at.

        Raises:
            Untrusted: It is not among the trusted ones, or not valid at this time.
        """
        thumbprint = hashes.Hash(hashes.SHA1())  # noqa: S303  # names a file; trust is in the bytes themselves
        thumbprint.update(der)
        name = thumbprint.finalize().hex()
        try:
            certificate = x509.load_der_x509_certificate(der)
        except ValueError:
            raise Untrusted("the server's certificate is none", message_zh="服务器证书格式有误") from None
        subject = certificate.subject.rfc4514_string()
        if der not in self._trusted():
            kept = self._keep_rejected(name, der)
            trusted = self.folder / "trusted" / "certs"
            raise Untrusted(
                f"the server's certificate ({subject}, thumbprint {name}) is not trusted; if it is the right one, move "
                f"{kept} to {trusted}",
                message_zh=f"服务器证书({subject},指纹 {name})不受信任;确认无误后请将 {kept} 移至 {trusted}",
            )
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise Untrusted(
                f"the server's certificate ({subject}) is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
                f"{certificate.not_valid_after_utc:%Y-%m-%d} only",
                message_zh=f"服务器证书({subject})已过期或尚未生效",
            )

    def _trusted(self) -> Iterator[bytes]:
        """Yield the DER of every trusted certificate that can be read."""
        folder = self.folder / "trusted" / "certs"
        for file in sorted(folder.glob("*")) if folder.is_dir() else ():
            try:
                content = file.read_bytes()[:MAX_BYTES]
                if b"-----BEGIN" in content:
                    for certificate in x509.load_pem_x509_certificates(content):
                        yield certificate.public_bytes(serialization.Encoding.DER)
                else:
                    yield content
            except (OSError, ValueError):
                continue  # a stray file trusts nobody

    def _keep_rejected(self, name: str, der: bytes) -> Path:
        folder = self.folder / "rejected" / "certs"
        place = folder / f"{name}.der"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not place.exists() and sum(1 for _ in folder.iterdir()) < MAX_REJECTED:
                place.write_bytes(der)
        except OSError:
            pass  # the message names its thumbprint all the same
        return place

    def _make(self, place: Path, key_place: Path) -> None:
        host = socket.gethostname() or "localhost"
        # Unique for good: a server tells applications apart by it, and two replicas are two applications.
        uri = f"urn:{host}:{NAME}:{secrets.token_hex(4)}"
        key = rsa.generate_private_key(65537, KEY_BITS)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        der = _self_signed(key, uri, host).public_bytes(serialization.Encoding.DER)
        for file, content, mode in ((key_place, pem, 0o600), (place, der, 0o644)):
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_whole(file, content, mode)


def _self_signed(key: rsa.RSAPrivateKey, uri: str, host: str) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Wattring"),
        x509.NameAttribute(NameOID.COMMON_NAME, f"Wattring ingest on {host}"[:64]),
    ])  # fmt: skip
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=True, data_encipherment=True,
        key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # a server's clock may be slow
        .not_valid_after(now + dt.timedelta(days=LIFE_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName(host)]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _application_uri(certificate: x509.Certificate) -> str:
    """Return the application URI in a certificate.

    Raises:
        ValueError: There is none.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("it has no alternative names") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        raise ValueError("it has no URI among its alternative names")
    return uris[0]


def _write_whole(file: Path, content: bytes, mode: int) -> None:
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
