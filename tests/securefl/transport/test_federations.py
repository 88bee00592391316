"""A file of federations: what is refused before anything begins, and one real server that hosts two."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from network_processes import Process, processes
from tenants import BOTH, Parties, host_of, make
from test_served_metrics import page
from trained import job

from protocols.rand import fresh
from securefl.cli import main
from securefl.errors import UserError
from securefl.federations import load
from securefl.transport import enrolment
from securefl.transport.clock import SystemClock

PLAIN = """
[data]
name = "breast-cancer"
clients = 3
[privacy]
mechanism = "none"
rounds = 2
local_steps = 2
"""


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Keys and jobs of two federations, and the file that names them."""
    make(tmp_path)
    for tenant in BOTH:
        (tmp_path / tenant / "job.toml").write_text(PLAIN)
    (tmp_path / "all.toml").write_text(TEXT)
    return tmp_path


TEXT = """
[federation.heart]
job = "heart/job.toml"
keys = "heart/server"
out = "heart/out"
[federation.heart.limits]
connections = 20
waiting = 2
[federation.lung]
job = "lung/job.toml"
keys = "lung/server"
listen = "localhost:0"
wait = 5.5
within = 60
restarts = 0
"""


def test_a_file_says_for_each_federation_what_the_options_say_for_one(two: Path) -> None:
    heart, lung = load(two / "all.toml", "127.0.0.1:0")
    assert (heart.name, heart.listen, heart.wait, heart.within, heart.restarts) == ("heart", "127.0.0.1:0", 300.0, None, 10)
    assert (heart.limits.connections, heart.limits.waiting) == (20, 2 << 20)
    assert (heart.store, heart.models) == (f"sqlite:///{two}/heart/server/server.db", f"{two}/heart/server/models")
    assert (heart.out, heart.tape) == (two / "heart/out", None)
    assert heart.hosts == {host_of("heart")}
    assert (lung.name, lung.listen, lung.wait, lung.within, lung.restarts, lung.out) == ("lung", "localhost:0", 5.5, 60.0, 0, None)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("restarts = 0", "restart = 0", "unknown key federation.lung.restart (did you mean restarts?)"),
        ("restarts = 0", "restarts = -1", "federation.lung.restarts: input should be greater than or equal to 0"),
        ("connections = 20", "connections = 0", "federation.heart.limits.connections: input should be greater"),
        ("within = 60", "within = 0.5", "federation.lung.within: input should be greater"),
        ("wait = 5.5", "wait = '5'", "federation.lung.wait: input should be a valid number"),
        ("[federation.lung]", "[federation.'../x']", "federation.../x"),
        ('keys = "lung/server"', "", "federation.lung.keys: field required"),
        ('keys = "lung/server"', 'keys = "lung/a"', "federation.lung: "),
        ('keys = "lung/server"', 'keys = "heart/server"', "heart and lung have the same keys"),
        ("wait = 5.5", 'bundle = "0123456789abcdef"', "federation.lung: give job or bundle, not both"),
        ('job = "lung/job.toml"', 'job = "none.toml"', "federation.lung: "),
        ("wait = 5.5", 'out = "heart/../heart/out"', "heart and lung have the same out"),
        ("wait = 5.5", 'models = "heart/server/models"', "heart and lung have the same models"),
        ("[federation.heart.limits]", 'store = "sqlite:///s.db"\n[federation.heart.limits]', ""),
        ("[federation", "federation", "cannot read the federations"),
        (TEXT, "", "federation: field required"),
        (TEXT, "[federation]", "federation: dictionary should have at least 1 item"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_key(two: Path, old: str, new: str, why: str) -> None:
    assert old in TEXT
    (two / "all.toml").write_text(TEXT.replace(old, new))
    if not why:
        assert load(two / "all.toml", "127.0.0.1:0")[0].store == "sqlite:///s.db"
        return
    with pytest.raises(UserError) as refused:
        load(two / "all.toml", "127.0.0.1:0")
    assert why in str(refused.value)
    assert str(refused.value).startswith(str(two / "all.toml"))


def test_two_certificates_for_one_host_at_one_address_are_refused(two: Path) -> None:
    """Whoever calls that name would be shown one of them, and the other federation's parties would not trust it."""
    again = two / "again"
    enrolment.make_all(again, ["a", "b", "c"], fresh, datetime.now(UTC), (host_of("heart"),))
    text = TEXT.replace("lung/server", "again/server").replace('listen = "localhost:0"\n', "")
    (two / "all.toml").write_text(text)
    with pytest.raises(UserError, match=r"listen at 127.0.0.1:0 with certificates for heart.example: give each a host name"):
        load(two / "all.toml", "127.0.0.1:0")
    (two / "all.toml").write_text(TEXT.replace("lung/server", "again/server"))  # at another address
    assert len(load(two / "all.toml", "127.0.0.1:0")) == 2


def test_two_servers_of_one_consortium_do_not_listen_at_one_address(two: Path) -> None:
    """Under names of their own: the callers' certificates would be one federation's, whichever they call."""
    sent = enrolment.request(two / "again", "fed-2", fresh, ("again.example",))
    operator, now = two / "heart" / "operator", datetime.now(UTC)
    enrolment.accept(two / "again", enrolment.issue(operator, enrolment.read(sent), now))
    text = TEXT.replace("lung/server", "again")
    (two / "all.toml").write_text(text)
    assert len(load(two / "all.toml", "127.0.0.1:0")) == 2
    (two / "all.toml").write_text(text.replace('listen = "localhost:0"\n', ""))
    with pytest.raises(UserError, match=r"heart and lung listen at 127.0.0.1:0 for one consortium"):
        load(two / "all.toml", "127.0.0.1:0")


def test_a_file_with_a_password_that_others_may_read_is_refused(two: Path) -> None:
    secret, plain = (f'store = "postgresql+psycopg://heart{word}@db/heart"\n' for word in (":s3cret", ""))
    for mode, line, fits in ((0o644, secret, False), (0o640, secret, False), (0o600, secret, True), (0o644, plain, True)):
        (two / "all.toml").write_text(TEXT + line)
        (two / "all.toml").chmod(mode)
        if fits:
            assert len(load(two / "all.toml", "127.0.0.1:0")) == 2
            continue
        with pytest.raises(UserError, match=r"others may read it, and federation.lung.store holds a password") as found:
            load(two / "all.toml", "127.0.0.1:0")
        assert "s3cret" not in str(found.value)


def test_a_file_that_others_may_write_is_refused(two: Path) -> None:
    for mode in (0o646, 0o664):
        (two / "all.toml").chmod(mode)
        with pytest.raises(UserError, match="others may write it"):
            load(two / "all.toml", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (["serve"], "give --keys with --job or --bundle, or --federations with several"),
        (["serve", "--federations", "all.toml", "--out", "out", "--anew"], "--out, --anew beside --federations"),
        (["serve", "--federations", "none.toml"], "none.toml: cannot read the federations: No such file"),
        (["serve", "--federations", "all.toml", "--health", "here"], "'here' is no HOST:PORT"),
        (["serve", "--federations", "all.toml", "--drain", "-1"], "--drain is -1"),
    ],
)
def test_a_command_that_does_not_fit_is_one_line_and_a_code(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: list[str], why: str
) -> None:
    monkeypatch.chdir(two)
    assert main(line) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1


