"""Metrics: exact ones equal scikit-learn's, summed ones equal exact ones up to what the bins and steps allow."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from protocols.rand import Rand, Seed
from securefl.binned import auroc_variance
from securefl.encode import Plan, decode, encode
from securefl.errors import UserError
from securefl.metrics import LOSS_CAP, BinaryMetrics, accuracy, auroc, binned_auroc, edges

ROWS = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0.45, 0.55)), st.integers(0, 1)),
    max_size=60,
)


def columns(rows: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s for s, _ in rows], dtype=float), np.array([y for _, y in rows], dtype=int)


def rand(seed: int) -> Rand:
    return Rand(Seed(seed.to_bytes(32, "big")))


def through_the_sum(metrics: BinaryMetrics, parties: list[tuple[np.ndarray, np.ndarray]], precision: int = 16) -> dict[str, float]:
    plan = Plan(parties=max(2, len(parties)), sums=metrics.specs(), precision=precision)
    vectors = [encode(plan, [], [], metrics.sums(*party), rand(i)).vector for i, party in enumerate(parties)]
    return metrics.read(decode(plan, sum(vectors), len(parties)).sums)


@settings(deadline=None)
@given(ROWS)
def test_exact_auroc_and_accuracy_equal_scikit_learn(rows):
    scores, labels = columns(rows)
    got = auroc(scores, labels)
    if len(set(labels)) < 2:
        assert got is None
    else:
        assert got == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert accuracy(scores, labels) == (pytest.approx(accuracy_score(labels, scores >= 0.5)) if rows else None)


def test_auroc_of_logits_is_that_of_their_scores():
    logits, labels = np.array([-700.0, 3.0, 0.5, 90.0, 0.5]), np.array([0, 1, 0, 1, 1])
    assert auroc(logits, labels) == pytest.approx(roc_auc_score(labels, logits))


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from([2, 3, 8, 64]))
def test_summed_metrics_agree_with_exact_ones(parties, bins):
    """AUROC to half of the tied mass, accuracy and rows exactly, the loss to one step a party."""
    metrics, tables = BinaryMetrics(bins=bins), [columns(rows) for rows in parties]
    scores, labels = (np.concatenate(c) for c in zip(*tables, strict=True))
    got = through_the_sum(metrics, tables)
    assert not any(math.isnan(v) for v in got.values())
    assert got["rows"] == len(labels)
    assert set(got) - {"rows"} == ({"accuracy", "loss"} if len(labels) else set()) | (
        {"auroc", "auroc_se"} if len(set(labels)) == 2 else set()
    )
    if not len(labels):
        return
    assert got["accuracy"] == pytest.approx(accuracy(scores, labels))
    true = np.minimum(-np.log(np.clip(np.where(labels == 1, scores, 1 - scores), 1e-300, 1)), LOSS_CAP)
    assert abs(got["loss"] * len(labels) - true.sum()) <= len(parties) * metrics.specs()[-1].max / metrics.limit + 1e-9
    if "auroc" in got:
        place = np.searchsorted(edges(bins), scores, side="right")
        p, n = (np.bincount(place[labels == y], minlength=bins) for y in (1, 0))
        value, off = binned_auroc(p, n)
        assert got["auroc"] == pytest.approx(value)
        assert got["auroc_se"] ** 2 == pytest.approx(auroc_variance(p.astype(float), n.astype(float)), abs=1e-15)
        assert off == pytest.approx((p * n).sum() / (2 * p.sum() * n.sum()))
        assert abs(got["auroc"] - auroc(scores, labels)) <= off + 1e-12


def test_loss_of_ordinary_scores_equals_scikit_learn():
    scores, labels = np.array([0.9, 0.2, 0.6, 0.31, 0.5]), np.array([1, 0, 0, 1, 1])
    got = through_the_sum(BinaryMetrics(limit=2**30 - 1), [(scores, labels)] * 3, precision=31)
    assert got["loss"] == pytest.approx(log_loss(labels, scores), abs=1e-6)


def test_certain_and_wrong_costs_the_cap_and_no_more():
    metrics = BinaryMetrics()
    got = metrics.read(metrics.sums([0.0, 1.0, 1.0], [1, 0, 1]))
    assert got["loss"] == pytest.approx(2 * LOSS_CAP / 3)


@pytest.mark.parametrize("steepness", [0.05, 1.0, 8.0])
def test_default_bins_are_fine_for_flat_and_for_steep_scores(steepness):
    """Two normal populations, as flat or steep as a model may make them: within 0.015 of the exact AUROC."""
    grid = np.arange(1, 400) / 400
    normal = np.sqrt(2) * np.vectorize(lambda p: _erfinv(2 * p - 1))(grid)
    logits = steepness * np.concatenate([normal + 1, normal - 1])
    labels = np.repeat([1, 0], len(grid))
    scores = 1 / (1 + np.exp(-logits))
    metrics = BinaryMetrics()
    assert metrics.read(metrics.sums(scores, labels))["auroc"] == pytest.approx(auroc(logits, labels), abs=0.015)


def _erfinv(x: float) -> float:
    low, high = -6.0, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < x else (low, middle)
    return low


@pytest.mark.parametrize("bins", [2, 3, 4, 64, 4096])
def test_edges_ascend_within_the_unit_interval(bins):
    inner = edges(bins)
    assert inner.shape == (bins - 1,)
    assert (np.diff(inner) > 0).all()
    assert inner[0] > 0
    assert inner[-1] < 1


@pytest.mark.parametrize("folds", [1, 5, 40])
def test_folds_added_up_at_one_party_stay_within_the_bounds(folds):
    """The worst case of every coordinate: a full set of wrong rows in every fold, one nat short of the next whole multiple."""
    metrics = BinaryMetrics(limit=127, folds=folds)
    rows = metrics.max_rows
    assert rows * folds <= 127
    scores = np.append(np.zeros(rows - 1), math.exp(-LOSS_CAP + 1e-6))
    for part in (
        metrics.sums(scores, np.ones(rows)),
        metrics.sums(1 - scores, np.zeros(rows)),
        metrics.sums(scores, np.zeros(rows)),
    ):
        total = {name: folds * values for name, values in part.items()}
        plan = Plan(parties=2, sums=metrics.specs(), precision=8)
        got = metrics.read(decode(plan, encode(plan, [], [], total, rand(0)).vector, 1).sums)
        assert got["rows"] == rows * folds


def test_too_many_rows_are_thinned_evenly_and_said():
    metrics = BinaryMetrics(bins=2, limit=100)
    labels = np.repeat([0, 1], [150, 50])
    assert metrics.cut(200)
    assert not metrics.cut(100)
    sums = metrics.sums(labels.astype(float), labels)
    assert sums["negatives"].tolist() == [75, 0]
    assert sums["positives"].tolist() == [0, 25]
    assert metrics.sums(labels[:100].astype(float), labels[:100])["negatives"].tolist() == [100, 0]


@pytest.mark.parametrize(
    ("scores", "labels", "text"),
    [
        ([0.5, np.nan], [0, 1], "score of row 1"),
        ([1.0000001], [1], "score of row 0"),
        ([-0.1], [1], "score of row 0"),
        ([0.5], [2], "label of row 0"),
        ([0.5], [0.5], "label of row 0"),
        ([0.5], [0, 1], "equal length"),
        ([[0.5]], [[1]], "equal length"),
    ],
)
def test_bad_rows_are_refused_by_name(scores, labels, text):
    with pytest.raises(UserError, match=text):
        BinaryMetrics().sums(scores, labels)


@pytest.mark.parametrize("change", [{"bins": 1}, {"bins": 4097}, {"folds": 0}, {"folds": 2, "limit": 1}])
def test_senseless_parameters_are_refused(change):
    with pytest.raises(UserError):
        BinaryMetrics(**change)


def test_a_missing_class_has_no_binned_auroc():
    with pytest.raises(UserError, match="both classes"):
        binned_auroc([1, 2], [0, 0])
