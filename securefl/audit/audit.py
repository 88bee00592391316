"""The audit: every row of the catalogue against one protocol, each attack bounded, and what came of it as data."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from xml.etree import ElementTree as ET

from protocols import sums
from protocols.errors import Misuse
from protocols.policy import Policy
from securefl.audit import attacks
from securefl.audit.adversary import Adversary
from securefl.audit.bounded import bounded
from securefl.audit.registry import ATTACKS, NOT_YET, ROWS, Attack, missing
from securefl.audit.target import Bounds, Target, check_cohort
from securefl.audit.verdict import Verdict, inapplicable

Tell = Callable[[str], None]
"""Told the name of what is tried next."""


@dataclass(frozen=True)
class Result:
    """What came of one attack.

    Attributes:
        row: of the catalogue; 0 for one of a user's own.
        name: what was tried.
        lie: the lie.
        notice: who must notice.
        verdict: what came of it.
        seconds: wall time.
        strikes: messages where it strikes.
    """

    row: int
    name: str
    verdict: Verdict
    seconds: float = 0.0
    lie: str = ""
    notice: str = ""
    strikes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As a tree that JSON holds."""
        verdict = self.verdict.as_json()
        tree = {"row": self.row, "attack": self.name, "lie": self.lie, "notice": self.notice, "strikes": list(self.strikes)}
        return {**tree, **verdict, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Audit:
    """All results for one protocol.

    Attributes:
        target: what was attacked.
        results: in the order of the catalogue, a user's own last.
        seconds: wall time.
    """

    target: Target
    results: tuple[Result, ...]
    seconds: float

    @property
    def name(self) -> str:
        """What was attacked."""
        return self.target.name

    @property
    def broken(self) -> tuple[Result, ...]:
        """Where a promise does not hold."""
        return tuple(result for result in self.results if result.verdict.broken)

    @property
    def passed(self) -> bool:
        """Whether something was tried and nothing is broken.  That is no proof of anything that was not tried."""
        return self._tried and not self.broken

    @property
    def _tried(self) -> bool:
        return any(result.verdict.status not in ("not applicable", "no such part yet") for result in self.results)

    @property
    def rows(self) -> frozenset[int]:
        """Rows with an attack that breaks a promise."""
        return frozenset(result.row for result in self.broken)

    @property
    def report(self) -> str:
        """What is broken, one a line, with the proof; for an assertion in a test."""
        lines = [f"row {result.row}, {result.name}: {result.verdict.line}" for result in self.broken]
        return "\n".join(lines) or f"{self.target.name}: {'nothing is broken' if self._tried else 'nothing was tried'}"

    def as_json(self) -> dict[str, Any]:
        """As a tree that JSON holds."""
        p = self.target.federation().terms.parameters
        return {
            "protocol": self.target.name,
            "parties": p.parties,
            "threshold": p.threshold,
            "corrupt": p.corrupt,
            "quick": self.target.quick,
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "results": [result.as_json() for result in self.results],
        }


def audit_protocol(
    protocol: str | sums.Scheme | Target,
    *,
    parties: int | None = None,
    threshold: int | None = None,
    policy: Policy | None = None,
    quick: bool = True,
    rows: Collection[int] | None = None,
    adversaries: Iterable[Adversary] = (),
    bounds: Bounds | None = None,
    tell: Tell = lambda _: None,
) -> Audit:
    """Try every row of the catalogue that applies, and a user's own adversaries.

    Args:
        protocol: its name, a `protocols.sums.Scheme`, or a `Target`.
        parties: n of the black-box attacks, 3 to 64; by default six, and for ``secagg+`` a ring of twenty.
        threshold: t; by default the least that the protocol takes for safe.
        policy: every party's own bounds; by default those that simulation gives them.
        quick: whether attacks try less.
        rows: of the catalogue; None: all, and 0 is a user's own adversaries.
        adversaries: a user's own attacks.
        bounds: what one attack may use.
        tell: told the name of each attack.

    Returns:
        One result for each attack, and one for each row that does not apply or has no script yet.

    Raises:
        Misuse: for a protocol that does not exist, parameters that it refuses, rows among which there is nothing to try, or an
            adversary that does not do what `Adversary` asks of it.
    """
    own = tuple(adversaries)
    if rows is not None and (not rows or set(rows) - {0, *ROWS} or (set(rows) == {0} and not own)):
        given = f"{sorted(rows)}, with {len(own)} adversaries of one's own"
        raise Misuse(f"rows are numbers of 1 to {max(ROWS)}, and 0 for adversaries of one's own: nothing to try in {given}")
    if isinstance(protocol, Target):
        target = protocol
    else:
        if parties is not None:
            check_cohort(parties)
        target = Target.of(protocol, parties=parties, threshold=threshold, policy=policy, quick=quick, bounds=bounds)
    began, wanted = time.perf_counter(), set(ROWS) | {0} if rows is None else set(rows)
    results = list[Result]()
    for row in sorted(wanted - {0}):
        results += _row(target, row, tell)
    for adversary in own if 0 in wanted else ():
        tell(adversary.name)
        results.append(_tried(target, adversary.attack))
    return Audit(target, tuple(results), time.perf_counter() - began)


def scripts(target: Target, row: int) -> Sequence[Attack]:
    """The scripts of a row that are made for a target."""
    return [known for known in ATTACKS if known.row == row and known.applies(target)]


def _row(target: Target, row: int, tell: Tell) -> list[Result]:
    made = scripts(target, row)
    if not made:
        later = Verdict("no such part yet", NOT_YET[row]) if row in NOT_YET and not _exists(row) else None
        return [Result(row, ROWS.get(row, "?"), later or inapplicable(missing(row, target.shape)))]
    out = []
    for known in made:
        tell(known.name)
        out.append(_tried(target, known))
    return out


def _exists(row: int) -> bool:
    """Whether some protocol has a script for a row, so that the part is there."""
    return any(known.row == row for known in ATTACKS)


def _tried(target: Target, known: Attack) -> Result:
    verdict, seconds = bounded(lambda: known.play(target), target.bounds)
    if verdict.misuse:
        raise Misuse(verdict.misuse)
    return Result(known.row, known.name, verdict, seconds, known.lie, known.notice, known.strikes)


class Suite(Protocol):
    """What has results: an audit of a protocol, or what was measured of a mechanism."""

    @property
    def name(self) -> str:
        """What was looked at."""

    @property
    def results(self) -> tuple[Result, ...]:
        """All results."""

    @property
    def broken(self) -> tuple[Result, ...]:
        """Those that break a promise."""

    @property
    def seconds(self) -> float:
        """Wall time."""


def _answered(result: Result) -> bool:
    return bool(result.seconds) and result.verdict.status != "cannot tell"


def junit(audits: Iterable[Suite]) -> bytes:
    """The results as JUnit XML: one suite a protocol, one case an attack; what was not tried, or cannot tell, is skipped."""
    root = ET.Element("testsuites")
    for audit in audits:
        suite = ET.SubElement(root, "testsuite", name=f"securefl audit {audit.name}")
        suite.set("tests", str(len(audit.results)))
        suite.set("failures", str(len(audit.broken)))
        suite.set("skipped", str(sum(not _answered(result) for result in audit.results)))
        suite.set("time", f"{audit.seconds:.3f}")
        for result in audit.results:
            case = ET.SubElement(suite, "testcase", classname=audit.name, name=f"row {result.row}: {result.name}")
            case.set("time", f"{result.seconds:.3f}")
            if result.verdict.broken:
                ET.SubElement(case, "failure", message=result.verdict.line).text = "\n".join(result.verdict.parts)
            elif not _answered(result):
                ET.SubElement(case, "skipped", message=result.verdict.line)
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


__all__ = ["Audit", "Result", "attacks", "audit_protocol", "junit", "scripts"]
