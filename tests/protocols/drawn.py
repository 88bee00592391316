"""Sequence diagrams to draw, and what an SVG shows: rectangles, texts, arrows, lifelines, in the order of painting."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from protocols.picture import Picture

SVG = "{http://www.w3.org/2000/svg}"
CLASSES = {"name": 14.5, "mail": 13, "role": 15, "doc": 12.5, "change": 11.5, "small": 11, "pill": 11}
"""Sizes of the letters, in pixels."""
COLOUR = re.compile(r"#[0-9a-f]{6}|none|gold|tan")


@dataclass(frozen=True)
class Area:
    left: float
    top: float
    right: float
    bottom: float

    def within(self, other: Area) -> bool:
        return other.left <= self.left < self.right <= other.right and other.top <= self.top < self.bottom <= other.bottom

    def meets(self, other: Area) -> bool:
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


@dataclass(frozen=True)
class Text:
    css: str
    text: str
    x: float
    y: float
    anchor: str

    @property
    def area(self) -> Area:
        """With letters of 0.602 of their size, as in a wide monospaced font; proportional ones are narrower."""
        size = CLASSES[self.css]
        width = len(self.text) * size * (0.55 if self.css == "doc" else 0.602)
        left = self.x - {"start": 0, "middle": width / 2, "end": width}[self.anchor]
        return Area(left, self.y - 0.8 * size, left + width, self.y + 0.2 * size)


@dataclass(frozen=True)
class Rect:
    area: Area
    fill: str
    dash: str
    order: int


class Drawn:
    """What an SVG shows, in the order of painting."""

    def __init__(self, text: str) -> None:
        self.root = ET.fromstring(text)  # noqa: S314
        self.view = Area(0, 0, float(self.root.get("width", "")), float(self.root.get("height", "")))
        self.rects, self.texts = list[Rect](), list[tuple[int, Text]]()
        self.lifelines, self.arrows, self.heads = list[ET.Element](), list[ET.Element](), list[str]()
        for order, e in enumerate(self.root):
            if e.tag == f"{SVG}rect":
                x, y = float(e.get("x", "0")), float(e.get("y", "0"))
                area = Area(x, y, x + float(e.get("width", "")), y + float(e.get("height", "")))
                self.rects.append(Rect(area, e.get("fill", ""), e.get("stroke-dasharray", "none"), order))
            elif e.tag == f"{SVG}text":
                said = Text(
                    e.get("class", ""), e.text or "", float(e.get("x", "")), float(e.get("y", "")), e.get("text-anchor", "")
                )
                self.texts.append((order, said))
            elif e.tag == f"{SVG}line":
                (self.lifelines if e.get("stroke-dasharray") else self.arrows).append(e)
            elif e.tag == f"{SVG}path":
                self.heads.append(e.get("d", ""))

    def of(self, css: str) -> list[Text]:
        return [text for _, text in self.texts if text.css == css]

    @cached_property
    def boxes(self) -> dict[str, Area]:
        """By the name of the step: the smallest rectangle around the name."""
        around = {text.text: [rect.area for rect in self.rects[1:] if text.area.within(rect.area)] for text in self.of("name")}
        return {name: min(areas, key=lambda area: area.bottom - area.top) for name, areas in around.items()}


@lru_cache
def parsed(text: str) -> Drawn:
    return Drawn(text)


HEADS = [("every client", True), ("server", False), ("every helper of the keys", True)]
LONG = "Take what came; look at every signature; refuse whoever is not on the roster & leave <nobody> out who is"
HELD = "remembers Start → Ready, Tally, and what has been said before it"


def step(name: str, column: int, *mails: tuple[str, str, int, str], **more: Any) -> tuple[str, int, dict[str, Any]]:
    told = {"doc": "Say it.", "change": "remembers Start → Ready", "corner": "", "pills": [], "results": [], "fill": "gold"}
    return name, column, {**told, "mails": mails, **more}


ALL = [
    step("publish", 2, ("HelperKey", "", 1, "spread"), ("HelperNote", "the same for all", 0, "learn"), doc=LONG),
    step("spread", 1, ("Keys", "the same for all", 0, "learn"), corner="waits for all"),
    step("learn", 0, pills=["in: Rows"], results=["out: Seen"], change=HELD),
    "once for every sum",
    step("submit", 0, ("Cipher", "", 1, "add"), ("Share", "one for each", 2, "answer"), pills=["in: Vector", "in: It"], fill="tan"),
    step("look", 1, doc=LONG, change=HELD, results=["out: A", "out: B", "out: Long"]),
    step("answer", 2, ("Part", "", 1, "add"), ("Receipt", "one for each", 0, "close")),
    step(
        "add",
        1,
        ("TotalOfAllWhoWereNotLost", "the same for all of them", 0, "close"),
        ("Proof", "", 2, "check"),
        ("More", "", 0, "close"),
        doc=LONG,
    ),
    "end",
    step("check", 2, corner="spends the input", pills=["in: Proof"]),
    step("close", 0, ("Bye", "", 2, "nobody that is drawn"), results=["out: Tally"]),
    step("rest", 1, doc=LONG + " " + LONG, change=""),
    step("again", 1, pills=["in: More"], results=["out: Less"]),
    step("offer", 1, *((f"Offer{i}", "", 2 * (i % 2), "take") for i in range(4)), pills=["in: Last"]),
    step("take", 2),
]


def document(told: list[Any], heads: list[tuple[str, bool]] = HEADS, legend: tuple[tuple[str, str], ...] = ()) -> str:
    labels = [word for one in told if isinstance(one, tuple) for mail in one[2]["mails"] for word in mail[:2]]
    picture = Picture("sums <of> many & few", heads, labels)
    for one in told:
        if isinstance(one, tuple):
            picture.step(one[0], one[1], **one[2])
        elif one == "end":
            picture.close_loop()
        else:
            picture.open_loop(one)
    return picture.document(legend)


SHORT = [step("one", 0, ("M", "", 1, "two")), step("two", 1)]
LOOPED = ["a loop", *SHORT, "end", "another loop, round and round", step("three", 0, results=["out: T"]), "end"]
BESIDE = [
    step("long", 0, doc=" ".join([LONG] * 3)),
    step("small", 1, ("First", "", 0, "later"), ("Second", "", 0, "later"), ("Third", "", 2, "last")),
    step("longer", 2, doc=" ".join([LONG] * 4)),
    step("back", 1, ("Fourth", "", 2, "last"), ("Fifth", "", 2, "last")),
    step("later", 0),
    step("last", 2),
]
"""A step is lower than its words where an arrow has to pass below a long one beside it."""
PICTURES = {
    "all": (ALL, HEADS, (("security", "tan"), ("learning", "gold"), ("vector", "gold"))),
    "short": (SHORT, HEADS[1:], ()),
    "looped": (LOOPED, HEADS[:2], (("vector", "gold"), ("security", "tan"))),
    "beside": (BESIDE, HEADS, ()),
    "alone": (["once for every sum", step("turn", 0, pills=["in: A"], results=["out: B"]), "end"], [("server", False)], ()),
}


def steps(told: list[Any]) -> list[tuple[str, int, dict[str, Any]]]:
    return [one for one in told if isinstance(one, tuple)]
