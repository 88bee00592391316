"""``securefl submit``, ``review``, ``approve``, ``refuse`` and runs of bundles: real processes; refusals in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from network_processes import JOB, Process, processes, table
from safetensors import safe_open

from securefl.cli import main
from securefl.errors import UserError
from securefl.saved import load_model
from securefl.shared_job import is_run_of

PARTIES = ("north", "south", "west")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys of three hospitals and an author, their tables, and a folder with a job."""
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "try", "keys", *PARTIES, "--author", "ada"]) == 0
    for seed, name in enumerate(PARTIES):
        table(tmp_path / f"{name}.csv", seed)
    (tmp_path / "study").mkdir()
    (tmp_path / "study/job.toml").write_text(JOB.format(rounds=2))
    return tmp_path


@contextmanager
def desk(*args: object) -> Iterator[str]:
    """A server under way; its address."""
    with processes() as made:
        made.append(Process("serve", "--keys", "keys/server", "--listen", "127.0.0.1:0", *args))
        yield f"localhost:{made[0].until('listening')['port']}"


def said(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> str:
    """What a command prints; what it complains of, where it ends otherwise."""
    capsys.readouterr()
    assert main([*map(str, args)]) == code, capsys.readouterr()
    found = capsys.readouterr()
    return found.err if code else found.out


def submitted(capsys: pytest.CaptureFixture[str], server: str, folder: str = "study", by: str = "ada") -> str:
    """The hash of a folder that an author hands in."""
    told = said(capsys, "submit", folder, "--keys", f"keys/{by}", "--server", server)
    return re.findall(r"^bundle ([0-9a-f]{64}), ", told)[0]


def decided(capsys: pytest.CaptureFixture[str], server: str, digest: str, *names: str) -> None:
    """These parties review and approve a bundle."""
    for name in names:
        said(capsys, "review", digest, "--keys", f"keys/{name}", "--server", server)
        said(capsys, "approve", digest, "--keys", f"keys/{name}", "--server", server)


def test_a_bundle_is_submitted_reviewed_approved_and_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By all parties but one that refuses it; its hash is in the name of the run, and so in every session identity."""
    with desk() as server:
        digest = submitted(capsys, server)
        shown = said(capsys, "review", digest[:8], "--keys", "keys/north", "--server", server)
        assert "=== job.toml: new" in shown
        assert "+rounds = 2" in shown
        assert f"bundle     {digest}" in shown
        decided(capsys, server, digest, "north", "south")
        said(capsys, "review", digest, "--keys", "keys/west", "--server", server)
        said(capsys, "refuse", digest, "--because", "no ε", "--keys", "keys/west", "--server", server)
        listed = json.loads(said(capsys, "review", "--json", "--keys", "keys/west", "--server", server))["bundles"]
        assert [(one["bundle"], one["author"], one["own"]) for one in listed] == [(digest, "ada", "refused")]
        assert listed[0]["said"] == {"north": "approved", "south": "approved", "west": "refused"}
    known = json.loads(said(capsys, "jobs", "--keys", "keys/server", "--json"))["bundles"]
    assert known[0]["decisions"] == {"north": "approved", "south": "approved", "west": "refused"}
    assert "refused: west" in said(capsys, "jobs", "--keys", "keys/server")
    with processes() as made:
        out = ("--out", "out", "--wait", "2")
        made.append(Process("serve", "--keys", "keys/server", "--bundle", digest[:12], "--listen", "127.0.0.1:0", *out))
        listening = made[0].until("listening")
        assert is_run_of(listening["run"], bytes.fromhex(digest))
        server = f"localhost:{listening['port']}"
        assert "is refused here" in said(capsys, "join", "--server", server, "--keys", "keys/west", "--data", "west.csv", code=2)
        for name, more in (("north", ()), ("south", ("--bundle", digest[:10]))):
            made.append(Process("join", "--server", server, "--keys", f"keys/{name}", "--data", f"{name}.csv", *more))
        assert [process.end() for process in made] == [0, 0, 0], [process.lines for process in made]
    assert [r["contributors"] for r in json.loads(Path("out/metrics.json").read_text())["rounds"]] == [2, 2]
    assert [run["job"] for run in json.loads(said(capsys, "jobs", "--keys", "keys/server", "--json"))["jobs"]] == [digest]
    ledger = said(capsys, "budget", "keys/north/ledger.db", "--json")
    assert "north.csv" in ledger  # the party's own name for its rows, not the author's
    assert "own.csv" not in ledger


def write(folder: Path, **files: str) -> None:
    """A folder with these files beside or in the place of its own."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py").replace("_toml", ".toml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_this_party_did_not_approve_takes_nothing_from_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the server says: each refusal is one line and code 2, and the server hears no greeting of a party."""
    with desk() as server:
        first = submitted(capsys, server)
        write(place / "study", job_toml=JOB.format(rounds=3))
        other = submitted(capsys, server)
        decided(capsys, server, first, "north", "south", "west")
        said(capsys, "review", other, "--keys", "keys/north", "--server", server)
    with processes() as made:
        made.append(Process("serve", "--keys", "keys/server", "--bundle", other, "--listen", "127.0.0.1:0"))
        server = f"localhost:{made[0].until('listening')['port']}"
        joins = ("join", "--server", server, "--data", "north.csv", "--keys", "keys/north")

        def refused(*more: object) -> str:
            line = said(capsys, *joins, *more, code=2)
            assert line.count("\n") == 1
            return line

        assert f"the bundle {other} is not approved here" in refused()
        assert "is not approved here" in refused("--bundle", other[:9])
        assert "no bundle that was reviewed here begins with 00000000" in refused("--bundle", "00000000")
        assert "give --job or --bundle, not both" in refused("--bundle", first, "--job", "study/job.toml")
        said(capsys, "refuse", other, "--because", "too many rounds", "--keys", "keys/north")
        assert "too many rounds" in refused()
        told = said(capsys, "approve", other, "--keys", "keys/north")
        assert re.search(rf"^approved as well, since .*: {first}; securefl refuse takes that back$", told, re.MULTILINE)
        (place / f"keys/north/bundles/{other}.bundle").write_bytes((place / f"keys/north/bundles/{first}.bundle").read_bytes())
        assert "bundle-hash" in refused()
        said(capsys, "review", other, "--keys", "keys/north", "--server", server)
        (place / "keys/north/policy.toml").write_text(f'jobs = ["{first}"]\n')
        assert f"the job {other} is not among them" in refused()  # at the welcome, before anything leaves
        made[0].running.terminate()
        made[0].end()
        events = [json.loads(line) for line in made[0].lines if line.startswith("{")]
        assert len([line for line in events if line["event"] == "calls"]) == 1  # of the policy alone
        assert not [line for line in events if line["event"] == "seated"]
    assert not (place / "keys/north/journal.json").exists()


BUILD = """
from pathlib import Path
from torch import nn

def build():
    seen = [str(path) for path in Path("/").rglob("identity.key")] + [str(path) for path in Path("/").rglob("north.csv")]
    if seen:
        raise RuntimeError(f"the walls have holes: {seen}")
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_bundle_with_code_of_its_own_trains_behind_walls(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of it runs where it is handed in, reviewed and approved; then it does, at every party, without a sight of keys."""
    write(place / "study", code__model_py=BUILD, bundle_toml='title = "own model"\nentry = "model:build"\n')
    with desk() as server:
        digest = submitted(capsys, server)
        shown = said(capsys, "review", digest, "--keys", "keys/north", "--server", server)
        assert "+def build():" in shown
        assert "code       1 files, entered at model:build" in shown
        assert "as many values as its code has parameters" in shown
        decided(capsys, server, digest, *PARTIES)
    with desk("--bundle", digest, "--out", "out") as server, processes() as made:
        made += [
            Process("join", "--server", server, "--data", f"{name}.csv", "--keys", f"keys/{name}", "--out", f"got-{name}")
            for name in PARTIES
        ]
        assert [one.end() for one in made] == [0, 0, 0], [one.lines[-3:] for one in made]
    rounds = json.loads((place / "out/metrics.json").read_text())["rounds"]
    assert [(one["contributors"], one["aborted"]) for one in rounds] == [(3, None), (3, None)]
    with safe_open(place / "got-north/model.safetensors", framework="np") as file:
        assert {name: file.get_tensor(name).shape for name in file.keys()} == {  # noqa: SIM118
            "0.weight": (3, 2),
            "0.bias": (3,),
            "2.weight": (1, 3),
            "2.bias": (1,),
        }
    with pytest.raises(UserError, match="holds other layers than the job names: .* by safetensors$"):
        load_model(place / "got-north/model.safetensors")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_code_that_fails_at_once_ends_the_party_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(place / "study", code__model_py="import os\nos.abort()\n", bundle_toml='title = "own model"\nentry = "model:build"\n')
    with desk() as server:
        digest = submitted(capsys, server)
        decided(capsys, server, digest, "north")
        joins = ("join", "--server", server, "--data", "north.csv", "--keys", "keys/north", "--bundle", digest)
        why = said(capsys, *joins, code=1)
        assert why.count("\n") == 1
        assert "code-gone" in why
    assert "code-gone" in said(capsys, "serve", "--keys", "keys/server", "--listen", "127.0.0.1:0", "--bundle", digest, code=1)


def test_a_bundle_in_a_file_is_served_only_as_its_author_signed_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "submit", "study", "--keys", "keys/ada", "--out", "own.bundle")
    document = (place / "own.bundle").read_bytes()
    serves = ("serve", "--keys", "keys/server", "--listen", "127.0.0.1:0", "--bundle")
    (place / "altered.bundle").write_bytes(document.replace(b"rounds = 2", b"rounds = 9"))
    assert "bundle-signature" in said(capsys, *serves, "altered.bundle", code=2)
    (place / "cut.bundle").write_bytes(document[:-1])
    assert "wire-canonical" in said(capsys, *serves, "cut.bundle", code=2)
    assert "cannot be read" in said(capsys, *serves, "none.bundle", code=2)
    assert "no bundle on the server's shelf" in said(capsys, *serves, "0" * 64, code=2)
    assert "not both" in said(capsys, *serves, "own.bundle", "--job", "study/job.toml", code=2)
    with processes() as made:
        made.append(Process(*serves, "own.bundle"))
        server = f"localhost:{made[0].until('listening')['port']}"
        (listed,) = json.loads(said(capsys, "review", "--json", "--keys", "keys/north", "--server", server))["bundles"]
        assert (listed["author"], listed["running"]) == ("ada", True)
        tree = json.loads(said(capsys, "review", listed["bundle"], "--json", "--keys", "keys/north", "--server", server))
        assert [(file["name"], file["state"]) for file in tree["files"]] == [("job.toml", "new")]
        assert tree["opens"]
        again = said(capsys, "review", listed["bundle"], "--keys", "keys/north")  # from the own disk
        assert "compared   with nothing" in again
    said(capsys, "keys", "revoke", "ada", "--keys", "keys/operator")
    said(capsys, "keys", "accept", "keys/operator/roster.cbor", "--keys", "keys/server")
    assert "bundle-author" in said(capsys, *serves, "own.bundle", code=2)
    assert "bundle-author" in said(capsys, *serves, listed["bundle"], code=2)


