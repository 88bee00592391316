"""Keys of a consortium: how somebody comes in, what is refused, and that private keys stay where they were made."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from protocols.errors import Refused
from protocols.primitives.sign import SigningKey
from protocols.rand import fresh
from protocols.wire import canonical, read_canonical
from securefl.cli import main
from securefl.errors import UserError
from securefl.transport import enrolment, keyfiles, pki, roster
from securefl.transport.enrolment import Credentials
from securefl.transport.roster import SignedRoster, not_older

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOSTS = ("localhost", "127.0.0.1")


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    enrolment.make_all(tmp_path / "trial", ["a", "b", "c"], fresh, NOW, HOSTS)
    return tmp_path / "trial"


def test_a_request_is_answered_and_accepted_and_nothing_private_travels(tmp_path: Path) -> None:
    operator, party = tmp_path / "operator", tmp_path / "party"
    authority = enrolment.init(operator, "north", NOW)
    asked = enrolment.request(party, "alpha", fresh)
    answer = enrolment.issue(operator, enrolment.read(asked), NOW)
    enrolment.accept(party, answer)
    mine = Credentials.load(party, "party")
    assert mine.entry.identity == keyfiles.read_identity(party).public
    assert mine.roster.cohort if len(mine.roster.parties) > 1 else mine.roster.parties[0].name == "alpha"
    secrets = [
        keyfiles.read_tls_key(party / "tls.key").private_numbers().private_value.to_bytes(32, "big"),
        keyfiles.read_identity(party)._private.private_bytes_raw(),
        authority.key.private_numbers().private_value.to_bytes(32, "big"),
    ]
    seen = asked + answer + b"".join(path.read_bytes() for path in operator.iterdir() if path.name != "ca.key")
    assert not any(secret in seen for secret in secrets)
    assert "redacted" in repr(mine)


def test_the_command_line_goes_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operator, party = str(tmp_path / "operator"), str(tmp_path / "party")
    assert main(["keys", "init", "north", "--keys", operator]) == 0
    assert main(["keys", "request", "alpha", "--keys", party]) == 0
    assert main(["keys", "issue", f"{party}/alpha.request", "--keys", operator]) == 0
    assert main(["keys", "accept", f"{party}/alpha.answer", "--keys", party]) == 0
    prints = [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines() if "fingerprint" in line]
    assert prints[0] == prints[3]  # of the consortium: what a party compares
    assert prints[1] == prints[2]  # of the request: what the operator compares
    assert main(["keys", "revoke", "alpha", "--keys", operator]) == 0
    assert main(["keys", "accept", f"{operator}/roster.cbor", "--keys", party]) == 0
    assert keyfiles.read_roster(tmp_path / "party", keyfiles.read_certificate(tmp_path / "party" / "ca.pem")).parties == ()


def test_certificates_are_good_for_one_purpose_and_their_time(trial: Path) -> None:
    for name, use in (("a", ExtendedKeyUsageOID.CLIENT_AUTH), ("server", ExtendedKeyUsageOID.SERVER_AUTH)):
        made = keyfiles.read_certificate(trial / name / "tls.pem")
        assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [use]
        assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert made.not_valid_after_utc == NOW + timedelta(days=pki.CERTIFICATE_DAYS)
        roster.check_dates(made, NOW)
        with pytest.raises(Refused, match="peer-expired"):
            roster.check_dates(made, NOW + timedelta(days=pki.CERTIFICATE_DAYS))
        with pytest.raises(Refused, match="peer-expired"):
            roster.check_dates(made, NOW - timedelta(days=1))
    server = keyfiles.read_certificate(trial / "server" / "tls.pem").extensions
    names = server.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    ssl.create_default_context(cadata=(trial / "a" / "ca.pem").read_text())  # other libraries read it too


@pytest.mark.parametrize("curve", [ec.SECP384R1(), None], ids=["P-384", "Ed25519"])
def test_tls_keys_are_of_p256_alone(trial: Path, curve: ec.EllipticCurve | None) -> None:
    """As they are made; with another the operator issues nothing, and a folder of keys is not taken."""
    for key in (trial / name / "tls.key" for name in ("a", "server")):
        assert keyfiles.read_tls_key(key).curve.name == "secp256r1"
    other = Ed25519PrivateKey.generate() if curve is None else ec.generate_private_key(curve)
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "d")]))
    der = asked.sign(other, None if curve is None else hashes.SHA256()).public_bytes(keyfiles.serialization.Encoding.DER)
    own = SigningKey.generate(fresh(), "identity")
    content = canonical([enrolment.REQUEST, "d", "party", own.public, der])
    with pytest.raises(UserError, match="not signed with its own P-256 key"):
        enrolment.read(canonical([content, own.sign(content)]))
    (trial / "a" / "tls.key").write_bytes(keyfiles.pem(other))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"tls\.key is no P-256 key"):
        Credentials.load(trial / "a", "party")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o610])
@pytest.mark.parametrize("file", ["tls.key", "identity.key"])
def test_a_private_key_that_others_may_read_is_refused(trial: Path, file: str, mode: int) -> None:
    Credentials.load(trial / "a", "party")
    (trial / "a" / file).chmod(mode)
    with pytest.raises(UserError, match=rf"{file} is a private key that others may read .*{mode:04o}.*chmod 600"):
        Credentials.load(trial / "a", "party")
    (trial / "a" / file).chmod(0o600)
    Credentials.load(trial / "a", "party")


def test_private_keys_are_made_for_their_owner_alone_and_never_written_over(trial: Path) -> None:
    for path in trial.rglob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600
    before = (trial / "a" / "tls.key").read_bytes()
    with pytest.raises(UserError, match="never written over"):
        keyfiles.make_tls_key(trial / "a")
    with pytest.raises(UserError, match="never written over"):
        enrolment.init(trial / "operator", "again", NOW)
    assert (trial / "a" / "tls.key").read_bytes() == before
    link = trial / "a" / "else.key"
    link.symlink_to(trial / "target")
    with pytest.raises(UserError):
        keyfiles.write_secret(link, b"key")
    assert not (trial / "target").exists()


def test_a_request_without_the_private_key_is_refused(trial: Path) -> None:
    """Who takes over another's public identity, or changes the request, cannot sign it."""
    victim = keyfiles.read_identity(trial / "a")
    content, signature = read_canonical(enrolment.request(trial / "mallory", "mallory", fresh), 1 << 20)
    kind, name, part, _, csr = read_canonical(content, 1 << 20)
    own = SigningKey.generate(fresh(), "identity")
    stolen = canonical([kind, name, part, victim.public, csr])
    for bad in ([stolen, own.sign(stolen)], [stolen, signature], [content, bytes(64)], [content, b""]):
        with pytest.raises(UserError, match="not signed with the identity"):
            enrolment.read(canonical(bad))
    honest = canonical([kind, name, part, own.public, csr])
    assert enrolment.read(canonical([honest, own.sign(honest)])).name == "mallory"


