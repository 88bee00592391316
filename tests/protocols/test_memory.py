"""What a thief of a party's memory would find: after masking no key pair, seed, randomness or input, only the signing key."""

from __future__ import annotations

import copy
import gc
import pickle
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from strategies import Case, client, identities, play, simple_case

from protocols.flow import Flow
from protocols.policy import MemoryJournal, Policy
from protocols.primitives.agree import KeyPair
from protocols.primitives.sign import SigningKey
from protocols.rand import Key, Rand, Replay, Seed, fresh
from protocols.secagg_types import BOX, Advertised, Consenting, Covered, Finished, Held, Invited, Masked, Sealed, Shared
from protocols.session import SERVER, Letter, Session
from protocols.sums import Party, client_session, scheme
from protocols.vector import Vector

ME = client(2)
CASE = Case(simple_case(4, 64).parameters, {u: [(u * 7919 + i * 104729) % 1999 - 999 for i in range(64)] for u in range(1, 5)})


def referents(thing: object) -> Iterator[object]:
    """What ``thing`` holds: all that the collector sees, without going into code, classes and modules; and who owns its memory."""
    if isinstance(thing, type | types.ModuleType | types.CodeType | str | int | float):
        return
    if isinstance(thing, types.FunctionType):  # not its globals
        yield from (thing.__closure__, thing.__defaults__, thing.__kwdefaults__, thing.__dict__)
        return
    yield from gc.get_referents(thing)
    if isinstance(thing, np.ndarray):
        yield thing.base
        if thing.dtype == object:
            yield from thing.flat
    if isinstance(thing, memoryview):
        yield thing.obj
    for kind in type(thing).__mro__:  # slots, should the collector not see an object
        for name in (
            [kind.__dict__.get("__slots__", ())]
            if isinstance(kind.__dict__.get("__slots__", ()), str)
            else kind.__dict__.get("__slots__", ())
        ):
            if isinstance(kind.__dict__.get(name), types.MemberDescriptorType):
                yield getattr(thing, name, None)
    if isinstance(thing, BaseException):
        yield from (thing.__traceback__, thing.__context__, thing.__cause__)


def reachable(root: object) -> list[object]:
    seen, todo, out = set[int](), [root], list[object]()
    while todo:
        thing = todo.pop()
        if id(thing) not in seen:
            seen.add(id(thing))
            out.append(thing)  # kept alive, so that ids stay distinct
            todo.extend(referents(thing))
    return out


FORBIDDEN = (KeyPair, X25519PrivateKey, Seed, Key, Rand, Vector)


def kinds(things: list[object]) -> set[type]:
    return {kind for kind in (*FORBIDDEN, SigningKey, Ed25519PrivateKey) for thing in things if isinstance(thing, kind)}


def buffers(things: list[object]) -> Iterator[bytes]:
    for thing in things:
        if isinstance(thing, np.ndarray) and thing.dtype != object:
            yield thing.tobytes()
        elif isinstance(thing, bytes | bytearray | memoryview):
            yield bytes(thing)


def finds(things: list[object], secret: bytes) -> bool:
    return any(secret in buffer for buffer in buffers(things))


@dataclass
class Secrets:
    """What the party must forget, taken from it while it still had it."""

    values: dict[str, bytes]

    def found(self, root: object) -> set[str]:
        things = reachable(root)
        return {name for name, secret in self.values.items() if finds(things, secret)}


class Walkthrough:
    """One honest run in which `ME` is watched; its randomness comes from the operating system and nothing keeps it."""

    def __init__(self, *, journal: MemoryJournal | None = None, network: Callable[[Letter], Letter] | None = None) -> None:
        identity = identities(4)[2]
        party = Party(2, identity, Policy(), journal or MemoryJournal())
        self.me = client_session(scheme("secagg"), party, CASE.terms(), entropy=fresh)
        self.others = {a: CASE.session(a) for a in CASE.everybody if a != ME}
        self.held = list[tuple[str, Letter]]()
        self._network = network or (lambda letter: letter)
        for session in self.others.values():
            self._post(session.begin())
        for u, session in self.others.items():
            if u != SERVER:
                self._post(session.provide(CASE.vector(u.index)))
        self._post(self.me.begin())

    def _post(self, letters: list[Letter]) -> None:
        for letter in letters:
            passed = self._network(letter)
            data = b"".join(passed.chunks())
            for to in passed.to:
                if to == ME:
                    self.held.append((type(passed.message).__name__, data))  # type: ignore[arg-type]
                else:
                    self._post(self.others[to].feed(passed.sender, data))

    def step(self) -> str:
        """Give `ME` the next message that waits for it; its name."""
        name, data = self.held.pop(0)
        self._post(self.me.feed(SERVER, data))  # type: ignore[arg-type]
        return name

    def provide(self) -> None:
        self._post(self.me.provide(CASE.vector(2)))

    def secrets(self) -> Secrets:
        """Taken from the state `Shared`; ``x`` as given, and lifted to the ring."""
        (shared,) = [value for value in self.me.remembers if isinstance(value, Shared)]
        x = np.array(CASE.inputs[2], dtype=np.int64)
        return Secrets(
            {
                "c_sk": bytes(bytearray(shared.c.secret().reveal())),
                "s_sk": bytes(bytearray(shared.s.secret().reveal())),
                "b": bytes(bytearray(shared.b.reveal())),
                "x": x.tobytes(),
                "x in the ring": CASE.parameters.ring.lift(x).tobytes(),
            }
        )


