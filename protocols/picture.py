"""A small writer of sequence diagrams in SVG: columns with lifelines, boxes placed one below the other, arrows between them.

`protocols.draw` says what is in the picture; this module only knows where it goes.  Lengths are in pixels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

BOX = 336
"""Width of a step's box."""
MARGIN, LINE, HEADER = 30, 17, 68
DOC_CHARS, CHANGE_CHARS = 44, 40
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
INK, SOFT, RULE, EDGE = "#1f2933", "#5b6774", "#b8c2cc", "#7d93ab"

STYLE = f"""
text {{ font-family: {SANS}; font-size: 13px; fill: {INK}; }}
.name, .mail {{ font-family: {MONO}; font-weight: 600; }}
.name {{ font-size: 14.5px; }}
.role {{ font-size: 15px; font-weight: 600; }}
.doc {{ font-size: 12.5px; }}
.change {{ font-family: {MONO}; font-size: 11.5px; fill: {SOFT}; }}
.small {{ font-size: 11px; fill: {SOFT}; }}
.pill {{ font-family: {MONO}; font-size: 11px; font-weight: 600; fill: #ffffff; }}
"""


@dataclass
class _Box:
    column: int
    top: float
    bottom: float


@dataclass(frozen=True)
class _Arrow:
    y: float
    sender: _Box
    column: int
    receiver: str

    def covers(self, column: int) -> bool:
        """Whether it passes or enters a column."""
        return self.sender.column < column <= self.column or self.column <= column < self.sender.column