def test_a_decision_that_the_server_did_not_hear_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with desk() as server:
        digest = submitted(capsys, server)
        said(capsys, "review", digest, "--keys", "keys/north", "--server", server)
    told = said(capsys, "approve", digest, "--keys", "keys/north", "--server", "localhost:1", code=1)
    assert "the decision is kept here, and the server was not told" in told
    assert "decided    approved on " in said(capsys, "review", digest, "--keys", "keys/north")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("submit study --keys keys/ada", "give --server HOST:PORT, or --out FILE, or both"),
        ("submit none --keys keys/ada --out x", "none is no folder"),
        ("submit keys --keys keys/ada --out x", "bundle-name"),
        ("submit study --keys keys/server --out x", "keys/server holds no keys of an author or a party"),
        ("submit study --keys keys/ada --server nowhere", "'nowhere' is no HOST:PORT"),
        ("review --keys keys/north", "give --server HOST:PORT to list its bundles"),
        ("review 00000000 --keys keys/north", "no bundle that was reviewed here begins with 00000000"),
        ("review xyz --keys keys/north --server localhost:1", "'xyz' names no bundle"),
        ("review --keys keys/north --server localhost:1", "the server localhost:1 cannot be reached"),
        ("approve 00000000 --keys keys/ada", "keys/ada holds no keys of a party"),
        ("approve ../../etc --keys keys/north", "names no bundle"),
        ("refuse 00000000 --keys keys/north --because no", "no bundle that was reviewed here"),
        ("refuse 00000000 --keys keys/north --because=", "--because is empty"),
        ("join --keys keys/north --server localhost:1 --data north.csv", "or decide about a bundle (securefl review)"),
        ("join --keys keys/ada --server localhost:1 --data north.csv", "keys/ada holds no keys of a party"),
        ("keys request x --host h --author", "give one of them"),
        ("keys try more north south --author north", "need at least two names of their own"),
    ],
)
def test_bad_input_is_one_line_and_a_code(place: Path, capsys: pytest.CaptureFixture[str], line: str, why: str) -> None:
    told = said(capsys, *line.split(), code=2)
    assert why in told
    assert told.count("\n") == 1
    assert not (place / "x").exists()


