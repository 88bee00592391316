import hashlib
import http.server
import os
import socket
import threading
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.data import heart, load, plan
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


# Made-up files.

number = st.floats(-5, 600, allow_nan=False).map(lambda value: f"{value:.1f}")
optional = number | st.just("?")
row = st.tuples(
    optional, st.sampled_from("01?"), st.sampled_from(["1", "2.0", "3", "4.0", "?"]), optional, optional,
    st.sampled_from("01?"), st.sampled_from(["0", "1.0", "2", "?"]), optional, st.sampled_from("01?"), optional,
    optional, optional, optional, st.sampled_from("01234"),
)  # fmt: skip


def flamby(text):
    """The preparation as FLamby writes it, with the levels spelled out so that small files have all of them."""
    frame = pd.read_csv(StringIO(text), header=None, na_values="?").drop(columns=[10, 11, 12]).dropna().astype(float)
    frame[2] = pd.Categorical(frame[2], categories=[1, 2, 3, 4])
    frame[6] = pd.Categorical(frame[6], categories=[0, 1, 2])
    y = (frame[13] > 0).to_numpy(int)
    return pd.get_dummies(frame.drop(columns=13), columns=[2, 6], drop_first=True).to_numpy(float), y


@given(st.lists(row, min_size=1, max_size=15))
def test_preparation_is_that_of_flamby(rows):
    text = "\n".join(",".join(fields) for fields in rows) + "\n"
    x, y, seen = heart.prepare(text)
    expected_x, expected_y = flamby(text)
    assert x.shape == (expected_y.size, 13)
    assert np.array_equal(x, expected_x)
    assert np.array_equal(y, expected_y)
    assert y.dtype == np.int64
    assert seen == len(rows)


