"""``securefl serve`` and ``securefl join``: real processes on loopback, and what is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from network_processes import JOB, Process, processes
from spelled import private, told

from protocols.rand import fresh
from securefl.cli import main
from securefl.transport import enrolment
from securefl.version import version as current_version


def test_three_hospitals_train_from_their_own_tables_and_one_is_killed(place: Path) -> None:
    """Killed after the first round, which all were in; the others' rounds go on, and end in a model."""
    with processes() as made:
        files = ("--out", place / "out", "--tape", place / "run.tape")
        own = ("--job", place / "job.toml", "--keys", place / "keys/server")
        server = Process("serve", *own, "--listen", "127.0.0.1:0", *files)
        made.append(server)
        port = server.until("listening")["port"]
        parties = {}
        for name in ("north", "south", "west"):
            own = ("--keys", place / "keys" / name, "--data", place / f"{name}.csv", "--job", place / "job.toml")
            parties[name] = Process("join", "--server", f"localhost:{port}", *own)
            made.append(parties[name])
        assert server.until("round")["contributors"] == 3
        parties["west"].running.kill()
        assert server.end() == 0, server.lines
        assert [parties[name].end() for name in ("north", "south", "west")] == [0, 0, -signal.SIGKILL], parties["north"].lines
        rounds = [line for line in map(json.loads, server.lines) if line["event"] == "round"]
        assert len(rounds) == 40
        assert all(line["aborted"] is None for line in rounds if "aborted" in line)
        assert rounds[-1]["contributors"] == 2
        result = json.loads((place / "out/metrics.json").read_text())
        assert [record["number"] for record in result["rounds"]] == list(range(1, 41))
        assert (place / "out/model.safetensors").stat().st_size > 0
        journal = json.loads((place / "keys/north/journal.json").read_text())
        assert journal["spent"] == {f"s-{result['run']}": 1, result["run"]: 40}
        logs = [str(log) for name in ("north", "south", "west") for log in (place / "keys" / name / "logs").iterdir()]
        assert len(logs) == 3
        assert main(["audit", "--tape", str(place / "run.tape"), *(word for log in logs for word in ("--log", log))]) == 0
        said = "".join(line for process in made for line in process.lines)
        secrets = {secret for folder in (place / "keys").iterdir() for secret in private(folder)}
        assert len(secrets) == 3 + 4 + 1  # identities, TLS keys, the operator's
        assert not told(said, secrets)


