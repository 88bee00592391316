"""One session: any state × any bytes ends in a next state, a named refusal or an abort; waiting, inputs and the journal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SEEDS, client, identities, play, spoilt
from tapes import CASE, CUTS, ME, Delivery, at_state, check_sane, in_pieces, tape

from protocols.agreement import Agreed, Dropped
from protocols.errors import Misuse
from protocols.policy import MemoryJournal, Policy
from protocols.schema import Message
from protocols.secagg_types import Advert, Listed, Masked, Openings, Sealed
from protocols.session import SERVER, Address, Farewell, Letter, Session
from protocols.suite import Occasion
from protocols.sums import Party, client_session, scheme
from protocols.vector import Vector
from protocols.wire import encode

# A client, and a server that says something else


def acceptable(honest: Message, said: Message, me: int) -> bool:
    """Whether a client may go along with ``said``, where an honest server would say ``honest``."""
    t = CASE.parameters.threshold
    match honest, said:
        case Listed(a), Listed(b):
            indexes = [entry.index for entry in b]
            return set(b) <= set(a) and indexes == sorted(set(indexes)) and me in indexes and len(b) >= t
        case Dropped(), Dropped(b):
            return list(b) == sorted(set(b)) and set(b) <= {1, 2, 3, 4} - {me} and 4 - len(b) >= t
        case Agreed(a, _), Agreed(b, coverings):
            indexes = [signed.index for signed in b]
            return not coverings and set(b) <= set(a) and indexes == sorted(set(indexes)) and len(b) >= t
    return False


@given(st.integers(0, 3), st.data(), CUTS)
@settings(max_examples=250)
def test_a_client_refuses_every_spoilt_message_in_its_turn(count: int, data: st.DataObject, cuts: list[float]) -> None:
    session, honest = at_state(ME, count), [d.message for d in tape() if d.to == ME][count]
    said = data.draw(spoilt(honest, CASE.limits))
    letters = list[Letter]()
    for piece in in_pieces(b"".join(encode(said, 0, CASE.limits)), cuts):
        letters += session.feed(SERVER, piece)
    check_sane(session)
    if acceptable(honest, said, ME.index):
        assert session.ended is None
        assert session.faults == []
        assert len(letters) == 1
        assert not isinstance(letters[0].message, Farewell)
    else:
        assert session.ended is not None
        assert session.faults[-1].check == session.ended.check
        assert [type(letter.message) for letter in letters] == [Farewell]
        assert letters[0].to == (SERVER,)


@given(st.integers(0, 4), st.integers(0, 3), st.integers(0, 3), st.data())
@settings(max_examples=150)
def test_a_client_survives_messages_out_of_turn(count: int, which: int, epoch: int, data: st.DataObject) -> None:
    """Early, late and doubled messages, honest or spoilt: no exception, and no step runs twice."""
    session, honest = at_state(ME, count), [d.message for d in tape() if d.to == ME][which]
    said = data.draw(st.just(honest) | spoilt(honest, CASE.limits))
    letters = session.feed(SERVER, b"".join(encode(said, epoch, CASE.limits)))
    check_sane(session)
    if which < count and epoch == 0:
        assert letters == []
        assert session.ended is None
        assert session.faults[-1].check == "wire-late"
    elif epoch > (2 if which < count else 1):
        assert session.ended is not None
        assert session.ended.check == "wire-epoch"
    elif which != count or epoch != 0:
        assert letters == []
        again = session.feed(SERVER, b"".join(encode(said, epoch, CASE.limits)))
        assert again == []
        assert session.faults[-1].check == "wire-duplicate"
        check_sane(session)


@given(st.integers(0, 4), st.binary(max_size=60), st.data())
@settings(max_examples=150)
def test_random_bytes_from_the_server_end_a_client_or_are_waited_for(count: int, junk: bytes, data: st.DataObject) -> None:
    session = at_state(ME, count)
    letters = session.feed(SERVER, data.draw(st.sampled_from([junk, b"\x05\0\0\0" + junk, len(junk).to_bytes(4, "little") + junk])))
    check_sane(session)
    assert session.ended is None or session.ended.check.startswith("wire-")
    assert all(isinstance(letter.message, Farewell) for letter in letters)


@given(
    st.integers(0, 4),
    st.sampled_from([client(1), client(2), client(9), client(0), Address("server", 1), Address("helper"), Address("", -1)]),
    st.binary(),
)
@settings(max_examples=30)
def test_strangers_are_named_and_ignored(count: int, stranger: Address, junk: bytes) -> None:
    session = at_state(ME, count)
    before = session.remembers
    assert session.feed(stranger, junk) == []
    assert session.remembers == before
    assert session.ended is None
    assert [(fault.check, fault.sender) for fault in session.faults] == [("wire-stranger", str(stranger))]


def test_a_client_whose_server_is_gone_ends() -> None:
    session = at_state(ME, 1)
    session.gone(SERVER)
    check_sane(session)
    assert session.ended is not None
    assert session.ended.check == "peer-gone"


# The server's waiting


def adverts() -> list[Delivery]:
    return [d for d in tape() if isinstance(d.message, Advert)]


def test_a_step_runs_when_all_have_sent_and_not_before() -> None:
    server = CASE.session(SERVER)
    server.begin()
    for delivery in adverts()[:-1]:
        assert server.feed(delivery.sender, delivery.data) == []
    letters = server.feed(adverts()[-1].sender, adverts()[-1].data)
    assert [type(letter.message) for letter in letters] == [Listed]
    assert letters[0].to == tuple(map(client, (1, 2, 3, 4)))


def test_at_its_deadline_a_step_runs_with_a_quorum_or_the_session_ends() -> None:
    for arrived in range(4):
        server = CASE.session(SERVER)
        server.begin(100.0)
        for delivery in adverts()[:arrived]:
            server.feed(delivery.sender, delivery.data, 110.0)
        assert server.deadline == pytest.approx(160.0)
        assert server.tick(159.0) == []
        assert server.ended is None
        letters = server.tick(160.0)
        if arrived >= 3:
            assert [letter.to for letter in letters] == [tuple(map(client, (1, 2, 3)))]
        else:
            assert letters == []
            check_sane(server)
            assert server.ended is not None
            assert (server.ended.check, server.ended.step) == ("quorum", "collect")
            assert f"{arrived} Advert where 3 are needed" in str(server.ended)


def test_time_does_not_run_backwards() -> None:
    server = CASE.session(SERVER)
    server.begin(100.0)
    server.tick(0.0)
    assert server.deadline == pytest.approx(160.0)


def test_the_server_gives_up_when_nobody_is_left_to_wait_for() -> None:
    server = CASE.session(SERVER)
    server.begin()
    server.gone(client(1))
    assert server.ended is None
    for delivery in adverts()[2:]:
        server.feed(delivery.sender, delivery.data)
    server.gone(client(2))
    check_sane(server)
    assert server.ended is not None
    assert server.ended.check == "quorum"


def test_a_late_party_is_thrown_away() -> None:
    server = CASE.session(SERVER)
    server.begin()
    for delivery in adverts()[:3]:
        server.feed(delivery.sender, delivery.data)
    server.tick(60.0)
    assert server.feed(client(4), adverts()[3].data, 61.0) == []
    assert [(fault.check, fault.sender) for fault in server.faults] == [("wire-late", "client 4")]
    assert server.ended is None


@given(st.integers(1, 3))
def test_doubled_messages_count_once(times: int) -> None:
    server = CASE.session(SERVER)
    server.begin()
    for _ in range(times + 1):
        server.feed(client(1), adverts()[0].data)
    assert [(fault.check, fault.sender) for fault in server.faults] == [("wire-duplicate", "client 1")] * times
    for delivery in adverts()[1:3]:
        assert server.feed(delivery.sender, delivery.data) == []
    assert [letter.to for letter in server.feed(client(4), adverts()[3].data)] == [tuple(map(client, (1, 2, 3, 4)))]


def test_a_farewell_takes_a_party_out_and_is_remembered() -> None:
    server = CASE.session(SERVER)
    server.begin()
    server.feed(client(2), b"".join(encode(Farewell((3,)), 0, CASE.limits)))
    assert server.feed(client(2), adverts()[1].data) == []
    assert [(fault.check, fault.sender) for fault in server.faults] == [("wire-late", "client 2")]
    assert server.ended is None
    server.feed(client(4), b"".join(encode(Farewell(()), 0, CASE.limits)))
    assert server.accused == {client(2): 3, client(4): 0}
    assert server.ended is not None  # two of four are left, and three are needed: nothing to wait for
    assert server.ended.check == "quorum"


# What the driver gives


def test_input_may_come_early_or_late() -> None:
    late = CASE.session(ME)
    late.begin()
    for delivery in [d for d in tape() if d.to == ME][:2]:
        letters = late.feed(SERVER, delivery.data)
    assert letters == []
    letters = late.provide(CASE.vector(2))
    assert [type(letter.message) for letter in letters] == [Masked]
    honest = next(d for d in tape() if d.sender == ME and isinstance(d.message, Masked))
    assert b"".join(letters[0].chunks()) == honest.data


@given(SEEDS)
@settings(max_examples=5)
def test_input_that_is_not_awaited_is_misuse(seed: int) -> None:
    session = replace(CASE, seed=seed).session(ME)
    session.begin()
    with pytest.raises(Misuse, match="awaits a int"):
        session.provide(3)
    session.provide(CASE.vector(2))
    with pytest.raises(Misuse, match="already waiting"):
        session.provide(CASE.vector(2))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros(5, dtype=np.int64), "shape"),
        (np.zeros((1, 6), dtype=np.int64), "shape"),
        (np.zeros(6), "integer dtype"),
        (np.full(6, np.nan), "every value must be a whole number"),
        (np.zeros(6, dtype=bool), "integer dtype"),
        (np.full(6, 1001), "max_abs = 1000"),
        (np.full(6, -1001), "max_abs = 1000"),
        (np.full(6, 2**63, dtype=np.uint64), "max_abs = 1000"),
        (np.full(6, -(2**63)), "max_abs = 1000"),
    ],
)
def test_wrong_input_is_misuse_and_nothing_leaves(values: Any, says: str) -> None:
    session = CASE.session(ME)
    session.begin()
    for delivery in [d for d in tape() if d.to == ME][:2]:
        session.feed(SERVER, delivery.data)
    with pytest.raises(Misuse, match=says):
        session.provide(Vector(values))
    check_sane(session)
    assert session.ended is not None
    assert session.ended.check == "misuse"


def test_the_journal_is_asked_before_anything_leaves() -> None:
    journal, terms = MemoryJournal(), CASE.terms()

    def session(occasion: Occasion) -> Session:
        party = Party(2, identities(4)[2], Policy(), journal)
        return client_session(scheme("secagg"), party, replace(terms, occasion=occasion), entropy=CASE.entropy(2))

    first = session(CASE.occasion)
    assert journal.joined == {}
    assert [type(letter.message) for letter in first.begin()] == [Advert]
    assert journal.joined == {"test": (0, 0)}
    again = session(CASE.occasion)
    assert not [letter for letter in again.begin() if not isinstance(letter.message, Farewell)]
    assert again.ended is not None
    assert again.ended.check == "journal-replay"

    for delivery in [d for d in tape() if d.to == ME][:2]:
        first.feed(SERVER, delivery.data)
    assert journal.spent == {}
    assert [type(letter.message) for letter in first.provide(CASE.vector(2))] == [Masked]
    assert journal.spent == {"test": 0}
    retry = session(Occasion("test", 0, 1))
    assert not [letter for letter in retry.begin() if not isinstance(letter.message, Farewell)]
    assert retry.ended is not None
    assert retry.ended.check == "journal-spent"
    assert [type(letter.message) for letter in session(Occasion("test", 1)).begin()] == [Advert]


def test_a_masked_vector_does_not_leave_where_the_journal_refuses() -> None:
    """Two sessions of one round, joined one after the other: only one spends the input."""
    journal, terms, letters = MemoryJournal(), CASE.terms(), list[list[Letter]]()
    sessions = []
    for attempt in (0, 1):
        party = Party(2, identities(4)[2], Policy(), journal)
        at = replace(terms, occasion=Occasion("test", 0, attempt))
        sessions.append((client_session(scheme("secagg"), party, at, entropy=CASE.entropy(2)), attempt))
    for session, attempt in sessions:
        session.begin()
        for delivery in play(replace(CASE, occasion=Occasion("test", 0, attempt))).letters:
            if ME in delivery.to and isinstance(delivery.message, Listed | Sealed):
                session.feed(SERVER, b"".join(delivery.chunks()))
    for session, _ in sessions:
        letters.append(session.provide(CASE.vector(2)))
    assert [type(letter.message) for letter in letters[0]] == [Masked]
    assert [type(letter.message) for letter in letters[1]] == [Farewell]
    ended = sessions[1][0].ended
    assert ended is not None
    assert ended.check == "journal-spent"


def test_errors_name_who_where_and_which_check() -> None:
    def network(letter: Letter) -> tuple[Letter, ...]:
        if letter.sender == client(3) and isinstance(letter.message, Openings):
            return (replace(letter, message=replace(letter.message, shares=bytes(33))),)
        return (letter,)

    (fault,) = play(CASE, network=network).outcome.sessions[SERVER].faults
    assert str(fault) == "refused from client 3 in step reveal: openings-set (one share for each dealer in U2)"
    assert (fault.sender, fault.step, fault.check) == ("client 3", "reveal", "openings-set")
