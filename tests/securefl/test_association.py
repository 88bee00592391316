"""Figures of variants out of sums are those of the pooled genotypes, by scipy; a variant with a small count is not opened."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_runner import refused

from protocols.rand import fresh
from securefl.cli import main
from securefl.statistics import Columns, SecureStatistics, associate

KNOWN = Columns(levels={"ill": [0, 1]})
NAMES = ("rs1", "rs2", "rs3")


@st.composite
def cohorts(draw: st.DrawFn, *, most: int = 40) -> dict[str, pd.DataFrame]:
    """Two to four sites with three variants of any frequency, and missing values."""
    genotype = st.one_of(st.just(None), st.just(0), st.integers(0, 2))
    tables = {}
    for site in range(draw(st.integers(2, 4))):
        rows = draw(st.integers(1, most))
        columns = {name: draw(st.lists(genotype, min_size=rows, max_size=rows)) for name in NAMES}
        ill = pd.Series(draw(st.lists(st.sampled_from([0, 1, None]), min_size=rows, max_size=rows)), dtype=object)
        tables[f"site {site}"] = pd.DataFrame(columns, dtype=float).assign(ill=ill)
    return tables


def persons(tables: dict[str, pd.DataFrame], name: str) -> tuple[Any, Any]:
    """Alleles, and carriers of each allele, of all rows: controls and cases, reference and alternative."""
    every = pd.concat(tables.values())[[name, "ill"]].dropna().astype(int)
    own = [every.loc[every["ill"] == who, name] for who in (0, 1)]
    return (
        np.array([[2 * len(g) - g.sum(), g.sum()] for g in own]),
        np.array([[(g < 2).sum(), (g > 0).sum()] for g in own]),
    )


@settings(deadline=None, max_examples=60)
@given(cohorts(), st.integers(1, 5))
def test_alleles_are_those_of_the_pooled_rows_or_withheld(tables, k):
    found = associate(SecureStatistics.simulated(tables, KNOWN, "plain-insecure", min_cell=k), "ill", NAMES)
    for at, name in enumerate(NAMES):
        alleles, carriers = persons(tables, name)
        small = (carriers > 0) & (carriers < k)
        if found.alleles[at, 0, 0] is None:
            assert k > 1
            assert np.isnan([getattr(found, key)[at] for key in ("frequency", "odds_ratio", "low", "high", "chi2", "p")]).all()
            # Withheld though it need not be: only where no site alone has enough.
            assert small.any() or not all(
                (one == 0) or any(persons({"own": own}, name)[1].flat[cell] >= k for own in tables.values())
                for cell, one in enumerate(carriers.flat)
            )
            continue
        assert not small.any()
        assert found.alleles[at].tolist() == alleles.tolist()
        if alleles.sum():
            assert found.frequency[at] == pytest.approx(alleles[:, 1].sum() / alleles.sum())


def generated(sites: int = 3, rows: int = 200, variants: int = 60) -> dict[str, dict[str, Any]]:
    """Genotypes of all frequencies, the first of which goes with the disease."""
    tables = {}
    for site in range(sites):
        u = (fresh().words(f"site {site}", rows * (variants + 1)) * 2.0**-64).reshape(variants + 1, rows)
        share = np.linspace(0.02, 0.5, variants)[:, None]
        genotypes = (u[1:] < share**2).astype(float) + (u[1:] < 2 * share - share**2)
        tables[f"site {site}"] = {f"rs{at}": line for at, line in enumerate(genotypes)}
        tables[f"site {site}"]["ill"] = (u[0] < 0.25 + 0.25 * genotypes[-1]).astype(int)
    return tables


def test_figures_are_those_of_scipy():
    tables = generated()
    names = [f"rs{at}" for at in range(60)]
    found = associate(SecureStatistics.simulated(tables, KNOWN, "plain-insecure", min_cell=1), "ill", names)
    whole = 0
    for at, table in enumerate(found.alleles.astype(int)):
        if not (table > 0).all():
            continue
        whole += 1
        expected = scipy.stats.chi2_contingency(table, correction=False)
        ratio = scipy.stats.contingency.odds_ratio(table, kind="sample")
        assert found.chi2[at] == pytest.approx(expected.statistic)
        assert found.p[at] == pytest.approx(expected.pvalue)
        assert found.odds_ratio[at] == pytest.approx(ratio.statistic)
        assert (found.low[at], found.high[at]) == pytest.approx(tuple(ratio.confidence_interval(0.95)))
    assert whole > 50
    assert found.p[59] == found.p.min() < 1e-6
    assert found.inflation == pytest.approx(np.median(found.chi2) / scipy.stats.chi2.median(1))


def test_a_variant_with_few_carriers_is_not_opened():
    """Control: with a minimum of 1 its alleles are in the sum."""
    ill, common = [0, 1] * 20, [0, 1, 2, 1] * 10
    tables = {name: {"rare": [0] * 38 + [1, 1], "common": common, "ill": ill} for name in ("north", "south")}
    sizes = {}
    for k in (1, 5):
        statistics = SecureStatistics.simulated(tables, KNOWN, "plain-insecure", min_cell=k)
        counted = statistics.counted
        statistics.counted = lambda own, counted=counted, k=k, **how: sizes.update({k: own[0].size}) or counted(own, **how)
        found = associate(statistics, "ill", ["rare", "common"])
        assert found.withheld == (k > 1)
        assert found.alleles[1].tolist() == [[40, 40], [40, 40]]
    assert sizes == {1: 8, 5: 4}
    assert found.as_json()["variants"]["rare"]["p"] is None
    json.dumps(found.as_json(), allow_nan=False)
    assert found.frame().loc["rare"].isna().all()


@pytest.mark.parametrize("value", [3, -1, 0.5])
def test_a_value_that_is_no_genotype_is_refused_by_name(value):
    tables = {"north": {"rs1": [0, 1, value], "ill": [0, 1, 1]}, "south": {"rs1": [0, 1, 2], "ill": [0, 1, 1]}}
    with pytest.raises(Exception, match=rf"north: rs1 is {value:g} in row 2: a genotype is 0, 1 or 2"):
        associate(SecureStatistics.simulated(tables, KNOWN), "ill", ["rs1"])


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "genotypes.csv"
    frames = [pd.DataFrame(table).assign(site=name) for name, table in generated(variants=8).items()]
    pd.concat(frames).to_csv(path, index=False)
    return path


def asked(path: Any, *more: str) -> list[str]:
    return ["association", "--data", str(path), "--site", "site", "--phenotype", "ill", "--variants", "rs*", *more]


def test_the_command_gives_the_figures_and_draws_them(table, tmp_path, capsys):
    assert main(asked(table, "--json", "--plot", str(tmp_path / "p.svg"))) == 0
    tree = json.loads(capsys.readouterr().out)
    every = pd.read_csv(table)
    own = {str(name): rows for name, rows in every.groupby("site")}
    expected = associate(SecureStatistics.simulated(own, KNOWN), "ill", [f"rs{at}" for at in range(8)]).as_json()
    assert {key: tree[key] for key in expected} == expected
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    assert main(asked(table)) == 0
    assert "of 8 variants tested" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--variants", "snp*"], "fits no column of"),
        (["--phenotype", "ill=0,1,2"], "two values are needed, control and case, not 3"),
        (["--phenotype", "ill=0,2"], "which is no level of it"),
        (["--phenotype", "sick"], "the column sick is not in"),
        (["--plot", "p.bmp"], "a picture ends in"),
    ],
)
def test_the_command_refuses_in_one_line(table, more, line, capsys):
    assert line in refused(capsys, *asked(table, *more))


def test_a_cell_that_does_not_fit_is_named_with_its_line(table, capsys):
    every = pd.read_csv(table, dtype=str, keep_default_na=False)
    every.loc[7, "rs3"] = "A/G"
    every.to_csv(table, index=False)
    assert "rs3 must be numbers: 'A/G' is no number (line 9)" in refused(capsys, *asked(table))
    every.loc[7, "rs3"], every.loc[4, "ill"] = "1", "2"
    every.to_csv(table, index=False)
    assert "ill is '2' in line 6, which is no level of it (0, 1): name all of them" in refused(capsys, *asked(table))
