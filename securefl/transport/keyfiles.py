"""Files of keys: what lies where, and who may read it.

A party's or server's folder::

    tls.key       its TLS key, mode 0600          tls.pem       its certificate
    identity.key  a party's Ed25519 key, 0600     ca.pem        the consortium's certificate
                                                  roster.cbor   the newest roster that it has seen

The operator's folder holds ``ca.key`` (0600), ``ca.pem`` and ``roster.cbor``.  A private key is made where it stays: the file is
created for its owner alone, never over another, and refused when others may read it.

What it does not protect: whoever is the owner, or root, or reads the disk, has the keys; they are not encrypted on it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.errors import Refused
from protocols.primitives.sign import SigningKey
from protocols.rand import Entropy, Seed
from securefl import files
from securefl.errors import UserError
from securefl.transport.pki import CURVE, Authority, new_key
from securefl.transport.roster import SignedRoster, not_older

TLS_KEY, TLS_CERTIFICATE, IDENTITY, CA_KEY, CA, ROSTER = "tls.key", "tls.pem", "identity.key", "ca.key", "ca.pem", "roster.cbor"
_PEM = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def make_folder(folder: Path) -> None:
    """A folder for keys, its owner's alone where it is new.

    Raises:
        UserError: where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"the folder of keys {folder} cannot be made: {error.strerror or error}") from None


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read, where there is none.

    Raises:
        UserError: where there is one, or it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise UserError(f"{path} exists, and a private key is never written over: name another folder, or move it away") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_secret(path: Path) -> bytes:
    """A file that its owner alone may read.

    Raises:
        UserError: where others may, or it cannot be read, or is no file.
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise UserError(f"{path} is no file")
            if about.st_mode & 0o077:
                raise UserError(
                    f"{path} is a private key that others may read or write (mode {about.st_mode & 0o777:04o}): chmod 600 it, and "
                    "make a new one if others had the chance"
                )
            return file.read(1 << 16)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def read_public(path: Path, what: str, most: int = 8 << 20) -> bytes:
    """A file without secrets, of at most ``most`` bytes.

    Raises:
        UserError: where it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            found = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    if len(found) > most:
        raise UserError(f"{what} {path} has more than {most} bytes")
    return found


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A TLS key as it lies in its file, and as the TLS library takes it."""
    return key.private_bytes(*_PEM)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as it lies in its file."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate.

    Raises:
        UserError: where there is none.
    """
    try:
        return x509.load_pem_x509_certificate(read_public(path, "the certificate"))
    except ValueError:
        raise UserError(f"{path} is no certificate") from None


def make_tls_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """A new TLS key in its file."""
    key = new_key()
    write_secret(folder / TLS_KEY, pem(key))
    return key


def read_tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A P-256 key.

    Raises:
        UserError: as `read_secret`, and for another kind of key.
    """
    key = _loaded(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, CURVE):
        raise UserError(f"{path} is no P-256 key")
    return key


def make_identity(folder: Path, entropy: Entropy) -> SigningKey:
    """A new long-term identity in its file."""
    seed = entropy().seed("identity")
    write_secret(folder / IDENTITY, Ed25519PrivateKey.from_private_bytes(seed.reveal()).private_bytes(*_PEM))
    return SigningKey.from_seed(seed)


def read_identity(folder: Path) -> SigningKey:
    """A party's long-term identity.

    Raises:
        UserError: as `read_secret`, and for another kind of key.
    """
    key = _loaded(folder / IDENTITY)
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{folder / IDENTITY} is no Ed25519 key")
    return SigningKey.from_seed(Seed(key.private_bytes_raw()))


def _loaded(path: Path) -> object:
    content = read_secret(path)
    try:
        return serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise UserError(f"{path} is no private key") from None


def read_authority(folder: Path) -> Authority:
    """The consortium's key and certificate, out of the operator's folder.

    Raises:
        UserError: as `read_secret`, and where they do not fit.
    """
    key, certificate = read_tls_key(folder / CA_KEY), read_certificate(folder / CA)
    if key.public_key() != certificate.public_key():
        raise UserError(f"{folder}: {CA_KEY} is not the key of {CA}")
    return Authority(key, certificate)


def read_roster(folder: Path, authority: x509.Certificate) -> SignedRoster:
    """The newest roster that was seen.

    Raises:
        UserError: where it is not this consortium's, or damaged.
    """
    try:
        return SignedRoster.read(read_public(folder / ROSTER, "the roster"), authority)
    except Refused as error:
        raise UserError(f"{folder / ROSTER} is refused: {error.check} ({error.detail})") from None


def keep_roster(folder: Path, new: SignedRoster, authority: x509.Certificate) -> SignedRoster:
    """Put a roster in the place of an older one.

    Raises:
        Refused: ``roster-older`` or ``roster-forked``.
        UserError: as `read_roster`.
    """
    known = read_roster(folder, authority) if (folder / ROSTER).exists() else None
    not_older(new, known)
    if known is None or known.serial < new.serial:
        files.atomic_write(folder / ROSTER, new.document)
    return new
