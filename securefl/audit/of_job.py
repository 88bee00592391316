"""A job file as a team's own tests audit it: its protocol, threshold and cohort, and what its mechanism gives away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protocols.policy import Policy
from securefl.audit import command
from securefl.audit.audit import Audit, audit_protocol
from securefl.audit.measured.run import Measurement, measure_mechanism, setting_of


@dataclass(frozen=True)
class JobAudit:
    """What came of a job.

    Attributes:
        protocol: of its protocol, with its threshold, for as many parties as a round invites.
        mechanism: of the ε that it claims.
    """

    protocol: Audit
    mechanism: Measurement

    @property
    def passed(self) -> bool:
        """Whether nothing is broken and no claim refuted, and both could have been."""
        return self.protocol.passed and self.mechanism.passed

    @property
    def report(self) -> str:
        """What is broken or refuted, one a line; for an assertion in a test."""
        refuted = [f"{result.notice}: {result.verdict.line}" for result in self.mechanism.broken]
        return "\n".join([self.protocol.report, *(refuted or [f"{self.mechanism.name}: nothing is refuted"])])


def audit_job(job: str | Path, *, policy: Policy | None = None, quick: bool = True) -> JobAudit:
    """Audit what a job runs, as ``securefl audit --job`` does.

    Args:
        job: the file.
        policy: every party's own bounds; by default those that simulation gives them.
        quick: whether less is tried.

    Raises:
        UserError: for a job that is refused, or whose rounds have fewer than 3 or more than 64 sites.
        Misuse: for a protocol that does not exist, or parameters that it refuses.
    """
    path = Path(job)
    setting = setting_of(None, path, quick=quick)  # what is refused is refused before anything is tried
    (found,) = command.chosen((), every=False, job=path)
    audit = audit_protocol(found.protocol, parties=found.parties, threshold=found.threshold, policy=policy, quick=quick)
    return JobAudit(audit, measure_mechanism(setting))