def test_a_name_stands_for_one_identity_forever(trial: Path) -> None:
    operator = trial / "operator"
    with pytest.raises(UserError, match="another identity"):
        enrolment.issue(operator, enrolment.read(enrolment.request(trial / "other", "a", fresh)), NOW)
    copied = trial / "copied"
    copied.mkdir()
    (copied / "identity.key").write_bytes((trial / "a" / "identity.key").read_bytes())
    (copied / "identity.key").chmod(0o600)
    with pytest.raises(UserError, match="under another name"):
        enrolment.issue(operator, enrolment.read(enrolment.request(copied, "d", fresh)), NOW)
    enrolment.revoke(operator, "b")
    with pytest.raises(UserError, match="revoked"):
        enrolment.issue(operator, enrolment.read(enrolment.request(trial / "b", "b", fresh)), NOW)
    with pytest.raises(UserError, match="good any more"):
        enrolment.revoke(operator, "b")


def test_a_renewed_certificate_is_good_beside_the_old_one(trial: Path) -> None:
    old = keyfiles.read_certificate(trial / "a" / "tls.pem")
    asked = enrolment.read(enrolment.request(trial / "a", "a", fresh))
    _, new = enrolment.accept(trial / "a", enrolment.issue(trial / "operator", asked, NOW + timedelta(days=60)))
    renewed = keyfiles.read_certificate(trial / "a" / "tls.pem")
    assert renewed != old
    for certificate in (old, renewed):
        assert new.of_certificate(certificate.public_bytes(keyfiles.serialization.Encoding.DER)).name == "a"


