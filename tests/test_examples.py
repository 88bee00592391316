"""Every example runs as a program of its own, in an empty folder, and says or writes what it promises."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import made_package
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def start(name: str, folder: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sums(folder: Path) -> None:
    out = start("01_sum_without_ml.py", folder)
    expected = [sum(column) for column in zip(*([12 + u, 30 - u, 7 * u, u % 3] for u in range(1, 11)), strict=True)]
    assert out == f"sum over 10 hospitals: {expected}\n"
    assert not list(folder.iterdir())


def picture(folder: Path) -> None:
    from matplotlib import image

    out = start("02_watch_masks_cancel.py", folder)
    assert "sum of 4 parties exact: True" in out
    assert [path.name for path in folder.iterdir()] == ["masks_cancel.png"]
    pixels = image.imread(folder / "masks_cancel.png")
    red = (pixels[..., 0] > 0.7) & (pixels[..., 1] < 0.4) & (pixels[..., 2] < 0.4)
    rows, columns = np.nonzero(red)
    assert columns.min() > pixels.shape[1] / 2, "the masked vectors stand in the right half"
    thirds = np.histogram(rows, bins=6, range=(0, pixels.shape[0]))[0]
    assert thirds[3] < min(thirds[[0, 1, 2, 4, 5]]) / 2, "every party's row holds points but that of the one that vanished"


def dropouts(folder: Path) -> None:
    lines = start("03_dropouts.py", folder).splitlines()[1:]
    vectors = {u: (u, 10 * u, 2**u) for u in range(1, 8)}
    steps = {"Advert": "collect", "Boxes": "relay", "Masked": "survey", "Agree": "gather", "Openings": "reveal"}
    assert [line.split()[0] for line in lines] == [stage for stage in steps for _ in range(2)]
    for line in lines:
        stage, gone, told = re.fullmatch(r"(\w+) +((?:\d, )*\d) +(.*)", line).groups()
        missing = {int(u) for u in gone.split(", ")}
        if len(missing) == 3:
            assert told == f"aborted in step {steps[stage]}: quorum (4 {stage} where 5 are needed)"
            continue
        inside = [vectors[u] for u in vectors if u not in missing or stage in ("Agree", "Openings")]
        assert f"sum over {len(inside)} " in told
        assert told.endswith(str([sum(column) for column in zip(*inside, strict=True)]))


SECRET = [7, -3, 42, 0]
TOLD = re.compile(r"server reads (None|\[.*?\])[;,] hospital (\d) (.*)")


def cheating(name: str, *checks: str) -> Callable[[Path], None]:
    """Each attack gets nothing, ended by its check; and the secret where that one thing is left out."""

    def facts(folder: Path) -> None:
        told = [match.groups() for line in start(name, folder).splitlines() if (match := TOLD.search(line))]
        assert len(told) == 2 * len(checks)
        for check, (got, _, ended), (stolen, victim, has) in zip(checks, told[::2], told[1::2], strict=True):
            assert got == "None"
            assert re.match(rf"aborted( in step \w+)?: {check} ", ended)
            assert (stolen, victim, has) == (str(SECRET), "1", f"has {SECRET}")

    return facts


def two_models(folder: Path) -> None:
    honest, lied = start("04d_two_models.py", folder).splitlines()
    assert honest.endswith(f"sum over 4 {[0] * 4}, refused: ['client 1 advert-signature']")
    assert lied.endswith(f"sum over 5 {SECRET}, refused: nothing; hospital 1 has {SECRET}")


def honest_server(folder: Path) -> None:
    assert start("lying_server.py", folder) == "shares of every seed b opened: [5, 5, 5, 5, 5]\n"


def views(folder: Path) -> None:
    """Each party finds itself among the survivors, who are t at least: no view is refused for itself."""
    told = ast.literal_eval(start("cracking.py", folder).partition(": ")[2])
    assert set(told) == {1, 2, 3, 4, 5}
    assert all(u in survivors and 1 in survivors and len(survivors) >= 3 for u, survivors in told.items())
    assert sum(2 in survivors for survivors in told.values()) == sum(3 in survivors for survivors in told.values()) == 2


def training(folder: Path) -> None:
    *rounds, score, opened = start("05_federated_training.py", folder).splitlines()
    for number, line in enumerate(rounds, 1):
        contributors, aborted = re.fullmatch(rf"round {number}: (\d) of 4 in the sum (.*)", line).groups()
        assert int(contributors) in (3, 4) or aborted
    assert len(rounds) == 10
    auroc, epsilon = map(float, re.fullmatch(r"AUROC on held-out rows: ([\d.]+); ε spent by a site: ([\d.]+) of 3", score).groups())
    assert auroc > 0.9
    assert 0 < epsilon <= 3
    assert "sum of weighted updates (covered by ε)" in opened
    assert "sum of weights (row total) (exact)" in opened


def own_protocol(folder: Path) -> None:
    total, check, policy, name, spent = start("06_your_own_protocol.py", folder).splitlines()
    assert total == f"sum over 5: {[sum(column) for column in zip(*([12 + u, 30 - u, 7 * u] for u in range(1, 6)), strict=True)]}"
    assert check.endswith("aborted in step pad: ring-signature (the key of party 2 is not its own)")
    assert policy.endswith("aborted: policy-corrupt (|C| = 1, own least 3)")
    assert name.endswith("the protocol 'secagg' of this program (register) is refused: that name is securefl's own")
    assert spent.endswith("the step pad takes the input, so it and no other must be declared with spends=True")


def audited(folder: Path) -> None:
    """The three planted faults and the one that an adversary of its own finds, each with what it gives away."""
    *found, last = start("07_audit_your_own.py", folder).splitlines()
    assert last == "4 of 6 attacks succeed"
    assert [line.partition(", ")[0] for line in found[::2]] == ["row 7", "row 18", "row 24", "our own"]
    for line in found[1::2]:
        recovered, true = re.fullmatch(r"  recovered of client 1 (\[.+\]), true (\[.+\])", line).groups()
        assert recovered == true


def branching(folder: Path) -> None:
    steps, *rounds = start("08_branching_flow.py", folder).splitlines()
    order = steps.removeprefix("a site's steps: ").split(", ")
    assert order[order.index("standardise") :][:4] == ["standardise", "train", "calibrate", "combine"]
    assert order.index("combine") < order.index("encode_update") < order.index("mask")
    assert len(rounds) == 8
    for number, line in enumerate(rounds, 1):
        (apart,) = re.fullmatch(rf"round {number}: predicted and seen cases are ([\d.]+) apart, .*", line).groups()
        assert 0 < float(apart) < 569 / 2


def evidence(folder: Path) -> None:
    """The command that it prints convicts the party, by the tape's roster; and no other party's."""
    summed, proven, command = start("09_evidence.py", folder, "there").splitlines()
    assert summed == f"sum over 6: {[21 + 6 * i for i in range(4)]}; named: client 2 (openings-share-hash)"
    what = "party 2 (party-2) opened another share of party 1's secret than the one whose hash it had signed"
    assert proven == f"proven: in round 1, attempt 0 of example: {what}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def verify(words: list[str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "securefl", *words]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=240, check=False)

    words = command.split()
    assert words[0] == "securefl"
    assert verify(words[1:]).stdout == proven + "\n"
    start("09_evidence.py", folder, "elsewhere")
    others = verify([*words[1:-1], "elsewhere/run.tape"])
    assert others.returncode == 1
    assert "evidence-roster" in others.stderr


def statistics(folder: Path) -> None:
    """Sums of 569 rows; the mean is that of all rows in one place, and nothing below 5 is shown."""
    out = start("10_statistics.py", folder)
    bound, pooled = map(float, re.search(r"off by at most (\S+); pooled, pandas has (\S+)", out).groups())
    assert bound < 1e-6
    count, missing, mean, _ = map(float, re.search(r"^mean area +(\d.*)", out, re.MULTILINE).group(1).split())
    assert (count, missing) == (569, 0)
    assert abs(mean - pooled) < 1e-5
    assert re.search(r"^mean texture +505 +64 ", out, re.MULTILINE)
    (withheld,) = re.search(r"^(\d+) cells are not released", out, re.MULTILINE).groups()
    table = out[out.index("grade") : out.index("cells are not released")]
    assert table.count("<NA>") == int(withheld) > 0
    assert not re.search(r" [1-4]( |$)", table.partition("grade")[2].partition("\n")[2], re.MULTILINE)
    assert "opened (exact): screening of the cells of grade by target" in out


def clinical(folder: Path) -> None:
    """Curves and p are those of scipy on pooled rows; the variant that matters is found."""
    out = start("11_survival_and_variants.py", folder)
    (off,) = re.search(r"differ from the pooled ones by (\S+);", out).groups()
    assert float(off) < 1e-12
    ours, pooled = re.search(r"log-rank: p = (\S+) from sums, (\S+) from pooled rows", out).groups()
    assert ours == pooled
    assert 0 < float(ours) < 0.05
    variant, p, scipys = re.search(r"^(rs\d+): .* p = (\S+); pooled, scipy has (\S+)", out, re.MULTILINE).groups()
    assert (variant, p) == ("rs400", scipys)
    assert int(re.search(r"^(\d+) of 500 variants", out, re.MULTILINE).group(1)) > 0


FACTS = {
    "01_sum_without_ml.py": sums,
    "02_watch_masks_cancel.py": picture,
    "03_dropouts.py": dropouts,
    "04_cheating_server.py": cheating("04_cheating_server.py", "agreed-signature", "listed-signature"),
    "04a_both_shares.py": cheating("04a_both_shares.py", "wire-field"),
    "04b_old_signatures.py": cheating("04b_old_signatures.py", "agreed-signature"),
    "04c_lower_threshold.py": cheating("04c_lower_threshold.py", "policy-corrupt"),
    "04d_two_models.py": two_models,
    "05_federated_training.py": training,
    "06_your_own_protocol.py": own_protocol,
    "07_audit_your_own.py": audited,
    "08_branching_flow.py": branching,
    "09_evidence.py": evidence,
    "10_statistics.py": statistics,
    "11_survival_and_variants.py": clinical,
    "cracking.py": views,
    "lying_server.py": honest_server,
}
"""What is checked beside the exit code."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_keeps_its_promise(name, tmp_path):
    FACTS[name](tmp_path)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_short_and_says_what_it_is(name):
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert len(text.splitlines()) < 80


def test_every_example_has_its_facts():
    assert sorted(FACTS) == EXAMPLES


def test_what_an_example_writes_is_ignored_by_git():
    assert "masks_cancel.png" in (ROOT / ".gitignore").read_text().splitlines()


def test_picture_goes_where_the_argument_says(tmp_path):
    (tmp_path / "there").mkdir()
    start("02_watch_masks_cancel.py", tmp_path, "there")
    assert (tmp_path / "there" / "masks_cancel.png").stat().st_size > 10_000


def test_the_command_line_audits_the_naive_protocol_where_it_is_installed(tmp_path):
    """By the name in its project file, whose faults are found as example 07 finds them."""
    toy = ROOT / "examples" / "naive_protocol"
    points = tomllib.loads((toy / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]["securefl.protocols"]
    source = (toy / "naive_protocol.py").read_text(encoding="utf-8")
    where = made_package.install(tmp_path, points, name="naive-protocol", module="naive_protocol", source=source)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(where)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "securefl", "audit", "naive", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", timeout=240, check=False)
    assert done.returncode == 1
    (audit,) = json.loads(done.stdout)["audits"]
    assert {result["row"] for result in audit["results"] if result["status"] == "broken"} >= {7, 18, 24}
