"""One sum on a tape, message by message: order, sets, signatures, cohorts and sizes against the protocol that was declared.

What a party sent wrong is noted, as an honest server leaves it out; it is broken where the server went on with it.  Every set that
the server names must follow from messages on the tape that their senders signed.

What it does not protect: the server's own words carry no signature.  A server that makes up a whole run with parties of its own
shows nothing here; the roster does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from protocols.agreement import Agree, Agreed
from protocols.errors import Refused
from protocols.evidence import bad_dealing, bad_keys, dealing_refused, keys_refused, other_share, two_statements
from protocols.he_types import Decrypted
from protocols.said import Said
from protocols.schema import Message, max_control, raw_fields
from protocols.secagg_types import Boxes, Listed, Openings
from protocols.session import Farewell
from protocols.statements import SETS, STAGE, Told, statement
from protocols.wire import Limits, control_bytes
from securefl.audit.findings import Findings
from securefl.audit.openings import other_shares
from securefl.audit.seen import Print, Seen, a, print_of
from securefl.audit.tape import Sitting
from securefl.audit.turns import Turns

BROADCAST = "GlobalModel"
"""The message of the learning flow that carries the model before a sum; its hash is in the session identity."""
NAMES = ("U1", "U2", "U3", "U4")


@dataclass(frozen=True)
class Entry:
    """A message of a party.

    Attributes:
        line: where it stands.
        kind: of message.
        fields: its control fields.
        print: hash of its control bytes, and of each vector.
        said: what it signed; None where the audit knows of no signature.
        wrong: what is wrong with it, or empty.
    """

    line: int
    kind: type[Message]
    fields: Mapping[str, Any]
    print: Print
    said: Said | None
    wrong: str

    @property
    def digests(self) -> dict[str, bytes]:
        """SHA-256 of each vector, by field."""
        return {name: bytes.fromhex(str(digest)) for name, (_, digest) in self.print[1].items()}

    @property
    def signed(self) -> bool:
        """Whether its sender signed it over what the tape says that it was told."""
        return self.said is not None and not self.wrong


class Walk:
    """Takes the messages of one sum in their order.

    Args:
        findings: where what is found goes.
        sitting: the sum as it was declared.
        line: where it began.

    Attributes:
        sets: U1 to U4, as far as they were named.
        entries: the first message of each kind from each party.
        doubtful: whether lines of it were changed after they were written.
    """

    def __init__(self, findings: Findings, sitting: Sitting, line: int) -> None:
        self.findings, self.sitting, self.line, self.doubtful = findings, sitting, line, False
        self.terms, flow, self.sum = sitting.terms, sitting.scheme.flow, (sitting.scheme, sitting.terms)
        self.limits = Limits(self.terms.parameters.parties, sitting.scheme.layouts(self.terms.parameters))
        self.up = {kind.__name__: kind for kind in (*flow.messages("server"), Farewell)}
        self.down = {kind.__name__: kind for kind in flow.messages("client")}
        self.needs = {kind: [p.type for p in flow.sender(kind).awaits] for kind in flow.messages()}
        self.spends = {port.type for step in flow.steps if step.spends for port in step.gives}
        self.told: dict[int, Told] = {}
        self.entries: dict[tuple[int, type[Message]], Entry] = {}
        self.sets: dict[int, tuple[int, ...]] = {}
        self.turns, self._listed = Turns(findings, flow), dict[bytes, bytes]()
        self._early: dict[tuple[int, type[Message]], list[Entry]] = {}
        self._heard, self._farewells = set[tuple[int, type[Message]]](), set[int]()
        self._stages = {STAGE[kind]: kind for kind in flow.messages("server") if kind in STAGE}

    # What parties send

    def from_party(self, line: int, u: int, seen: Seen) -> None:
        """One message to the server."""
        kind = self.up.get(seen.name)
        if u > len(self.terms.roster) or kind is None:
            self.findings.report("tape-order", "noted", line, f"{a(seen.name)} of client {u}, who has none to send here")
            return
        if not self.turns.fits(line, seen):
            return
        self._size(line, seen, kind)
        self.findings.looked("tape-twice")
        self.findings.looked("tape-signed")
        try:
            _, fields = seen.parsed(self.up, self.limits)
        except Refused as error:
            self.findings.report("tape-order", "noted", line, f"client {u} sent what is no {seen.name}: {error.check}")
            return
        if kind is Farewell:
            self._farewells.add(u)
            return
        entry = self._entry(line, u, seen, kind, fields)
        if untimely := self.turns.wrong(seen):
            self.findings.report("tape-order", "noted", line, f"the {seen.name} of client {u} {untimely}")
            if (u, kind) not in self.entries:  # no server acts on it: it counts only against what its sender signs in its turn
                self._early.setdefault((u, kind), []).append(entry)
                return
        if (first := self.entries.get((u, kind))) is not None:
            self._again(u, first, entry)
            return
        self.entries[u, kind] = entry
        for other in self._early.pop((u, kind), ()):
            self._again(u, entry, other)
        if entry.said is not None and not entry.wrong:
            self._look_into(u, entry)

    def _entry(self, line: int, u: int, seen: Seen, kind: type[Message], fields: Mapping[str, Any]) -> Entry:
        told = self.told.get(u, Told())
        content = statement(self.terms, u, told, kind, fields, seen.digests)
        said = None if content is None else Said(content, fields["signature"])
        wrong = ""
        if any(not self._got(u, needed) for needed in self.needs[kind]):
            wrong = "came before what it answers"
        elif any(self._vector_is_wrong(key, seen.vectors.get(name)) for name, key in raw_fields(kind)):
            wrong = "has a vector of another length than the protocol's"
        elif told.receipt is not None and fields.get("receipt", told.receipt) != told.receipt:
            wrong = "accepts other share hashes than were relayed"
        elif said is not None and not said.holds(self.terms.roster.identity(u)):
            wrong = "is not signed by it over what it was told"
        self.findings.looked("tape-signature", said is not None)
        if wrong:
            self.findings.report("tape-signature", "noted", line, f"the {kind.__name__} of client {u} {wrong}")
        return Entry(line, kind, fields, print_of(seen), said, wrong)

    def _got(self, u: int, kind: type[Message]) -> bool:
        return (u, kind) in self._heard or kind.__name__ not in self.down

    def _vector_is_wrong(self, key: str, vector: tuple[int, bytes] | None) -> bool:
        return vector is None or vector[0] != self.limits.vectors[key].nbytes

    def _again(self, u: int, first: Entry, entry: Entry) -> None:
        what = f"a second {entry.kind.__name__} of client {u}, beside that of line {first.line}"
        second = next((said for said in self._readings(u, entry) if first.said and said.statement != first.said.statement), None)
        if first.said is not None and first.signed and second is not None:
            self.findings.convict("tape-twice", max(first.line, entry.line), what, two_statements(u, first.said, second), self.sum)
        else:
            self.findings.report("tape-twice", "noted", entry.line, what)

    def _readings(self, u: int, entry: Entry) -> Iterator[Said]:
        """What a message says by anything that anybody was told in this sum, where its sender signed that."""
        for told in {id(told): told for told in (Told(), *self.told.values(), *self.turns.besides)}.values():
            content = statement(self.terms, u, told, entry.kind, entry.fields, entry.digests)
            said = None if content is None else Said(content, entry.fields["signature"])
            if said is not None and said.holds(self.terms.roster.identity(u)):
                yield said

    def _look_into(self, u: int, entry: Entry) -> None:
        """What a party signed and no party that follows the protocol signs."""
        if entry.said is None:
            return
        if STAGE.get(entry.kind) == 0 and (wrong := bad_keys(keys_of(entry))):
            evidence = keys_refused(u, entry.said)
            self.findings.convict(
                "tape-signed", entry.line, f"client {u} signed keys that are refused: {wrong}", evidence, self.sum
            )
            self.entries[u, entry.kind] = replace(entry, wrong="signs keys that are refused")
        if entry.kind is Boxes and self._listed:
            told, f = self.told[u], entry.fields
            if wrong := bad_dealing(self.terms, told.L, u, told.u1, f["own_hash"], f["hashes"]):
                evidence = dealing_refused(u, entry.said, f["hashes"], self._listed.get(told.L, b""))
                self.findings.convict("tape-signed", entry.line, f"client {u} signed {wrong}", evidence, self.sum)
                self.entries[u, entry.kind] = replace(entry, wrong="signs other share hashes than are due")
        if entry.kind is Openings:
            for dealer, masked, dealing in other_shares(self, u, entry):
                what = f"client {u} opened another share of client {dealer}'s secret than it had accepted"
                hashes = b"" if dealing else self.told[u].hashes
                evidence = other_share(u, dealer, masked, entry.said, dealing=dealing, hashes=hashes)
                self.findings.convict("tape-signed", entry.line, what, evidence, self.sum)
                break

    # What the server sends

    def to_parties(self, line: int, to: tuple[int, ...], seen: Seen) -> None:
        """One message of the server."""
        if not self.turns.fits(line, seen):
            return
        if seen.name == BROADCAST:
            self._model(line, to, seen)
            return
        kind = self.down.get(seen.name)
        if kind is None:
            self.findings.report(
                "tape-order", "broken", line, f"the server sent {a(seen.name)}, which {self.sitting.scheme.name} has not"
            )
            return
        self._size(line, seen, kind)
        try:
            _, fields = seen.parsed(self.down, self.limits)
        except Refused as error:
            self.findings.report("tape-order", "broken", line, f"the server sent what is no {seen.name}: {error.check}")
            return
        after = dict[int, Told]()
        for u in to:
            self.findings.looked("tape-order")
            first = self.turns.due(line, u, seen)
            self._answers(line, u, seen, kind)
            told = self.told.get(u, Told())
            if id(told) not in after:  # most are told the same
                after[id(told)] = told.after(kind, fields)
            if first:  # a party goes by the first
                self.told[u] = after[id(told)]
                self._heard.add((u, kind))
            else:
                self.turns.beside(line, after[id(told)])
        if kind in SETS:
            self._sets(line, to, kind, fields)

    def _sets(self, line: int, to: tuple[int, ...], kind: type[Message], fields: Mapping[str, Any]) -> None:
        if kind is Listed:
            data = control_bytes(kind(**fields))
            self._listed[hashlib.sha256(data).digest()] = data
        for told in {id(self.told[u]): self.told[u] for u in to if u in self.told}.values():
            self._set(line, to, kind, told)

    def _model(self, line: int, to: tuple[int, ...], seen: Seen) -> None:
        self.findings.looked("tape-terms")
        for u in to:
            self.turns.due(line, u, seen)
        if [digest for _, digest in seen.vectors.values()] != [self.terms.occasion.model]:
            self.findings.report("tape-terms", "broken", line, "the model that was sent is not the one in the session identity")

    def _answers(self, line: int, u: int, seen: Seen, kind: type[Message]) -> None:
        for needed in self.needs[kind]:
            entry = self.entries.get((u, needed))
            if entry is None:
                self.findings.report(
                    "tape-order", "broken", line, f"{a(seen.name)} for client {u}, of whom no {needed.__name__} had come"
                )

    def _set(self, line: int, to: tuple[int, ...], kind: type[Message], told: Told) -> None:
        """A set of parties was named: it must follow from what they sent."""
        stage, t = SETS[kind], self.terms.parameters.threshold
        members = (told.u1, told.u2, told.u3, None if told.agreed is None else tuple(told.agreed))[stage] or ()
        self.findings.looked("tape-sets")
        self.findings.looked("tape-cohort")
        name, known = NAMES[stage], stage in self.sets
        if self.sets.setdefault(stage, members) != members:
            self.findings.report("tape-sets", "broken", line, f"{to_text(to)} were told another {name} than others before")
            return
        if strangers := [u for u in to if u not in set(members)]:
            self.findings.report("tape-sets", "broken", line, f"{to_text(strangers)} was told {name}, which it is not in")
        if known and stage in (1, 2):
            return  # the same set, told to the next party
        before = self.sets.get(stage - 1, tuple(self.terms.roster.indexes))
        if outside := [v for v in members if v not in set(before)]:
            self.findings.report("tape-sets", "broken", line, f"{name} holds {to_text(outside)} from outside")
        if len(members) < t:
            self.findings.report("tape-cohort", "broken", line, f"{name} has {len(members)} parties where {t} are needed")
        if stage in self._stages:
            for v in members:
                self._member(line, stage, v, told)

    def _member(self, line: int, stage: int, v: int, told: Told) -> None:
        """A party is in a set: it must have sent what the set is made of, and signed it."""
        kind = self._stages[stage]
        entry = self.entries.get((v, kind))
        if entry is None:
            self.findings.report("tape-sets", "broken", line, f"client {v} is in {NAMES[stage]}, and sent no {kind.__name__}")
        elif entry.wrong and kind is not Agree:
            what = f"the {kind.__name__} of client {v} in line {entry.line} {entry.wrong}, and the server went on with it"
            self.findings.report("tape-signature", "broken", line, what)
        elif stage == 0 and told.keys is not None and told.keys[v] != keys_of(entry):
            self.findings.report("tape-sets", "broken", line, f"the list has other keys for client {v} than it sent")
        elif kind is Agree and told.agreed is not None and told.agreed[v] != entry.fields["signature"]:
            self.findings.report("tape-sets", "broken", line, f"another signature of client {v} over U3 was shown than it sent")

    # Sizes, and the end

    def _size(self, line: int, seen: Seen, kind: type[Message]) -> None:
        self.findings.looked("tape-size")
        most = max_control(kind, self.limits.parties)
        if seen.size != 4 + len(seen.control) + sum(count for count, _ in seen.vectors.values()):
            self.findings.report("tape-size", "broken", line, f"{seen.size} bytes are not those of its parts")
        known = {name: self.limits.vectors[key].nbytes for name, key in raw_fields(kind)}
        given = {name: count for name, (count, _) in seen.vectors.items()}
        if len(seen.control) > most or given != known:
            status = "noted" if seen.name in self.up else "broken"
            detail = (
                f"{a(seen.name)} of {len(seen.control)} control bytes and vectors of {given}, where {most} and {known} are declared"
            )
            self.findings.report("tape-size", status, line, detail)  # type: ignore[arg-type]

    def farewells(self, u: int) -> set[str]:
        """The name of the message by which a party left, if it did."""
        return {Farewell.__name__} if u in self._farewells else set()

    def survivors(self) -> tuple[int, ...]:
        """U3: as it was named, or who sent a vector where no set is named."""
        if 2 in self.sets or any(kind in SETS for kind in self.down.values()):
            return self.sets.get(2, ())
        return tuple(sorted(u for (u, kind), entry in self.entries.items() if kind in self.spends and not entry.wrong))

    def openings(self) -> tuple[int, int]:
        """How many good openings came, and how many open a sum."""
        opening = self._stages.get(4)
        if opening is None:
            return len(self.survivors()), self.terms.parameters.threshold
        good = [u for (u, kind), entry in self.entries.items() if kind is opening and not entry.wrong]
        return len(good), 1 if opening is Decrypted else self.terms.parameters.threshold

    def listed_keys(self) -> Iterator[tuple[int, bytes]]:
        """The fresh public keys of those in the list."""
        for u in self.sets.get(0, ()):
            entry = self.entries.get((u, self._stages[0])) if 0 in self._stages else None
            yield from ((u, key) for key in (keys_of(entry) if entry else ()))

    def upload_digests(self) -> Iterator[tuple[int, bytes]]:
        """One hash over the masked vectors of each party that is in the sum; none where they travel in clear."""
        for u in self.survivors() if self.sitting.scheme.hides else ():
            for kind in self.spends:
                entry = self.entries.get((u, kind))
                if entry is not None and entry.print[1]:
                    yield u, repr(sorted(entry.print[1].items())).encode()

    def end(self, line: int, contributors: int | None) -> None:
        """The sum has ended, over so many parties or none."""
        if contributors is None:
            return
        u3, (have, need), t = self.survivors(), self.openings(), self.terms.parameters.threshold
        self.findings.looked("tape-cohort")
        if contributors != len(u3):
            self.findings.report("tape-sets", "broken", line, f"a sum over {contributors} parties, where {len(u3)} survived")
        if have < need:
            self.findings.report(
                "tape-cohort", "broken", line, f"a sum was opened with {have} good openings where {need} are needed"
            )
        if Agreed.__name__ in self.down:
            good = sum(not entry.wrong for (_, kind), entry in self.entries.items() if kind is Agree)
            if good < t:
                self.findings.report("tape-cohort", "broken", line, f"a sum was opened with {good} who agreed where {t} are needed")


def keys_of(entry: Entry) -> tuple[bytes, ...]:
    """The fresh public keys in a party's first message."""
    keys: tuple[bytes, ...] = entry.kind(**entry.fields).keys  # type: ignore[attr-defined]
    return keys


def to_text(parties: list[int] | tuple[int, ...]) -> str:
    """Parties in a few words."""
    shown = ", ".join(map(str, parties[:6])) + (", …" if len(parties) > 6 else "")
    return f"client{'s' * (len(parties) != 1)} {shown}"
