"""The demo tells what happened: real bytes, true figures, no secrets."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from protocols.bulk import Bulk
from protocols.draw import chart
from protocols.flow import is_message
from protocols.rand import Rand, Seed
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from protocols.session import client
from protocols.sums import SCHEMES
from securefl import demo
from securefl.errors import UserError


def told(protocol: str, width: int = 100, **options: int) -> str:
    out = io.StringIO()
    demo.run(protocol, console=Console(file=out, width=width), **options)
    return out.getvalue()


@pytest.mark.parametrize("protocol", SCHEMES)
def test_every_protocol_is_told_to_its_sum(protocol):
    text = told(protocol, clients=5, dropout=1)
    for step in SCHEMES[protocol].flow.steps:
        assert re.search(rf"^{step.name}  ", text, re.MULTILINE)
    for kind in SCHEMES[protocol].flow.messages():
        assert kind.__name__ in text
    assert "client 3 vanished" in text
    assert "the sum of 4 " in text
    assert "the 4 inputs that stayed, value by value: yes" in text
    assert "wiring check, not a proof" in text


def test_secagg_plus_says_which_graph_it_takes():
    """Among 64 parties the sparse one, with nothing of its own kept; among six the complete one."""
    text = re.sub(r"\s+", " ", told("secagg+", clients=64, dropout=2))
    assert "secagg+ takes the sparse graph for 64 parties: each masks with 56 others, 39 of whom rebuild a secret" in text
    assert "own_share: none" in text
    assert "held: 56 × Held" in text
    assert "the 62 inputs that stayed, value by value: yes" in text
    assert "secagg+ takes the complete graph for 6 parties" in re.sub(r"\s+", " ", told("secagg+"))
    assert "graph" not in told("secagg", clients=4, dropout=1)


def test_secagg_looks_like_noise_and_plain_does_not():
    assert "looks like noise" in told("secagg", clients=3, dropout=0)
    assert "does not look like noise: the input shows" in told("plain-insecure", clients=3, dropout=0)


def test_memory_is_told_without_secrets():
    text = re.sub(r"\s+", " ", told("secagg", clients=4, dropout=1))
    assert "Advertised me: 1, identity: SigningKey [redacted], terms: Terms, policy: Policy, c: KeyPair [redacted]" in text
    assert "b: Seed [redacted], own_share: 33 bytes" in text
    assert "forgot entries, c, s, b, own_share, x (Vector)" in text
    after = text[text.index("forgot entries") :]
    assert "KeyPair" not in after
    assert "Seed" not in after
    assert "Finished me: 1" in after


def test_letters_shown_are_the_bytes_of_the_run():
    parameters = Parameters.of(4, demo.SIZE, demo.PEAK)
    story = demo.play(SCHEMES["secagg"], parameters, [2])
    traffic = [(name, sender, size) for name, sender, _, size in story.outcome.traffic]
    for kind, sent in story.letters.items():
        for letter, size in sent:
            assert (kind, letter.sender, size) in traffic
            assert sum(len(chunk) for chunk in letter.chunks()) == size
    assert {letter.sender for letter, _ in story.letters["Masked"]} == {client(1), client(3), client(4)}
    out = io.StringIO()
    demo._tell(story, Console(file=out, width=120), step=False)
    letter = story.letters["Masked"][0][0]
    for chunk in letter.chunks():
        assert bytes(chunk)[:20].hex(" ", -4) in out.getvalue()


def test_memory_holds_the_input_until_it_is_masked_and_not_after():
    story = demo.play(SCHEMES["secagg"], Parameters.of(3, demo.SIZE, demo.PEAK), [])
    steps = [step.name for step in SCHEMES["secagg"].flow.of("client")]
    assert {step: {type(v).__name__ for v in story.memory[step]} for step in steps} == {
        "advertise": {"Advertised", "Vector"},
        "share": {"Shared", "Vector"},
        "mask": {"Covered"},
        "consent": {"Consenting"},
        "open_shares": {"Finished"},
    }


@pytest.mark.parametrize("protocol", SCHEMES)
def test_after_every_step_a_party_remembers_what_the_table_of_draw_says(protocol):
    """Steps that send nothing, and two that run in a row, as well; a value that waits beside the step's own stays."""
    scheme = SCHEMES[protocol]
    story, plan = demo.play(scheme, scheme.parameters(4, demo.SIZE, demo.PEAK), [2]), chart(scheme.flow)
    for role in ("server", "client"):
        held = set(scheme.flow.inputs(role))
        for scene in (scene for scene in plan.scenes if scene.step.role == role):
            held = (held - set(scene.before) - set(scene.inputs)) | set(scene.after)
            assert {type(value) for value in story.memory[scene.step.name]} == held, scene.step.name
    assert [type(v).__name__ for v in story.memory.get("prepare", ())] == (["Adding"] if protocol == "kahe" else [])
    assert set(story.memory) == {step.name for step in scheme.flow.steps}


