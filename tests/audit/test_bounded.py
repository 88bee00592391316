"""Whatever a protocol does under attack, the harness goes on, and says so."""

from __future__ import annotations

import gc
import itertools
import os
import resource
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from protocols.errors import Abort, Misuse, Refused
from protocols.session import Letter
from securefl.audit import Adversary, Bounds, Target, Verdict, audit_protocol
from securefl.audit.bounded import bounded, outcome
from securefl.audit.verdict import SEVERITY, broken, combine, harmless

SHORT, ENOUGH = Bounds(seconds=1.0), Bounds(seconds=120.0, memory=64 << 20)


def hangs() -> Verdict:
    for _ in itertools.count():
        pass
    return harmless("never")


def sleeps() -> Verdict:
    time.sleep(600)
    return harmless("never")


def crashes() -> Verdict:
    raise ValueError("a bug\nin two lines")


def dies() -> Verdict:
    os._exit(3)


def hoards() -> Verdict:
    held = []
    while True:
        held.append(bytearray(16 << 20))


def floods() -> Verdict:
    raise Abort("flood", "the flow does not come to an end")


def misuses() -> Verdict:
    raise Misuse("a bound")


def talks() -> Verdict:
    os.write(1, b"")
    return replace(broken("it is open", whose="client 1", recovered=[1, -2], true=[1, -2]), parts=("a" * 300_000,))


@pytest.mark.parametrize(
    ("play", "told"),
    [
        (hangs, "no end within 1 s"),
        (sleeps, "no end within 1 s"),
        (crashes, "it crashed: ValueError: a bug in two lines"),
        (dies, "its process ended by itself"),
        (hoards, "it took more memory than an attack may use"),
        (floods, "a run did not end"),
        (misuses, "Misuse: a bound"),
    ],
)
def test_crashes_hangs_and_floods_are_verdicts(play: Callable[[], Verdict], told: str) -> None:
    verdict, _ = bounded(play, SHORT if "no end" in told else ENOUGH)
    assert verdict.broken
    assert verdict.why.startswith("unavailable: ")
    assert told in verdict.why


def test_an_attack_that_fails_itself_is_told_from_a_protocol_that_does() -> None:
    def forged() -> Verdict:
        return combine([("one", None)])  # type: ignore[list-item]

    assert "the attack's own code failed: AttributeError" in bounded(forged, ENOUGH)[0].why


def test_a_verdict_comes_back_whole() -> None:
    assert bounded(talks, Bounds())[0] == talks()


def test_what_an_attack_does_to_its_process_does_not_stay() -> None:
    changed = list[int]()

    def play() -> Verdict:
        changed.append(1)
        return harmless(str(changed))

    assert bounded(play, ENOUGH)[0].why == "[1]"
    assert changed == []


class Served:
    """As a server that was stopped: whoever takes it down in another process waits for threads that are not there."""

    home = os.getpid()

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        while os.getpid() != self.home:
            pass


def collects() -> Verdict:
    gc.collect()
    return harmless("it came to its end")


@pytest.mark.parametrize("collecting", [True, False])
def test_what_the_process_left_behind_is_not_taken_down_in_the_copy(*, collecting: bool) -> None:
    (gc.enable if collecting else gc.disable)()
    try:
        Served()
        assert bounded(collects, SHORT)[0].why == "it came to its end"
        assert gc.isenabled() == collecting
        Served()
        child = os.fork()
        if not child:  # the control: without what `bounded` does the copy comes to no end
            resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
            outcome(collects)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) in (signal.SIGXCPU, signal.SIGKILL)
    finally:
        gc.enable()
        gc.collect()


def test_an_attack_collects_what_it_leaves_itself() -> None:
    def play() -> Verdict:
        class Held:
            def __init__(self) -> None:
                self.itself = self

        gone = weakref.ref(Held())
        gc.collect()
        return harmless(str(gone() is None))

    assert bounded(play, ENOUGH)[0].why == "True"


def test_what_an_attack_prints_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    def play() -> Verdict:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        return harmless("said")

    assert bounded(play, ENOUGH)[0].why == "said"
    assert capfd.readouterr() == ("", "")


def test_a_run_without_end_is_a_flood() -> None:
    def network(letter: Letter) -> Iterable[Letter]:
        return (letter,) * 3000

    target = replace(Target.of("plain-insecure"), bounds=Bounds(seconds=60, deliveries=5000))
    audit = audit_protocol(target, rows=[0], adversaries=[Adversary.network("flood", network)])
    assert "unavailable: a run did not end" in audit.report


def test_the_worst_of_several_tries_counts() -> None:
    tries = [
        ("one", harmless("x")),
        ("two", Verdict("refused", who="server", check="sum-count")),
        ("three", Verdict("stated", "y")),
    ]
    assert combine(tries).status == "stated"
    assert combine(tries[:2]).check == "sum-count"
    assert combine([*tries, ("four", broken("z"))]).broken
    assert [part.partition(":")[0] for part in combine(tries).parts] == ["one", "two", "three"]
    assert combine([]).status == "not applicable"
    assert SEVERITY[-1] == "broken"


def test_a_refusal_that_escapes_is_no_refusal() -> None:
    """What a protocol should have answered by leaving, it raised."""

    def play() -> Verdict:
        raise Refused("box-opens", "x")

    assert bounded(play, ENOUGH)[0].broken
