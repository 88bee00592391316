"""Evidence: what convicts a liar to a third party, and that nothing does so to an honest party."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from adversary import EVERYBODY, Federation, LyingServer, federation, run
from hypothesis import given, settings
from hypothesis import strategies as st
from kahe_adversary import enciphered
from lies import LIAR, flipped, telling
from sparse_server import world
from test_adv_liars import advert, with_other_share

from protocols.bulk import Bulk
from protocols.errors import Refused
from protocols.evidence import (
    KINDS,
    Evidence,
    check_evidence,
    dealing_refused,
    held_by,
    keeps_own,
    keys_refused,
    other_share,
    two_statements,
)
from protocols.kahe_types import Enciphered
from protocols.primitives.shamir import SHARE_SIZE
from protocols.said import Said
from protocols.schema import Message
from protocols.secagg_labels import share_statement
from protocols.secagg_types import BOX, Advert, Boxes, Listed, Masked, Openings, Sealed
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.statements import Told, statement
from protocols.wire import control_bytes

FED = federation()
OPENER = 2
"""One of the first four, whose shares are put together."""


def letters_of(fed: Federation) -> list[Letter]:
    """Everything that an honest run delivers."""
    out = list[Letter]()

    def watch(letter: Letter, _to: Address, _size: int) -> None:
        out.append(letter)

    run(fed, watch=watch)
    return out


def said_by(fed: Federation, u: int, letters: Iterable[Letter] | None = None) -> dict[type, Said]:
    """What an honest party signs in a sum, by message."""
    told, said = Told(), dict[type, Said]()
    for letter in letters_of(fed) if letters is None else letters:
        kind, fields = type(letter.message), vars(letter.message)
        if letter.sender == SERVER and u in {to.index for to in letter.to}:
            told = told.after(kind, fields)
        elif letter.sender.index == u:
            digests = {name: value.digest for name, value in fields.items() if isinstance(value, Bulk)}
            content = statement(fed.terms, u, told, kind, fields, digests)
            assert content is not None
            said[kind] = Said(content, fields["signature"])
    return said


HONEST = said_by(FED, 3)
MAIL = next(x.message.hashes for x in letters_of(FED) if isinstance(x.message, Sealed) and x.to[0].index == 3)
PINNED = next(x.message.hashes for x in letters_of(FED) if isinstance(x.message, Boxes) and x.sender.index == 3)
LIST = next(control_bytes(x.message) for x in letters_of(FED) if isinstance(x.message, Listed))


def test_every_statement_of_an_honest_party_is_put_together_from_the_traffic() -> None:
    assert list(HONEST) == [Advert, Boxes, Masked, *[kind for kind in HONEST if kind.__name__ == "Agree"], Openings]
    assert all(said.holds(FED.terms.roster.identity(3)) for said in HONEST.values())


# Liars


@pytest.mark.parametrize("dealers", [(1,), (OPENER,)])
def test_an_opener_of_another_share_leaves_evidence_that_a_third_party_can_check(dealers: tuple[int, ...]) -> None:
    outcome = run(FED, network=with_other_share(FED, OPENER, dealers=dealers))
    (fault,) = outcome.sessions[SERVER].faults
    assert fault.check == "openings-share-hash"
    assert fault.evidence is not None
    assert check_evidence(fault.evidence, FED.terms) == (
        f"party {OPENER} (party-{OPENER}) opened another share of party {dealers[0]}'s secret than the one whose hash it had signed"
    )


def test_without_a_signature_there_is_no_evidence() -> None:
    outcome = run(FED, network=with_other_share(FED, OPENER, signed=False))
    (fault,) = outcome.sessions[SERVER].faults
    assert (fault.check, fault.evidence) == ("openings-signature", None)
    (fault,) = telling(FED, flipped, Advert).sessions[SERVER].faults
    assert (fault.check, fault.evidence) == ("advert-signature", None)


def test_an_abort_for_want_of_good_shares_carries_the_evidence() -> None:
    first, second, third = (with_other_share(FED, liar) for liar in (4, 5, 6))

    def network(letter: Letter) -> Iterable[Letter]:
        for one in first(letter):
            for two in second(one):
                yield from third(two)

    abort = run(FED, network=network).abort
    assert abort is not None
    assert abort.check == "openings-few"
    assert [fault.evidence.accused for fault in abort.faults if fault.evidence] == [4, 5, 6]
    assert all(check_evidence(fault.evidence, FED.terms) for fault in abort.faults if fault.evidence)


@pytest.mark.parametrize("key", [bytes(32), (2**255 - 10).to_bytes(32, "little")])
def test_signed_keys_that_are_refused_are_evidence(key: bytes) -> None:
    (fault,) = telling(FED, advert(s_pk=key), Advert).sessions[SERVER].faults
    assert fault.evidence is not None
    assert "signed public keys that are refused: public-key-" in check_evidence(fault.evidence, FED.terms)


def dealing(fed: Federation, hashes: slice, *, own: bytes | None = None) -> Callable[..., Message]:
    """Other share hashes under the dealer's own good signature."""

    def lie(message: Message, _session: Session, _fed: Federation) -> Message:
        assert isinstance(message, Boxes)
        changed = replace(message, hashes=message.hashes[hashes], own_hash=message.own_hash if own is None else own)
        content = share_statement(fed.terms, LIAR, L, changed.commitment, changed.own_hash, changed.hashes)
        return replace(changed, signature=fed.parties[LIAR].identity.sign(content))

    L = LyingServer(fed).up_to_masks()
    return lie