def test_a_roster_is_refused_that_the_consortium_did_not_sign_or_that_is_older(trial: Path, tmp_path: Path) -> None:
    authority, folder = keyfiles.read_certificate(trial / "a" / "ca.pem"), trial / "a"
    known = keyfiles.read_roster(folder, authority)
    content, signature = read_canonical(known.document, 1 << 20)
    kind, name, serial, entries = read_canonical(content, 1 << 20)
    raised = canonical([kind, name, serial + 1, entries[:-1]])
    other = enrolment.init(tmp_path / "other", "trial", NOW)
    for forged in ([raised, signature], [raised, other.sign(raised)], [raised, b""]):
        with pytest.raises(UserError, match="roster-signature"):
            enrolment.accept_roster(folder, canonical(forged))
    ours = keyfiles.read_authority(trial / "operator")
    enrolment.accept_roster(folder, canonical([raised, ours.sign(raised)]))  # the same, signed by the consortium
    with pytest.raises(UserError, match="roster-older"):
        enrolment.accept_roster(folder, known.document)
    forked = SignedRoster.make(ours, name, serial + 1, known.entries[:1])
    with pytest.raises(Refused, match="roster-forked"):
        not_older(forked, keyfiles.read_roster(folder, authority))


def test_an_answer_of_another_consortium_or_for_another_key_is_refused(trial: Path, tmp_path: Path) -> None:
    enrolment.init(tmp_path / "other", "other", NOW)
    asked = enrolment.read(enrolment.request(trial / "a", "a", fresh))
    with pytest.raises(UserError, match="another consortium"):
        enrolment.accept(trial / "a", enrolment.issue(tmp_path / "other", asked, NOW))
    theirs = enrolment.issue(trial / "operator", enrolment.read(enrolment.request(trial / "d", "d", fresh)), NOW)
    with pytest.raises(UserError, match="not for the key"):
        enrolment.accept(trial / "a", theirs)


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\xd8\x1c\x80", b"\x9f" * 100, bytes(1 << 16)])
def test_what_is_no_document_is_refused_in_one_line(trial: Path, damage: bytes) -> None:
    for read in (enrolment.read, lambda d: enrolment.accept(trial / "a", d), lambda d: enrolment.accept_roster(trial / "a", d)):
        with pytest.raises(UserError) as found:
            read(damage)
        assert "\n" not in str(found.value)


def test_every_spoiled_byte_of_a_roster_is_found(trial: Path) -> None:
    authority = keyfiles.read_certificate(trial / "a" / "ca.pem")
    document = keyfiles.read_roster(trial / "a", authority).document
    for at in range(len(document)):
        with pytest.raises(Refused):
            SignedRoster.read(document[:at] + bytes([document[at] ^ 1]) + document[at + 1 :], authority)


def test_a_roster_in_which_something_stands_twice_is_refused(trial: Path) -> None:
    ours = keyfiles.read_authority(trial / "operator")
    a, b = keyfiles.read_roster(trial / "a", ours.certificate).entries[1:3]
    SignedRoster.read(SignedRoster.make(ours, "trial", 9, (a, b)).document, ours.certificate)
    for double in (replace(b, name=a.name), replace(b, identity=a.identity), replace(b, certificates=a.certificates)):
        with pytest.raises(Refused, match="roster-form"):
            SignedRoster.read(SignedRoster.make(ours, "trial", 9, (a, double)).document, ours.certificate)
    for wrong in (replace(b, name="/etc"), replace(b, identity=b""), replace(b, part="server"), replace(b, certificates=())):
        with pytest.raises(Refused, match="roster-form"):
            SignedRoster.read(SignedRoster.make(ours, "trial", 9, (a, wrong)).document, ours.certificate)


def test_the_roster_decides_who_a_certificate_is(trial: Path) -> None:
    ours = keyfiles.read_authority(trial / "operator")
    known = keyfiles.read_roster(trial / "a", ours.certificate)
    der = keyfiles.read_certificate(trial / "b" / "tls.pem").public_bytes(keyfiles.serialization.Encoding.DER)
    assert known.of_certificate(der).name == "b"
    with pytest.raises(Refused, match="peer-revoked"):
        enrolment.revoke(trial / "operator", "b").of_certificate(der)
    with pytest.raises(Refused, match="peer-unknown"):
        SignedRoster.make(ours, "trial", 99, known.entries[:2]).of_certificate(der)
