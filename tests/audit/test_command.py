"""``securefl audit``: what is refused, printed, written, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from protocols import sums
from securefl.audit import audit_protocol, command
from securefl.audit.audit import junit
from securefl.audit.measured.registry import MECHANISMS
from securefl.audit.measured.run import measure_mechanism
from securefl.cli import main


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows are enough to see what is shown."""
    monkeypatch.setattr(command, "audit_protocol", lambda target, tell: audit_protocol(target, rows=(4, 18, 21, 22), tell=tell))
    checks = ("clip-outlier", "epsilon-gradients")
    monkeypatch.setattr(command, "measure_mechanism", lambda setting, tell: measure_mechanism(setting, checks=checks, tell=tell))
    monkeypatch.setenv("COLUMNS", "120")


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["audit", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_table_of_what_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "secagg")
    assert (code, err) == (0, "")
    assert "secagg: 6 parties, t = 4, |C| = 1" in out
    assert "refused by client 1 in advertise of round 0: policy-roster" in out
    port = "a protocol has no port: securefl audit --live HOST:PORT attacks that of a server"
    line = f"not applicable: 21 ({port}), 22 (it has no sparse graph)"
    assert line in " ".join(out.split())
    assert "nothing broken" in out
    assert "a passed audit is not a proof" in out


def test_a_broken_row_prints_the_secret_beside_the_true_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "plain-insecure")
    assert code == 1
    assert err == "securefl: 1 attacks succeed against plain-insecure\n"
    recovered = next(line for line in out.splitlines() if "recovered of client 1" in line)
    true = next(line for line in out.splitlines() if line.strip().startswith("true"))
    assert recovered.partition(": ")[2] == true.partition(": ")[2] != "[]"


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "secagg", "plain-insecure", "--json")
    tree = json.loads(out)
    assert code == 1
    assert tree["passed"] is False
    assert [(audit["protocol"], audit["passed"]) for audit in tree["audits"]] == [("secagg", True), ("plain-insecure", False)]
    (found,) = [r for r in tree["audits"][1]["results"] if r["status"] == "broken"]
    assert found["row"] == 18
    assert found["recovered"] == found["true"] != []


def test_all_are_those_that_claim_to_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [one.protocol for one in command.chosen((), every=True, job=None)]
    assert names == [name for name in sums.names() if name != "plain-insecure"]


