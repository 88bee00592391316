"""Vectors declared dropped but kept, late, halved or repeated; garbage in one's own name; rounds that cannot be finished."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from adversary import (
    EVERYBODY,
    MAX_ABS,
    LyingServer,
    ending,
    faults,
    federation,
    pair_keys,
    rebuild,
    run,
    unmask,
)

from protocols import secagg, simulate
from protocols.agreement import Dropped
from protocols.bulk import Bulk, Packed
from protocols.errors import Abort, Misuse
from protocols.flow import Flow
from protocols.primitives.agree import KeyPair
from protocols.rand import Seed
from protocols.secagg_types import Covered, Masked, Openings, Sealed, Shared
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.vector import Vector

BAD, VICTIM = 6, 1


# A vector that is declared dropped but kept, or comes late, halved or twice


def test_a_vector_that_was_declared_dropped_stays_under_its_own_mask() -> None:
    """The others open s_sk of its party, never b: what is left is the input under one whole keystream."""
    fed = federation()
    server = LyingServer(fed)
    L = server.up_to_masks()
    server.agree_on((VICTIM,))
    server.open_all()
    opened = dict.fromkeys(EVERYBODY, EVERYBODY[1:])
    assert server.shares(VICTIM, "b", {}, opened) == {}
    s_sk = rebuild(server.shares(VICTIM, "s", {}, opened), fed.t)
    assert s_sk is not None
    own = KeyPair.from_secret(s_sk)
    assert own.public == server.publics[VICTIM]
    pairs = pair_keys(fed.terms, L, VICTIM, server.publics, {VICTIM: own})
    guess = unmask(fed.terms, L, VICTIM, server.all(Masked)[VICTIM], Seed(bytes(32)), pairs)
    assert guess != fed.vectors[VICTIM].tolist()
    assert server.tell(VICTIM, Dropped(()))
    assert server.tell(VICTIM, server.agreed((2, 3, 4, 5))) != []
    assert ending(server.sessions[VICTIM]) == ("agreed-signature", "open_shares")


def test_a_late_vector_is_thrown_away() -> None:
    fed, held = federation(), list[Letter]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender == client(BAD) and isinstance(letter.message, Masked):
            held.append(letter)
            return ()
        return (letter, *held) if isinstance(letter.message, Dropped) else (letter,)

    outcome = run(fed, network=network)
    assert set(faults(outcome)) == {("wire-late", "client 6", None)}
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


def test_a_vector_sent_twice_counts_once() -> None:
    fed = federation()
    outcome = run(fed, network=lambda letter: (letter,) * (2 if isinstance(letter.message, Masked) else 1))
    assert {check for check, _, _ in faults(outcome)} == {"wire-duplicate", "wire-late"}
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_half_a_vector_leaves_no_trace(part: float) -> None:
    fed, sessions = federation(size=500), dict[Address, Session]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != client(BAD) or not isinstance(letter.message, Masked):
            return (letter,)
        data = b"".join(letter.chunks())
        return [*sessions[SERVER].feed(client(BAD), data[: int(part * len(data))]), *sessions[SERVER].gone(client(BAD))]

    outcome = run(fed, network=network, sessions=sessions)
    assert faults(outcome) == []
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


# Garbage in one's own name


def garbage(place: int, value: int) -> Flow:
    """A party that adds ``value`` to one coordinate of what it signs."""

    def mask(shared: Shared, sealed: Sealed, x: Vector) -> tuple[Covered, Masked]:
        invited, parameters = shared.invited, shared.invited.terms.parameters
        covered, masked = secagg.mask(shared, sealed, x)
        y = masked.y.values.copy()
        y[place] += np.asarray(value).astype(y.dtype)
        bulk = Bulk.of(Packed(parameters.ring, parameters.size + 1), y)
        statement = invited.terms.statement("masked", invited.me, shared.L, list(sealed.u2), bulk.digest, masked.receipt)
        return covered, Masked(bulk, masked.receipt, invited.identity.sign(statement))

    return secagg.flow.replace(mask=mask)


@pytest.mark.parametrize(("place", "value", "check"), [(-1, 1, "sum-count"), (0, 7 * MAX_ABS, "sum-range")])
def test_garbage_in_ones_own_name_shows_in_count_and_range(place: int, value: int, check: str) -> None:
    outcome = run(federation(), flows={BAD: garbage(place, value)})
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == (check, "reveal")
    assert outcome.outputs == []


# A round that cannot be finished


@pytest.mark.parametrize(
    ("stage", "step"),
    [("Advert", "collect"), ("Boxes", "relay"), ("Masked", "survey"), ("Agree", "gather"), ("Openings", "reveal")],
)
def test_below_the_threshold_a_round_ends_in_a_typed_abort(stage: str, step: str) -> None:
    outcome = run(federation(), network=simulate.vanish({client(u): stage for u in (4, 5, 6)}))
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("quorum", step)


def test_a_party_that_gave_its_server_a_deadline_ends_at_it() -> None:
    """No step of a SecAgg party has one; a driver's copy of the flow may."""
    impatient = secagg.flow.swap(share=replace(secagg.flow.step("share"), within=5.0))
    session = federation().session(1, flow=impatient)
    session.begin()
    assert session.deadline == 5.0
    assert session.tick(4.9) == []
    assert session.ended is None
    session.tick(5.0)
    assert ending(session) == ("deadline", "share")


def test_a_party_whose_server_is_gone_ends() -> None:
    session = federation().session(1)
    session.begin()
    assert session.gone(SERVER) == []
    assert ending(session) == ("peer-gone", None)
    assert session.remembers == ()


def test_a_wrong_input_of_ones_own_ends_the_session_and_nothing_leaves() -> None:
    fed = federation()
    fed.vectors[1] = fed.vectors[1] * 0 + MAX_ABS + 1
    server = LyingServer(fed)
    server.up_to_boxes()
    with pytest.raises(Misuse, match="past max_abs"):
        server.tell(1, server.sealed(1))
    assert ending(server.sessions[1]) == ("misuse", None)
    assert server.all(Masked) == {}


def test_a_run_that_does_not_end_is_ended() -> None:
    with pytest.raises(Abort) as flood:
        simulate.run({client(1): federation().session(1)}, network=lambda letter: (letter,) * 100, max_deliveries=50)
    assert flood.value.check == "flood"


def test_the_state_after_masking_cannot_be_copied() -> None:
    """A session is not saved: its state holds keys that refuse to be copied."""
    import copy

    server = LyingServer(federation())
    server.up_to_masks()
    with pytest.raises(TypeError, match="never pickled or copied"):
        copy.deepcopy(server.sessions[1])
    assert server.all(Openings) == {}
