"""Figures out of histograms: against scikit-learn's exact ones within the stated bound, and their intervals against repetition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from securefl import metrics
from securefl.binned import BINS, Figure, auroc_variance, average_precision, edges, figures, histogram, wilson
from securefl.errors import UserError

probability = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]) | st.sampled_from(edges(BINS).tolist())
rows = st.lists(st.tuples(probability, st.integers(0, 1)), min_size=1, max_size=60)


def of(scores: np.ndarray, labels: np.ndarray, min_cell: int = 1) -> object:
    p, n = histogram(scores, labels)
    return figures(p[None], n[None], min_cell=min_cell)


@given(rows)
@example([(0.0, 0), (0.0, 0), (1.0, 0), (0.5, 1), (0.5, 1), (1e-200, 1)])  # equal scores of positives: more than one by one
@settings(max_examples=500)
def test_every_figure_is_within_its_bound_of_the_exact_one(drawn: list[tuple[float, int]]) -> None:
    scores, labels = np.array([s for s, _ in drawn]), np.array([y for _, y in drawn])
    found = of(scores, labels)
    assert (found.rows, found.positives) == (len(labels), labels.sum())
    assert abs(found.brier.value - brier_score_loss(labels, scores, pos_label=1)) <= found.brier.off + 1e-12
    if 0 < labels.sum() < len(labels):
        assert abs(found.auroc.value - roc_auc_score(labels, scores)) <= found.auroc.off + 1e-12
        assert abs(found.auprc.value - average_precision_score(labels, scores)) <= found.auprc.off + 1e-12
    else:
        assert found.auroc is found.auprc is None
    for one in (found.auroc, found.auprc, found.brier):
        assert one is None or 0 <= one.low <= one.value <= one.high <= 1


@given(rows)
def test_exact_scores_are_those_of_scikit_learn(drawn: list[tuple[float, int]]) -> None:
    scores, labels = np.array([s for s, _ in drawn]), np.array([y for _, y in drawn])
    assert metrics.brier(scores, labels) == pytest.approx(brier_score_loss(labels, scores, pos_label=1))
    if 0 < labels.sum() < len(labels):
        assert metrics.auprc(scores, labels) == pytest.approx(average_precision_score(labels, scores))
    else:
        assert metrics.auprc(scores, labels) is None
    assert metrics.brier([], []) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_average_precision_of_bins_is_that_of_their_order_and_its_bounds_are_reached(counts: list[tuple[int, int]]) -> None:
    p, n = np.array(counts, dtype=float).T
    if not p.sum():
        return
    value, least, most = average_precision(p, n)
    place = np.arange(len(p))
    labels = np.concatenate([np.repeat(1, p.sum().astype(int)), np.repeat(0, n.sum().astype(int))])
    bins = np.concatenate([np.repeat(place, p.astype(int)), np.repeat(place, n.astype(int))])
    assert value == pytest.approx(average_precision_score(labels, bins))
    shared = average_precision_score(labels, bins + np.where(labels == 1, 0.25, -0.25))
    later = np.arange(len(labels)) / (4 * len(labels))
    apart = average_precision_score(labels, bins + np.where(labels == 1, -0.25 - later, 0.25))
    assert (least, most) == (pytest.approx(apart), pytest.approx(shared))


def test_the_intervals_hold_their_share_of_the_truth() -> None:
    """200 samples of 400 rows: of 95 % at least 90 % must hold; by chance that fails with probability below 0.002."""
    rng = np.random.default_rng(3)
    big = _sample(rng, 200_000)
    truth = {"auroc": roc_auc_score(*big[::-1]), "auprc": average_precision_score(*big[::-1])}
    truth["brier"] = brier_score_loss(*big[::-1])
    held = dict.fromkeys(truth, 0)
    for _ in range(200):
        found = of(*_sample(rng, 400))
        for name, value in truth.items():
            one: Figure = getattr(found, name)
            held[name] += one.low <= value <= one.high
    assert all(count >= 180 for count in held.values()), held


def _sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    logit = rng.normal(-2, 1.4, count)
    return 1 / (1 + np.exp(-logit)), (rng.random(count) < 1 / (1 + np.exp(-logit * 1.1))).astype(int)


def test_the_variance_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(5)
    p, n = rng.integers(0, 9, 12).astype(float), rng.integers(0, 9, 12).astype(float)
    up, down = np.repeat(np.arange(12), p.astype(int)), np.repeat(np.arange(12), n.astype(int))
    wins = (up[:, None] > down[None]) + 0.5 * (up[:, None] == down[None])
    area, m, k = wins.mean(), len(up), len(down)
    # Q1: both of two positives above a negative; equal ones count by thirds, as a third of the orders of three does.
    third = lambda a, b: np.where((a == 0.5) & (b == 0.5), 1 / 3, a * b)  # noqa: E731
    q1 = np.mean(third(wins[:, None, :], wins[None, :, :]))
    q2 = np.mean(third(wins[:, :, None], wins[:, None, :]))
    want = (area * (1 - area) + (m - 1) * (q1 - area**2) + (k - 1) * (q2 - area**2)) / (m * k)
    assert auroc_variance(p, n) == pytest.approx(want)


def test_over_folds_auroc_is_the_mean_of_those_with_both_classes_and_brier_of_all_rows() -> None:
    rng = np.random.default_rng(1)
    folds = [_sample(rng, 80) for _ in range(3)]
    folds.append((folds[0][0], np.zeros(80, dtype=int)))
    pairs = [histogram(*fold) for fold in folds]
    found = figures(np.array([p for p, _ in pairs]), np.array([n for _, n in pairs]))
    assert found.auroc.value == pytest.approx(np.mean([of(*fold).auroc.value for fold in folds[:3]]))
    assert found.brier.value == pytest.approx(np.mean([of(*fold).brier.value for fold in folds]))


@settings(max_examples=50)
@given(rows, st.integers(1, 6))
def test_no_group_and_no_figure_tells_of_fewer_rows_of_a_class_than_the_least(drawn: list[tuple[float, int]], least: int) -> None:
    scores, labels = np.array([s for s, _ in drawn]), np.array([y for _, y in drawn])
    found = of(scores, labels, min_cell=least)
    few = 0 < min(labels.sum(), len(labels) - labels.sum()) < least
    assert (found.positives is None) == few
    assert not few or found.auroc is found.auprc is found.brier is None
    for group in found.calibration:
        assert min(group.observed, 1 - group.observed) * group.rows >= least - 1e-9
        assert group.low <= group.observed <= group.high
    if found.calibration:
        assert sum(group.rows for group in found.calibration) == len(labels)
        assert [g.predicted for g in found.calibration] == sorted(g.predicted for g in found.calibration)


def test_figures_of_a_model_that_is_all_too_sure_are_those_of_its_scores() -> None:
    """Logits of −25 to −10, none of which lies among the close bins."""
    rank = np.arange(2000)
    logit, label = -25 + 15 * rank / 2000, (rank % 7 == 0) | (rank > 1800)
    score = 1 / (1 + np.exp(-logit))
    found = figures(*(counts[None] for counts in histogram(score, label)))
    assert found.auroc is not None
    assert found.auroc.off < 0.03
    assert abs(found.auroc.value - roc_auc_score(label, score)) <= found.auroc.off


def test_wilson_s_interval_is_the_textbook_s() -> None:
    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(("p", "n"), [([1, 2], [3, 4]), ([[1, 2]], [[1, 2, 3]]), ([[1, -1]], [[0, 0]]), ([[1]], [[1]])])
def test_what_is_no_pair_of_histograms_is_refused(p: list[object], n: list[object]) -> None:
    with pytest.raises(UserError, match="histograms must be"):
        figures(p, n)
