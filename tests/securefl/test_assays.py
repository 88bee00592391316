"""Partners with different assays: what is read, dealt and held out; and whole jobs on made-up molecules."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import made_molecules as made
import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from securefl import assay_runs, options, tables
from securefl.cli import main
from securefl.data import assays, molecules
from securefl.data.molecules import MISSING
from securefl.errors import UserError
from securefl.experiment import run_job
from securefl.gains import Gain, Gains, figures
from securefl.job import USUAL, Job
from securefl.multitask import Multitask, MultitaskTrainer
from securefl.results import RunResult
from securefl.shared_job import SharedJob


def job(folder: Path, name: str = "tox21", *, data: dict[str, Any] | None = None, **privacy: Any) -> Job:
    knobs = {"mechanism": "none", "rounds": 3, "local_steps": 5, "sample_rate": 0.3, **privacy}
    return Job.parse({"data": {"name": name, "dir": str(folder), **(data or {})}, "privacy": knobs, "model": {"hidden": 16}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("molecules")
    made.write(base, made.frame(values=False))
    return made.write(base, made.frame(values=True), "chembl")


@pytest.fixture(scope="module")
def trained(folder: Path) -> RunResult:
    return run_job(job(folder))


def test_a_compound_is_its_canonical_smiles_and_its_labels_those_of_the_table(folder: Path) -> None:
    found, table = molecules.load("tox21", folder), made.frame(values=False)
    spelled = [Chem.MolToSmiles(Chem.MolFromSmiles(text)) for text in table["smiles"]]
    labels = table.drop(columns="smiles").groupby(np.array(spelled)).mean()
    expected = np.where(labels.isna() | (labels == 0.5), MISSING, labels > 0.5)
    assert (found.labels == expected[(expected != MISSING).any(axis=1)]).all()
    maker = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=molecules.BITS)
    known = [text for text, row in zip(labels.index, expected, strict=True) if (row != MISSING).any()]
    assert (found.fingerprints == [maker.GetFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in known]).all()


def test_what_cannot_be_read_is_counted_and_two_spellings_are_one_compound(tmp_path: Path) -> None:
    table = made.frame(values=False)
    more = pd.DataFrame({"smiles": ["C1CC", "no molecule", "", "OCCCC", "CCCCO"], **{c: [1.0] * 5 for c in table if c != "smiles"}})
    before = molecules.load("tox21", made.write(tmp_path / "a", table))
    after = molecules.load("tox21", made.write(tmp_path / "b", pd.concat([table, more])))
    assert f"3 of {len(table) + 5} SMILES cannot be read by RDKit: left out" in after.notes
    assert len(after.labels) == len(before.labels) + 1


def test_values_become_classes_at_the_threshold_and_small_assays_are_left_out(folder: Path, tmp_path: Path) -> None:
    table = made.frame(values=True)
    table["assay 9"] = np.where(np.arange(len(table)) < 60, 4.0, np.nan)
    found = molecules.load("chembl", made.write(tmp_path, table, "chembl"))
    assert "assay 9" not in found.assays
    whole = molecules.load("chembl", folder, target="value")
    classes = molecules.load("chembl", folder)
    known = whole.labels != MISSING
    assert (classes.labels[known] == (whole.labels[known] >= molecules.THRESHOLD)).all()
    assert (known == (classes.labels != MISSING)).all()


def test_a_compound_is_on_the_same_side_at_all_partners_and_every_assay_has_one_partner(folder: Path) -> None:
    loaded = assays.of_job(job(folder))
    assert sorted(np.concatenate([partner.assays for partner in loaded.partners])) == list(range(8))
    train, test = (set(np.concatenate([getattr(p, side) for p in loaded.partners])) for side in ("train", "test"))
    assert not train & test
    share = len(test) / len(train | test)
    assert 0.1 < share < 0.3
    again, other = (assays.deal("tox21", loaded.molecules, 4, holdout=0.2, seed=seed) for seed in (0, 1))  # type: ignore[arg-type]
    assert [list(p.test) for p in again.partners] == [list(p.test) for p in loaded.partners]
    assert [list(p.test) for p in other.partners] != [list(p.test) for p in loaded.partners]


def test_by_scaffold_compounds_have_one_key_if_they_have_one_scaffold(folder: Path) -> None:
    by, single = (molecules.load("tox21", folder, group=group) for group in ("scaffold", "compound"))
    texts = sorted({Chem.MolToSmiles(Chem.MolFromSmiles(text)) for text in made.smiles()})
    place = {molecules._key(text): text for text in texts}
    chosen = [place[key] for key in single.keys.tolist()]
    scaffolds = [MurckoScaffold.MurckoScaffoldSmiles(mol=Chem.MolFromSmiles(text)) or text for text in chosen]
    _, first, second = (np.unique(what, return_inverse=True)[-1] for what in ([0], scaffolds, by.keys.tolist()))
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(set(scaffolds)) == len(set(by.keys.tolist()))
    assert len(set(scaffolds)) < len(set(single.keys.tolist())) == len(chosen)


def test_the_loss_is_a_mean_of_rows_and_of_what_each_row_measured() -> None:
    output, y = torch.randn(3, 4), torch.tensor([[0, 1, -1, -1], [-1, -1, -1, -1], [1, 1, 1, 0]]).float()
    trainer = MultitaskTrainer()
    each = torch.nn.functional.binary_cross_entropy_with_logits
    rows = [each(output[0, :2], y[0, :2]), torch.tensor(0.0), each(output[2], y[2])]
    assert torch.allclose(trainer.loss(output, y), torch.stack(rows).mean())
    moved = output.clone()
    moved[y == MISSING] += 100
    assert trainer.loss(moved, y) == trainer.loss(output, y)
    squares = ((output[2] - (y[2] - molecules.THRESHOLD)) ** 2).mean()
    assert torch.allclose(MultitaskTrainer(target="value").loss(output[2:], y[2:]), squares)


def test_gains_are_means_over_assays_of_what_scikit_learn_says() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(-1, 2, size=(300, 5)).astype(np.float32)
    labels[:, 4] = np.where(labels[:, 4] == 1, 0, labels[:, 4])  # one class
    scores = np.clip(rng.normal(0.5, 0.2, size=labels.shape) + 0.1 * labels, 0, 1)
    found = figures((scores, labels), rng.random(300) < 0.5, "class")
    for key, oracle in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        expected = [oracle(labels[labels[:, a] >= 0, a], scores[labels[:, a] >= 0, a]) for a in range(4)]
        assert abs(found[key] - np.mean(expected)) < 1e-9
    values = np.where(labels == MISSING, MISSING, rng.uniform(4, 9, size=labels.shape)).astype(np.float32)
    expected = [r2_score(values[values[:, a] > 0, a], scores[values[:, a] > 0, a]) for a in range(5)]
    assert abs(figures((scores, values), np.zeros(300, dtype=bool), "value")["r2"] - np.mean(expected)) < 1e-6
    gains = Gains({"a": Gain({"auroc": 0.7}, {"auroc": 0.8}), "b": Gain({"auroc": 0.7}, {"auroc": 0.65})}, "class")
    assert gains.mean["auroc"] == pytest.approx(0.025)
    assert gains.least["auroc"] == pytest.approx(-0.05)


def test_a_job_prints_gains_and_says_that_they_are_for_the_experimenter(trained: RunResult) -> None:
    tree = json.loads(json.dumps(trained.as_json()))
    assert tree["gains"]["simulation_only"] is True
    assert "gains" in tree["simulation_only"]
    assert [*tree["gains"]["partners"]] == tree["sites"] == [f"partner-{n}" for n in range(1, 5)]
    assert {"auroc", "auprc"} <= {*tree["gains"]["mean"]}
    sheet = tables.gains(trained)
    assert "no partner learns another's row" in sheet.note
    assert len(sheet.rows) == 5
    assert trained.gains is not None
    assert min(one.federated["auroc"] for one in trained.gains.partners.values()) > 0.6


def test_numbers_and_names_of_assays_are_in_nothing_that_leaves_and_in_no_table(trained: RunResult, folder: Path) -> None:
    loaded = assays.of_job(job(folder, data={"clients": 3}))
    assert len({len(p.assays) for p in loaded.partners}) == 2, "partners differ in their number of assays"
    found = run_job(job(folder, data={"clients": 3}, rounds=1), dataset=loaded)
    assert len(set(found.up.values())) == 1
    assert {name.split(".")[0] for name in found.state} == {"trunk"}
    text = json.dumps(found.as_json())
    assert not any(assay in text for assay in loaded.molecules.assays)  # type: ignore[union-attr]
    assert "assays" not in json.dumps(found.as_json()["gains"])


def test_with_differential_privacy_trunk_and_heads_train_under_the_jobs_epsilon(folder: Path) -> None:
    found = run_job(job(folder, mechanism="local-record", epsilon=4.0, delta=1e-4, rounds=2))
    assert 3 < max(found.epsilon) <= 4
    assert found.unit == "record"


def test_with_noise_inside_the_sum_a_partner_is_the_unit_and_heads_stay_at_home(folder: Path) -> None:
    found = run_job(job(folder, mechanism="distributed-party", epsilon=50.0, update_clip=1.0, rounds=1, protocol="secagg"))
    assert 0 < max(found.epsilon) <= 50
    assert found.unit == "party"
    assert {name.split(".")[0] for name in found.state} == {"trunk"}
    assert found.gains is not None


def test_values_are_predicted_with_r2_and_a_private_trunk_beside_the_shared_one(folder: Path) -> None:
    asked = Job.parse(
        {
            "data": {"name": "chembl", "dir": str(folder), "clients": 2, "target": "value"},
            "model": {"hidden": 16, "private": 8},
            "privacy": {"mechanism": "none", "rounds": 8, "local_steps": 10, "sample_rate": 0.3},
            "performance": {"learning_rate": 0.05},
        }
    )
    found = run_job(asked)
    assert {name.split(".")[0] for name in found.state} == {"trunk"}
    assert found.gains is not None
    assert [*found.gains.mean] == ["r2"]
    assert found.metrics["r2"] > 0.2
    assert isinstance(assay_runs.parts(asked, assays.of_job(asked))[1]["partner-1"], Multitask)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"data": {"target": "value"}}, "refused for tox21: its labels are 0 and 1"),
        ({"data": {"clients": 9}}, "data.clients is 9, but tox21 has 8 assays"),
        ({"data": {"folds": 3}}, "data.folds above 1 is refused for tox21"),
        ({"model": {"name": "mlp"}}, "model.name = mlp is refused for tox21, which takes multitask alone"),
        ({"model": {"shared": "head.*"}}, "shared parameters must be those of partner-1"),
        ({"privacy": {"mechanism": "distributed-record", "rows": 100, "protocol": "secagg"}}, "model.shared is refused with"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(folder: Path, change: dict[str, dict[str, Any]], line: str) -> None:
    tree = {
        "data": {"name": "tox21", "dir": str(folder), **change.get("data", {})},
        **{k: v for k, v in change.items() if k != "data"},
    }
    table = made.frame(values=False, assays=7) if "shared" in change.get("model", {}) else None
    if table is not None:
        tree["data"]["dir"] = str(made.write(folder / "seven", table))
    with pytest.raises(UserError, match=line) as refused:
        run_job(Job.parse(tree))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["tox21", "chembl"])
def test_the_data_sets_defaults_fill_what_is_left_out_and_the_command_repeats_the_job(name: str) -> None:
    asked = Job.parse({"data": {"name": name}, "privacy": {"rounds": 7}})
    assert asked.privacy.rounds == 7
    assert asked.privacy.w_max == USUAL[name]["privacy"]["w_max"]
    assert asked.model.shared == "trunk.*"
    assert asked.privacy.epsilon == Job().privacy.epsilon
    assert asked.privacy.mechanism == Job().privacy.mechanism, "no data set weakens what is protected"
    assert Job.parse(asked.plain()) == asked
    assert options.command(asked) == ["securefl", "run", f"--data={name}", "--rounds=7"]
    plain = Job.parse({"data": {"name": name}, "model": {"private": Job().model.private, "hidden": 9}})
    words = options.command(plain)
    assert ("--private=0" in words) == (name == "chembl"), "the default of other data is not that of chembl"


def test_assays_are_refused_over_a_network_and_with_other_data(folder: Path) -> None:
    with pytest.raises(UserError, match=r"refused over a network"):
        SharedJob.of(job(folder), object())  # type: ignore[arg-type]
    for tree, line in (
        ({"model": {"name": "multitask"}}, "model.name = multitask is refused for breast-cancer"),
        ({"data": {"target": "class"}}, "data.target is refused for breast-cancer"),
        ({"model": {"private": 3}}, "model.private is refused for logistic"),
    ):
        with pytest.raises(UserError, match=line):
            Job.parse(tree)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (pd.DataFrame({"molecule": ["C"], "a": [1]}), "has no column 'smiles'"),
        (pd.DataFrame({"smiles": ["C"], "a": ["yes"]}), "the column 'a' holds something else than numbers"),
        (pd.DataFrame({"smiles": ["C"], "a": [-2.0]}), "a is -2 in line 2"),
        (pd.DataFrame({"smiles": ["C"]}), "has no assay"),
        (pd.DataFrame({"smiles": ["?", "??"], "a": [1, 0]}), "none of the 2 SMILES is readable"),
        (pd.DataFrame({"smiles": ["C", "CC"], "a": [1, 1]}), "no assay has"),
    ],
)
def test_a_bad_table_is_one_line_and_nothing_is_written(
    tmp_path: Path, table: pd.DataFrame, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    made.write(tmp_path, table)
    assert main(["run", "--data", "tox21", "--data-dir", str(tmp_path), "--no-dp", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_missing_table_or_library_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SECUREFL_DATA", raising=False)
    assert main(["run", "--data", "chembl"]) == 2
    assert "chembl_5thresh.csv.gz is needed: give its folder with --data-dir" in capsys.readouterr().err
    assert main(["run", "--data", "chembl", "--data-dir", str(tmp_path)]) == 2
    assert "holds neither chembl_5thresh.csv.gz" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rdkit", None)
    assert main(["run", "--data", "tox21", "--data-dir", str(tmp_path)]) == 2
    assert "pip install 'securefl[chem]'" in capsys.readouterr().err


@pytest.mark.skipif("SECUREFL_DATA" not in os.environ, reason="SECUREFL_DATA does not name the folder of the data sets")
def test_the_published_tables_are_what_the_documentation_says() -> None:
    tox21, chembl = (molecules.load(name, None) for name in ("tox21", "chembl"))
    assert (tox21.labels.shape, len(chembl.assays)) == ((7823, 12), 239)
    assert "8 of 8014 SMILES cannot be read by RDKit: left out" in tox21.notes
