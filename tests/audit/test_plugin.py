"""The fixtures, in a test run of somebody else's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
THEIRS = f'''
import sys

sys.path[:0] = [{str(EXAMPLES / "naive_protocol")!r}]
import naive_protocol
import pytest

from securefl.audit import audit, of_job
from securefl.audit.measured import run

JOB = """
[privacy]
epsilon = 2.0
rounds = 4
threshold = 4

[data]
clients = 5
"""


@pytest.fixture(autouse=True)
def few(monkeypatch):
    whole, measured = audit.audit_protocol, run.measure_mechanism
    monkeypatch.setattr(of_job, "audit_protocol", lambda name, **given: whole(name, rows=(4, 6, 18), **given))
    monkeypatch.setattr(of_job, "measure_mechanism", lambda one: measured(one, checks=("clip-outlier", "epsilon-gradients")))


def test_ours_passes(audit):
    assert audit("secagg", rows=[4, 18]).passed


def test_theirs_fails(audit):
    audit(naive_protocol.SCHEME, rows=[18])


def test_theirs_is_known_to_fail(audit):
    audit(naive_protocol.SCHEME, rows=[18, 24], expect=[18, 24])


def test_a_row_that_should_fail_and_does_not(audit):
    audit("secagg", rows=[18], expect=[18])


def test_their_job(audit_job, tmp_path):
    (tmp_path / "job.toml").write_text(JOB)
    found = audit_job(tmp_path / "job.toml")
    assert (found.protocol.target.parties, found.protocol.target.federation().t) == (5, 4)
    assert found.mechanism.setting.claimed == 2.0


def test_their_job_where_less_noise_is_added(audit_job, tmp_path, monkeypatch):
    from securefl.privacy import dpsgd

    real = dpsgd.gaussian
    monkeypatch.setattr(dpsgd, "gaussian", lambda rand, label, shape, std, **kind: real(rand, label, shape, 0.0, **kind))
    (tmp_path / "job.toml").write_text(JOB)
    audit_job(tmp_path / "job.toml")


def test_their_policy_is_too_weak(audit_job, tmp_path):
    from protocols.policy import Policy

    (tmp_path / "job.toml").write_text(JOB)
    audit_job(tmp_path / "job.toml", policy=Policy(min_corrupt=0))  # it would take any threshold


def test_a_server_of_their_own(cheating_server):
    server = cheating_server("plain-insecure")
    assert sorted(u for u, kind in server.heard) == [1, 2, 3, 4, 5, 6]
'''


def test_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(THEIRS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest", "-rf"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=240, check=False)
    lines = done.stdout
    assert "4 failed, 4 passed" in lines, lines + done.stderr
    assert "FAILED test_theirs.py::test_theirs_fails" in lines
    assert "row 18, the server's whole state and traffic: broken (a sample count is sent in clear)" in lines
    assert "rows that should be broken are not: [18]" in lines
    assert "epsilon-gradients: broken" in lines
    assert "row 6, a threshold below what one colluder needs: broken" in lines


def test_nothing_is_imported_before_a_fixture_is_asked_for(tmp_path: Path) -> None:
    source = "import sys, securefl.pytest_plugin; print('numpy' in sys.modules or 'protocols.sums' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.stdout == "False\n"