@pytest.mark.parametrize(
    ("lie", "what"),
    [
        (dealing(FED, slice(64, None)), "share hashes for 4 others, where there are 5"),
        (dealing(FED, slice(None), own=b""), "a hash of a share of its own where none is kept, or none where one is"),
    ],
)
def test_signed_share_hashes_that_are_refused_are_evidence(lie: Callable[..., Message], what: str) -> None:
    (fault,) = telling(FED, lie, Boxes).sessions[SERVER].faults
    assert fault.check in ("boxes-set", "boxes-own")
    assert fault.evidence is not None
    assert check_evidence(fault.evidence, FED.terms) == f"party 6 (party-6) signed {what}"
    for other in ({"list": fault.evidence.given["list"] + b" "}, {"hashes": bytes(320)}, {"list": b""}):
        with pytest.raises(Refused) as error:
            check_evidence(replace(fault.evidence, given={**fault.evidence.given, **other}), FED.terms)
        assert error.value.check == "evidence-proof"


def test_boxes_too_few_are_no_evidence_as_nobody_signed_them() -> None:
    (fault,) = telling(FED, lambda message, *_: replace(message, boxes=message.boxes[BOX:]), Boxes).sessions[SERVER].faults
    assert (fault.check, fault.evidence) == ("boxes-set", None)


def test_two_statements_of_one_round_are_evidence() -> None:
    other = FED.terms.statement("agree", 3, HONEST[Masked].parts[3], EVERYBODY[:-1])
    said = [said for kind, said in HONEST.items() if kind.__name__ == "Agree"]
    evidence = two_statements(3, said[0], Said(other, FED.parties[3].identity.sign(other)))
    assert check_evidence(evidence, FED.terms) == "party 3 (party-3) signed two different statements 'agree' in one session"


@pytest.mark.parametrize("u", EVERYBODY)
def test_whoever_signs_two_lists_of_survivors_is_convicted(u: int) -> None:
    L = HONEST[Masked].parts[3]
    one, other = (
        Said(content, FED.parties[u].identity.sign(content))
        for content in (FED.terms.statement("agree", u, L, survivors) for survivors in (EVERYBODY, EVERYBODY[:-1]))
    )
    assert check_evidence(two_statements(u, one, other), FED.terms).startswith(f"party {u} (party-{u}) signed two different")


# Shares, wherever they lie among those that are opened


def all_opened(fed: Federation, lost: int) -> Iterator[tuple[int, int, Callable[[Said], Evidence], Said]]:
    """Of a sum that lost one party after it dealt: opener, dealer, evidence from what is said to be opened, what was opened."""
    letters, said = list[Letter](), dict[int, dict[type, Said]]()
    mute = client(lost)
    network = lambda x: () if x.sender == mute and type(x.message) in (Masked, Enciphered) else (x,)  # noqa: E731
    run(fed, network=network, watch=lambda letter, _to, _size: letters.append(letter))
    for u in fed.parties:
        said[u] = said_by(fed, u, letters)
    for u in fed.parties:
        if u == lost:
            continue
        mail = next(x.message.hashes for x in letters if isinstance(x.message, Sealed) and client(u) in x.to)
        summed, opening, dealt = said[u].get(Masked) or said[u][Enciphered], said[u][Openings], said[u][Boxes]
        u2 = tuple(summed.parts[4])
        for v in [*held_by(fed.terms, summed.parts[3], u, u2), *[u] * keeps_own(fed.terms)]:
            made = partial(other_share, u, v, summed, dealing=dealt if u == v else None, hashes=b"" if u == v else mail)
            yield u, v, made, opening


