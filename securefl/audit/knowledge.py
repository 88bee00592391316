"""What a party holds and what the server saw, walked object by object, so that one can be searched for in the other.

The walk follows containers, dataclasses, slots, closures and bound methods; it knows secrets by their type, and reveals them.
It does not see what an object keeps outside of Python (the inside of a library's handle, files, other processes).
"""

from __future__ import annotations

import base64
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from protocols import simulate
from protocols.flow import Flow
from protocols.rand import Secret
from protocols.schema import Message
from protocols.session import SERVER, Address, Letter, Session, client
from securefl.audit.federation import Federation, run
from securefl.audit.target import PAYLOAD

Leaf = tuple[str, object]
"""Where something lies, and what it is."""
_OPAQUE = (type, types.ModuleType, Flow, types.CodeType)


def walk(root: object, where: str = "") -> Iterator[Leaf]:
    """Every leaf below an object: bytes, numbers, text, arrays, secrets, private keys; each object once."""
    seen, stack = set[int](), [(where, root)]
    kept = list[object]()  # so that no address is used again
    while stack:
        path, item = stack.pop()
        if id(item) in seen or isinstance(item, _OPAQUE):
            continue
        seen.add(id(item))
        kept.append(item)
        if isinstance(item, bytes | bytearray | memoryview | int | float | str | np.ndarray | Secret) or _private(item) is not None:
            yield path, item
            if not isinstance(item, Secret):
                continue
        stack += [(f"{path}.{name}" if path else name, inner) for name, inner in _inside(item)]


def _inside(item: object) -> Iterator[tuple[str, object]]:
    if isinstance(item, Mapping):
        yield from (pair for key, value in item.items() for pair in (("key", key), ("value", value)))
    elif isinstance(item, list | tuple | set | frozenset) or type(item).__name__ == "deque":
        yield from (("item", inner) for inner in item)  # type: ignore[attr-defined]
    elif isinstance(item, types.FunctionType):
        yield from (("cell", cell.cell_contents) for cell in item.__closure__ or () if _filled(cell))
    elif isinstance(item, types.MethodType):
        yield "self", item.__self__
    yield from getattr(item, "__dict__", {}).items()
    for kind in type(item).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            mangled = name if not name.startswith("__") else f"_{kind.__name__}{name}"
            if hasattr(item, mangled):
                yield name, getattr(item, mangled)


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _private(item: object) -> bytes | None:
    return item.private_bytes_raw() if isinstance(item, Ed25519PrivateKey | X25519PrivateKey) else None


def secret_bytes(item: object) -> bytes | None:
    """The bytes of a leaf that must stay with its party; None for anything else."""
    return item.reveal() if isinstance(item, Secret) else _private(item)


@dataclass
class Observed:
    """A run, with all that its server saw and all that its parties held.

    Attributes:
        fed: the federation.
        outcome: of the run.
        letters: what was delivered to the server, in order, with its bytes.
        secrets: of each party, what it held after each of its messages: bytes by where they lay.
        states: of each party, the values that it remembered after each of its messages.
        view: leaves of the server's memory after each of its messages and at the end.
    """

    fed: Federation
    outcome: simulate.Outcome
    letters: list[tuple[Letter, bytes]] = field(default_factory=list)
    secrets: dict[int, dict[bytes, str]] = field(default_factory=dict)
    states: dict[int, list[object]] = field(default_factory=dict)
    view: list[Leaf] = field(default_factory=list)

    @property
    def traffic(self) -> bytes:
        """All bytes that reached the server."""
        return b"".join(data for _, data in self.letters)

    def uploads(self, kinds: Iterable[type[Message]]) -> dict[int, list[NDArray[Any]]]:
        """The vectors of the messages of these kinds, by sender."""
        out = dict[int, list[NDArray[Any]]]()
        for letter, _ in self.letters:
            if isinstance(letter.message, tuple(kinds)):
                out[letter.sender.index] = vectors_of(letter.message)
        return out


def vectors_of(message: Message) -> list[NDArray[Any]]:
    """The arrays in a message, in order."""
    return [item.values for item in vars(message).values() if hasattr(item, "values") and isinstance(item.values, np.ndarray)]


def observe(fed: Federation, network: simulate.Network | None = None, **options: Any) -> Observed:
    """Run a federation and write down what everybody knew meanwhile."""
    sessions = dict[Address, Session]()
    seen = Observed(fed, simulate.Outcome(sessions))
    walked = set[tuple[Address, int]]()

    def watch(letter: Letter, to: Address, _size: int) -> None:
        if to == SERVER:
            seen.letters.append((letter, b"".join(letter.chunks())))
        if (letter.sender, id(letter)) in walked or letter.sender not in sessions:
            return
        walked.add((letter.sender, id(letter)))
        kept.append(letter)
        if letter.sender == SERVER:
            seen.view += walk(sessions[SERVER].remembers)
        else:
            _remember(seen, letter.sender.index, sessions[letter.sender])

    kept = list[Letter]()
    seen.outcome = run(fed, network=network, watch=watch, sessions=sessions, **options)
    seen.view += walk(sessions[SERVER].remembers)
    for u in fed.parties:
        if client(u) in sessions:
            _remember(seen, u, sessions[client(u)])
    return seen


def _remember(seen: Observed, u: int, session: Session) -> None:
    for state in session.remembers:
        seen.states.setdefault(u, []).append(state)
        for where, item in walk(state, type(state).__name__):
            raw = secret_bytes(item)
            if raw is not None:
                seen.secrets.setdefault(u, {}).setdefault(raw, where)


def spellings(payload: NDArray[np.int64]) -> Iterator[bytes]:
    """How a run of numbers may stand in bytes: integers of any width, either end first, floats, CBOR, text."""
    for kind in ("<i8", ">i8", "<i4", ">i4", "<i2", ">i2", "<f8", "<f4"):
        yield payload.astype(kind).tobytes()
    yield b"".join(cbor2.dumps(int(value)) for value in payload)
    yield ", ".join(map(str, payload.tolist())).encode()


def find_run(values: NDArray[Any], payload: NDArray[np.int64], modulus: int) -> bool:
    """Whether a run of numbers stands in an array, modulo ``modulus``."""
    if values.dtype.kind not in "iu" or values.size < payload.size:
        return False
    flat = [int(value) % modulus for value in values.reshape(-1)]
    wanted = [int(value) % modulus for value in payload]
    return any(flat[i : i + len(wanted)] == wanted for i in range(len(flat) - len(wanted) + 1) if flat[i] == wanted[0])


def in_text(raw: bytes) -> list[str]:
    """How 32 secret bytes may stand in a text."""
    return [raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode().rstrip("="), repr(raw)[2:-1], str(list(raw))]


def payload_of(fed: Federation, u: int) -> NDArray[np.int64]:
    """The secret coordinates of a party's input."""
    return fed.vectors[u][:PAYLOAD]
