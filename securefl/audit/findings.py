"""What an audit of recorded runs found: by which check, at which line, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from protocols.errors import Refused
from protocols.evidence import Evidence, check_evidence
from protocols.suite import Terms
from protocols.sums import Scheme
from securefl.audit.chain import LONGEST
from securefl.audit.log_evidence import KINDS, check_log_evidence
from securefl.errors import printable

Status = Literal["broken", "named", "open", "stated", "noted"]
"""``broken``: a promise does not hold, or the file contradicts itself.  ``named``: a party did wrong, and what it signed proves it.
``open``: two files differ, and who lies cannot be said.  ``stated``: a risk that is there by design.  ``noted``: odd, and nothing
follows from it."""
ORDER: tuple[Status, ...] = ("broken", "named", "open", "stated", "noted")
FAILING = ("broken", "named", "open")
Sum = tuple[Scheme, Terms[Any]]
"""A sum: its protocol and its terms."""
KEPT = 200
"""Findings that are kept of each check; the others are counted."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        check: id of the check.
        status: what follows from it.
        line: where, or 0 for the whole file.
        detail: in one line.
        file: which file, where there are several.
    """

    check: str
    status: Status
    line: int
    detail: str
    file: str = ""

    @property
    def where(self) -> str:
        """File and line."""
        return " ".join(part for part in (self.file, f"line {self.line}" if self.line else "") if part)

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"check": self.check, "status": self.status, "file": self.file, "line": self.line, "detail": self.detail}


@dataclass
class Findings:
    """Collects what is found.

    Attributes:
        without: checks that are left out: what they find is thrown away.
        found: in the order in which it was found.
        count: how often each check found something.
        evidence: what convicts a party, with the protocol and the terms of the sum.
        applied: how many things each check has looked at.
        doubtful: whether what is looked at was changed after it was written.  Then only what a signature proves is told.
        left: how often each check found something that was not told for that.
    """

    without: Collection[str] = ()
    found: list[Finding] = field(default_factory=list)
    count: Counter[tuple[str, Status]] = field(default_factory=Counter)
    evidence: list[tuple[Evidence, Scheme, Terms[Any]]] = field(default_factory=list)
    applied: Counter[str] = field(default_factory=Counter)
    doubtful: bool = False
    left: Counter[str] = field(default_factory=Counter)

    def report(self, check: str, status: Status, line: int, detail: str, *, file: str = "") -> None:
        """Something was found."""
        if check in self.without:
            return
        if self.doubtful and status not in ("named", "stated"):
            self.left[check] += 1
            return
        self.count[check, status] += 1
        if self.count[check, status] <= KEPT:
            self.found.append(Finding(check, status, line, printable(detail[:LONGEST]), printable(file)))

    def looked(self, check: str, times: int = 1) -> None:
        """A check has looked at something."""
        self.applied[check] += times

    def convict(self, check: str, line: int, detail: str, evidence: Evidence, of: Sum, *, file: str = "") -> None:
        """A party did wrong in a sum, and this proves it to others: nobody is named on what does not."""
        try:
            (check_log_evidence if evidence.kind in KINDS else check_evidence)(evidence, of[1])
        except Refused as error:
            self.report(check, "open", line, f"{detail}; that cannot be shown to others ({error.check})", file=file)
            return
        self.report(check, "named", line, f"{detail}; what it signed proves it", file=file)
        if check not in self.without:
            self.evidence.append((evidence, *of))

    def worst(self, check: str) -> Status | None:
        """The gravest that a check found, or None."""
        return next((status for status in ORDER if self.count[check, status]), None)

    def standing(self, check: str) -> str:
        """What is said of a check in a few letters: the gravest that it found, else whether it holds or was left open."""
        return self.worst(check) or ("left open" if self.left[check] else "holds")

    @property
    def passed(self) -> bool:
        """Whether nothing is broken, nobody named, and no difference left open."""
        return not any(status in FAILING and times for (_, status), times in self.count.items())
