"""Conformal sets hold the true label as often as they promise, class by class, and are those of the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.conformal import confident, sets


def made(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.2).astype(np.int64)
    return 1 / (1 + np.exp(-rng.normal(labels * 1.5 - 1, 1))), labels


@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.2, 0.5]))
def test_a_label_is_in_the_set_if_enough_of_its_class_fit_no_better(seed: int, error: float) -> None:
    scores, labels = made(60, seed)
    new, _ = made(7, seed + 1)
    new[:3] = scores[:3]  # ties
    found = sets(new, scores, labels, error)
    if min((labels == 0).sum(), (labels == 1).sum()) + 1 < 1 / error:
        assert found is None
        return
    assert found is not None
    for row, score in enumerate(new):
        for label in (0, 1):
            worse = sum(abs(label - s) >= abs(label - score) for s in scores[labels == label])
            assert found[row, label] == ((worse + 1) / ((labels == label).sum() + 1) > error)


@pytest.mark.parametrize("label", [0, 1])
def test_the_true_label_is_missing_no_more_often_than_promised_in_each_class(label: int) -> None:
    """2000 draws of one new compound each; a right share of 0.8 is missed by 4 standard errors (0.036) once in 30000 runs."""
    inside = []
    for seed in range(2000):
        scores, labels = made(80, seed)
        place = np.flatnonzero(labels == label)[:1]
        if not len(place):
            continue
        rest = np.delete(np.arange(80), place)
        found = sets(scores[place], scores[rest], labels[rest], 0.2)
        if found is not None:
            inside.append(found[0, label])
    assert np.mean(inside) >= 0.8 - 0.036


def test_each_half_calibrates_the_other_and_too_few_of_a_class_are_left_out() -> None:
    scores, labels = made(400, 3)
    first = np.arange(400) % 2 == 0
    one, two = sets(scores[first], scores[~first], labels[~first]), sets(scores[~first], scores[first], labels[first])
    assert one is not None
    assert two is not None
    counts = confident(scores, labels, first)
    assert counts is not None
    assert counts[0] == (one.sum(1) == 1).sum() + (two.sum(1) == 1).sum()
    assert counts[2] == 400
    assert confident(scores, np.where(np.arange(400) < 2, 1, 0), first) is None