def test_one_process_hosts_two_and_one_whose_store_cannot_be_used_does_not_stop_the_other(two: Path) -> None:
    """The parties are in this process.  Every line of a federation has its name; the page of numbers has it too."""
    (two / "lung/server/server.db").write_bytes(b"no database" * 100)
    (two / "lung/server/server.db").chmod(0o600)
    with processes() as made:
        made.append(Process("serve", "--federations", two / "all.toml", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"))
        told = made[0].until("listening")
        assert told["federation"] == "heart"

        async def train() -> list[str]:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(1) as worker:
                target = f"127.0.0.1:{told['port']}"
                parties = Parties(two, "heart", target, job(rounds=2, local_steps=2), SystemClock(), worker)
                parties.call()
                return await parties.ended()

        assert asyncio.run(train()) == [""] * 3
        assert made[0].end() == 1
    lines = [json.loads(line) for line in made[0].lines if line.startswith("{")]
    (lost,) = (line for line in lines if line["event"] == "given up")
    assert lost["federation"] == "lung"
    assert "lung/server/server.db cannot be used: file is not a database" in lost["error"]
    assert [line["contributors"] for line in lines if line["event"] == "round"] == [3, 3]
    assert {line["federation"] for line in lines if line["event"] in ("round", "calls", "seated", "gone", "done")} == {"heart"}
    assert len(json.loads((two / "heart/out/metrics.json").read_text())["rounds"]) == 2


def test_the_numbers_of_all_federations_are_on_one_page_until_sigterm(two: Path) -> None:
    with processes() as made:
        made.append(Process("serve", "--federations", two / "all.toml", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"))
        told = [made[0].until("listening") for _ in BOTH]
        assert {line["federation"] for line in told} == set(BOTH)
        assert told[0]["port"] != told[1]["port"]
        found = page(told[0]["metrics"])
        for name in BOTH:
            assert found["securefl_parties_present", name] == 0
        made[0].running.send_signal(signal.SIGTERM)
        assert made[0].end() == 143
        assert made[0].lines[-1] == "securefl: stopped\n"
