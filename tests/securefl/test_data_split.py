import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.data import Site, plan
from securefl.data.split import apportion, shuffled, source
from securefl.errors import UserError

labels = st.lists(st.integers(0, 1), min_size=1, max_size=60).map(lambda y: np.array(y, dtype=np.int64))
seeds = st.integers(0, 2**256 - 1)
names = st.text(max_size=8)


def site(y, name="A"):
    return Site(name, np.zeros((y.size, 1)), y)


def assert_parts(split, rows):
    """Train and test are ascending, disjoint and together all rows; something is left to train on."""
    assert split.train.dtype == split.test.dtype == np.int64
    assert np.all(np.diff(split.train) > 0)
    assert np.all(np.diff(split.test) > 0)
    assert sorted([*split.train, *split.test]) == list(range(rows))
    assert split.train.size > 0


@given(y=labels, name=names, seed=seeds, folds=st.integers(2, 7))
def test_folds_partition_the_rows_and_every_class_to_within_one_row(y, name, seed, folds):
    if y.size < folds:
        with pytest.raises(UserError, match=f"{y.size} row"):
            plan(site(y, name), folds=folds, holdout=0.3, seed=seed)
        return
    splits = plan(site(y, name), folds=folds, holdout=0.3, seed=seed)
    assert len(splits) == folds
    for split in splits:
        assert_parts(split, y.size)
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(y.size))
    for counts in ([s.test.size for s in splits], *([int(np.sum(y[s.test] == c)) for s in splits] for c in (0, 1))):
        assert max(counts) - min(counts) <= 1


@given(y=labels, name=names, seed=seeds, holdout=st.floats(0.01, 0.99))
def test_one_split_holds_out_its_share_of_all_rows_and_of_every_class(y, name, seed, holdout):
    if np.floor(holdout * y.size + 0.5) == y.size:
        with pytest.raises(UserError, match="none is left to train on"):
            plan(site(y, name), folds=None, holdout=holdout, seed=seed)
        return
    (split,) = plan(site(y, name), folds=None, holdout=holdout, seed=seed)
    assert_parts(split, y.size)
    assert abs(split.test.size - holdout * y.size) <= 0.5 + 1e-9
    for c in (0, 1):
        assert abs(np.sum(y[split.test] == c) - holdout * np.sum(y == c)) < 1 + 1e-9


@given(y=labels, name=names, seed=st.integers(0, 9), folds=st.none() | st.just(2))
def test_the_same_seed_and_name_give_the_same_rows(y, name, seed, folds):
    if y.size < 2:
        return
    first, again = (plan(site(y.copy(), name), folds=folds, holdout=0.3, seed=seed) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.train, b.train)
        assert np.array_equal(a.test, b.test)


@pytest.mark.parametrize("folds", [None, 5])
def test_another_seed_or_another_name_gives_other_rows(folds):
    y = np.arange(100, dtype=np.int64) % 2

    def rows(seed, name):
        return plan(site(y, name), folds=folds, holdout=0.3, seed=seed)[0].test.tolist()

    assert rows(0, "A") != rows(1, "A")
    assert rows(0, "A") != rows(0, "B")


@pytest.mark.parametrize("folds", [None, 3])
def test_a_site_with_one_class_and_a_class_with_one_row_are_split(folds):
    for y in (np.ones(9, dtype=np.int64), np.zeros(9, dtype=np.int64), np.array([1] + [0] * 8)):
        splits = plan(site(y), folds=folds, holdout=0.3, seed=0)
        for split in splits:
            assert_parts(split, 9)
            assert split.test.size == 3


@pytest.mark.parametrize(
    ("folds", "holdout", "rows", "says"),
    [
        (None, 0.3, 0, "site 'A' is empty"),
        (3, 0.3, 0, "site 'A' is empty"),
        (None, 0.0, 9, "holdout is 0.0"),
        (None, 1.0, 9, "holdout is 1.0"),
        (None, float("nan"), 9, "holdout is nan"),
        (1, 0.3, 9, "folds is 1"),
        (0, 0.3, 9, "folds is 0"),
        (10, 0.3, 9, "site 'A' has 9 rows, too few for 10 folds"),
        (None, 0.7, 1, "site 'A' has 1 row: with holdout 0.7 none is left"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused_in_one_line(folds, holdout, rows, says):
    with pytest.raises(UserError) as caught:
        plan(site(np.zeros(rows, dtype=np.int64)), folds=folds, holdout=holdout, seed=0)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**256])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UserError, match="seed is"):
        plan(site(np.zeros(4, dtype=np.int64)), folds=None, holdout=0.3, seed=seed)


@given(weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=12), total=st.integers(0, 1000))
def test_apportion_adds_up_and_stays_within_one_of_the_quotas(weights, total):
    quotas = np.array(weights) / sum(weights) * total
    parts = apportion(quotas, total)
    assert parts.sum() == total
    assert np.all(np.abs(parts - quotas) < 1 + 1e-9)


@settings(max_examples=20)
@given(seed=seeds)
def test_shuffling_is_a_permutation(seed):
    rows = np.arange(7, 57, dtype=np.int64)
    assert sorted(shuffled(source(seed, "here"), "rows", rows)) == rows.tolist()


def test_shuffling_favours_no_place():
    counts = np.zeros((4, 4))
    for seed in range(2000):
        for place, row in enumerate(shuffled(source(seed, "here"), "rows", np.arange(4, dtype=np.int64))):
            counts[place, row] += 1
    # 500 expected in each cell, standard deviation 19: six of them is a chance below 10^-8.
    assert np.all(np.abs(counts - 500) < 116)