@pytest.mark.parametrize("depth", ["--quick", "--full"])
def test_all_measures_every_mechanism_that_claims_an_epsilon(
    depth: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for both laws of the noise inside the sum in --full; with a mechanism that is named, that one alone."""
    monkeypatch.setattr(command, "chosen", lambda *_, **__: [])
    monkeypatch.setattr(command, "measure_mechanism", lambda setting, tell: measure_mechanism(setting, checks=(), tell=tell))

    def measured(*words: str) -> list[tuple[str, str | None]]:
        _, out, _ = told(capsys, "--all", "--json", depth, *words)
        found = json.loads(out)["measured"]
        assert {one["quick"] for one in found} == {depth == "--quick"}
        return [(one["mechanism"], one["noise"]) for one in found]

    inside = {name for name in MECHANISMS if name.startswith("distributed-")}
    expected = {(name, "skellam" if name in inside else None) for name in MECHANISMS if name != "none"}
    both = {(name, "discrete-gaussian") for name in inside if depth == "--full"}
    found = measured()
    assert set(found) == expected | both
    assert len(found) == len(set(found))
    named = ("distributed-party", "discrete-gaussian")
    assert measured("--mechanism", named[0], "--noise", named[1]) == [named]


def test_a_mechanism_that_is_refuted_fails_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from securefl.privacy import dpsgd

    real = dpsgd.gaussian
    monkeypatch.setattr(dpsgd, "gaussian", lambda rand, label, shape, std, **kind: real(rand, label, shape, 0.0, **kind))
    monkeypatch.setattr(command, "chosen", lambda *_, **__: [])
    monkeypatch.setattr(
        command, "measure_mechanism", lambda setting, tell: measure_mechanism(setting, checks=("epsilon-gradients",), tell=tell)
    )
    code, out, err = told(capsys, "--all")
    assert code == 1
    assert "mechanism local-record" in out
    assert "1 measurements refute the mechanism local-record" in err


def test_junit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "plain-insecure", "--junit", str(tmp_path / "audit.xml"))
    assert code == 1
    assert "written:" in out
    (suite,) = ET.parse(tmp_path / "audit.xml").getroot()  # noqa: S314  (our own)
    assert suite.attrib["failures"] == "1"
    failed = [case for case in suite if case.find("failure") is not None]
    assert [case.attrib["name"] for case in failed] == ["row 18: the server's whole state and traffic"]
    assert "recovered of client 1" in failed[0].find("failure").attrib["message"]
    assert int(suite.attrib["tests"]) == len(suite)
    assert int(suite.attrib["skipped"]) == len([case for case in suite if case.find("skipped") is not None])


def test_junit_of_nothing() -> None:
    assert ET.fromstring(junit([])).tag == "testsuites"  # noqa: S314  (our own)


def test_the_protocol_of_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.toml"
    job.write_text('[privacy]\nprotocol = "lightsecagg"\nthreshold = 5\n\n[data]\nclients = 5\n')
    code, out, _ = told(capsys, "--job", str(job))
    assert code == 0
    assert "lightsecagg: 5 parties, t = 5, |C| = 1" in out
    assert "mechanism local-record: ε = 3 at δ = 1e-05 is claimed" in out


@pytest.mark.parametrize(("hidden", "taken"), [(16, "secagg"), (60_000, "kahe")])
def test_a_job_that_names_no_protocol_is_audited_with_the_one_that_it_would_run(tmp_path: Path, hidden: int, taken: str) -> None:
    rows = "".join(f"{number % 7},{number % 2},s{number % 60}\n" for number in range(600))
    (tmp_path / "table.csv").write_text("a,sick,place\n" + rows)
    job = tmp_path / "job.toml"
    data = '[data]\nname = "table.csv"\nlabel = "sick"\nsite = "place"\n'
    job.write_text(f'{data}\n[model]\nname = "mlp"\nhidden = {hidden}\n')
    (found,) = command.chosen((), every=False, job=job)
    assert (found.protocol, found.parties) == (taken, 60)


def test_what_a_mechanism_gives_away(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "--mechanism", "local-record")
    assert (code, err) == (0, "")
    assert "mechanism local-record: ε = 3 at δ = 1e-05 is claimed for one record over 60 steps" in out
    assert "one run: ε ≥" in out
    assert "clip-outlier" in out
    assert "a bound from below proves no ε" in out


def test_of_a_job_that_draws_a_cohort_for_each_round_the_cohort_is_audited(tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text('[privacy]\nprotocol = "secagg"\nthreshold = 3\nclients_per_round = 4\n\n[data]\nclients = 9\n')
    (found,) = command.chosen((), every=False, job=job)
    target = found.target(quick=True)
    assert (target.parties, target.federation().t) == (4, 3)


def test_the_help_names_every_mechanism_that_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--help"]) == 0
    told = capsys.readouterr().out.replace("│", " ").split()
    assert {word.strip("(),.:") for word in told} >= set(MECHANISMS)


def test_no_mechanism_claims_nothing_and_the_job_s_other_knobs_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, page = tmp_path / "job.toml", tmp_path / "out"
    job.write_text('[privacy]\nprotocol = "secagg"\nepsilon = 2.0\nrounds = 4\n')
    code, out, _ = told(capsys, "--job", str(job), "--mechanism", "none", "--json", "--report", str(page))
    tree = json.loads(out)
    (found,) = tree["measured"]
    assert (code, found["mechanism"], found["claimed"], found["unit"]) == (0, "none", None, "record")
    assert [r["notice"] for r in found["results"]] == ["epsilon-gradients"]
    assert found["results"][0]["measured"]["lower"] > 2
    assert json.loads((page / "audit.json").read_text()) == tree
    assert "Nothing is claimed, and single records show." in (page / "audit.html").read_text()


def test_a_refuted_claim_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from securefl.privacy import dpsgd

    real = dpsgd.gaussian
    monkeypatch.setattr(dpsgd, "gaussian", lambda rand, label, shape, std, **kind: real(rand, label, shape, 0.0, **kind))
    code, out, err = told(capsys, "--mechanism", "local-record", "--json", "--junit", str(tmp_path / "x.xml"))
    assert code == 1
    assert err == "securefl: 1 measurements refute the mechanism local-record\n"
    tree = json.loads(out)
    assert not tree["passed"]
    (found,) = [r for r in tree["measured"][0]["results"] if r["status"] == "broken"]
    assert found["check"] == "epsilon-gradients"
    assert found["measured"]["claimed"] == 3
    assert found["measured"]["lower"] == found["measured"]["cap"] > 3
    (suite,) = ET.parse(tmp_path / "x.xml").getroot()  # noqa: S314  (our own)
    assert suite.attrib["name"] == "securefl audit mechanism local-record"
    assert suite.attrib["failures"] == "1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to audit"),
        (["--mechanism", "distributed-skellam"], "nothing measures the mechanism distributed-skellam"),
        (["secagg", "--mechanism", "local"], "nothing measures the mechanism local"),
        (["secagg", "--noise", "skellam"], "--noise is about a mechanism"),
        (["--mechanism", "local-record", "--noise", "skellam"], "--noise is refused without noise inside the sum"),
        (["--mechanism", "distributed-party", "--noise", "white"], "--noise"),
        (["secagg", "--all"], "secagg and --all do not go together"),
        (["secagg", "kahe", "--job", "x.toml"], "secagg kahe and --job do not go together"),
        (["--all", "--job", "x.toml"], "--all and --job do not go together"),
        (["secag"], "no protocol 'secag'"),
        (["secagg", "--junit", "nowhere/x.xml"], "cannot be written"),
        (["--job", "none.toml"], "none.toml"),
        (["secagg", "--report", "{file}"], "{file}"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_tried(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file")
    monkeypatch.setattr(command, "run", lambda *_, **__: pytest.fail("something was tried"))
    code, out, err = told(capsys, *(word.format(file=place) for word in words))
    assert code == 2
    assert said.format(file=place) in err
    assert out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_torch_is_not_needed(tmp_path: Path) -> None:
    import subprocess
    import sys

    source = "import sys, securefl.cli; securefl.cli.main(['audit', 'plain-insecure', '--json']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, encoding="utf-8", timeout=240, check=False)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(("protocol", "threshold", "expected"), [("secagg", None, 4), ("secagg", 5, 5), ("bfv", None, 4)])
def test_the_tree_says_for_how_many_parties_a_verdict_holds(protocol: str, threshold: int | None, expected: int) -> None:
    tree = audit_protocol(protocol, rows=[6], threshold=threshold).as_json()
    assert (tree["parties"], tree["threshold"], tree["corrupt"]) == (6, expected, 0 if protocol == "bfv" else 1)


def test_audits_keep_their_options(naive: Any) -> None:
    audit = audit_protocol(naive.SCHEME, rows=[18, 22], parties=4, quick=False)
    assert audit.target.parties == 4
    assert audit.rows == {18}
    assert [r.verdict.status for r in audit.results if r.row == 22] == ["not applicable"]
