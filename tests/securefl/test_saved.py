"""A saved model is the model of the run: it scores raw rows as the run did, and a damaged file is refused in one line."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_result import result as made_result
from safetensors.numpy import load, save
from sklearn.metrics import roc_auc_score

from securefl import data as datasets
from securefl import load_model, report
from securefl.data import Dataset
from securefl.errors import UserError
from securefl.experiment import run_job, split
from securefl.job import Job
from securefl.saved import SavedModel

needs_data = pytest.mark.skipif("SECUREFL_DATA" not in os.environ, reason="SECUREFL_DATA names no folder with the heart data")
TABLE = """[data]
label = "ill"
site = "hospital"
ranges = { age = [0, 100] }
[privacy]
mechanism = "none"
rounds = 3
[simulation]
baselines = false
"""


def trained(tmp_path: Path, tree: dict[str, Any]) -> tuple[SavedModel, dict[str, float], Dataset, Job]:
    """A run, its model as read back from the file, its metrics, and its data."""
    job = Job.parse({"simulation": {"baselines": False}, **tree})
    result = run_job(job)
    path = tmp_path / "model.safetensors"
    path.write_bytes(report.weights(result))
    return load_model(path), result.metrics, datasets.of_job(job), job


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A table with numbers, one of them missing, and text."""
    rng = np.random.default_rng(3)
    lines = ["age,sex,dose,ill,hospital"]
    for i in range(90):
        age, sex, dose = rng.integers(30, 90), rng.choice(["f", "m", "not said"]), rng.normal(5, 2)
        ill = age / 30 + (sex == "m") + rng.normal() * 0.3 > 2.5
        lines.append(f"{'' if i == 4 else age},{sex},{dose:.2f},{'yes' if ill else 'no'},{'ABC'[i % 3]}")
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_value_that_is_no_level_is_other_where_training_had_that_level(tmp_path: Path, mine: Path) -> None:
    table = {"name": str(mine), "label": "ill", "site": "hospital", "ranges": {"age": [0, 100], "dose": [0, 20]}}
    saved, *_ = trained(tmp_path, {"data": {**table, "levels": {"sex": ["m", "f", "other"]}}, "privacy": {"rounds": 1}})
    rows = {"age": [50, 50], "sex": ["f", "not asked"], "dose": [1.5, 2]}
    assert saved.encode(rows).tolist() == [[50, 1.5, 1, 0], [50, 2, 0, 1]]


@pytest.mark.parametrize("model", ["logistic", "mlp"])
def test_scores_of_the_saved_model_are_those_of_the_run(tmp_path: Path, model: str) -> None:
    saved, metrics, data, job = trained(tmp_path, {"model": {"name": model}, "privacy": {"rounds": 4}})
    held_out = [(s.x[p[0].test], s.y[p[0].test]) for s in data.sites for p in [split(job, data)[s.name]]]
    x, y = (np.concatenate(parts) for parts in zip(*held_out, strict=True))
    assert roc_auc_score(y, saved.scores(x)) == pytest.approx(metrics["auroc"], abs=1e-12)
    assert np.mean((saved.scores(x) >= 0.5) == y) == pytest.approx(metrics["accuracy"], abs=1e-12)
    assert saved.classes == ("benign", "malignant")
    assert saved.features == data.features
    assert (saved.encode(dict(zip(data.features, x.T, strict=True))) == x).all()
    assert saved.job == job


@needs_data
def test_a_model_for_each_fold_and_their_mean(tmp_path: Path) -> None:
    saved, metrics, data, job = trained(tmp_path, {"data": {"name": "heart"}, "privacy": {"mechanism": "none", "rounds": 3}})
    assert len(saved.models) == 5
    parts = split(job, data)
    every = []
    for number, model in enumerate(saved.models):
        one = replace(saved, models=(model,))
        test = [(s.x[parts[s.name][number].test], s.y[parts[s.name][number].test]) for s in data.sites]
        x, y = (np.concatenate(columns) for columns in zip(*test, strict=True))
        every.append(roc_auc_score(y, one.scores(x)))
    assert np.mean(every) == pytest.approx(metrics["auroc"], abs=1e-12)
    x = data.sites[0].x[:7]
    assert np.allclose(saved.scores(x), np.mean([replace(saved, models=(m,)).scores(x) for m in saved.models], axis=0))


