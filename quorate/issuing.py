"""Keys and X.509 certificates of a federation, made and read as PEM.

ECDSA on the curve P-256: every TLS library takes it; the one beneath gRPC (BoringSSL) refuses Ed25519 as it comes.
Certificates hold from a day before they are made, because clocks differ. Needs the extra `quorate[federation]`.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quorate.errors import DataError

_EARLY = datetime.timedelta(days=1)
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True)
class Pair:
    """A private key and its certificate, as PEM."""

    key: bytes = field(repr=False)
    certificate: bytes


def now() -> datetime.datetime:
    """Return the time in UTC, to the second, as certificates have it."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def authority(name: str, days: float) -> Pair:
    """Make a certificate authority, which signs certificates but no further authorities.

    Args:
        name: up to 64 characters.
        days: that its certificate holds.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(*(each in (5, 6) for each in range(9)))  # may sign certificates and lists
    builder = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Pair(_pem(key), builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def issue(by: Pair, name: str, purpose: Literal["server", "client"], days: float, hosts: Sequence[str] = ()) -> Pair:
    """Make a key and a certificate that an authority has signed.

    Args:
        by: the authority.
        name: whose it is, up to 64 characters.
        purpose: which end of a connection it may show itself at.
        days: that it holds; no longer than the authority's.
        hosts: names and addresses that a server is reached by.
    """
    key, issuer = ec.generate_private_key(ec.SECP256R1()), certificate(by.certificate, "the authority's certificate")
    signer = _private(by.key, "the authority's key")
    left = (issuer.not_valid_after_utc - now()) / datetime.timedelta(days=1)
    builder = (
        _builder(name, _common_name(issuer), key.public_key(), min(days, left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(True, *(False for _ in range(8))), critical=True)  # may sign handshakes
        .add_extension(x509.ExtendedKeyUsage([_USAGES[purpose]]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
    return Pair(_pem(key), builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def certificate(pem: bytes, what: str) -> x509.Certificate:
    """Read a certificate.

    Raises:
        DataError: saying of `what` that it can't be read.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise DataError(f"{what} is damaged: no certificate in PEM can be read from it") from error


def fingerprint(pem: bytes, what: str = "the certificate") -> str:
    """Return the SHA-256 of a certificate, in hexadecimal, which people can compare.

    Raises:
        DataError: see `certificate`.
    """
    return certificate(pem, what).fingerprint(hashes.SHA256()).hex()


def expires(pem: bytes, what: str = "the certificate") -> datetime.datetime:
    """Return until when a certificate holds.

    Raises:
        DataError: see `certificate`.
    """
    return certificate(pem, what).not_valid_after_utc


def require_whole(pair: Pair, authority: bytes, places: tuple[Path, Path, Path]) -> None:
    """Check that a key, its certificate and the authority that has signed it belong together.

    Args:
        authority: its certificate.
        places: the files of the three, for the message.

    Raises:
        DataError: saying which of them does not.
    """
    key_in, own_in, signer_in = (f"`{place}`" for place in places)
    own = certificate(pair.certificate, f"the certificate in {own_in}")
    signer = certificate(authority, f"the authority's certificate in {signer_in}")
    if _private(pair.key, f"the key in {key_in}").public_key() != own.public_key():
        raise DataError(f"the key in {key_in} and the certificate in {own_in} do not belong together")
    try:
        own.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise DataError(f"the certificate in {own_in} was not signed by the authority in {signer_in}") from error


def _builder(name: str, issuer: str, public: ec.EllipticCurvePublicKey, days: float) -> x509.CertificateBuilder:
    made = now()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(made - _EARLY, made + datetime.timedelta(days=days) - _EARLY))
        .not_valid_after(made + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _common_name(issuer: x509.Certificate) -> str:
    return str(issuer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _private(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} is damaged: no private key in PEM can be read from it") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DataError(f"{what} is of another kind than federations use, ECDSA")
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