def test_two_of_three_hospitals_are_drawn_for_each_round(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As processes: those who are not drawn wait, are no dropouts, and get the model; the page says what the sums show together.

    That one of the three cohorts is never drawn in 40 rounds, or one always, has a probability of 10⁻⁶.
    """
    (place / "job.toml").write_text(JOB.format(rounds=40) + "clients_per_round = 2\n")
    own = ("--job", place / "job.toml", "--keys", place / "keys/server", "--listen", "127.0.0.1:0")
    assert main(["serve", *map(str, own), "--tape", str(place / "run.tape")]) == 2
    assert "privacy.clients_per_round is refused with a tape" in " ".join(capsys.readouterr().err.split())
    assert not (place / "run.tape").exists()
    with processes() as made:
        made.append(Process("serve", *own))
        port = made[0].until("listening")["port"]
        for name in ("north", "south", "west"):
            more = ("--keys", place / "keys" / name, "--data", place / f"{name}.csv", "--job", place / "job.toml")
            made.append(Process("join", "--server", f"localhost:{port}", *more, "--out", place / "got" / name))
        assert [one.end() for one in made] == [0] * 4, [one.lines for one in made]
        lines = [json.loads(line) for line in made[0].lines]
    rounds = [line for line in lines if line["event"] == "round"]
    assert [(line["contributors"], line.get("aborted")) for line in rounds] == [(2, None)] * 40
    assert not [line for line in lines if line["event"] in ("fault", "refused")]
    assert len([line for line in lines if line["event"] == "seated"]) == 3  # and each kept its seat
    logs = {name: len(list((place / "keys" / name / "logs").iterdir())) for name in ("north", "south", "west")}
    assert sum(logs.values()) == 80 + 3, "two a round, and one of each party of the sum for scaling"
    assert all(1 < count < 41 for count in logs.values())
    store, models = f"sqlite:///{place}/keys/server/server.db", str(place / "keys/server/models")
    assert main(["report", "--store", store, "--models", models, "--out", str(place / "page.html")]) == 0
    assert "single out north, south, west" in (place / "page.html").read_text()


def test_a_server_that_is_asked_to_stop_stops_in_good_order(place: Path) -> None:
    with processes() as made:
        made.append(Process("serve", "--job", place / "job.toml", "--keys", place / "keys/server", "--listen", "127.0.0.1:0"))
        made[0].until("waiting")
        made[0].running.send_signal(signal.SIGTERM)
        assert made[0].end() == 143
        assert made[0].lines[-1] == "securefl: stopped\n"


def test_a_party_whose_job_is_of_another_suite_is_told_both(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "other.toml").write_text(JOB.format(rounds=40) + 'protocol = "kahe"\n')
    with processes() as made:
        made.append(Process("serve", "--job", place / "job.toml", "--keys", place / "keys/server", "--listen", "127.0.0.1:0"))
        port = made[0].until("listening")["port"]
        own = ("--keys", place / "keys/north", "--data", place / "north.csv", "--job", place / "other.toml")
        assert main(["join", "--server", f"localhost:{port}", *map(str, own)]) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert re.search(r"net-job \(the server runs job \w{8} under SecAgg\S+, north comes with job (\w{8})\); "
                         r"the own job \1 is under Kahe\S+", said), said  # fmt: skip
        refused = made[0].until("refused")
        assert (refused["party"], refused["check"]) == ("north", "net-job")
        (calls,) = [line for line in map(json.loads, made[0].lines) if line["event"] == "calls"]
        assert calls["software"] == f"securefl {current_version()}"
        made[0].running.send_signal(signal.SIGINT)
        assert made[0].end() == 130


def test_who_starts_with_a_certificate_that_is_over_soon_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Good for 90 days and made 80 days ago; that of `place` is new, and nothing is said."""
    enrolment.make_all(place / "aged", ["north", "south"], fresh, datetime.now(UTC) - timedelta(days=80), ("localhost",))
    for keys, warned in (("aged", True), ("keys", False)):
        own = ("--keys", place / keys / "north", "--data", place / "north.csv", "--job", place / "job.toml", "--wait", "0")
        capsys.readouterr()
        assert main(["join", "--server", "localhost:1", *map(str, own)]) == 2
        assert ("the certificate of north is good until" in capsys.readouterr().err) is warned
    with processes() as made:
        made.append(Process("serve", "--job", place / "job.toml", "--keys", place / "aged/server", "--listen", "127.0.0.1:0"))
        assert made[0].until("notice")["text"].startswith("the certificate of server is good until")


SERVE = ["serve", "--job", "job.toml", "--keys", "keys/server"]
JOIN = ["join", "--server", "localhost:1", "--keys", "keys/north", "--data", "north.csv", "--job", "job.toml"]


def changed(line: list[str], option: str, value: str) -> list[str]:
    at = line.index(option)
    return [*line[: at + 1], value, *line[at + 2 :]]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (changed(SERVE, "--keys", "nowhere"), "no folder of keys nowhere"),
        (changed(SERVE, "--keys", "keys/north"), "keys/north holds no keys of a server"),
        (changed(SERVE, "--job", "none.toml"), "none.toml: cannot read the job file"),
        ([*SERVE, "--listen", "everywhere"], "'everywhere' is no HOST:PORT"),
        ([*SERVE, "--listen", "192.0.2.1:7443"], "cannot listen on 192.0.2.1:7443"),
        ([*SERVE, "--out", "job.toml"], "job.toml is not a folder"),
        (changed(JOIN, "--keys", "keys/server"), "keys/server holds no keys of a party"),
        (changed(JOIN, "--data", "none.csv"), "none.csv: there is no such file"),
        (changed(JOIN, "--data", "heart"), "--data is 'heart', and the job is about a table: a .csv, .parquet or .toml file"),
        (JOIN[:5] + JOIN[-2:], "where are the party's rows? Give --data, or say it in keys/north/data.toml"),
        (changed(JOIN, "--server", "localhost"), "'localhost' is no HOST:PORT"),
        (JOIN[:-2], "own copy of the job: give --job, or put it into keys/north/job.toml"),
    ],
)
def test_bad_input_is_one_line_and_a_code(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: list[str], why: str
) -> None:
    monkeypatch.chdir(place)
    assert main(line) == 2
    said = capsys.readouterr().err
    assert re.search(re.escape(why), said.replace("\n", " ")), said
    assert said.count("\n") == 1


def test_a_party_with_a_key_that_others_may_read_does_not_call(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "keys/north/identity.key").chmod(0o644)
    assert main(JOIN) == 2
    assert "identity.key is a private key that others may read" in capsys.readouterr().err


def test_a_server_that_cannot_be_reached_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main([*JOIN, "--wait", "0.1"]) == 2
    assert "the server localhost:1 cannot be reached" in capsys.readouterr().err


def test_a_table_that_is_not_what_the_schema_says_is_not_even_announced(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    rules = "[columns.age]\nrange = [20, 90]\nunit = 'years'\n[columns.pressure]\nrange = {}\nunit = 'mmHg'\n"
    text = (place / "job.toml").read_text()
    ranges = next(line for line in text.splitlines() if line.startswith("ranges"))
    (place / "job.toml").write_text(text.replace(ranges, 'contract = "schema.toml"'))
    shutil.copy(place / "north.csv", place / "keys" / "north" / "own.csv")
    (place / "keys" / "north" / "data.toml").write_text('kind = "csv"\npath = "own.csv"\n')
    with socket.create_server(("127.0.0.1", 0)) as listening:
        line = changed(JOIN[:5] + JOIN[-2:], "--server", f"localhost:{listening.getsockname()[1]}")
        for bounds, calls in (("[8, 20]", False), ("[80, 200]", True)):
            (place / "schema.toml").write_text(rules.format(bounds))
            assert main([*line, "--wait", "1"]) == 2
            said = capsys.readouterr().err
            assert calls != ("column pressure: 40 of 40 values lie outside" in said), said
            assert calls == ("cannot be reached" in said), said
            listening.settimeout(5 if calls else 0.2)
            if calls:
                listening.accept()[0].close()
            else:
                with pytest.raises(TimeoutError):
                    listening.accept()