MADE_UP = {
    hospital: f"{age}.0,1.0,4.0,145.0,{chol},1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,2\n{age},0,1,120,200,0,0,140,1,0,?,?,?,0\n?"
    + ",1" * 13
    for hospital, age, chol in [("cleveland", 50, 233), ("hungarian", 51, 1), ("switzerland", 52, 0), ("va", 53, 300)]
}


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A folder with made-up hospitals, whose hashes the loader is told to expect; no variable, no proxy."""
    monkeypatch.delenv("SECUREFL_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    files = {}
    for hospital, text in MADE_UP.items():
        file = heart.FILES[hospital][0]
        (folder / file).write_text(text)
        files[hospital] = (file, hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr(heart, "FILES", files)
    return folder


@pytest.fixture
def server(made_up):
    """A loopback server of that folder: its address and the requests it saw."""
    seen = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(made_up))

        def log_message(self, *args):
            seen.append(args)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/", seen
        running.shutdown()
        thread.join()


def check_made_up(dataset):
    assert [site.name for site in dataset.sites] == ["cleveland", "hungarian", "switzerland", "va"]
    assert [site.y.tolist() for site in dataset.sites] == [[1, 0]] * 4
    assert [site.x[0, 0] for site in dataset.sites] == [50, 51, 52, 53]
    assert dataset.features == tuple(heart.RANGES)
    assert dataset.ranges.shape == (13, 2)
    assert dataset.fixed_sites
    assert "cleveland 2 of 3" in dataset.notes[0]
    assert dataset.notes[1].endswith("in: 1 rows of switzerland")


def test_files_are_found_by_directory_by_variable_and_below_a_parent(made_up, tmp_path, monkeypatch):
    check_made_up(load("heart", directory=made_up))
    monkeypatch.setenv("SECUREFL_DATA", str(made_up))
    check_made_up(load("heart"))
    made_up.rename(tmp_path / "heart_disease")
    check_made_up(load("heart", directory=tmp_path))
    monkeypatch.setenv("SECUREFL_DATA", str(tmp_path))
    check_made_up(load("heart"))


def test_a_directory_that_is_named_wins_over_the_variable(made_up, tmp_path, monkeypatch):
    monkeypatch.setenv("SECUREFL_DATA", str(tmp_path / "nowhere"))
    check_made_up(load("heart", directory=made_up))


def test_a_named_folder_without_the_files_is_refused_and_not_replaced_by_a_download(made_up, tmp_path, monkeypatch):
    assert f"data directory {tmp_path}" in refused("heart", directory=tmp_path)
    monkeypatch.setenv("SECUREFL_DATA", str(tmp_path))
    assert f"SECUREFL_DATA={tmp_path}" in refused("heart")


def test_a_local_file_that_was_changed_is_refused(made_up):
    file = made_up / "processed.va.data"
    file.write_text(file.read_text().replace("53", "54"))
    text = refused("heart", directory=made_up)
    assert str(file) in text
    assert "sha256" in text


def test_a_download_is_kept_and_not_repeated(server, tmp_path, capfd):
    base_url, seen = server
    check_made_up(heart.load(base_url=base_url, cache=tmp_path / "cache"))
    assert len(seen) == 4
    check_made_up(heart.load(base_url=base_url, cache=tmp_path / "cache"))
    assert len(seen) == 4
    assert capfd.readouterr() == ("", "")


def test_a_cached_file_that_was_changed_is_fetched_again(server, tmp_path):
    base_url, seen = server
    heart.load(base_url=base_url, cache=tmp_path / "cache")
    (tmp_path / "cache" / "processed.va.data").write_text("damaged")
    check_made_up(heart.load(base_url=base_url, cache=tmp_path / "cache"))
    assert len(seen) == 5


def download_refused(base_url, cache):
    with pytest.raises(UserError) as caught:
        heart.load(base_url=base_url, cache=cache)
    text = str(caught.value)
    assert "\n" not in text
    assert base_url in text
    assert "SECUREFL_DATA" in text
    assert caught.value.__suppress_context__
    return text


def test_a_download_with_another_hash_is_refused_and_not_kept(server, made_up, tmp_path):
    (made_up / "processed.hungarian.data").write_text("28,1,2\n")
    text = download_refused(server[0], tmp_path / "cache")
    assert "processed.hungarian.data is not the expected file" in text
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["processed.cleveland.data"]


def test_a_server_without_the_file_is_refused(server, made_up, tmp_path):
    (made_up / "processed.cleveland.data").unlink()
    assert "could not be downloaded (HTTPError)" in download_refused(server[0], tmp_path / "cache")


def test_a_server_that_does_not_answer_is_refused(made_up, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        assert "could not be downloaded (ConnectionError)" in download_refused(base_url, tmp_path / "cache")


# The real files.


@pytest.fixture
def real():
    folder = os.environ.get("SECUREFL_DATA")
    if not folder:
        pytest.skip("SECUREFL_DATA names no folder with the heart disease files")
    return Path(folder)


def test_the_four_hospitals_are_those_of_flamby(real):
    dataset = load("heart")
    shapes = {site.name: site.x.shape for site in dataset.sites}
    assert shapes == {"cleveland": (303, 13), "hungarian": (261, 13), "switzerland": (46, 13), "va": (130, 13)}
    assert list(shapes) == ["cleveland", "hungarian", "switzerland", "va"]
    folder = real / "heart_disease" if (real / "heart_disease").is_dir() else real
    for site in dataset.sites:
        x, y = flamby((folder / f"processed.{site.name}.data").read_text())
        assert np.array_equal(site.x, x)
        assert np.array_equal(site.y, y)
    assert [int(site.y.sum()) for site in dataset.sites] == [139, 98, 45, 101]


def test_few_rows_lie_outside_the_public_ranges(real):
    dataset = load("heart")
    x, _ = rows_of(dataset)
    outside = (x < dataset.ranges[:, 0]) | (x > dataset.ranges[:, 1])
    assert outside.any(axis=1).sum() <= 5


def test_every_hospital_but_switzerland_has_five_held_out_rows_of_each_class_in_every_fold(real):
    for seed in range(3):
        for site in load("heart").sites:
            for split in plan(site, folds=5, holdout=0.3, seed=seed):
                fewest = min(np.bincount(site.y[split.test], minlength=2))
                assert (fewest >= 5) == (site.name != "switzerland")
