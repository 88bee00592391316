"""What an attack came to: refused, harmless, stated, broken, without an answer, or not tried, and the proof.

A verdict is plain data, so that it passes from the process in which an attack runs to the one that reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from protocols.errors import Misuse
from securefl.audit.measured.epsilon import Measured

Status = Literal["refused", "harmless", "stated", "broken", "cannot tell", "not applicable", "no such part yet"]
SEVERITY: tuple[Status, ...] = ("no such part yet", "not applicable", "cannot tell", "harmless", "refused", "stated", "broken")
"""From the mildest to the worst: what a group of verdicts comes to.  A try that has an answer goes before one that has none."""


class AdversaryFault(Misuse):
    """An adversary of the caller's own does not do what an adversary must; the text names it and what it must do."""


@dataclass(frozen=True)
class Verdict:
    """What became of one attack.

    Attributes:
        status: ``refused``: somebody noticed, by a check; ``harmless``: nobody had to; ``stated``: it works, by design, and the
            documents say so; ``broken``: a promise does not hold; ``cannot tell``: whatever had come out, it could not have been
            called broken, so that it did not pass either; the last two: nothing was tried, and why.
        who: who noticed: ``client 1``, ``server``.
        step: name of the step in which.
        round: number of that step's round, or None.
        check: id of the check, as in docs/checks.md.
        why: one sentence.
        whose: whose secret came out.
        recovered: what the adversary computed.
        true: what it really is, beside it.
        parts: verdicts of the single tries, where an attack makes several.
        measured: an interval for ε, where one was measured.
        misuse: what an adversary of the caller's own did wrong itself, which is held against nobody: the audit is refused.
    """

    status: Status
    why: str = ""
    who: str = ""
    step: str = ""
    round: int | None = None
    check: str = ""
    whose: str = ""
    recovered: tuple[int, ...] = ()
    true: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()
    measured: Measured | None = None
    misuse: str = ""

    @property
    def broken(self) -> bool:
        """Whether a promise does not hold."""
        return self.status == "broken"

    @property
    def line(self) -> str:
        """The verdict in one line."""
        noticed = f" by {self.who or 'its own caller'}: {self.check}" + (f" in {self.step}" if self.step else "")
        proof = f"; recovered of {self.whose}: {list(self.recovered)}, true: {list(self.true)}" if self.recovered else ""
        return self.status + (noticed if self.check else "") + (f" ({self.why})" if self.why else "") + proof

    def as_json(self) -> dict[str, Any]:
        """As a tree that JSON holds."""
        tree = {name: value for name, value in asdict(self).items() if name not in ("measured", "misuse")}
        tree |= {"misuse": self.misuse} if self.misuse else {}
        return tree if self.measured is None else {**tree, "measured": self.measured.as_json()}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Verdict:
        """The inverse of `as_json`."""
        lists = {name: tuple(tree[name]) for name in ("recovered", "true", "parts")}
        measured = Measured.from_json(tree["measured"]) if "measured" in tree else None
        return cls(**{**tree, **lists, "measured": measured})


def harmless(why: str) -> Verdict:
    """Nothing happened, and nobody had to notice."""
    return Verdict("harmless", why)


def stated(why: str, *, whose: str = "", recovered: Iterable[int] = (), true: Iterable[int] = (), **noticed: Any) -> Verdict:
    """It works by design; with what it gives, where there is something to show."""
    return Verdict("stated", why, whose=whose, recovered=tuple(map(int, recovered)), true=tuple(map(int, true)), **noticed)


def broken(why: str, *, whose: str = "", recovered: Iterable[int] = (), true: Iterable[int] = ()) -> Verdict:
    """A promise does not hold; with the recovered secret, where there is one, and the true one."""
    return Verdict("broken", why, whose=whose, recovered=tuple(map(int, recovered)), true=tuple(map(int, true)))


def unavailable(why: str) -> Verdict:
    """A protocol that crashes, hangs or floods under attack."""
    return Verdict("broken", f"unavailable: {why}")


def untold(why: str, measured: Measured | None = None) -> Verdict:
    """So few trials could not have refuted the claim."""
    return Verdict("cannot tell", why, measured=measured)


def inapplicable(why: str) -> Verdict:
    """The attack has no meaning here."""
    return Verdict("not applicable", why)


def combine(parts: Iterable[tuple[str, Verdict]]) -> Verdict:
    """The worst of several tries, with a line for each."""
    tries = list(parts)
    if not tries:
        return inapplicable("nothing to try")
    worst = max((verdict for _, verdict in tries), key=lambda verdict: SEVERITY.index(verdict.status))
    return replace(worst, parts=tuple(f"{name}: {verdict.line}" for name, verdict in tries))


if set(SEVERITY) != set(get_args(Status)):
    raise TypeError("every status has a severity")