def test_a_federation_of_several_takes_bundles_in_and_another_runs_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a desk of its own: what was handed in at one is not on the other's."""
    said(capsys, "submit", "study", "--keys", "keys/ada", "--out", "own.bundle")
    assert main(["keys", "try", "other", *PARTIES, "--author", "bob"]) == 0
    (place / "all.toml").write_text(
        '[federation.one]\nkeys = "keys/server"\nbundle = "own.bundle"\nlisten = "127.0.0.1:0"\n'
        '[federation.two]\nkeys = "other/server"\nlisten = "localhost:0"\n'
    )
    with processes() as made:
        made.append(Process("serve", "--federations", "all.toml"))
        told = [made[0].until("listening") for _ in range(2)]
        ports = {line["federation"]: f"localhost:{line['port']}" for line in told}
        assert {line["federation"]: bool(line.get("run")) for line in told} == {"one": True, "two": False}
        (listed,) = json.loads(said(capsys, "review", "--json", "--keys", "keys/north", "--server", ports["one"]))["bundles"]
        assert listed["running"]
        assert json.loads(said(capsys, "review", "--json", "--keys", "other/north", "--server", ports["two"]))["bundles"] == []
        said(capsys, "submit", "study", "--keys", "other/bob", "--server", ports["two"])
        (other,) = json.loads(said(capsys, "review", "--json", "--keys", "other/north", "--server", ports["two"]))["bundles"]
        assert (other["author"], other["running"]) == ("bob", False)
        assert "cannot be reached" in said(capsys, "review", "--keys", "keys/north", "--server", ports["two"], code=2)
