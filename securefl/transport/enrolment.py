"""How somebody comes into a consortium: a request goes to its operator, an answer comes back; private keys stay where they are.

    securefl keys init          the operator makes the consortium's key
    securefl keys request NAME  a party, server or author of jobs makes its keys, and a request: names, public keys, and proof that
                                it has the private ones (the request for the certificate is signed with the TLS key, all of it
                                with the identity)
    securefl keys issue         the operator looks at the request and answers with a certificate and the signed roster
    securefl keys accept        who asked checks the answer against its own keys, and keeps it

What it does not protect: the first answer tells who the consortium is.  Compare its fingerprint, and that of the identity, over
another channel, such as the telephone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocols.errors import Refused
from protocols.primitives.sign import SigningKey, verify
from protocols.rand import Entropy
from protocols.wire import canonical, read_canonical
from securefl import files
from securefl.errors import UserError, quoted
from securefl.transport import keyfiles
from securefl.transport.pki import CERTIFICATE_DAYS, DAMAGED, Authority, Part, fingerprint, issued_by, new_request, read_request
from securefl.transport.roster import LARGEST, Entry, SignedRoster, not_older, revoked, with_entry

REQUEST, ANSWER = "securefl request 1", "securefl answer 1"
SOON = timedelta(days=14)
"""How long before a certificate is over its holder is told at every start."""


def said(print_of: bytes) -> str:
    """A fingerprint as people compare it."""
    text = print_of.hex()
    return " ".join(text[at : at + 8] for at in range(0, len(text), 8))


@dataclass(frozen=True)
class Request:
    """What a party or server asks for.

    Attributes:
        name: under which it wants to be known.
        part: what it is.
        identity: a party's or author's Ed25519 public key, else empty.
        csr: the request for the TLS certificate.
    """

    name: str
    part: Part
    identity: bytes
    csr: x509.CertificateSigningRequest

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the keys: what the operator compares with what the applicant says."""
        return hashlib.sha256(self.identity + self.csr.public_bytes(Encoding.DER)).digest()


def init(folder: Path, consortium: str, now: datetime) -> Authority:
    """Make a consortium in a folder of its operator.

    Raises:
        UserError: where there is one.
    """
    authority = Authority.make(consortium, now)
    keyfiles.make_folder(folder)
    keyfiles.write_secret(folder / keyfiles.CA_KEY, keyfiles.pem(authority.key))
    files.atomic_write(folder / keyfiles.CA, keyfiles.certificate_pem(authority.certificate))
    files.atomic_write(folder / keyfiles.ROSTER, SignedRoster.make(authority, consortium, 1, ()).document)
    return authority


def request(folder: Path, name: str, entropy: Entropy, hosts: Sequence[str] = (), *, author: bool = False) -> bytes:
    """Make keys, where there are none, and a request: for a server where there are ``hosts``, else for a party or an ``author``.

    Raises:
        UserError: for a name or host that cannot be, or files that cannot be written or read.
    """
    keyfiles.make_folder(folder)
    tls = folder / keyfiles.TLS_KEY
    key = keyfiles.read_tls_key(tls) if tls.exists() else keyfiles.make_tls_key(folder)
    csr = new_request(key, name, hosts).public_bytes(Encoding.DER)
    if hosts:
        return canonical([canonical([REQUEST, name, "server", b"", csr]), b""])
    known = (folder / keyfiles.IDENTITY).exists()
    identity = keyfiles.read_identity(folder) if known else keyfiles.make_identity(folder, entropy)
    content = canonical([REQUEST, name, "author" if author else "party", identity.public, csr])
    return canonical([content, identity.sign(content)])


def read(document: bytes) -> Request:
    """Check a request: that it is whole, and that who made it has the private keys.

    Raises:
        UserError: where it is not.
    """
    content, signature = _parts(document, 2, "request")
    if type(content) is not bytes or type(signature) is not bytes:
        raise UserError("this is no request")
    kind, name, part, identity, der = _parts(content, 5, "request")
    if kind != REQUEST or part not in get_args(Part) or type(identity) is not bytes or type(der) is not bytes:
        raise UserError("this is no request of this version")
    try:
        csr = x509.load_der_x509_csr(der)
    except ValueError:
        raise UserError("the request holds no request for a certificate") from None
    asked, hosts = read_request(csr)
    if asked != name or (part == "server") != bool(hosts):
        raise UserError("the request and its certificate request name different things")
    if part != "server" and not verify(identity, signature, content):
        raise UserError(f"{name}: the request is not signed with the identity that it names")
    if part == "server" and (identity or signature):
        raise UserError(f"{name}: a server has no identity")
    return Request(name, part, identity, csr)