def test_before_masking_the_walk_finds_everything_and_after_masking_the_signing_key_alone() -> None:
    walk = Walkthrough(journal=MemoryJournal())
    assert kinds(reachable(walk.me)) == {KeyPair, X25519PrivateKey, Seed, SigningKey, Ed25519PrivateKey}
    assert walk.step() == "Listed"
    vector = CASE.vector(2)
    walk._post(walk.me.provide(vector))
    secrets = walk.secrets()
    assert kinds(reachable(walk.me)) == {KeyPair, X25519PrivateKey, Seed, Vector, SigningKey, Ed25519PrivateKey}
    assert secrets.found(walk.me) == {"c_sk", "s_sk", "b", "x"}

    assert walk.step() == "Sealed"
    for state in (Covered, Consenting):
        assert [type(value) for value in walk.me.remembers] == [state]
        assert kinds(reachable(walk.me)) == {SigningKey, Ed25519PrivateKey}
        assert secrets.found(walk.me) == set()
        walk.step()
    assert [type(value) for value in walk.me.remembers] == [Finished]
    assert kinds(reachable(walk.me)) == set()
    assert secrets.found(walk.me) == set()
    assert walk.others[SERVER].outputs[0].values.tolist() == CASE.sum_over([1, 2, 3, 4])


def test_before_the_vector_is_made_no_input_is_there_and_the_walk_sees_randomness_that_is_kept() -> None:
    """Control for the two kinds that an honest session holds never or only by the driver's hand."""
    walk = Walkthrough()
    assert not {Rand, Vector} & kinds(reachable(walk.me))
    replayed = CASE.session(ME)
    assert Rand in kinds(reachable(replayed))
    rand = Rand(Seed(bytes(range(32))))
    assert finds(reachable(lambda: rand), bytes(range(32)))
    assert finds(reachable({"a": [(np.arange(9)[2:5],)]}), np.arange(9).tobytes())
    assert finds(reachable(memoryview(b"needle here")), b"needle")


def test_the_input_that_comes_last_is_forgotten_as_well() -> None:
    walk = Walkthrough()
    walk.step()
    secrets = walk.secrets()
    walk.step()
    walk.provide()
    assert [type(value) for value in walk.me.remembers] == [Covered]
    assert secrets.found(walk.me) == set()
    assert kinds(reachable(walk.me)) == {SigningKey, Ed25519PrivateKey}


@pytest.mark.parametrize("spoil", ["box", "u2", "cohort"])
def test_a_party_that_leaves_in_the_masking_step_forgets_everything(spoil: str) -> None:
    """The refusal is raised with keys, seed and input in scope; neither it nor its traceback may keep them."""

    def network(letter: Letter) -> Letter:
        message = letter.message
        if not (isinstance(message, Sealed) and ME in letter.to):
            return letter
        if spoil == "box":
            boxes = message.boxes[:BOX] + bytes(BOX) + message.boxes[2 * BOX :]
            return replace(letter, message=replace(message, boxes=boxes))
        return replace(letter, message=replace(message, u2=message.u2[:-1] if spoil == "u2" else (1, 2)))

    walk = Walkthrough(network=network)
    walk.step()
    secrets = walk.secrets()
    walk.provide()
    walk.step()
    assert walk.me.ended is not None
    assert walk.me.ended.check == {"box": "box-opens", "u2": "sealed-boxes", "cohort": "sealed-cohort"}[spoil]
    assert walk.me.remembers == ()
    assert secrets.found(walk.me) == set()
    assert kinds(reachable(walk.me)) == set()


def test_the_server_keeps_nothing_of_a_message_that_it_refused() -> None:
    """A fault is a line of text: it holds no frame, and with it no vector and no state."""

    def network(letter: Letter) -> tuple[Letter, ...]:
        if isinstance(letter.message, Masked) and letter.sender == client(3):
            return (replace(letter, message=replace(letter.message, signature=bytes(64))),)
        return (letter,)

    server = play(CASE, network=network).outcome.sessions[SERVER]
    assert [fault.check for fault in server.faults] == ["masked-signature"]
    for fault in server.faults:
        assert not any(isinstance(thing, np.ndarray | Session | Flow | types.FrameType) for thing in reachable(fault))


