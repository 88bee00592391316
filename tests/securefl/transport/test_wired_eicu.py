"""Each region with a folder of its own hospitals' tables: its rows, and a run of them as processes on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import made_eicu
import numpy as np
import pytest
from network_processes import Process, processes

from securefl import data as datasets
from securefl.cli import main
from securefl.cli_own import own_rows
from securefl.data.types import Site
from securefl.errors import UserError
from securefl.job import Job

REGIONS = ("Midwest", "South", "unknown")
JOB = """
[data]
name = "eicu"
folds = 2
[privacy]
mechanism = "none"
rounds = 2
local_steps = 1
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each region's own tables, and all of them."""
    root, made = tmp_path_factory.mktemp("eicu-parties"), made_eicu.within(made_eicu.tables(patients=150))
    for region in (*REGIONS, "West", "Northeast"):
        made_eicu.write(root / region, made_eicu.of_region(made, region))
    made_eicu.write(root / "all", made)
    return root


def rows(data: str, party: str, site: str | None = None, **more: str) -> Site:
    return own_rows(Job.parse({"data": {"name": "eicu", **more}}), data, party, site, ["a", "b"])


def test_a_partys_folder_gives_the_rows_that_the_simulation_has_of_it(folders: Path) -> None:
    every = {site.name: site for site in datasets.load("eicu", directory=folders / "all").sites}
    for region in REGIONS:
        for found in (rows(str(folders / region), "some party"), rows(str(folders / "all"), "x", region)):
            for key, value in vars(every[region]).items():
                np.testing.assert_array_equal(getattr(found, key), value)
    assert rows(str(folders / "all"), "South").name == "South"


def test_a_party_whose_measurements_are_in_another_unit_does_not_join(folders: Path, tmp_path: Path) -> None:
    made = made_eicu.of_region(made_eicu.within(made_eicu.tables(patients=150)), "South")
    aps = made["apacheApsVar"]
    aps["glucose"] = np.where(aps["glucose"] == -1, -1, aps["glucose"] / 18.016)
    with pytest.raises(
        UserError, match=r"South: column glucose: .*too small: is it in mg/dl\?.*; securefl doctor --data eicu"
    ) as found:
        rows(str(made_eicu.write(tmp_path / "South", made)), "South")
    assert "\n" not in str(found.value)


def test_the_units_are_part_of_what_all_have_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from securefl import shared_job

    job = Job.parse({"data": {"name": "eicu"}})
    before = shared_job.job_hash(job)
    other = shared_job.contract().model_copy(deep=True)
    other.columns["glucose"] = other.columns["glucose"].model_copy(update={"unit": "mmol/l"})
    monkeypatch.setattr(shared_job, "contract", lambda: other)
    assert shared_job.job_hash(job) != before


def test_where_the_folder_is_may_stand_in_the_partys_file(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text(f'kind = "eicu"\npath = "{folders / "South"}"\n')
    assert rows(str(tmp_path / "data.toml"), "x").name == "South"


@pytest.mark.parametrize(
    ("folder", "party", "site", "why"),
    [
        ("all", "north", None, r"has no site north \(--site\): its regions are Midwest, Northeast, South, West, unknown"),
        ("South", "south", "West", "has no site West"),
        ("nowhere", "south", None, "eicu, by name, or a folder of its tables"),
    ],
)
def test_a_folder_without_the_partys_rows_is_refused_in_one_line(
    folders: Path, folder: str, party: str, site: str | None, why: str
) -> None:
    with pytest.raises(UserError, match=why) as found:
        rows(str(folders / folder), party, site)
    assert "\n" not in str(found.value)


def test_a_job_about_a_table_takes_no_folder(folders: Path) -> None:
    some = Job.parse({"data": {"name": "t.csv", "label": "y", "site": "s", "ranges": {"u": [0, 1]}}})
    with pytest.raises(UserError, match="is a folder of eICU's tables, and the job is about a table of its own"):
        own_rows(some, str(folders / "South"), "a", None, ["a", "b"])


def test_regions_train_from_their_own_folders_and_the_servers_report_has_figures(folders: Path, tmp_path: Path) -> None:
    assert main(["keys", "try", str(tmp_path / "keys"), *REGIONS]) == 0
    (tmp_path / "job.toml").write_text(JOB)
    with processes() as made:
        own = ("--job", tmp_path / "job.toml", "--keys", tmp_path / "keys/server")
        files = ("--out", tmp_path / "out", "--tape", tmp_path / "run.tape")
        server = Process("serve", *own, "--listen", "127.0.0.1:0", *files)
        made.append(server)
        port = server.until("listening")["port"]
        for region in REGIONS:
            own = ("--keys", tmp_path / "keys" / region, "--data", folders / region, "--job", tmp_path / "job.toml")
            made.append(Process("join", "--server", f"localhost:{port}", *own, "--out", tmp_path / region))
        assert server.end() == 0, server.lines
        assert [party.end() for party in made[1:]] == [0, 0, 0], made[1].lines
    found = json.loads((tmp_path / "out/metrics.json").read_text())["assessment"]
    assert found["contributors"] == 3
    for model in ("federated", "same_rows", "compared"):
        for figure in ("auroc", "auprc", "brier"):
            value = found[model][figure]
            assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1
    mine = [json.loads((tmp_path / region / "figures.json").read_text())["federated"]["rows"] for region in REGIONS]
    assert sum(mine) == found["federated"]["rows"]
    assert '"event": "figures"' in "".join(made[1].lines)
    assert not any(f'"{region}"' in (tmp_path / "out/metrics.json").read_text() for region in REGIONS)
    logs = [str(log) for region in REGIONS for log in (tmp_path / "keys" / region / "logs").iterdir()]
    assert main(["audit", "--tape", str(tmp_path / "run.tape"), *(word for log in logs for word in ("--log", log))]) == 0
    page = tmp_path / "report.html"
    assert main(["report", "--keys", str(tmp_path / "keys/server"), "--out", str(page)]) == 0
    assert "APACHE IVa" in page.read_text()
    assert f"{found['federated']['auroc']['value']:.3f}" in page.read_text()