def issue(folder: Path, wanted: Request, now: datetime, days: int = CERTIFICATE_DAYS) -> bytes:
    """Answer a request: a certificate, and a roster with it.

    Raises:
        UserError: for a name or an identity that is taken or revoked, or as `keyfiles.read_authority`.
    """
    authority = keyfiles.read_authority(folder)
    roster = keyfiles.read_roster(folder, authority.certificate)
    certificate = authority.issue(wanted.csr, wanted.part, now, days)
    entry = Entry(wanted.name, wanted.part, wanted.identity, (fingerprint(certificate),))
    new = roster.after(authority, with_entry(roster.entries, entry))
    keyfiles.keep_roster(folder, new, authority.certificate)
    der = [one.public_bytes(Encoding.DER) for one in (certificate, authority.certificate)]
    return canonical([ANSWER, *der, new.document])


def revoke(folder: Path, name: str) -> SignedRoster:
    """Shut somebody out; the new roster, which the servers need.

    Raises:
        UserError: as `securefl.transport.roster.revoked`.
    """
    authority = keyfiles.read_authority(folder)
    roster = keyfiles.read_roster(folder, authority.certificate)
    new = roster.after(authority, revoked(roster.entries, name))
    return keyfiles.keep_roster(folder, new, authority.certificate)


def is_answer(document: bytes) -> bool:
    """Whether a document says that it is an answer; else it may be a roster.

    Raises:
        UserError: where it is neither.
    """
    try:
        tree = read_canonical(document, LARGEST)
    except Refused as error:
        raise UserError(f"this is no answer and no roster: {error.check} ({error.detail})") from None
    return type(tree) is list and bool(tree) and tree[0] == ANSWER


def accept(folder: Path, answer: bytes) -> tuple[x509.Certificate, SignedRoster]:
    """Keep an answer that fits the own keys; the consortium's certificate and its roster.

    Raises:
        UserError: where it does not fit, or is another consortium's than before.
    """
    kind, der, authority_der, document = _parts(answer, 4, "answer")
    if kind != ANSWER or not all(type(part) is bytes for part in (der, authority_der, document)):
        raise UserError("this is no answer of this version")
    try:
        certificate, authority = x509.load_der_x509_certificate(der), x509.load_der_x509_certificate(authority_der)
        roster = SignedRoster.read(document, authority)
        public = certificate.public_key()
    except DAMAGED:
        raise UserError("the answer holds no certificates") from None
    except Refused as error:
        raise UserError(f"the answer is refused: {error.check} ({error.detail})") from None
    known = folder / keyfiles.CA
    if known.exists() and keyfiles.read_certificate(known) != authority:
        raise UserError(f"the answer is of another consortium than {known}: use a folder of its own for each")
    key = keyfiles.read_tls_key(folder / keyfiles.TLS_KEY)
    if public != key.public_key() or not issued_by(authority, certificate):
        raise UserError("the answer's certificate is not for the key in this folder, or not issued by its consortium")
    mine = next((entry for entry in roster.entries if fingerprint(certificate) in entry.certificates), None)
    own = keyfiles.read_identity(folder).public if (folder / keyfiles.IDENTITY).exists() else b""
    if mine is None or mine.identity != own:
        raise UserError("the answer's roster does not have the identity in this folder")
    try:
        not_older(roster, keyfiles.read_roster(folder, authority) if (folder / keyfiles.ROSTER).exists() else None)
    except Refused as error:
        raise UserError(f"the answer is refused: {error.check} ({error.detail})") from None
    files.atomic_write(folder / keyfiles.TLS_CERTIFICATE, keyfiles.certificate_pem(certificate))
    files.atomic_write(known, keyfiles.certificate_pem(authority))
    files.atomic_write(folder / keyfiles.ROSTER, roster.document)
    return authority, roster


def accept_roster(folder: Path, document: bytes) -> SignedRoster:
    """Keep a newer roster of the own consortium.

    Raises:
        UserError: where it is older, or not signed by it.
    """
    authority = keyfiles.read_certificate(folder / keyfiles.CA)
    try:
        return keyfiles.keep_roster(folder, SignedRoster.read(document, authority), authority)
    except Refused as error:
        raise UserError(f"the roster is refused: {error.check} ({error.detail})") from None


