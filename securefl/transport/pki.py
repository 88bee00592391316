"""A consortium's certificates: one authority, and TLS certificates for its servers and parties.

ECDSA on P-256 (FIPS 186-5), X.509 version 3 (RFC 5280): gRPC refuses certificates of Ed25519.  A party's or author's certificate is
good for clients alone and a server's for servers alone (extended key usage), so neither can pose as the other.  The time is an
argument.

What it does not protect: whoever has the authority's key is the consortium.  There is no revocation list: the roster decides
(`securefl.transport.roster`).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from securefl.errors import UserError

DAMAGED = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What `cryptography` raises where a part of a certificate or a request cannot be read, some of it when that part is asked for."""
Part = Literal["party", "server", "author"]
"""``author``: one who writes jobs, signs them and has no rows: it is in no sum."""
CURVE = ec.SECP256R1
AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 90
"""How long an authority and a certificate are good, unless told otherwise."""
SKEW = timedelta(minutes=5)
"""By how much a certificate is good before it was made: clocks differ."""
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9._-])?")
"""Names of parties, servers and consortia: they stand in certificates and in names of files."""


def check_name(name: str) -> str:
    """A name as it may stand in a certificate.

    Raises:
        UserError: for any other.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"the name {name!r} is refused: 1 to 64 letters, digits, spaces and . _ - that begin with a letter or digit"
        )
    return name


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new private key; the randomness is that of the TLS library, as for every key of TLS."""
    return ec.generate_private_key(CURVE())


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the DER bytes: by what the roster knows a certificate."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def fingerprint_of(der: bytes) -> bytes:
    """The same of bytes that came from a peer."""
    return hashlib.sha256(der).digest()


@dataclass(frozen=True)
class Authority:
    """A consortium's key and certificate; it signs certificates and rosters."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, consortium: str, now: datetime, days: int = AUTHORITY_DAYS) -> Authority:
        """A new one, good for so many days."""
        key, name = new_key(), _name(check_name(consortium))
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, made)

    def issue(self, request: x509.CertificateSigningRequest, part: Part, now: datetime, days: int) -> x509.Certificate:
        """A certificate for who made the request, good for so many days, but no longer than the authority's own.

        Of the request only name, key and host names are taken over.

        Raises:
            UserError: where the request is not signed with its own key, its key is no P-256 key, a server's names no host, or the
                authority's own certificate is over.
        """
        name, hosts = read_request(request)
        if (part == "server") != bool(hosts):
            raise UserError(f"{name}: a server's request names the hosts under which it is reached, another's none")
        until = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        if until <= now:
            raise UserError("the consortium's own certificate is over, or no days were asked for")
        use = ExtendedKeyUsageOID.SERVER_AUTH if part == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=False, crl_sign=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives(hosts) or [x509.DNSName(_label(name))]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())

    def sign(self, content: bytes) -> bytes:
        """A signature of the consortium, DER."""
        return self.key.sign(content, ec.ECDSA(hashes.SHA256()))


def signed_by(authority: x509.Certificate, signature: bytes, content: bytes) -> bool:
    """Whether the authority's key made this signature of ``content``."""
    public = authority.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        return False
    try:
        public.verify(signature, content, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def issued_by(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether the authority issued this certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, *DAMAGED):
        return False
    return True


def new_request(key: ec.EllipticCurvePrivateKey, name: str, hosts: Sequence[str] = ()) -> x509.CertificateSigningRequest:
    """A request for a certificate: of a server, with the ``hosts`` under which it is reached (names or addresses)."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(check_name(name)))
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives(hosts)), critical=False)
    return builder.sign(key, hashes.SHA256())


def read_request(request: x509.CertificateSigningRequest) -> tuple[str, tuple[str, ...]]:
    """Name and hosts of a request.

    Raises:
        UserError: as `Authority.issue`, and for one whose parts cannot be read.
    """
    try:
        return _read(request)
    except UserError:
        raise
    except DAMAGED:
        raise UserError("the request holds no request for a certificate that can be read") from None


def _read(request: x509.CertificateSigningRequest) -> tuple[str, tuple[str, ...]]:
    public = request.public_key()
    names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not request.is_signature_valid or not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, CURVE):
        raise UserError("the request is not signed with its own P-256 key")
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise UserError("the request names nobody")
    try:
        found = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return check_name(names[0].value), ()
    hosts = [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
    return check_name(names[0].value), tuple(hosts)


def alternatives(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Host names and addresses as they stand in a certificate.

    Raises:
        UserError: for what is neither.
    """
    out = list[x509.GeneralName]()
    for host in hosts:
        try:
            out.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not re.fullmatch(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", host):
                raise UserError(f"{host!r} is no host name and no address") from None
            out.append(x509.DNSName(host))
    return out


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _label(name: str) -> str:
    """A party's name as a host name that no host has, as a certificate needs one beside its subject."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() + ".party.invalid"