@pytest.mark.parametrize("fed", [FED, world(12, 6, 1), enciphered()], ids=["complete", "sparse", "enciphered"])
def test_every_share_convicts_its_opener_exactly_where_another_was_opened(fed: Federation) -> None:
    """Those of the dropped party's key among them."""
    lost, seen = 2, set[int]()
    for u, v, made, opening in all_opened(fed, lost):
        with pytest.raises(Refused, match="the share is the one that was accepted"):
            check_evidence(made(opening), fed.terms)
        tag, _, _, *rest, shares = opening.parts
        changed = fed.terms.statement(tag, u, *rest, bytes(len(shares)))
        lied = Said(changed, fed.parties[u].identity.sign(changed))
        assert f"opened another share of party {v}'s secret" in check_evidence(made(lied), fed.terms)
        seen.add(v)
    assert seen == set(fed.parties)


@pytest.mark.parametrize("fed", [FED, world(12, 6, 1), enciphered()], ids=["complete", "sparse", "enciphered"])
def test_no_good_dealing_convicts_its_dealer(fed: Federation) -> None:
    letters = letters_of(fed)
    listed = next(control_bytes(x.message) for x in letters if isinstance(x.message, Listed))
    dealt = {x.sender.index: x.message for x in letters if isinstance(x.message, Boxes)}
    assert set(dealt) == set(fed.parties)
    for u in (1, len(fed.parties)):
        with pytest.raises(Refused, match="a dealing that nothing is wrong with"):
            check_evidence(dealing_refused(u, said_by(fed, u, letters)[Boxes], dealt[u].hashes, listed), fed.terms)


def test_shares_opened_under_another_list_are_not_held_to_the_hashes_of_this_one() -> None:
    tag, _, u, _, *rest = HONEST[Openings].parts
    elsewhere = FED.terms.statement(tag, u, bytes(32), *rest)
    opening = Said(elsewhere, FED.parties[3].identity.sign(elsewhere))
    with pytest.raises(Refused) as error:
        check_evidence(other_share(3, 1, HONEST[Masked], opening, hashes=MAIL), FED.terms)
    assert error.value.check == "evidence-proof"


# Honest parties


FALSE = {
    "the same statement twice": two_statements(3, HONEST[Masked], HONEST[Masked]),
    "statements of two rounds": two_statements(3, HONEST[Boxes], HONEST[Masked]),
    "good keys": keys_refused(3, HONEST[Advert]),
    "keys that are none": keys_refused(3, HONEST[Masked]),
    "the share that was accepted": other_share(3, 1, HONEST[Masked], HONEST[Openings], hashes=MAIL),
    "the own share that was hashed": other_share(3, 3, HONEST[Masked], HONEST[Openings], dealing=HONEST[Boxes]),
    "other hashes": other_share(3, 1, HONEST[Masked], HONEST[Openings], hashes=bytes(len(MAIL))),
    "a dealing where none is due": other_share(3, 1, HONEST[Masked], HONEST[Openings], dealing=HONEST[Boxes], hashes=MAIL),
    "no dealing where one is due": other_share(3, 3, HONEST[Masked], HONEST[Openings], hashes=MAIL),
    "a dealer that is none": other_share(3, 9, HONEST[Masked], HONEST[Openings], hashes=MAIL),
    "a good dealing": dealing_refused(3, HONEST[Boxes], PINNED, LIST),
    "a dealing over another list": dealing_refused(3, HONEST[Boxes], PINNED, LIST[:-1]),
    "a dealing of other hashes": dealing_refused(3, HONEST[Boxes], PINNED[64:], LIST),
    "nothing": Evidence("share", 3, ()),
    "no kind": Evidence("being odd", 3, (HONEST[Masked],)),
    "nobody": two_statements(7, HONEST[Boxes], HONEST[Masked]),
}


@pytest.mark.parametrize("what", FALSE)
def test_what_an_honest_party_signs_convicts_it_of_nothing(what: str) -> None:
    with pytest.raises(Refused) as error:
        check_evidence(FALSE[what], FED.terms)
    assert error.value.check == "evidence-proof"


