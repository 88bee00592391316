"""What was measured, drawn as SVG: intervals beside the claimed ε, and a record beside what attacks make of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefl.audit.measured.epsilon import Measured
from securefl.audit.measured.run import Measurement
from securefl.ledger import opened_in_training
from securefl.results import Opened

INK, ACCENT, QUIET, BAD = "#1c2733", "#0b6e99", "#8796a5", "#b3261e"
WIDTH, LEFT, LINE = 760, 170, 34
SIDE, GAP = 104, 20


def intervals(measurement: Measurement) -> str:
    """Every measured interval on one axis of ε: a bar, paler where it is bounded from below alone, its cap, and the claim."""
    rows = [(r.notice, r.verdict.measured, r.verdict.broken) for r in measurement.results if r.verdict.measured is not None]
    if not rows:
        return ""
    ends = [x for _, m, _ in rows for x in (m.lower, m.upper, m.cap, m.claimed) if math.isfinite(x)]
    most = 1.15 * max([1.0, *ends])
    height = LINE * len(rows) + 66
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
    ]
    parts.append("<title>measured ε beside claimed ε</title>")
    parts.append(f'<g font-family="system-ui,sans-serif" font-size="12" fill="{INK}">')
    low = LINE * len(rows) + 14
    for tick in np.linspace(0, most, 6):
        x = _x(float(tick), most)
        parts.append(
            f'<path d="M{x:.1f} 10V{low}" stroke="#e4e9ee"/><text x="{x:.1f}" y="{low + 16}" text-anchor="middle">{tick:.1f}</text>'
        )
    parts += [_bar(name, m, most, 10 + LINE * i, bad=bad) for i, (name, m, bad) in enumerate(rows)]
    note = "bar: ε that is not refuted; | the most that so many trials can show; dashed: the ε that is claimed"
    parts.append(f'<text x="{LEFT}" y="{low + 40}" fill="{QUIET}">{note}</text></g></svg>')
    return "".join(parts)


def _x(value: float, most: float) -> float:
    return LEFT + (WIDTH - LEFT - 20) * min(value, most) / most


def _bar(name: str, m: Measured, most: float, y: float, *, bad: bool) -> str:
    colour = BAD if bad else ACCENT
    start, end, fade = _x(m.lower, most), _x(m.upper, most), math.isinf(m.upper)
    text = f'<text x="0" y="{y + 20:g}">{escape(name)}</text>'
    size = f'width="{max(end - start, 2):.1f}" height="14" opacity="{0.35 if fade else 0.85}"'
    bar = f'<rect x="{start:.1f}" y="{y + 9:g}" fill="{colour}" {size}/>'
    edge = f'<path d="M{start:.1f} {y + 5:g}v22" stroke="{colour}" stroke-width="3"/>'
    cap = f'<path d="M{_x(m.cap, most):.1f} {y + 9:g}v14" stroke="{INK}"/>' if math.isfinite(m.cap) else ""
    dashes = 'stroke-width="2" stroke-dasharray="3 2"'
    claim = f'<path d="M{_x(m.claimed, most):.1f} {y + 2:g}v28" stroke="{BAD}" {dashes}/>' if math.isfinite(m.claimed) else ""
    return f"<g><title>{escape(m.line)}</title>{text}{bar}{edge}{cap}{claim}</g>"


def row_of_pictures(views: Sequence[Any]) -> str:
    """Pictures of 8×8 pixels beside each other, each with its title and its likeness to the first."""
    width, height = len(views) * (SIDE + GAP) + 10, SIDE + 76
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    ]
    parts.append("<title>a record, and what gradient inversion makes of what a reader may have</title>")
    parts.append(f'<g font-family="system-ui,sans-serif" font-size="11" fill="{INK}">')
    for number, view in enumerate(views):
        x = number * (SIDE + GAP) + 5
        parts.append(f'<g transform="translate({x} 5)">{_pixels(view.pixels)}')
        parts += [f'<text y="{SIDE + 16 + 13 * i}">{escape(line)}</text>' for i, line in enumerate(_wrapped(view.title))]
        if number:
            parts.append(f'<text y="{SIDE + 66}" fill="{QUIET}">likeness {view.likeness:.2f}</text>')
        parts.append("</g>")
    return "".join(parts) + "</g></svg>"


def _pixels(values: NDArray[np.float64]) -> str:
    """Grey squares, the smallest value white, the largest black."""
    spread = float(np.ptp(values)) or 1.0
    levels = np.rint(15 * (1 - (values - values.min()) / spread)).astype(int) * 17
    side = SIDE / 8
    squares = (
        f'<rect x="{side * (i % 8):g}" y="{side * (i // 8):g}" width="{side:g}" height="{side:g}" fill="#{f"{level:02x}" * 3}"/>'
        for i, level in enumerate(levels.tolist())
    )
    return (
        f'<g shape-rendering="crispEdges">{"".join(squares)}</g><rect width="{SIDE}" height="{SIDE}" fill="none" stroke="{QUIET}"/>'
    )


def _wrapped(text: str, width: int = 19) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def part(measurement: Measurement) -> dict[str, Any]:
    """What the page says of a mechanism: pictures are drawn here, texts escaped in them."""
    from markupsafe import Markup  # noqa: PLC0415

    from securefl.audit.measured import reconstruction  # noqa: PLC0415
    from securefl.audit.measured.run import claim  # noqa: PLC0415

    setting = measurement.setting
    return {
        "measurement": measurement,
        "claim": claim(measurement),
        "setting": setting,
        "intervals": Markup(intervals(measurement)),  # noqa: S704
        "pictures": "" if setting.in_sum else Markup(row_of_pictures(reconstruction.views(setting))),  # noqa: S704
        "patient": None if setting.in_sum else reconstruction.patient(),
        "opened": opened(setting),
    }


def opened(setting: Any) -> list[Opened]:
    """Every value that a job opens: covered by ε, or exact."""
    from securefl.trainer import ClientTrainer  # noqa: PLC0415

    knobs = setting.job.privacy
    names = [spec.name for spec in ClientTrainer().sums()]
    return opened_in_training(knobs.rounds, mechanism=knobs.mechanism, sums=names, public_rows=knobs.rows is not None)
