"""Recorded runs for the tests: federations with a tape and logs, and ways to edit both as their keepers could."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cbor2

from protocols import simulate, sums
from protocols.primitives.sign import SigningKey
from protocols.session import Letter, client
from protocols.sums import Scheme
from protocols.wire import canonical
from securefl.audit.chain import START, dump, signed_part
from securefl.audit.federation import Federation, federation
from securefl.audit.knowledge import Observed, observe
from securefl.audit.recording import Recording
from securefl.audit.tape_audit import TapeAudit, audit_tape

Trees = list[dict[str, Any]]
OURS = tuple(sums.SCHEMES)


@dataclass(frozen=True, repr=False)
class Recorded:
    """What a recorded run left behind."""

    fed: Federation
    tape: Path
    logs: dict[int, Path]
    evidence: Path
    outcomes: list[simulate.Outcome]
    seen: list[Observed]
    unproven: list[str]

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(f"Recorded({self.tape})")


def record(
    folder: Path,
    protocol: str = "secagg",
    *,
    rounds: int = 2,
    gone: Iterable[tuple[int, str]] = (),
    network: Callable[[Federation], simulate.Network] | None = None,
    scheme: Scheme | None = None,
    entropy: Any = None,
) -> Recorded:
    """Six parties sum ``rounds`` times; in each the parties of ``gone`` vanish before that message."""
    chosen = scheme or sums.scheme(protocol)
    fed = federation(6, 5, scheme=chosen, policy=chosen.policy).with_memory()
    if entropy is not None:
        fed = replace(fed, entropy=entropy)
    outcomes, seen = list[simulate.Outcome](), list[Observed]()
    vanishing = {client(u): stage for u, stage in gone}
    with Recording(tape=folder / "run.tape", logs=folder / "logs", evidence=folder / "evidence", version="0.1.0") as recording:
        for number in range(rounds):
            at = fed.at(round=number)
            recording.begin(chosen, at.terms, at.parties.values())
            known = observe(at, recorded_network(recording, network(at) if network else simulate.vanish(vanishing)))
            seen.append(known)
            outcomes.append(known.outcome)
            opened = known.outcome.outputs
            recording.end(known.outcome, opened[0].contributors if opened else None)
    logs = {int(path.name[:3]): path for path in sorted((folder / "logs").iterdir())}
    return Recorded(fed, folder / "run.tape", logs, folder / "evidence", outcomes, seen, recording.unproven)


def recorded_network(recording: Recording, network: simulate.Network) -> simulate.Network:
    """The network, with every delivery recorded as it happens."""

    def through(letter: Letter) -> Iterable[Letter]:
        for arriving in network(letter):
            for to in arriving.to:
                recording.watch(arriving, to, 0)
            yield arriving

    return through


def trees(path: Path) -> Trees:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def rewrite(path: Path, lines: Iterable[dict[str, Any]], key: SigningKey | None = None) -> Path:
    """Write a chain anew, as its keeper can: numbers, hashes, the seal's count, and a log's signatures."""
    before, out, messages = START, list[bytes](), 0
    for number, line in enumerate(lines, 1):
        messages += line["kind"] == "message"
        tree = {**line, "n": number, "prev": before}
        if "messages" in tree:
            tree["messages"] = messages
        tree.pop("signature", None)
        if key is not None:
            tree["signature"] = key.sign(signed_part(dump(tree))).hex()
        out.append(dump(tree))
        before = hashlib.sha256(out[-1]).hexdigest()
    path.write_bytes(b"".join(line + b"\n" for line in out))
    return path


def places(lines: Trees, **want: Any) -> Iterator[int]:
    """Where lines of that content stand; ``sender`` stands for ``from``."""
    wanted = {"from" if key == "sender" else key: value for key, value in want.items()}
    return (i for i, line in enumerate(lines) if all(line.get(key) == value for key, value in wanted.items()))


def place(lines: Trees, **want: Any) -> int:
    """The first of them."""
    return next(places(lines, **want))


def control(line: dict[str, Any]) -> list[Any]:
    """The control fields of a message line: name, epoch, and so on."""
    return list(cbor2.loads(base64.b64decode(line["control"])))


def with_control(line: dict[str, Any], fields: list[Any]) -> dict[str, Any]:
    """The line with other control fields, its size following."""
    data = canonical(fields)
    size = line["size"] - len(base64.b64decode(line["control"])) + len(data)
    return {**line, "control": base64.b64encode(data).decode(), "size": size}


def failing(audit: TapeAudit) -> set[tuple[str, str]]:
    """Checks with the statuses that make an audit fail."""
    return {(f.check, f.status) for f in audit.findings.found if f.status in ("broken", "named", "open")}


def looked_at(path: Path, **options: Any) -> set[tuple[str, str]]:
    """What an audit of a tape objects to."""
    return failing(audit_tape(path, **options))