def test_statements_of_another_session_or_party_are_refused() -> None:
    later = said_by(FED.at(round=1), 3)
    for evidence in (two_statements(3, HONEST[Advert], later[Advert]), two_statements(4, HONEST[Advert], later[Advert])):
        with pytest.raises(Refused) as error:
            check_evidence(evidence, FED.terms)
        assert error.value.check == "evidence-session"


def test_what_the_accused_did_not_sign_is_refused() -> None:
    other = FED.terms.statement("keys", 3, bytes(32), bytes(32))
    for key in (FED.parties[4].identity.sign(other), bytes(64)):
        with pytest.raises(Refused) as error:
            check_evidence(keys_refused(3, Said(other, key)), FED.terms)
        assert error.value.check == "evidence-signature"


def test_a_statement_is_known_by_its_hash() -> None:
    said = HONEST[Advert]
    assert said.digest == hashlib.sha256(said.statement).digest()


NO_STATEMENTS = {
    "nothing": b"",
    "no list": b"\x01",
    "no tag": b"\x83\x01\x02\x03",
    "not CBOR": b"\xff" * 20,
    "a list without a length": b"\x84dkeysB00\x03\x9f\xff",
    "a number in two bytes where one would do": b"\x84dkeysB00\x18\x03\x80",
    "a key twice": b"\x84dkeysB00\x03\xa2\x01\x02\x01\x03",
    "lists in lists": b"\x84dkeysB00\x03\x81\x81\x81\x81\x80",
}


@pytest.mark.parametrize("content", list(NO_STATEMENTS.values()), ids=list(NO_STATEMENTS))
def test_bytes_that_are_no_statement_are_refused(content: bytes) -> None:
    with pytest.raises(Refused) as error:
        check_evidence(keys_refused(3, Said(content, FED.parties[3].identity.sign(content))), FED.terms)
    assert error.value.check == "evidence-statement"


@settings(max_examples=150)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    said=st.lists(st.sampled_from(sorted(HONEST.values(), key=lambda said: said.statement)), max_size=3),
    dealer=st.integers(0, 8),
    hashes=st.sampled_from([MAIL, MAIL[64:], PINNED, b"", bytes(len(MAIL))]),
)
def test_no_choice_of_what_an_honest_party_signed_convicts_it(kind: str, said: list[Said], dealer: int, hashes: bytes) -> None:
    evidence = Evidence(kind, 3, tuple(said), {"dealer": dealer.to_bytes(2, "big"), "hashes": hashes, "list": LIST})
    with pytest.raises(Refused):
        check_evidence(evidence, FED.terms)


def test_control_were_u2_not_taken_from_what_was_signed_an_honest_opener_would_be_framed() -> None:
    """The place of a share among those opened follows from U2: with a U2 of the accuser's choice it is another share's."""
    shares = HONEST[Openings].parts[5]
    assert len(shares) == SHARE_SIZE * 6
    _, sid, u, L, u2, vector, receipt = HONEST[Masked].parts
    statement_over_fewer = FED.terms.statement("masked", 3, L, tuple(u2[1:]), vector, receipt)
    forged = Said(statement_over_fewer, FED.parties[3].identity.sign(statement_over_fewer))  # only its own key could
    assert "opened another share" in check_evidence(other_share(3, 2, forged, HONEST[Openings], hashes=MAIL), FED.terms)
    with pytest.raises(Refused):
        check_evidence(
            other_share(3, 2, replace(forged, signature=HONEST[Masked].signature), HONEST[Openings], hashes=MAIL), FED.terms
        )
    assert (sid, u) == (FED.terms.sid, 3)


def test_evidence_opens_no_more_than_its_accused_has_opened() -> None:
    outcome = run(FED, network=with_other_share(FED, OPENER))
    (fault,) = outcome.sessions[SERVER].faults
    assert fault.evidence is not None
    data = b"".join(said.statement + said.signature for said in fault.evidence.said) + b"".join(fault.evidence.given.values())
    opened = {
        u: next(x.message.shares for x in letters_of(FED) if isinstance(x.message, Openings) and x.sender.index == u)
        for u in (1, 3)
    }
    assert not any(shares[i : i + SHARE_SIZE] in data for shares in opened.values() for i in range(0, len(shares), SHARE_SIZE))
    server = LyingServer(FED)
    server.up_to_masks()
    secrets = [state.b.reveal() for session in server.sessions.values() for state in session.remembers if hasattr(state, "b")]
    assert not any(secret in data for secret in secrets)
