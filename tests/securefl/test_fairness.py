"""Figures by group: equal to those of the rows in one place, and an attribute with a small group is never opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from protocols.policy import Policy
from securefl.data.types import Dataset, Site, Split
from securefl.encoding import Decoded, SumSpec
from securefl.exact_sums import ExactSums
from securefl.fairness import ATTRIBUTES, BINS, by_group
from securefl.job import Job
from securefl.metrics import auroc
from securefl.parties import Consortium
from securefl.results import Opened
from securefl.timing import Gauge

NAMES = ["a", "b", "c"]
Scored = list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


class Watched(ExactSums):
    """Keeps what every site handed in."""

    def total(
        self, number: int, what: Opened, specs: Sequence[SumSpec], values: Sequence[Mapping[str, ArrayLike]], *, precision: int
    ) -> Decoded:
        self.handed = [*getattr(self, "handed", []), (number, {spec.name for spec in specs}, values)]
        return super().total(number, what, specs, values, precision=precision)


def made(rows: int = 400, old: int = 60, seed: int = 0) -> tuple[Dataset, dict[str, tuple[Split, ...]], dict[str, Scored]]:
    """Three sites, two folds; at each site so many of the rows are of people of 80 and more."""
    rng, sites, splits, scores = np.random.default_rng(seed), [], {}, {}
    for name in NAMES:
        age = np.concatenate([rng.uniform(20, 79, rows - old), rng.uniform(80, 90, old)])
        x = np.column_stack([rng.normal(size=rows), age, rng.integers(0, 2, rows).astype(float)])
        y = rng.integers(0, 2, rows)
        order, half = rng.permutation(rows), rows // 2
        parts = (Split(order[half:], order[:half]), Split(order[:half], order[half:]))
        score = np.clip(0.5 + 0.2 * (y - 0.5) + rng.normal(size=rows) * 0.1 * (1 + (age > 65)), 0.001, 0.999)
        missing = np.zeros(x.shape, dtype=bool)
        missing[:3, 2] = True
        sites.append(Site(name, x, y.astype(np.int64), missing))
        splits[name], scores[name] = parts, [(score[p.test], y[p.test]) for p in parts]
    return Dataset("made", ("x", "age", "male"), tuple(sites), None, True, "made up"), splits, scores


def sums(mechanism: str = "none") -> Watched:
    tree: dict[str, object] = {"mechanism": mechanism, **({"rows": 100} if mechanism == "central" else {})}
    return Watched(Job.parse({"privacy": tree}), "assessment", Consortium.of(NAMES, Policy(min_cohort=2)), Gauge(NAMES))


def test_figures_by_group_are_those_of_the_rows_in_one_place() -> None:
    loaded, splits, scores = made()
    exact = sums()
    found = by_group(loaded, splits, scores, exact)
    assert found is not None
    assert found.withheld == {}
    assert {name: list(groups) for name, groups in found.figures.items()} == {a.name: list(a.groups) for a in ATTRIBUTES}
    for attribute, column in (("sex", 2), ("age", 1)):
        place = next(a for a in ATTRIBUTES if a.name == attribute).place
        for number, one in enumerate(found.figures[attribute].values()):
            values, rows = [], 0
            for fold in range(2):
                inside = [place(s.known[splits[s.name][fold].test, column]) == number for s in loaded.sites]
                score, label = (
                    np.concatenate([scores[n][fold][part][k] for n, k in zip(NAMES, inside, strict=True)]) for part in (0, 1)
                )
                values.append(auroc(score, label))
                rows += len(label)
            assert one.rows == rows
            assert one.auroc is not None
            assert one.auroc.value == pytest.approx(np.mean(values), abs=one.auroc.off + 1e-9)  # type: ignore[arg-type]
            assert one.auroc.off < 0.03
    assert [row.coverage for row in exact.opened] == ["exact"] * 2


@pytest.mark.parametrize("old", [1, 4])
def test_an_attribute_with_a_small_group_is_left_out_of_the_counts(old: int) -> None:
    """All groups of it, as the small one would follow from the total; no site hands in its histograms."""
    loaded, splits, scores = made(old=old)
    exact = sums()
    found = by_group(loaded, splits, scores, exact)
    assert found is not None
    assert list(found.figures) == ["sex"]
    assert "does not surely hold 5 rows" in found.withheld["age"]
    assert [names for number, names, _ in exact.handed if number == 2] == [{"sex"}]
    screened = next(values for number, _, values in exact.handed if number == 1)
    assert all(set(np.unique(np.asarray(v))) <= {0, 1} for site in screened for v in site.values())


def test_an_empty_group_hides_nothing() -> None:
    loaded, splits, scores = made(old=0)
    found = by_group(loaded, splits, scores, sums())
    assert found is not None
    assert found.withheld == {}
    assert found.figures["age"]["80 or more"].rows == 0
    assert found.figures["age"]["80 or more"].auroc is None


def test_nothing_exact_is_opened_beside_noise_in_the_sum() -> None:
    loaded, splits, scores = made()
    exact = sums("central")
    found = by_group(loaded, splits, scores, exact)
    assert found is not None
    assert (found.figures, set(found.withheld), exact.opened) == ({}, {"sex", "age"}, [])


def test_data_without_sex_and_age_have_no_groups() -> None:
    loaded, splits, scores = made()
    bare = Dataset("made", ("x", "z", "w"), loaded.sites, None, True, "made up")
    assert by_group(bare, splits, scores, sums()) is None


def test_edges_and_missing_values() -> None:
    sex, age = ATTRIBUTES
    assert age.place(np.array([49.9, 50, 64.9, 65, 79, 80, 90, np.nan])).tolist() == [0, 1, 1, 2, 2, 3, 3, 0]
    assert sex.place(np.array([0.0, 1.0, np.nan])).tolist() == [0, 1, 0]
    assert BINS >= 64
