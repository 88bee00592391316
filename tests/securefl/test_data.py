import re
import subprocess
import sys

import numpy as np
import pytest

from securefl.data import breast_cancer, load, plan
from securefl.errors import UserError


def refused(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        load(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


def rows_of(dataset):
    return np.vstack([site.x for site in dataset.sites]), np.concatenate([site.y for site in dataset.sites])


# The registry.


def test_an_unknown_name_is_refused_with_the_allowed_ones():
    text = refused("iris")
    assert "'iris'" in text
    assert "breast-cancer, heart, eicu, tox21, chembl or a path that ends in .csv" in text


@pytest.mark.parametrize("argument", [{"label": "y"}, {"site": "s"}, {"ranges": {"a": (0.0, 1.0)}}])
@pytest.mark.parametrize("name", ["breast-cancer", "heart", "eicu"])
def test_arguments_of_a_table_are_refused_elsewhere(name, argument):
    text = refused(name, **argument)
    assert next(iter(argument)) in text
    assert name in text


@pytest.mark.parametrize("name", ["breast-cancer", "mine.csv"])
def test_a_directory_goes_with_data_in_files_only(name, tmp_path):
    assert "heart and eicu only" in refused(name, directory=tmp_path)


@pytest.mark.parametrize("name", ["breast-cancer", "heart", "mine.csv"])
def test_what_a_site_is_goes_with_eicu_only(name):
    assert "eicu only" in refused(name, sites="region")


@pytest.mark.parametrize("name", ["heart", "eicu", "mine.csv"])
def test_clients_are_refused_where_the_data_fix_the_sites(name):
    assert "clients is 3, but the data fix the sites" in refused(name, clients=3)


# Breast cancer.


@pytest.mark.parametrize("clients", [None, *range(2, 15)])
def test_every_site_has_forty_rows_and_both_classes_and_together_they_are_the_data(clients):
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    # A row, then its label; scikit-learn's 0 is malignant, which is 1 here.
    whole = sorted(map(tuple, np.column_stack([bunch.data, 1 - bunch.target]).tolist()))
    for seed in (0, 1, 7, 2**70):
        dataset = load("breast-cancer", clients=clients, seed=seed)
        x, y = rows_of(dataset)
        assert len(dataset.sites) == (clients or 5)
        assert sorted(map(tuple, np.column_stack([x, y]).tolist())) == whole
        sizes = [site.y.size for site in dataset.sites]
        assert min(sizes) >= 40
        assert max(sizes) - min(sizes) <= 1
        shares = [site.y.mean() for site in dataset.sites]
        assert min(shares) > 0.1
        assert max(shares) < 0.65
        assert max(shares) - min(shares) > 0.4
        for site in dataset.sites:
            assert site.x.dtype == np.float64
            assert site.y.dtype == np.int64
            (split,) = plan(site, folds=None, holdout=0.3, seed=seed)
            for part in (split.train, split.test):
                assert set(site.y[part]) == {0, 1}
        assert len({site.name for site in dataset.sites}) == len(sizes)


def test_the_seed_decides_which_rows_go_where():
    one, same, other = (load("breast-cancer", seed=seed).sites for seed in (0, 0, 1))
    assert all(np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a.x, b.x) for a, b in zip(one, other, strict=True))


def test_the_largest_share_of_malignant_rows_is_not_always_at_the_same_site():
    most = {int(np.argmax([s.y.mean() for s in load("breast-cancer", seed=seed).sites])) for seed in range(12)}
    assert len(most) > 1


@pytest.mark.parametrize("clients", [-1, 0, 1, 15, 569])
def test_a_number_of_sites_out_of_range_is_refused_with_the_range(clients):
    text = refused("breast-cancer", clients=clients)
    assert f"clients is {clients}" in text
    assert "2 up to 14" in text


def test_the_public_ranges_are_those_of_the_printed_description():
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    printed = re.findall(r"^(.+) \((mean|standard error|worst)\): +([\d.]+) +([\d.]+) *$", bunch.DESCR, re.MULTILINE)
    title = {"mean": "mean {}", "standard error": "{} error", "worst": "worst {}"}
    table = {title[kind].format(what.strip()): (float(low), float(high)) for what, kind, low, high in printed}
    assert len(table) == 30
    assert table == breast_cancer.RANGES
    dataset = load("breast-cancer")
    assert [tuple(bound) for bound in dataset.ranges] == [table[name] for name in dataset.features]


def test_the_public_ranges_hold_the_data_up_to_their_rounding():
    dataset = load("breast-cancer")
    x, _ = rows_of(dataset)
    slack = 0.00051
    assert np.all(x >= dataset.ranges[:, 0] - slack)
    assert np.all(x <= dataset.ranges[:, 1] + slack)
    outside = (x < dataset.ranges[:, 0]) | (x > dataset.ranges[:, 1])
    assert outside.mean() < 0.002


def test_slow_libraries_are_imported_on_use_only():
    check = "import sys, securefl.data; print([m for m in ('pandas', 'sklearn', 'pooch', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