def make_all(
    folder: Path, parties: Sequence[str], entropy: Entropy, now: datetime, hosts: Sequence[str], authors: Sequence[str] = ()
) -> None:
    """A whole consortium for trying out: folders ``operator``, ``server`` and one for each party and author, all on this machine.

    Raises:
        UserError: for names that are taken twice, or folders that are there.
    """
    others = [*parties, *authors]
    taken = [name for name in others if name in ("operator", "server")]
    if taken or len(set(others)) != len(others) or len(parties) < 2:
        raise UserError(f"parties need at least two names of their own, not operator or server: {', '.join(map(quoted, others))}")
    operator = folder / "operator"
    init(operator, "trial", now)
    for name in ("server", *others):
        asked = request(folder / name, name, entropy, hosts if name == "server" else (), author=name in authors)
        accept(folder / name, issue(operator, read(asked), now))
    for name in ("server", *others):
        accept_roster(folder / name, keyfiles.read_public(operator / keyfiles.ROSTER, "the roster"))


@dataclass(frozen=True)
class Credentials:
    """What a party or server holds: read once, at the start.

    Attributes:
        folder: where it lies.
        authority: the consortium's certificate.
        certificate: the own one.
        tls: private key, certificate and authority as the TLS library takes them.
        roster: the newest that was seen.
        entry: the own place on it.
        identity: a party's or author's signing key; None for a server.
    """

    folder: Path
    authority: x509.Certificate
    certificate: x509.Certificate
    tls: tuple[bytes, bytes, bytes]
    roster: SignedRoster
    entry: Entry
    identity: SigningKey | None

    def __repr__(self) -> str:
        return f"Credentials({self.entry.name!r}, {self.entry.part}, [redacted])"

    def runs_out(self, now: datetime) -> str | None:
        """A line for whose keys these are, where the certificate is over within `SOON` or already; else None."""
        until = self.certificate.not_valid_after_utc
        if until - now > SOON:
            return None
        good = f"the certificate of {self.entry.name} is good until {until:%Y-%m-%d %H:%M} UTC"
        return f"{good}: ask for the next one by securefl keys request"

    @classmethod
    def load(cls, folder: Path, *parts: Part) -> Credentials:
        """Read a folder of one that has one of these parts.

        Raises:
            UserError: where something is missing, open to others, or does not fit.
        """
        if not folder.is_dir():
            raise UserError(f"there is no folder of keys {folder}: make one with securefl keys request, or securefl keys try")
        authority, certificate = (keyfiles.read_certificate(folder / name) for name in (keyfiles.CA, keyfiles.TLS_CERTIFICATE))
        key = keyfiles.read_tls_key(folder / keyfiles.TLS_KEY)
        roster = keyfiles.read_roster(folder, authority)
        mine = next((entry for entry in roster.entries if fingerprint(certificate) in entry.certificates), None)
        if mine is None or mine.part not in parts:
            wanted = " or ".join("an author" if part == "author" else f"a {part}" for part in parts)
            raise UserError(f"{folder} holds no keys of {wanted} of {roster.consortium}")
        if key.public_key() != certificate.public_key():
            raise UserError(f"{folder}: {keyfiles.TLS_KEY} is not the key of {keyfiles.TLS_CERTIFICATE}")
        identity = None if mine.part == "server" else keyfiles.read_identity(folder)
        if identity is not None and identity.public != mine.identity:
            raise UserError(f"{folder}: {keyfiles.IDENTITY} is not the identity that the roster has of {mine.name}")
        chain = keyfiles.certificate_pem(certificate), keyfiles.certificate_pem(authority)
        return cls(folder, authority, certificate, (keyfiles.pem(key), *chain), roster, mine, identity)


class RosterFile:
    """The newest roster of a folder, whenever it is asked for: what the operator puts there counts at the next call.

    A file that is damaged, older or not the consortium's changes nothing: the last good one stays in force.

    Args:
        credentials: of the folder.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._folder, self._authority, self._known = credentials.folder, credentials.authority, credentials.roster
        self._seen = self._stamp()

    def _stamp(self) -> tuple[int, int, int]:
        try:
            about = (self._folder / keyfiles.ROSTER).stat()
        except OSError:
            return (0, 0, 0)
        return about.st_mtime_ns, about.st_size, about.st_ino

    def __call__(self) -> SignedRoster:
        """The roster."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            with suppress(UserError, Refused):
                self._known = not_older(keyfiles.read_roster(self._folder, self._authority), self._known)
        return self._known


def _parts(document: bytes, count: int, what: str) -> list[Any]:
    try:
        tree = read_canonical(document, LARGEST)
    except Refused as error:
        raise UserError(f"this is no {what}: {error.check} ({error.detail})") from None
    if type(tree) is not list or len(tree) != count:
        raise UserError(f"this is no {what}")
    return tree