@needs_data
def test_a_hospitals_own_table_becomes_the_features_of_heart(tmp_path: Path) -> None:
    """The files of the data set, columns by their names, against the loader's features."""
    saved, _, data, _ = trained(tmp_path, {"data": {"name": "heart"}, "privacy": {"rounds": 1}})
    names = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"]
    file = Path(os.environ["SECUREFL_DATA"]) / "heart_disease" / "processed.cleveland.data"
    frame = pd.read_csv(file, names=names, na_values="?")
    assert (saved.encode(frame) == data.sites[0].x).all()
    assert (saved.scores(frame) == saved.scores(saved.encode(frame))).all()


def test_a_table_of_ones_own_is_encoded_as_in_training(tmp_path: Path, mine: Path) -> None:
    tree = tomllib.loads(TABLE)
    tree["data"]["name"] = str(mine)
    saved, _, data, _ = trained(tmp_path, tree)
    assert saved.classes == ("no", "yes")
    assert saved.features == ("age", "dose", "sex=m", "sex=not said")
    frame = pd.read_csv(mine)
    for site in data.sites:
        rows = saved.encode(frame[frame.hospital == site.name])
        assert (rows == site.x).all()
    assert (
        saved.encode({"age": [None, ""], "sex": [" m", "not  said"], "dose": ["1.5", 2]}) == [[50, 1.5, 1, 0], [50, 2, 0, 1]]
    ).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sex": None}, "the column 'sex' is missing"),
        ({"sex": ["m", "x"]}, "column 'sex' is 'x' in row 2; allowed: 'f', 'm', 'not said'"),
        ({"dose": [1.0, None]}, "column 'dose' is missing in row 2, and the job gave no public range"),
        ({"dose": ["much", 1.0]}, "column 'dose' is 'much' in row 1: a number is needed"),
        ({"dose": [1.0]}, "the columns differ in length"),
        ({"age": 40, "sex": "f", "dose": 1.0}, "column 'age' is one int: a table has a list of cells in every column"),
        ({"sex": "ff"}, "column 'sex' is one str"),
    ],
)
def test_rows_that_the_model_does_not_take_are_refused_in_one_line(
    tmp_path: Path, mine: Path, change: dict[str, Any], says: str
) -> None:
    tree = tomllib.loads(TABLE)
    tree["data"]["name"] = str(mine)
    saved, _, _, _ = trained(tmp_path, tree)
    table = {"age": [40, 50], "sex": ["m", "f"], "dose": [1.0, 2.0], **change}
    with pytest.raises(UserError) as caught:
        saved.encode({name: cells for name, cells in table.items() if cells is not None})
    assert says in str(caught.value)
    with pytest.raises(UserError, match="must have 4 features"):
        saved.scores(np.zeros((2, 3)))
    with pytest.raises(UserError, match="must be finite"):
        saved.scores(np.full((1, 4), np.nan))


def test_a_file_that_is_no_saved_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    good = report.weights(made_result())
    without = save(load(good), metadata={"job": "{}"})
    arrays, preparation = (
        {"weight": np.zeros((1, 2), np.float32), "bias": np.zeros(1, np.float32)},
        made_result().preparation.plain(),
    )
    longer = {**preparation, "shift": [1.0, 2.0, 3.0]}
    other = {**preparation, "features": ["age", "sex=f"]}
    for content, says in (
        (None, "cannot read the model: "),
        (b"", "is no safetensors file"),
        (good[: len(good) // 2], "is no safetensors file"),
        (b"\x80\x04pickle", "is no safetensors file"),
        (without, "was not written by securefl run"),
        (good, "is damaged"),  # made by hand: three features in the weights, two in the preparation
        (save(arrays, metadata={"job": "{}", "preparation": "{"}), "is damaged"),
        (save(arrays, metadata={"job": "[]", "preparation": json.dumps(preparation)}), "is damaged"),
        (save(arrays, metadata={"job": '{"privacy": {"rounds": 0}}', "preparation": json.dumps(preparation)}), "is damaged"),
        (save(arrays, metadata={"job": "{}", "preparation": json.dumps(longer)}), "is damaged"),
        (save(arrays, metadata={"job": "{}", "preparation": json.dumps(other)}), "is damaged"),
        (save({"weight": arrays["weight"]}, metadata={"job": "{}", "preparation": json.dumps(preparation)}), "is damaged"),
    ):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            load_model(path)
        assert says in str(caught.value), (content, str(caught.value))
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    path.write_bytes(save(arrays, metadata={"job": "{}", "preparation": json.dumps(preparation)}))
    assert load_model(str(path)).scores([[1.0, 1.0]]).tolist() == [0.5]