class Picture:
    """A sequence diagram that grows downwards.

    Args:
        name: of the flow; becomes the title.
        heads: for every column its heading, and whether it stands for many parties.
        labels: all texts that will stand on arrows; the space between columns holds the longest.
    """

    def __init__(self, name: str, heads: Sequence[tuple[str, bool]], labels: Iterable[str]) -> None:
        self.name, self.heads = name, heads
        self.gap = max([150.0, *(36 + 7.8 * len(label) for label in labels)])
        self._bottoms = [HEADER - 4.0] * len(heads)
        self._floor, self._last = HEADER + 22.0, 0.0
        self._boxes, self._shapes, self._frames = dict[str, _Box](), list[str](), list[str]()
        self._arrows, self._loop = list[_Arrow](), (0.0, "")

    @property
    def width(self) -> float:
        """Width of the picture."""
        return 2 * MARGIN + len(self.heads) * BOX + (len(self.heads) - 1) * self.gap

    def step(
        self,
        name: str,
        column: int,
        *,
        doc: str,
        change: str,
        corner: str,
        pills: Sequence[str],
        results: Sequence[str],
        fill: str,
        mails: Sequence[tuple[str, str, int, str]],
    ) -> None:
        """Add a step below all that it follows.

        Args:
            name: of the step.
            column: of its role.
            doc: what it does, in one line; wrapped.
            change: what is remembered before and after.
            corner: a remark in the upper right corner.
            pills: inputs from outside, on the upper edge.
            results: outputs, on the lower edge.
            fill: CSS colour.
            mails: for every message its name, how it travels, the receiver's column, and the step that takes it.
        """
        said, held = textwrap.wrap(doc, DOC_CHARS), textwrap.wrap(change, CHANGE_CHARS)
        height = max(44 + LINE * (len(said) + len(held)), 92, 58 + 36 * len(mails)) + (8 if results else 0)
        clear = [arrow.y + (-18 if arrow.receiver == name else 14) for arrow in self._arrows if arrow.covers(column)]
        top = max([self._bottoms[column] + 18 + (10 if pills else 0), self._floor, self._last + 8, *clear])
        box = _Box(column, top, top + height)
        for i, (_, _, there, _) in enumerate(mails):
            low, high = sorted((column, there))
            passed = max([b for c, b in enumerate(self._bottoms) if low <= c <= high and c != column], default=0.0) + 36
            box.bottom = max(box.bottom, passed + 18 + 36 * (len(mails) - 1 - i))
        self._draw_box(box, (name, corner), said, held, fill)
        self._draw_pills(pills, box, top, "#3f6b4f")
        self._draw_pills(results, box, box.bottom, "#7a3b69")
        self._boxes[name], self._last = box, top
        self._bottoms[column] = box.bottom + (10 if results else 0)
        for i, mail in enumerate(mails):
            self._send(box, box.bottom - 18 - 36 * (len(mails) - 1 - i), mail)

    def open_loop(self, label: str) -> None:
        """What follows, until `close_loop`, stands in a frame."""
        top = max(*self._bottoms, self._floor - 22) + 18
        self._loop, self._floor = (top, label), top + 44

    def close_loop(self) -> None:
        """End of the frame."""
        (top, label), bottom = self._loop, max(self._bottoms) + 16
        tab = 30 + 6.6 * len(label)
        self._frames += [
            _rect(8, top, self.width - 16, bottom - top, "#fafbfc", dash="6 4"),
            _rect(8, top, tab, 22, EDGE),
            _text(20, top + 15.5, label, "pill"),
        ]
        self._floor = bottom + 20

    def document(self, legend: Sequence[tuple[str, str]]) -> str:
        """The SVG.

        Args:
            legend: names and colours to explain below the picture.
        """
        end = max(*self._bottoms, self._floor - 20) + 18
        height, title = end + (46 if legend else 16), f"{self.name}: who does what, in order"
        size = f'width="{self.width:g}" height="{height:g}" viewBox="0 0 {self.width:g} {height:g}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title" {size}>',
            f'<title id="title">{escape(title)}</title>',
            f"<desc>{escape(', '.join(self._boxes))}</desc>",
            f"<style>{STYLE}</style>",
            f'<rect width="{self.width:g}" height="{height:g}" fill="#ffffff"/>',
            *self._frames,
        ]
        for i, (label, many) in enumerate(self.heads):
            lines += self._head(self._x(i), label, end, many=many)
        lines += [*map(self._line, self._arrows), *self._shapes]
        for i, (label, colour) in enumerate(legend):
            lines.append(_rect(MARGIN + 180 * i, end + 14, 16, 16, colour))
            lines.append(_text(MARGIN + 180 * i + 24, end + 27, f"{label} flow", "doc"))
        return "\n".join([*lines, "</svg>"]) + "\n"

    def _x(self, column: int) -> float:
        return MARGIN + BOX / 2 + column * (BOX + self.gap)

    def _head(self, x: float, label: str, end: float, *, many: bool) -> list[str]:
        width = max(140.0, 40 + 9.5 * len(label))
        shifts = (8, 4, 0) if many else (0,)
        return [
            f'<line x1="{x:g}" y1="56" x2="{x:g}" y2="{end:g}" stroke="{RULE}" stroke-width="1.5" stroke-dasharray="4 4"/>',
            *(_rect(x - width / 2 + shift, 24 - shift, width, 36, "#eef2f6") for shift in shifts),
            _text(x, 47, label, "role", "middle"),
        ]

    def _draw_box(self, box: _Box, head: tuple[str, str], said: Sequence[str], held: Sequence[str], fill: str) -> None:
        """A box: head with a remark, what is done below it, what is remembered at the bottom."""
        left, low = self._x(box.column) - BOX / 2, box.bottom - 14 - LINE * (len(held) - 1)
        self._shapes += [
            _rect(left, box.top, BOX, box.bottom - box.top, fill),
            _text(left + 14, box.top + 24, head[0], "name"),
            _text(left + BOX - 12, box.top + 23, head[1], "small", "end"),
            *(_text(left + 14, box.top + 44 + LINE * i, line, "doc") for i, line in enumerate(said)),
            *(_text(left + 14, low + LINE * i, line, "change") for i, line in enumerate(held)),
        ]

    def _draw_pills(self, labels: Sequence[str], box: _Box, y: float, colour: str) -> None:
        widths = [18 + 6.9 * len(label) for label in labels]
        x = self._x(box.column) - (sum(widths) + 8 * (len(widths) - 1)) / 2
        for label, width in zip(labels, widths, strict=True):
            self._shapes.append(_rect(x, y - 9, width, 18, colour, edge=colour, radius=9))
            self._shapes.append(_text(x + width / 2, y + 4, label, "pill", "middle"))
            x += width + 8

    def _send(self, box: _Box, y: float, mail: tuple[str, str, int, str]) -> None:
        label, how, there, receiver = mail
        self._arrows.append(_Arrow(y, box, there, receiver))
        side = 1 if there > box.column else -1
        x = self._x(box.column) + side * (BOX + self.gap) / 2
        self._shapes += [_text(x, y - 6, label, "mail", "middle"), _text(x, y + 14, how, "small", "middle")]

    def _line(self, arrow: _Arrow) -> str:
        """An arrow from the sender's box to the receiver's, or to the lifeline where the box stands elsewhere."""
        side = 1 if arrow.column > arrow.sender.column else -1
        start, target = self._x(arrow.sender.column) + side * BOX / 2, self._boxes.get(arrow.receiver)
        hit = target is not None and target.top < arrow.y < target.bottom
        end = self._x(arrow.column) - side * (BOX / 2 if hit else 0)
        tip = end - side * 9
        return (
            f'<line x1="{start:g}" y1="{arrow.y:g}" x2="{tip:g}" y2="{arrow.y:g}" stroke="{INK}" stroke-width="1.5"/>'
            f'<path d="M {end:g} {arrow.y:g} l {-side * 10} -4.5 v 9 z" fill="{INK}"/>'
        )


def _rect(
    x: float, y: float, width: float, height: float, fill: str, *, edge: str = EDGE, radius: int = 7, dash: str = "none"
) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" '
        f'fill="{escape(fill)}" stroke="{edge}" stroke-dasharray="{dash}"/>'
    )


def _text(x: float, y: float, text: str, css: str, anchor: str = "start") -> str:
    if not text:
        return ""
    return f'<text class="{css}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
