"""Fixtures of pytest for whoever audits a protocol of their own in their own tests; nothing is imported before one is asked for.

    def test_mine_keeps_its_promises(audit):
        audit("mine")


    def test_our_job(audit_job):
        audit_job("job.toml")

Installed with this package under the entry point ``pytest11``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from protocols import sums
    from securefl.audit import Audit, CheatingServer, JobAudit, Target

    AuditIt = Callable[..., Audit]
    AuditJob = Callable[..., JobAudit]
    ServerFor = Callable[[str | sums.Scheme | Target], CheatingServer]


@pytest.fixture
def audit() -> AuditIt:
    """`securefl.audit.audit_protocol`, which fails the test where a promise is broken.

    Takes its arguments, and ``expect``: rows that are known to be broken, each of which must be.
    """
    from securefl.audit import audit_protocol  # noqa: PLC0415  (only tests that ask for it pay for it)

    def check(protocol: Any, *, expect: Collection[int] = (), **options: Any) -> Audit:
        result = audit_protocol(protocol, **options)
        surprising = [r for r in result.broken if r.row not in expect]
        if surprising:
            pytest.fail("\n".join(f"row {r.row}, {r.name}: {r.verdict.line}" for r in surprising), pytrace=False)
        if missing := set(expect) - result.rows:
            pytest.fail(f"rows that should be broken are not: {sorted(missing)}", pytrace=False)
        return result

    return check


@pytest.fixture
def audit_job() -> AuditJob:
    """`securefl.audit.audit_job`, which fails the test where the job's protocol is broken or its claim refuted."""
    from securefl.audit import audit_job as audited  # noqa: PLC0415

    def check(job: Any, **options: Any) -> JobAudit:
        result = audited(job, **options)
        if not result.passed:
            pytest.fail(result.report, pytrace=False)
        return result

    return check


@pytest.fixture
def cheating_server() -> ServerFor:
    """Makes a server that runs no step: it drives real parties of a protocol with messages of the test's own."""
    from securefl.audit import CheatingServer, Target  # noqa: PLC0415

    def served(protocol: Any) -> CheatingServer:
        target = protocol if isinstance(protocol, Target) else Target.of(protocol)
        return CheatingServer(target.federation())

    return served
