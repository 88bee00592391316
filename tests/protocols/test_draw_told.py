"""What the drawing of a flow is told: columns, steps, messages, loops, colours, and the legend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_draw_words import Idle, Rows, committee

from protocols import draw
from protocols.flow import Flow


class Told:
    """Stands for the drawing, and keeps what it is told."""

    def __init__(self, *arguments: object) -> None:
        self.told: list[object] = [arguments]

    def step(self, *arguments: object, **named: object) -> None:
        self.told.append((*arguments, named))

    def open_loop(self, label: str) -> None:
        self.told.append(label)

    def close_loop(self) -> None:
        self.told.append("end")

    def document(self, legend: object) -> Any:
        return [*self.told, legend]


def told(flow: Flow, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    monkeypatch.setattr(draw, "Picture", Told)
    return draw.svg(flow, **more)


def words(doc: str, change: str, corner: str = "", fill: str = draw.LEARNING, **more: Any) -> dict[str, Any]:
    """What is told of a step beside its name and column."""
    told = {"pills": [], "results": [], "mails": [], **more}
    return {"doc": doc, "change": f"remembers {change}", "corner": corner, "fill": fill, **told}


def test_what_the_drawing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns by role in order of declaration; every step and message; the loop around its steps; no legend for one layer."""
    (name, heads, labels), *steps, legend = told(committee(), monkeypatch)
    assert (name, heads) == ("committee", [("every client", True), ("server", False), ("every key helper", True)])
    same, each = "the same for all", "one for each"
    assert labels == ["HelperKey", "", "Keys", same, "Cipher", "", "ShareOfKey", each, "Answer", ""]
    publish = 'Make a key #1; send it <out> & "away", before > a lot else.'
    assert steps == [
        ("publish", 2, words(publish, "HelperStart → HelperReady", mails=[("HelperKey", "", 1, "spread")])),
        (
            "spread",
            1,
            words(
                "Pass the keys on; who comes later is left out.",
                "ServerStart → ServerReady",
                "waits for a quorum",
                mails=[("Keys", same, 0, "learn")],
            ),
        ),
        ("learn", 0, words("Remember the keys.", "Start → Ready")),
        "once for every sum",
        (
            "submit",
            0,
            words(
                "Encrypt the input.",
                "Ready → Ready",
                "spends the input",
                pills=["in: Vector"],
                mails=[("Cipher", "", 1, "open_sum"), ("ShareOfKey", each, 2, "add_up_all_keys")],
            ),
        ),
        (
            "add_up_all_keys",
            2,
            words("Add the parts.", "HelperReady → HelperReady", "waits at most 2.5 s", mails=[("Answer", "", 1, "open_sum")]),
        ),
        (
            "open_sum",
            1,
            words("Decrypt the sum.", "ServerReady → ServerReady, Tally", "waits for a quorum", pills=["in: Rows"]),
        ),
        "end",
        ("improve", 1, words("Step by the mean.", "Idle, Tally → nothing", results=["out: Model"])),
    ]
    assert legend == []


def test_colours_are_those_of_layers_or_given_and_two_layers_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fills(flow: Flow, **more: Any) -> tuple[dict[str, str], Any]:
        _, *steps, legend = told(flow, monkeypatch, **more)
        return {step[0]: step[2]["fill"] for step in steps if isinstance(step, tuple)}, legend

    flow = committee()
    names = [step.name for step in flow.steps]
    security, vector = replace(flow.step("spread"), layer="security"), replace(flow.step("submit"), layer="vector")
    layered = flow.swap(spread=security, submit=vector)
    expected = dict.fromkeys(names, "#fdf0df") | {"spread": "#e6f0fb", "submit": "#e5f4e6"}
    three = [("vector", "#e5f4e6"), ("security", "#e6f0fb"), ("learning", "#fdf0df")]
    assert fills(layered) == (expected, three)
    assert fills(layered, colours={"submit": "gold"}) == (expected | {"submit": "gold"}, three[1:])
    assert fills(layered, colours=dict.fromkeys(names[1:], "gold")) == (dict.fromkeys(names, "gold") | {"publish": "#fdf0df"}, [])

    def own(idle: Idle) -> Rows:
        return Rows()

    for module, fill in (("protocols.own", "#e6f0fb"), ("own.protocols", "#fdf0df"), ("protocols_own", "#fdf0df")):
        own.__module__ = module
        alone = Flow("alone")
        alone.server(own)
        assert fills(alone) == ({"own": fill}, [])