def test_a_round_is_what_all_parties_do_and_what_the_server_makes_of_it():
    text = told("kahe")
    rounds = [part.split("\n\n") for part in text.split("\nRound ")[1:]]
    steps = [re.findall(r"^([a-z_]+)  (?:every client|the server)", "\n\n".join(part), re.MULTILINE) for part in rounds]
    assert steps == [
        ["advertise", "collect"],
        ["share", "relay"],
        ["encrypt", "prepare", "survey"],
        ["consent", "gather"],
        ["open_shares", "reveal", "decrypt"],
    ]


@pytest.mark.parametrize("protocol", SCHEMES)
def test_masked_picture_shows_wire_values(protocol):
    """The server's picture comes from the packed bytes: for the plain protocol they are the input."""
    story = demo.play(SCHEMES[protocol], SCHEMES[protocol].parameters(3, demo.SIZE, demo.PEAK), [])
    (kind,) = [p.type for step in SCHEMES[protocol].flow.steps if step.spends for p in step.gives if is_message(p)]
    sent = [letter.message for letter, _ in story.letters[kind.__name__] if letter.sender == client(story.shown)]
    wire, modulus = demo.on_the_wire(story, sent[0])
    (bulk,) = [v for v in vars(sent[0]).values() if isinstance(v, Bulk) and np.array_equal(v.values[: demo.SIZE], wire)]
    packed = Ring(modulus.bit_length() - (modulus & (modulus - 1) == 0)).unpack(bulk.data, bulk.values.size)
    assert np.array_equal(packed[: demo.SIZE], wire)
    assert (protocol == "plain-insecure") == np.array_equal(wire, story.inputs[story.shown])
    out = io.StringIO()
    demo._tell(story, Console(file=out, width=100), step=False)
    for line in demo.bars(wire, 0, modulus - 1):
        assert f"  {line}\n" in out.getvalue()


class Wrapped:
    """A layout of which the demo knows nothing but that it is one."""

    def __init__(self, layout):
        self.layout, self.nbytes = layout, layout.nbytes

    def parser(self):
        return self.layout.parser()


def test_a_protocol_whose_vector_cannot_be_pictured_is_told_without_the_picture(monkeypatch):
    ours = SCHEMES["secagg"]
    opaque = replace(ours, layouts=lambda p: {key: Wrapped(layout) for key, layout in ours.layouts(p).items()})
    monkeypatch.setitem(SCHEMES, "secagg", opaque)
    text = told("secagg", clients=4)
    assert "Masked holds no packed vector of 4096 values: no picture" in text
    assert "what the server gets" not in text
    assert "value by value: yes" in text


def test_hills_stand_side_by_side_and_keep_their_bounds():
    for n in (2, 6, 50):
        hills = np.array([demo.hill(u, n) for u in range(1, n + 1)])
        assert hills.min() == 0
        assert demo.PEAK - 4 <= hills.max(axis=1).min() <= hills.max() <= demo.PEAK
        assert (np.diff(hills.argmax(axis=1)) > 0).all()


