"""An audit of a tape with public data alone: what `securefl.audit.sitting` finds in each sum, and what shows over all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from protocols.errors import Misuse
from protocols.session import client
from protocols.suite import Roster
from protocols.sums import scheme
from securefl.audit.chain import Line, Unreadable, lines
from securefl.audit.findings import Findings
from securefl.audit.participation import Participation
from securefl.audit.seen import BAD, Seen, a, why_bad
from securefl.audit.sitting import Walk, to_text
from securefl.audit.tape import Ending, Sitting, ending, from_client, header, message, to_clients

CHECKS = {
    "tape-chain": "each line holds the hash of the one before",
    "tape-seal": "the tape is whole to its end",
    "tape-terms": "session identities, suites and models follow from what is declared",
    "tape-repeat": "no session, round or spent input a second time",
    "tape-order": "the protocol's messages in its order, once each",
    "tape-sets": "every set follows from what its members sent, and is the same for all",
    "tape-signature": "what the server went on with is signed",
    "tape-twice": "no party signed two statements of one round",
    "tape-signed": "no party signed what the protocol refuses",
    "tape-cohort": "no set and no opening below the declared threshold",
    "tape-keys": "no public key and no masked vector serves two sums",
    "tape-size": "sizes are those of the declared protocol",
    "tape-difference": "sums over sets that differ by few",
}
"""The checks, in the order in which they are shown."""


@dataclass
class TapeAudit:
    """What an audit of a tape found.

    Attributes:
        path: of the tape.
        findings: what was found.
        roster: who was invited.
        messages: how many stand on it.
        sums: how many sums began.
        opened: how many were opened.
        head: hash of the last line; who notes it can tell later whether the tape is the same.
        walks: for each session identity what the messages of that sum say.
        doubtful: whether any line was changed, removed, moved or put in after it was written.
        headless: whether the first one was, on which all else rests.
    """

    path: Path
    findings: Findings
    roster: Roster | None = None
    messages: int = 0
    sums: int = 0
    opened: int = 0
    head: str = ""
    walks: dict[bytes, Walk] = field(default_factory=dict)
    doubtful: bool = False
    headless: bool = False
    _torn: tuple[int, int, str] | None = None
    _walk: Walk | None = None
    _sealed: int = 0
    _impossible: bool = False
    _latest: dict[str, tuple[int, int]] = field(default_factory=dict)
    _spent: dict[tuple[str, int], int] = field(default_factory=dict)
    _keys: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _uploads: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _rows: dict[tuple[str, int], tuple[Participation, int]] = field(default_factory=dict)

    def take(self, line: Line, after: Line | None = None) -> None:
        """The next line, and the one after it, which vouches for it."""
        f = self.findings
        self._chain(line, after)
        self.head = line.digest
        if self._sealed:
            f.report("tape-seal", "broken", line.number, f"a line after the seal in line {self._sealed}")
        match line.kind:
            case "header" if self.roster is None:
                self.roster = header(self.path, line)
            case _ if self.roster is None:
                header(self.path, line)
            case "session":
                self._begin(line)
            case "message":
                self._message(line, message(self.path, line))
            case "end":
                self._end(line)
            case "seal":
                self._unended(line.number)
                self._sealed = line.number
                if line.tree.get("messages") != self.messages and not self.doubtful:
                    detail = f"the seal is over {line.tree.get('messages')} messages, and there are {self.messages}"
                    f.report("tape-seal", "broken", line.number, detail)
            case _:
                f.report("tape-order", "broken", line.number, f"a line of no known kind: {line.kind!r}")

    def _chain(self, line: Line, after: Line | None) -> None:
        """Hold a line against its neighbours; from a line that does not fit on, its sum rests on what somebody changed."""
        f = self.findings
        f.looked("tape-chain")
        if line.broken:
            first, _, detail = self._torn or (line.number, 0, line.broken)
            self._torn = first, line.number, detail
        else:
            self._mend()
        if "tape-chain" in f.without:
            return
        if line.broken or (after is not None and after.tree["prev"] != line.digest):
            self.headless |= line.number == 1
            self.doubtful = f.doubtful = True
            if self._walk is not None:
                self._walk.doubtful = True
        elif line.kind == "session":
            f.doubtful = self.headless

    def _mend(self) -> None:
        """Tell of lines in a row that do not fit by the first of them: one change shows in up to three."""
        if self._torn is None:
            return
        (first, last, detail), self._torn = self._torn, None
        more = f", and so on up to line {last}" if last > first else ""
        doubtful, self.findings.doubtful = self.findings.doubtful, False
        self.findings.report("tape-chain", "broken", first, detail + more)
        self.findings.doubtful = doubtful

    def _begin(self, line: Line) -> None:
        f, at = self.findings, line.number
        self._unended(at)
        self._close(at)
        self.sums += 1
        try:
            scheme(line.tree.get("protocol", ""))
        except (Misuse, TypeError):
            name = line.tree.get("protocol")
            detail = f"it is of the protocol {name!r}, which is not installed here"
            raise Unreadable(f"{self.path}, line {at} is refused: {detail}") from None
        self._impossible = False
        try:
            sitting = Sitting.read(line.tree, self.roster)  # type: ignore[arg-type]  # there is one before any session
        except Misuse as error:
            f.report("tape-terms", "broken", at, f"no such sum is possible, and its messages are not looked at: {error}")
            self._impossible = True
            return
        except BAD as error:
            raise Unreadable(f"{self.path}, line {at} is refused: it begins no sum: {why_bad(error)}") from None
        f.looked("tape-terms")
        terms, o = sitting.terms, sitting.terms.occasion
        if sitting.suite != terms.suite or sitting.sid != terms.sid:
            what = "suite" if sitting.suite != terms.suite else "session identity"
            f.report("tape-terms", "broken", at, f"the {what} is not the one that follows from what is declared")
        f.looked("tape-repeat")
        last = self._latest.get(o.run, (-1, -1))
        if (o.round, o.attempt) <= last:
            detail = f"round {o.round}, attempt {o.attempt} of {o.run} after round {last[0]}, attempt {last[1]}"
            f.report("tape-repeat", "broken", at, detail)
        elif (o.run, o.round) in self._spent:
            detail = f"attempt {o.attempt} of round {o.round}, whose inputs left in line {self._spent[o.run, o.round]}"
            f.report("tape-repeat", "broken", at, detail)
        self._latest[o.run] = max(last, (o.round, o.attempt))
        self._walk = self.walks[terms.sid] = Walk(f, sitting, at)
        self._walk.doubtful = f.doubtful

    def _message(self, line: Line, seen: Seen) -> None:
        self.messages += 1
        walk, u, to = self._walk, from_client(seen), to_clients(seen)
        if walk is None:
            if not self._impossible:
                self.findings.report("tape-order", "broken", line.number, f"{a(seen.name)} outside of any sum")
        elif u is not None:
            walk.from_party(line.number, u, seen)
            if u <= len(walk.terms.roster) and any(k.__name__ == seen.name for k in walk.spends):
                o = walk.terms.occasion
                self._spent.setdefault((o.run, o.round), line.number)
        elif to:
            walk.to_parties(line.number, to, seen)
        else:
            self.findings.report(
                "tape-order", "broken", line.number, f"{a(seen.name)} from {seen.sender} that the server has no part in"
            )

    def _end(self, line: Line) -> None:
        end = ending(self.path, line)
        if self._walk is None:
            if not self._impossible:
                self.findings.report("tape-order", "broken", line.number, "the end of a sum that had not begun")
            return
        self._walk.end(line.number, end.contributors)
        self._named(line, end, self._walk)
        self.opened += end.contributors is not None
        self._close(line.number, opened=end.contributors is not None)

    def _named(self, line: Line, end: Ending, walk: Walk) -> None:
        """Whom the server named without anything that proves it."""
        proven = {str(client(evidence.accused)) for evidence, _, terms in self.findings.evidence if terms is walk.terms}
        for sender, check, _, _ in end.faults:
            if sender not in proven:
                self.findings.report("tape-signed", "noted", line.number, f"the server named {sender} ({check}): not provable")

    def _close(self, at: int, *, opened: bool = False) -> None:
        """A sum is over: what of it must not come again, and over whom it was opened or could be."""
        walk, self._walk = self._walk, None
        if walk is None:
            return
        self._fresh(walk, at)
        have, need = walk.openings()
        u3 = walk.survivors()
        if u3 and (opened or have >= need):
            p = walk.terms.parameters
            rows, _ = self._rows.setdefault((walk.terms.occasion.run, p.size), (Participation(), p.threshold))
            rows.add(u3, at)

    def _unended(self, at: int) -> None:
        """A sum that another one, or the seal, cuts off: a run that is broken off and goes on leaves one as well."""
        if self._walk is not None:
            detail = f"the sum of line {self._walk.line} has no end: the tape does not say what became of it"
            self.findings.report("tape-order", "noted", at, detail)

    def _fresh(self, walk: Walk, at: int) -> None:
        for u, key in walk.listed_keys():
            self.findings.looked("tape-keys")
            before = self._keys.setdefault(key, (at, u))
            if before != (at, u):
                detail = f"client {u} has a public key that client {before[1]} had in the sum that ended in line {before[0]}"
                self.findings.report("tape-keys", "broken", at, detail)
        for u, digest in walk.upload_digests():
            before = self._uploads.setdefault(digest, (at, u))
            if before != (at, u):
                detail = f"the masked vector of client {u} is that of client {before[1]} in the sum that ended in line {before[0]}"
                self.findings.report("tape-keys", "broken", at, detail)

    def finish(self) -> TapeAudit:
        """All lines were taken."""
        f, at = self.findings, 0
        if self.roster is None:
            raise Unreadable(f"{self.path}, line 1 is refused: the file is empty")
        self._mend()
        self._close(at)
        f.doubtful = False
        f.looked("tape-seal")
        if not self._sealed:
            f.report("tape-seal", "broken", 0, "it has no seal: the run was broken off, or the end of the tape is gone")
        for (run, size), (rows, fewest) in self._rows.items():
            f.looked("tape-difference", len(rows.first))
            pairs, alone = rows.close(fewest), rows.alone()
            if pairs:
                one, other, parties = pairs[0]
                detail = (
                    f"{run}, vectors of {size} values: {len(pairs)} pairs of sums over sets that differ by fewer than {fewest} "
                    f"parties, those that ended in lines {one} and {other} by {to_text(sorted(parties))}"
                )
                f.report(
                    "tape-difference", "stated", other, detail + "; where inputs hardly change, their difference is theirs alone"
                )
            if alone:
                detail = (
                    f"{run}, vectors of {size} values: combined, the sums single out {to_text(alone)}, where inputs hardly change"
                )
                f.report("tape-difference", "stated", 0, detail)
            if rows.cut:
                f.report("tape-difference", "noted", 0, f"{run}: only the first {len(rows.first)} different sets were compared")
        return self

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        f = self.findings
        checks = [
            {"check": check, "about": about, "status": f.standing(check), "looked_at": f.applied[check]}
            for check, about in CHECKS.items()
        ]
        return {
            "tape": str(self.path),
            "passed": f.passed,
            "messages": self.messages,
            "sums": self.sums,
            "opened": self.opened,
            "head": self.head,
            "checks": checks,
            "findings": [finding.as_json() for finding in f.found],
            "left_open": f.left.total(),
            "evidence": len(f.evidence),
        }


def audit_tape(path: Path, *, without: Collection[str] = (), keep: bool = False) -> TapeAudit:
    """Look through a tape.

    Args:
        path: of the tape.
        without: checks to leave out; what they find is not told.
        keep: whether messages of all sums are kept, to hold logs against them.

    Raises:
        Unreadable: naming the first line that is none.
        OSError: where it cannot be read.
    """
    audit = TapeAudit(path, Findings(without))
    for line, after in pairwise(chain(lines(path), (None,))):
        if line is not None:
            audit.take(line, after)
        if not keep:
            _forget(audit)
    return audit.finish()


def _forget(audit: TapeAudit) -> None:
    """Keep the sum that is under way alone."""
    if len(audit.walks) > 1:
        latest = next(reversed(audit.walks))
        audit.walks = {latest: audit.walks[latest]}


def steps(path: Path) -> Iterator[Line]:
    """The lines of a tape, the first one a header."""
    for line in lines(path):
        if line.number == 1:
            header(path, line)
        yield line
