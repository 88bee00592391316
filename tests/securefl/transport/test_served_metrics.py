"""What a server tells Prometheus: what its log has, as numbers, on the page and in a real process."""

from __future__ import annotations

import signal
import socket
import urllib.request
from pathlib import Path

import pytest
from network_processes import Process, processes
from prometheus_client.parser import text_string_to_metric_families

from securefl.errors import UserError
from securefl.transport.log import Value
from securefl.transport.metrics import Metered, shown


def page(port: int) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_every_number_is_that_of_the_log() -> None:
    lines = list[tuple[str, dict[str, Value]]]()
    metered = Metered(lambda event, **about: lines.append((event, about)))
    events: list[tuple[str, dict[str, Value]]] = [
        ("seated", {"party": "north", "present": 1}),
        ("seated", {"party": "south", "present": 2}),
        ("round", {"contributors": 2, "aborted": None, "seconds": 0.2}),
        ("round", {"contributors": 0, "aborted": "survey: quorum", "seconds": 40.0}),
        ("gone", {"party": "north", "present": 1, "how": "cut"}),
        ("refused", {"party": "x", "check": "peer-unknown"}),
        ("fault", {"sender": "south", "check": "wire-size"}),
        ("fault", {"sender": "south", "check": "wire-size"}),
        ("notice", {"text": "nothing to count"}),
    ]
    with shown(metered, "127.0.0.1:0") as port:
        assert port is not None
        for event, about in events:
            metered(event, **about)
        found = page(port)
    assert lines == events
    assert found["securefl_rounds_total", "finished"] == found["securefl_rounds_total", "aborted"] == 1
    assert found["securefl_round_seconds_count",] == 2
    assert found["securefl_round_seconds_sum",] == pytest.approx(40.2)
    assert found["securefl_round_seconds_bucket", "0.3"] == 1
    assert found["securefl_contributors",] == 0
    assert found["securefl_parties_present",] == 1
    assert found["securefl_refused_total", "peer-unknown"] == 1
    assert found["securefl_refused_total", "wire-size"] == 2
    assert found["securefl_streams_ended_total", "cut"] == 1
    assert not any("north" in key or "south" in key for key in found)


def test_the_page_is_gone_with_its_server_and_one_that_cannot_be_shown_is_refused() -> None:
    with shown(Metered(lambda _event, **_about: None), None) as nothing:
        assert nothing is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot show metrics on 127.0.0.1:{port}: "):
            shown(Metered(lambda _event, **_about: None), f"127.0.0.1:{port}").__enter__()
    with shown(Metered(lambda _event, **_about: None), "127.0.0.1:0") as port:
        page(port)
    with pytest.raises(OSError, match="refused"):
        page(port)


def test_a_server_shows_who_is_there(place: Path) -> None:
    with processes() as made:
        serve = ("serve", "--job", place / "job.toml", "--keys", place / "keys/server", "--listen", "127.0.0.1:0")
        made.append(Process(*serve, "--metrics", "127.0.0.1:0"))
        told = made[0].until("listening")
        assert page(told["metrics"])["securefl_parties_present",] == 0
        own = ("--keys", place / "keys/north", "--data", place / "north.csv", "--job", place / "job.toml")
        made.append(Process("join", "--server", f"localhost:{told['port']}", *own))
        made[0].until("seated")
        assert page(told["metrics"])["securefl_parties_present",] == 1
        made[0].running.send_signal(signal.SIGTERM)
        assert made[0].end() == 143