# Printing


def shown(thing: object) -> str:
    return " ".join([repr(thing), str(thing), f"{thing}", f"{thing!r:>10}"])


def spellings(secret: bytes) -> list[str]:
    return [
        secret.hex(),
        secret.hex().upper(),
        repr(secret)[2:-1],
        str(list(secret))[1:-1],
        str(int.from_bytes(secret, "big")),
        str(int.from_bytes(secret, "little")),
    ]


def states() -> list[tuple[object, list[bytes]]]:
    """Every state of one party, with the secret bytes that it holds."""
    walk, out = Walkthrough(), list[tuple[object, list[bytes]]]()
    (advertised,) = walk.me.remembers
    assert isinstance(advertised, Advertised)
    out += [(advertised.invited, []), (advertised, [advertised.c.secret().reveal(), advertised.s.secret().reveal()])]
    walk.step()
    (shared,) = walk.me.remembers
    assert isinstance(shared, Shared)
    out.append((shared, [shared.c.secret().reveal(), shared.s.secret().reveal(), shared.b.reveal(), shared.own_share]))
    walk.provide()
    for kind in (Covered, Consenting):
        walk.step()
        (state,) = walk.me.remembers
        assert isinstance(state, kind)
        assert isinstance(state, Covered | Consenting)
        shares = [share for held in state.held.values() for share in (held.s_share, held.b_share) if share is not None]
        assert len(shares) == 2 * 4 - 1
        out.append((state, shares))
        out += [(held, [held.b_share]) for held in state.held.values()]
    walk.step()
    return [*out, *((value, []) for value in walk.me.remembers)]


def test_no_state_prints_a_secret() -> None:
    everything = states()
    assert {type(state) for state, _ in everything} == {Invited, Advertised, Shared, Covered, Held, Consenting, Finished}
    for state, secrets in everything:
        text = shown(state)
        for secret in secrets:
            for spelling in spellings(secret):
                assert spelling not in text, f"{type(state).__name__} prints a secret"


def secret_things() -> list[tuple[object, bytes]]:
    raw = bytes(range(100, 132))
    return [
        (Seed(raw), raw),
        (Key(raw), raw),
        (KeyPair.from_secret(Seed(raw)), raw),
        (SigningKey.from_seed(Seed(raw)), raw),
        (
            KeyPair.from_secret(Seed(raw)).exchange(KeyPair(Seed(bytes(32))).public),
            KeyPair.from_secret(Seed(raw)).exchange(KeyPair(Seed(bytes(32))).public).reveal(),
        ),
        (Rand(Seed(raw)), raw),
        (Vector(np.frombuffer(raw, dtype=np.uint8)), raw),
        (Held(raw, raw), raw),
        (Replay(raw), raw),
    ]


@pytest.mark.parametrize(("thing", "secret"), secret_things(), ids=lambda value: type(value).__name__)
def test_no_secret_type_prints_its_secret(thing: object, secret: bytes) -> None:
    for spelling in [*spellings(secret), " ".join(map(str, secret))]:
        for inside in (thing, [thing], {"key": thing}, (thing,)):
            assert spelling not in shown(inside)


def test_the_search_for_printed_secrets_has_power() -> None:
    raw = bytes(range(100, 132))
    for text in (raw, raw.hex(), bytearray(raw), list(raw), int.from_bytes(raw, "big")):
        assert any(spelling in shown(text) for spelling in spellings(raw))


def test_a_session_prints_no_state() -> None:
    """Neither a secret nor what it holds at all: a session may stand in a log."""
    walk = Walkthrough()
    while True:
        names = [type(value).__name__ for value in walk.me.remembers]
        assert names
        assert not any(name in shown(walk.me) for name in names)
        if "Shared" in names:
            secrets = walk.secrets().values.values()
            assert all(spelling not in shown(walk.me) for secret in secrets for spelling in spellings(secret))
            walk.provide()
        if not walk.held:
            return
        walk.step()


def test_secrets_are_not_pickled_or_copied() -> None:
    for thing in (Seed(bytes(32)), Key(bytes(32)), KeyPair(Seed(bytes(32))), SigningKey(Seed(bytes(32)))):
        for act in (lambda t=thing: pickle.dumps(t), lambda t=thing: copy.copy(t), lambda t=thing: copy.deepcopy(t)):
            with pytest.raises(TypeError, match="never pickled or copied"):
                act()
