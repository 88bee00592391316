"""``securefl params --protocol kahe``: what the parameters compute, in JSON and on the screen, and refusals with the numbers."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from protocols import lattice
from protocols.errors import Misuse
from protocols.kahe_parameters import KaheParameters, tail, widest
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from securefl import params
from securefl.cli import main

ROOT = Path(__file__).parents[2]


def printed(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> str:
    assert main(["params", "--protocol", "kahe", *options]) == code
    captured = capsys.readouterr()
    assert captured.err == "" if code == 0 else captured.out == ""
    return captured.out or captured.err


def test_a_hundred_parties_and_a_million_values(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--clients", "100", "--dim", "1000000"]
    tree = json.loads(printed(capsys, *options, "--json"))
    assert {
        key: tree[key] for key in ("width", "digits", "wire", "cut", "bits_per_value", "masks", "degree", "modulus", "tail")
    } == {
        "width": 23,
        "digits": 2,
        "wire": 52,
        "cut": 12,
        "bits_per_value": 26,
        "masks": 23,
        "degree": 4096,
        "modulus": 64,
        "tail": 0,
    }
    assert tree["limbs"] == [[2, 32], [3, 22]]
    assert tree["residual"] < tree["room"] == 32
    assert 0 < tree["failure"] < 2.0**-40
    assert (round(tree["classical"]), round(tree["quantum"])) == (207, 188)
    assert tree["vector"] == Ring(52).packed_size(123 * 4096)
    assert tree["plain"] == Ring(23).packed_size(10**6 + 1)
    assert tree["keys"] == params.cost(Parameters.of(100, 4096, 32)).up
    assert tree["vector"] + tree["keys"] <= 1.15 * tree["plain"]
    screen = printed(capsys, *options)
    for words in (
        "W, bits of a value of the sum",
        "52 of 64",
        "26, under masks 23",
        "26.3, must be below 32",
        "2 of 32 bits",
        "3 of 22",
    ):
        assert words in screen
    assert "2^207, against quantum attackers 2^188" in screen


def test_other_bounds_noise_and_corrupt_parties(capsys: pytest.CaptureFixture[str]) -> None:
    tree = json.loads(
        printed(capsys, "--clients", "10", "--dim", "1000", "--max-abs", "100", "--noise", "50", "--corrupt", ".1", "--json")
    )
    p = KaheParameters.of(10, 1000, 100, corrupt=1, tail=tail(50, 1000))
    assert (tree["max_abs"], tree["tail"], tree["width"], tree["corrupt"], tree["agree"]) == (100, p.tail, p.width, 1, p.threshold)
    assert tree["tail"] > 9 * 40
    assert tree["failure"] == 0
    assert "never" in printed(capsys, "--clients", "10", "--dim", "1000")
    assert json.loads(printed(capsys, "--clients", "10", "--precision", "24", "--json"))["max_abs"] == 2**23 - 1
    assert json.loads(printed(capsys, "--clients", "10", "--bits", "25", "--json"))["width"] == 25


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--clients", "100", "--precision", "60"), ["W = 67 bits", "n = 100", "do not fit in the 63 bits", "at most W = 54 does"]),
        (("--clients", "1"), ["--clients must be in 2..16384, not 1"]),
        (("--clients", "20000"), ["--clients must be in 2..16384, not 20000"]),
        (("--clients", "10", "--dim", "0"), ["--dim must be in 1..2147483648, not 0"]),
        (("--clients", "10", "--max-abs", "0"), ["--max-abs must be in 1..", "not 0"]),
        (("--clients", "10", "--precision", "1"), ["--precision must be in 2..63, not 1"]),
        (("--clients", "10", "--precision", "0"), ["--precision must be in 2..63, not 0"]),
        (("--clients", "10", "--precision", "16", "--max-abs", "9"), ["give one of them"]),
        (("--clients", "10", "--noise", "-1"), ["[0, 2^40), not -1"]),
        (("--clients", "10", "--noise", "nan"), ["[0, 2^40), not nan"]),
        (("--clients", "10", "--corrupt", "1"), ["[0, 1), not 1"]),
        (("--clients", "10", "--corrupt", ".9"), ["|C|"]),
        (
            ("--clients", "1", "--corrupt", "7", "--bits", "0"),
            ["--clients must", "--corrupt must", "--bits must"],
        ),
        (("--clients", "100", "--bits", "57"), ["--bits must be in 1..54, not 57"]),
        (("--clients", "3", "--bits", "58"), ["--bits must be in 1..57, not 58"]),
        (("--clients", "10", "--dropout", ".1"), ["not for kahe"]),
        (("--clients", "10", "--semi-honest"), ["not for kahe"]),
    ],
)
def test_what_cannot_work_is_one_line(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: list[str]) -> None:
    line = printed(capsys, *options, code=2)
    assert line.startswith("securefl: ")
    assert line.count("\n") == 1
    for word in words:
        assert word in line


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 4095), (100, 10**5), (1000, 10**6), (16384, 2**31)])
def test_the_widest_sum_fits_and_one_bit_more_is_refused(n: int, d: int) -> None:
    most = widest(n, d + 1)
    assert KaheParameters.of(n, d, 1, bits=most).width == most
    with pytest.raises(Misuse, match=f"at most W = {most} does"):
        KaheParameters.of(n, d, 1, bits=most + 1)


def test_the_widths_that_docs_protocols_states_are_those_that_fit() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    said = re.search(r"At most W = (\d+) bits fit with 3 parties, (\d+) with 10, (\d+) with 100, (\d+) with 1000 and (\d+) ", page)
    assert said is not None
    assert list(map(int, said.groups())) == [widest(n, 10**5 + 1) for n in (3, 10, 100, 1000, 16384)]


@pytest.mark.parametrize("option", ["--precision", "--max-abs", "--noise"])
def test_the_other_protocol_has_no_such_options(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main(["params", "--clients", "100", "--corrupt", ".1", "--dropout", ".1", option, "9"]) == 2
    assert "are for kahe" in capsys.readouterr().err


# docs/security-parameters.md


def script() -> ModuleType:
    spec: Any = importlib.util.spec_from_file_location("rlwe_security", ROOT / "benchmarks" / "rlwe_security.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_page_are_those_of_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    page, tables = (ROOT / "docs" / "security-parameters.md").read_text(encoding="utf-8"), script()
    for rows in tables.TABLES.values():
        assert "\n".join(tables.lines(rows())) in page
    tables.main()
    assert all(line in page for line in capsys.readouterr().out.splitlines() if line.startswith("|"))


def test_the_figures_of_the_page() -> None:
    page = (ROOT / "docs" / "security-parameters.md").read_text(encoding="utf-8")
    hinted, proved = (lattice.estimate(4096, 64, 4 * share) for share in (lattice.HINTED, lattice.PROVED))
    for words in (
        f"**2^{hinted.classical:.0f}, against quantum attackers 2^{hinted.quantum:.0f},",
        f"2^{proved.classical:.0f} and 2^{proved.quantum:.0f} is what it falls to by the theorem.**",
    ):
        assert words in " ".join(page.split())


@pytest.mark.parametrize(
    ("degree", "modulus", "secret", "error", "block"),
    [(512, 11.7, 1.2247, 1.2247, 406), (4096, 64, 2.83, 2.83, 710), (2048, 54, 3.24, 3.24, 356)],
)
def test_the_estimate_meets_published_block_sizes(degree: int, modulus: float, secret: float, error: float, block: int) -> None:
    assert abs(lattice.estimate(degree, modulus, secret, error).block - block) <= 1


def test_more_noise_a_smaller_modulus_or_a_longer_key_is_harder_to_break() -> None:
    base = lattice.estimate(4096, 64, 4.0).block
    assert lattice.estimate(4096, 64, 2.0).block < base < lattice.estimate(4096, 60, 4.0).block
    assert lattice.estimate(2048, 64, 4.0).block < base < lattice.estimate(4096, 64, 4.0, 8.0).block
    most = lattice.largest_modulus(4096, 2.0)
    assert lattice.estimate(4096, most, 2.0).classical >= 128 > lattice.estimate(4096, most + 1, 2.0).classical
    assert most == 89


@pytest.mark.parametrize("deviation", [0.001, 1.0, 100.0, 10.0**6])
def test_the_tail_of_skellam_noise(deviation: float) -> None:
    """Against scipy's law where it computes one, and 9.2 deviations at 10^6 values."""
    from scipy.stats import skellam

    t = tail(deviation, 10**6)
    if 1 <= deviation <= 100:
        assert 2 * 10**6 * skellam.sf(t - 1, deviation**2 / 2, deviation**2 / 2) <= 2.0**-40
    if deviation >= 100:
        assert t / deviation == pytest.approx(9.2, abs=0.02)
    assert tail(0, 10**6) == 0
