"""``securefl noise``: the figures of the plan, told in table, JSON and picture, and refusals in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securefl import params_gaussian, params_noise
from securefl.cli import main
from securefl.job import Job
from securefl.privacy.accountant import epsilon_of
from securefl.privacy.noise_plan import Cohort, calibrate_distributed
from securefl.privacy.prepared import encoding_of, noise_of
from securefl.privacy.record_plan import calibrate_records

ASKED = {"--epsilon": "3", "--delta": "1e-5", "--mechanism": "distributed-party", "--clients": "50", "--rounds": "20"}


def run(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0, **changes: str) -> str:
    given = {**ASKED, **{f"--{name}": value for name, value in changes.items()}}
    words = [word for pair in given.items() for word in pair]
    assert main(["noise", *words, *options]) == code
    captured = capsys.readouterr()
    if code:
        assert captured.out == ""
        assert captured.err.count("\n") == 1
    return captured.err if code else captured.out


@pytest.mark.parametrize("noise", ["skellam", "discrete-gaussian"])
def test_the_figures_are_those_of_the_plan(capsys: pytest.CaptureFixture[str], noise: str) -> None:
    tree = json.loads(run(capsys, "--json", noise=noise, dimension="300", clip="2.5", corrupt="5", dropouts="10"))
    plan = calibrate_distributed(
        epsilon=3.0, delta=1e-5, cohort=Cohort.of(50, corrupt=5, dropouts=10), rounds=20, size=300, clip=2.5, kind=noise
    )
    assert (tree["mechanism"], tree["privacy"]["unit"], tree["noise"]) == ("distributed-party", "party", noise)
    assert (tree["granularity"], tree["share"], tree["wrap"], tree["dimension"]) == (plan.granularity, plan.share, plan.wrap, 512)
    asked = tree["asked"]
    assert (asked["clients"], asked["corrupt"], asked["smallest"], asked["bits"]) == (50, 5, 40, plan.bits)
    assert asked["party_deviation"] == pytest.approx(plan.granularity * math.sqrt(plan.share))
    assert asked["sum_deviation"] == pytest.approx(asked["party_deviation"] * math.sqrt(50))
    assert asked["error"] == pytest.approx(asked["mean_deviation"] * math.sqrt(300))
    assert asked["worst_error"] == pytest.approx(asked["error"] * math.sqrt(50 / 40))
    assert asked["spent"] == plan.spent(50) < 3
    assert tree["privacy"] == {"unit": "party", "epsilon": [plan.spent(50)], "delta": 1e-5, "accountant": "rdp", "planned": 3.0}
    assert asked in tree["rows"]
    for row in tree["rows"]:
        assert (row["corrupt"], row["smallest"]) == (row["clients"] // 10, row["clients"] - row["clients"] // 5)
    errors = [row["error"] for row in tree["rows"]]
    assert errors == sorted(errors, reverse=True)
    for n, good in ((tree["useful"], True), (round(tree["useful"] * 0.9), False)):
        there = params_noise.answer(3, 1e-5, n, 20, kind=plan.kind, size=300, clip=2.5, corrupt=n // 10, dropouts=n // 5)
        assert (there.asked.error < 2.5) == good


def test_without_more_said_the_cohort_is_that_of_the_protocols(capsys: pytest.CaptureFixture[str]) -> None:
    tree = json.loads(run(capsys, "--json"))
    assert (tree["asked"]["corrupt"], tree["asked"]["smallest"]) == (16, 34)
    assert [row["clients"] for row in tree["rows"]] == [12, 25, 50, 100, 200, 500, 5000]


def test_the_table_shows_noise_bits_error_and_cohorts(capsys: pytest.CaptureFixture[str]) -> None:
    screen, tree = run(capsys), json.loads(run(capsys, "--json"))
    assert "ε = 3, δ = 1e-05 for every party over 20 rounds" in " ".join(screen.split())
    for figure in (tree["asked"]["party_deviation"], tree["asked"]["error"], tree["asked"]["mean_deviation"]):
        assert f"{figure:.4g}" in screen
    assert f"bits of a value             {tree['asked']['bits']}" in screen
    assert f"from about {tree['useful']} parties on" in " ".join(screen.split())


def test_where_no_cohort_is_large_enough_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    screen = run(capsys, epsilon="0.1", dimension="1000000", delta="1e-3", clients="10", rounds="1000")
    assert "no number of parties up to 999" in " ".join(screen.split())


def test_a_cohort_just_below_what_delta_allows_is_found() -> None:
    found = params_noise.answer(3, 1 / 500, 100, 20).useful
    assert found is not None
    assert 250 < found < 500


@pytest.mark.parametrize("ending", ["svg", "png", "PDF"])
def test_the_picture_is_drawn_the_same_again(capsys: pytest.CaptureFixture[str], tmp_path: Path, ending: str) -> None:
    pictures = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for picture in pictures:
        assert f"written: {picture}" in run(capsys, "--plot", str(picture)).replace("\n", "")
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {picture.name for picture in pictures}
    if ending == "svg":
        assert "</svg>" in pictures[0].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": "0"}, "epsilon is 0.0: it must be finite and above 0"),
        ({"epsilon": "-1"}, "epsilon is -1.0"),
        ({"epsilon": "nan"}, "epsilon is nan"),
        ({"delta": "0.02"}, "delta is 0.02: it must lie below 1 over the number of parties, 0.02"),
        ({"delta": "0"}, "delta is 0.0"),
        ({"clip": "0"}, "the clipping bound is 0.0: it must be above 0"),
        ({"clip": "inf"}, "the clipping bound is inf"),
        ({"rounds": "0"}, "rounds is 0"),
        ({"dimension": "0"}, "the dimension is 0"),
        ({"clients": "1"}, "the number of parties is 1"),
        ({"corrupt": "20", "dropouts": "30"}, "20 corrupt parties and 30 dropouts leave no honest noise of 50 parties"),
        ({"corrupt": "50"}, "of 50 parties 0 to 49 may be corrupt, not 50"),
        ({"corrupt": "-1"}, "of 50 parties 0 to 49 may be corrupt, not -1"),
        ({"dropouts": "-1"}, "the number of dropouts is -1: 0 to 49 of 50 parties are allowed"),
        ({"noise": "laplace"}, "laplace"),
        ({"mechanism": "magic"}, "magic"),
        ({"plot": "noise.txt"}, "a picture ends in .svg, .png, .pdf"),
        ({"plot": "nowhere/at/all.svg"}, "its folder is missing"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"plot": "noise.svg", **changes}
    assert message in run(capsys, code=2, **given)
    assert not list(tmp_path.iterdir())


def test_the_documented_cohorts_are_those_computed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
    table = page[page.index("| ε | 31 values") :].split("\n\n")[0].splitlines()
    sizes = [int(cell.split()[0]) for cell in table[0].strip("|").split("|")[1:]]
    assert len(table) == 5
    for line in table[2:]:
        epsilon, *parties = (int(cell) for cell in line.strip("|").split("|"))
        assert parties == [params_noise.answer(epsilon, 1e-6, 100, 20, size=size).useful for size in sizes]
    five = params_noise.answer(3, 1e-6, 5, 20).asked
    assert f"makes the error of a mean of five {five.error:.0f} times" in page


def test_noise_for_records_is_that_of_their_plan(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"mechanism": "distributed-record", "rows": "200", "sample-rate": "0.5", "dimension": "31", "clients": "10"}
    tree = json.loads(run(capsys, "--json", **options))
    plan = calibrate_records(epsilon=3.0, delta=1e-5, cohort=Cohort(10, 7, 3), rounds=20, size=31, clip=1.0, rate=0.5, rows=200)
    assert (tree["privacy"]["unit"], tree["rate"], tree["rows_a_party"]) == ("record", 0.5, 200)
    assert (tree["granularity"], tree["share"], tree["wrap"], tree["asked"]["bits"]) == (
        plan.granularity, plan.share, plan.wrap, plan.bits
    )  # fmt: skip
    assert tree["asked"]["error"] == plan.error(10)
    assert [row["clients"] for row in tree["rows"]] == [2, 5, 10, 20, 40, 100]  # 1000 parties have more records than 1/δ
    text = run(capsys, **options)
    assert "for every record over 20 rounds" in text
    assert "bound of a gradient" in text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mechanism": "distributed-record"}, "needs the public number of rows a party"),
        ({"rows": "100"}, "refused with distributed-party"),
        ({"mechanism": "distributed-record", "rows": "100", "sample-rate": "1.5"}, "sampling rate is 1.5"),
        ({"mechanism": "distributed-record", "rows": "100", "delta": "0.001"}, "below 1 over the number of records"),
    ],
)
def test_what_does_not_belong_to_records_is_refused(capsys: pytest.CaptureFixture[str], options: dict[str, str], why: str) -> None:
    assert why in run(capsys, code=2, **options)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize("mechanism", ["local-record", "central"])
def test_gaussian_noise_is_that_of_a_run_and_its_error_that_of_draws(
    capsys: pytest.CaptureFixture[str], mechanism: str, accountant: str
) -> None:
    local = mechanism == "local-record"
    given = {"mechanism": mechanism, "rows": "200", "sample-rate": "0.25", "dimension": "64", "clients": "4", "clip": "2"}
    given |= {"rounds": "10", "accountant": accountant, **({"local-steps": "3"} if local else {})}
    tree = json.loads(run(capsys, "--json", **given))
    steps = 3 if local else 1
    more = {"local_steps": 3} if local else {"rows": 200}
    wanted = {"mechanism": mechanism, "epsilon": 3.0, "delta": 1e-5, "sample_rate": 0.25, "rounds": 10, "accountant": accountant}
    knobs = Job.parse({"privacy": {**wanted, **more}}).privacy
    sigma = noise_of(knobs)
    assert tree["noise_multiplier"] == sigma
    assert tree["privacy"] == {
        "unit": "record",
        "epsilon": [epsilon_of(sigma or 0, 0.25, 10 * steps, 1e-5, accountant)],
        "delta": 1e-5,
        "accountant": accountant,
        "planned": 3.0,
    }
    draws = np.random.default_rng(0).normal(scale=tree["noise_multiplier"] * 2, size=(4000, 4 if local else 1, 64))
    found = np.sqrt((np.linalg.norm(draws.sum(1) / (0.25 * 200 * 4), axis=1) ** 2).mean())
    assert tree["asked"]["error"] == pytest.approx(found, rel=0.02)  # 5.5 standard deviations of the mean of 256000 squares
    falls = [row["error"] * (math.sqrt(row["clients"]) if local else row["clients"]) for row in tree["rows"]]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert (tree["asked"]["site_error"] is None) != local
    of_run = encoding_of(knobs if local else knobs.model_copy(update={"protocol": "secagg"}), 4, (64,), ())
    assert tree["asked"]["bits"] == of_run.bits
    assert [row["bits"] for row in tree["rows"] if row["clients"] > 1] == sorted(row["bits"] for row in tree["rows"] if row["bits"])
    text = run(capsys, **given)
    assert f"{mechanism}: ε = 3, δ = 1e-05 for every record over {10 * steps} steps" in text


@pytest.mark.parametrize("mechanism", ["local-record", "central"])
def test_the_picture_of_gaussian_noise_has_errors_and_bits_of_all_cohorts_of_the_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    figures, save = list[Any](), params_gaussian.save
    monkeypatch.setattr(params_gaussian, "save", lambda figure, path: (figures.append(figure), save(figure, path)))
    given = {"mechanism": mechanism, "rows": "100", "sample-rate": "0.2", "clients": "5", "clip": "2"}
    assert f"written: {tmp_path / 'a.svg'}" in run(capsys, "--plot", str(tmp_path / "a.svg"), **given).replace("\n", "")
    assert "</svg>" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    rows = json.loads(run(capsys, "--json", **given))["rows"]
    left, right = figures[0].axes
    lines = [line.get_xydata().tolist() for line in (*left.lines, *right.lines)]
    assert lines[0] == [[row["clients"], row["error"] / 2] for row in rows]
    assert lines[-1] == [[row["clients"], row["bits"]] for row in rows if row["bits"] is not None]
    own = [[row["clients"], row["site_error"] / 2] for row in rows if row["site_error"] is not None]
    assert (own in lines) == (mechanism == "local-record")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mechanism": "local-record"}, "local-record needs the number of rows a party"),
        ({"mechanism": "central", "rows": "100", "local-steps": "3"}, "--local-steps is refused with central"),
        ({"mechanism": "central", "rows": "100", "noise": "skellam"}, "--noise is refused with central"),
        ({"mechanism": "local-record", "rows": "100", "plot": "x.txt"}, "a picture ends in .svg, .png, .pdf"),
        ({"accountant": "prv"}, "--accountant is refused with distributed-party"),
        ({"mechanism": "local-record", "rows": "100", "delta": "0.01"}, "below 1 over the number of records, 0.01"),
        ({"mechanism": "central", "rows": "100", "delta": "0.001"}, "below 1 over the number of records, 0.0002"),
        ({"mechanism": "local-record", "rows": "100", "epsilon": "0"}, "epsilon"),
        ({"mechanism": "local-record", "rows": "100", "rounds": "0"}, "--rounds is 0"),
    ],
)
def test_what_does_not_belong_to_gaussian_noise_is_refused(
    capsys: pytest.CaptureFixture[str], options: dict[str, str], why: str
) -> None:
    assert why in run(capsys, code=2, **options)