def test_bars_draw_heights():
    flat = np.repeat(np.arange(demo.COLUMNS), demo.SIZE // demo.COLUMNS)
    lines = demo.bars(flat, 0, demo.COLUMNS - 1)
    assert {len(line) for line in lines} == {demo.COLUMNS}
    assert len(lines) == demo.HEIGHT
    heights = [sum(" ▁▂▃▄▅▆▇█".index(line[i]) for line in lines) for i in range(demo.COLUMNS)]
    assert heights == sorted(heights)
    assert (heights[0], heights[-1]) == (0, 8 * demo.HEIGHT)
    assert all(line[-1] == "█" for line in lines)


def test_figures_tell_noise_from_input():
    x = demo.hill(1, 3)
    noise = np.array(Rand(Seed(bytes(32))).below("noise", 2048, demo.SIZE))
    correlation, chi = demo.figures(x, noise, 2048)
    assert abs(correlation) < 6 / demo.SIZE**0.5
    assert chi < 100
    assert demo.figures(x, x, 2048)[0] == pytest.approx(1)
    assert demo.figures(x, x, 2048)[1] > 1000
    assert demo.figures(x, (noise + x) % 2048, 2048)[1] < 100
    counts = np.bincount(noise // (2048 // demo.BINS), minlength=demo.BINS)
    assert chi == pytest.approx(sum((c - demo.SIZE / demo.BINS) ** 2 / (demo.SIZE / demo.BINS) for c in counts))


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"protocol": "nosuch"}, "no protocol 'nosuch'; there are secagg, secagg+, plain-insecure"),
        ({"clients": 1}, "clients must be in 2..100, not 1"),
        ({"clients": 101}, "clients must be in 2..100, not 101"),
        ({"protocol": "secagg+", "clients": 64, "dropout": 7}, "dropout must be in 0..6 with 64 clients and threshold 43, not 7"),
        ({"dropout": 3}, "dropout must be in 0..2 with 6 clients and threshold 4, not 3"),
        ({"dropout": -1}, "dropout must be in 0..2 with 6 clients and threshold 4, not -1"),
        ({"clients": 2, "dropout": 1}, "dropout must be in 0..0 with 2 clients and threshold 2, not 1"),
    ],
)
def test_bad_numbers_are_refused_with_their_range(arguments, culprit):
    with pytest.raises(UserError) as caught:
        demo.run(arguments.pop("protocol", "secagg"), console=Console(file=io.StringIO()), **arguments)
    assert str(caught.value).startswith(culprit)


@pytest.mark.parametrize(("clients", "stay"), [(2, 2), (3, 2), (5, 4), (6, 4), (7, 5), (demo.MOST, demo.MOST - 2)])
def test_by_default_two_vanish_or_as_many_as_the_threshold_allows(clients, stay):
    assert f"the sum of {stay} " in told("plain-insecure", clients=clients)


@pytest.mark.parametrize("clients", [2, 3, 6, 7, 11])
def test_most_dropouts_that_are_allowed_still_open_the_sum(clients):
    most = clients - Parameters.of(clients, demo.SIZE, demo.PEAK).threshold
    assert f"the sum of {clients - most} " in told("plain-insecure", clients=clients, dropout=most)


class Keyboard(io.StringIO):
    def __init__(self, text: str, *, terminal: bool) -> None:
        super().__init__(text)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(("terminal", "pauses"), [(True, 4), (False, 0)])
def test_step_waits_between_rounds_only_at_a_terminal(monkeypatch, terminal, pauses):
    keyboard = Keyboard("\n" * 10, terminal=terminal)
    monkeypatch.setattr("sys.stdin", keyboard)
    text = told("secagg", clients=3, dropout=0, step=True)
    assert text.count("Enter goes on") == pauses
    assert keyboard.tell() == pauses


def test_step_goes_on_at_the_end_of_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", Keyboard("", terminal=True))
    assert "value by value: yes" in told("secagg", clients=3, dropout=0, step=True)


def test_narrow_terminal_keeps_lines_within_its_width():
    assert max(map(len, told("secagg", width=80, clients=3, dropout=0).splitlines())) <= 80
