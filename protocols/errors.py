"""Two families of errors, *you* did wrong and *they* did wrong, and the typed abort.

`Misuse` is raised for what the local caller did (a wrong shape, a parameter that breaks a security bound).  `Refused` is raised for
what another party sent; it names the sender, the step and the check, and never carries a secret: the text of an error may
reach the server, and must not serve as an oracle.  `Abort` ends a session that cannot be finished safely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocols.evidence import Evidence


class SecureSumError(Exception):
    """Base of every error that this package raises on purpose."""


class Misuse(SecureSumError, ValueError):
    """The local caller gave something that is refused before anything leaves.  The text names the value and the allowed range."""


class Refused(SecureSumError):
    """A message failed a check.

    Attributes:
        check: id of the check, as listed in docs/checks.md.
        detail: one line that names what was wrong, without secrets.
        sender: role and index of who sent it (``"server"``, ``"client 3"``), filled in by the session that knows it.
        step: name of the step that refused it, filled in likewise.
        evidence: what the sender signed, where that proves to others that it did wrong.
    """

    def __init__(
        self,
        check: str,
        detail: str = "",
        *,
        sender: str | None = None,
        step: str | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        super().__init__(check, detail)
        self.check = check
        self.detail = detail
        self.sender = sender
        self.step = step
        self.evidence = evidence

    def __str__(self) -> str:
        where = f" in step {self.step}" if self.step else ""
        who = f" from {self.sender}" if self.sender else ""
        return f"refused{who}{where}: {self.check}" + (f" ({self.detail})" if self.detail else "")


class Abort(SecureSumError):
    """A session ended without a result; the model is unchanged.

    Attributes:
        check: id of the check or bound that could not be met.
        detail: one line, without secrets.
        step: name of the step in which it happened.
        faults: what others did wrong that led to it, where a step found that out.
    """

    def __init__(self, check: str, detail: str = "", *, step: str | None = None, faults: Sequence[Refused] = ()) -> None:
        super().__init__(check, detail)
        self.check = check
        self.detail = detail
        self.step = step
        self.faults = tuple(faults)

    def __str__(self) -> str:
        where = f" in step {self.step}" if self.step else ""
        return f"aborted{where}: {self.check}" + (f" ({self.detail})" if self.detail else "")


def require(ok: object, check: str, detail: str = "", *, sender: str | None = None) -> None:
    """Raise `Refused` with the id of the check unless ``ok`` is true; ``sender`` is needed only to blame someone else."""
    if not ok:
        raise Refused(check, detail, sender=sender)
