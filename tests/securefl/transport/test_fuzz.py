"""Every decoder that bytes of others reach: what is damaged, random, or well-formed and senseless is read or refused; no crash.

Beside these: messages of the protocols (`protocols/test_wire.py`), canonical documents (`protocols/test_wire_canonical.py`),
bundles and decisions (`securefl/test_bundles.py`), health checks (`test_health.py`), answers of children
(`usercode/test_answers.py`), tapes, logs and evidence (`audit/test_tape_fuzz.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import Refused
from protocols.primitives.sign import SigningKey
from protocols.rand import Replay, fresh
from protocols.wire import canonical
from securefl.bundles.signed import Decision, SignedBundle
from securefl.errors import UserError
from securefl.transport import enrolment, keyfiles
from securefl.transport.desk_words import (
    ANSWERED,
    ASKED,
    MOST_ANSWERED,
    Fetch,
    Handed,
    Item,
    List,
    Listed,
    Said,
    Submit,
    Taken,
    Tell,
    hear,
)
from securefl.transport.envelope import FROM_PARTY, FROM_SERVER, Convene, Dismiss, Hello, Invite, Welcome, control, read
from securefl.transport.roster import FORMAT, SignedRoster

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FEW = settings(max_examples=300)

TREES = st.recursive(
    st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=12),
    lambda parts: st.lists(parts, max_size=5),
    max_leaves=12,
)


DAMAGE = st.lists(
    st.tuples(st.sampled_from(["change", "cut", "insert"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=4,
)


def spoilt(whole: bytes, damage: list[tuple[str, float, bytes]]) -> bytes:
    """A document with some bytes changed, cut out or put in."""
    raw = bytearray(whole)
    for how, where, what in damage:
        at = int(where * max(len(raw) - 1, 0))
        if how == "insert":
            raw[at:at] = what
        else:
            raw[at : at + len(what)] = what if how == "change" else b""
    return bytes(raw)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "keys"
    enrolment.make_all(folder, ["a", "b", "c"], Replay("fuzz"), NOW, ["localhost"])
    return folder


WORDS = [
    Hello(1, "securefl", bytes(32), 1), Welcome(1, "run", b"roster"), Convene(1, "round", 2, 0), Invite(1, "round", 2, 0, b"\x05"),
    Dismiss("net-job", "another"), Submit(1, b"bundle"), Fetch(1, bytes(32)), Tell(1, b"decision"), List(1),
    Taken(bytes(32), "ada"), Handed(b"bundle", b"roster"),
    Listed(b"", b"r", (Item(bytes(32), "ada", "a study", "2026-01-02", (Said("b", "refused"),)),)),
]  # fmt: skip


@given(
    st.builds(lambda word, damage: spoilt(control(word), damage), st.sampled_from(WORDS), DAMAGE)
    | TREES.map(lambda tree: b"\0" + canonical(tree))
)
@FEW
def test_words_on_the_port(data: bytes) -> None:
    for kinds in (FROM_PARTY, FROM_SERVER, ASKED, ANSWERED):
        with suppress(Refused):
            read(data, kinds)
        with suppress(Refused):
            hear(data, kinds, MOST_ANSWERED)


KEY = SigningKey.generate(Replay("applicant")(), "identity")
EXTENSIONS = (None, x509.SubjectAlternativeName([x509.DNSName("x.org")]), x509.OCSPNoCheck())


def csr(folder: Path, extension: x509.ExtensionType | None) -> bytes:
    """A request for a certificate of ``d``."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "d")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name)
    made = made if extension is None else made.add_extension(extension, critical=False)
    return made.sign(keyfiles.read_tls_key(folder / "b" / keyfiles.TLS_KEY), hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def known(trial: Path) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """A good document of each kind, and what reads it."""
    authority = keyfiles.read_certificate(trial / "a" / keyfiles.CA)
    asked = enrolment.request(trial / "a", "a", fresh)
    answer = enrolment.issue(trial / "operator", enrolment.read(asked), NOW)
    return {
        "answer": (answer, lambda data: enrolment.accept(trial / "a", data)),
        "answer or roster": (answer, enrolment.is_answer),
        "bundle": (canonical([b"content", "a", bytes(64)]), lambda data: SignedBundle.read(data, authority)),
        "decision": (canonical([b"content", bytes(64)]), lambda data: Decision.read(data, authority)),
        "request": (asked, enrolment.read),
        "roster": ((trial / "a" / keyfiles.ROSTER).read_bytes(), lambda data: SignedRoster.read(data, authority)),
    }


KINDS = ("answer", "answer or roster", "bundle", "decision", "request", "roster")


@given(st.sampled_from(KINDS), DAMAGE, st.none() | st.binary(max_size=200) | TREES.map(canonical))
@FEW
def test_documents_that_travel_by_hand_or_by_the_port(
    known: dict[str, tuple[bytes, Callable[[bytes], object]]],
    kind: str,
    damage: list[tuple[str, float, bytes]],
    other: bytes | None,
) -> None:
    whole, take = known[kind]
    with suppress(Refused, UserError):
        take(spoilt(whole, damage) if other is None else other)


@pytest.fixture(scope="module")
def requests(trial: Path) -> list[bytes]:
    return [csr(trial, extension) for extension in EXTENSIONS]


@given(
    st.integers(0, len(EXTENSIONS) - 1),
    DAMAGE,
    st.sampled_from(["party", "author", "server", "operator"]),
    st.none() | st.tuples(st.integers(0, 4), TREES),
)
@FEW
def test_a_request_that_its_maker_signed_whatever_is_in_it(
    requests: list[bytes], which: int, damage: list[tuple[str, float, bytes]], part: str, other: tuple[int, Any] | None
) -> None:
    """Who asks for a certificate signs with its own keys: no signature stands before its certificate request is read."""
    fields = [enrolment.REQUEST, "d", part, KEY.public, spoilt(requests[which], damage)]
    if other is not None:
        fields[other[0]] = other[1]
    content = canonical(fields)
    with suppress(UserError):
        enrolment.read(canonical([content, KEY.sign(content)]))


@given(TREES)
@FEW
def test_a_roster_that_its_consortium_signed_whatever_is_in_it(trial: Path, tree: Any) -> None:
    """The operator's own mistake, or a later version's roster."""
    ours = keyfiles.read_authority(trial / "operator")
    known = keyfiles.read_roster(trial / "a", ours.certificate).entries[1].content
    for content in (tree, [FORMAT, "trial", 1, tree], [FORMAT, "trial", 1, [[*known[:3], tree, 0]]]):
        with suppress(Refused):
            SignedRoster.read(canonical([canonical(content), ours.sign(canonical(content))]), ours.certificate)
