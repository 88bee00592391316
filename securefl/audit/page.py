"""The report of an audit as one HTML page: for a data protection officer first, for whoever checks it below.

matplotlib and jinja2 are loaded on use.  The page needs nothing else, and has no scripts.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols import draw
from protocols.rand import Replay
from protocols.vector import Vector, with_count
from securefl.audit.audit import Audit, Result
from securefl.audit.command import told
from securefl.audit.federation import federation
from securefl.audit.knowledge import observe
from securefl.audit.measured.pictures import part
from securefl.audit.measured.run import Measurement
from securefl.audit.registry import ROWS, UPLOAD
from securefl.audit.target import Target

COLOURS = {"cannot tell": "#b57600", "refused": "#2f7d4f", "harmless": "#2f7d4f", "stated": "#b57600", "broken": "#b3261e"}
INK, ACCENT, QUIET = "#1c2733", "#0b6e99", "#8796a5"
SAMPLE = 20_000
"""Coordinates of the vectors whose histogram is drawn."""
MARKS = 7
"""Marks that stand beside each other below a message."""


def html(audits: Sequence[Audit], versions: dict[str, str], measurements: Sequence[Measurement] = ()) -> str:
    """The page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("securefl"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Pictures are drawn by our own code, their texts escaped; everything else is escaped here.
    parts = [
        {
            "audit": one,
            "facts": facts(one),
            "picture": Markup(struck(one)),  # noqa: S704
            "histogram": Markup(histogram(one.target)),  # noqa: S704
            "tried": [r for r in one.results if r.seconds],
            "untried": [r for r in one.results if not r.seconds],
        }
        for one in audits
    ]
    drawn = [part(one) for one in measurements]
    return environment.get_template("audit.html.j2").render(
        parts=parts, measured=drawn, infinity=math.inf, rows=ROWS, told=told, colour=colour, versions=versions
    )


def colour(status: str) -> str:
    """The colour of a verdict; quiet for what was not tried."""
    return COLOURS.get(status, QUIET)


def facts(audit: Audit) -> dict[str, Any]:
    """What the plain-language part says, in numbers."""
    target, p = audit.target, audit.target.federation().terms.parameters
    tried = [r for r in audit.results if r.seconds]
    return {
        "parties": p.parties,
        "threshold": p.threshold,
        "corrupt": p.corrupt,
        "honest": max(0, p.threshold - p.corrupt),
        "tried": len(tried),
        "noticed": sum(r.verdict.status == "refused" for r in tried),
        "harmless": sum(r.verdict.status == "harmless" for r in tried),
        "stated": [r for r in tried if r.verdict.status == "stated"],
        "shared_key": target.scheme.shared_key,
        "hides": target.scheme.hides,
        "foreign": target.scheme.origin is not None,
    }


def struck(audit: Audit) -> str:
    """The picture of the flow, with the row of every attack below the message where it strikes, coloured by what came of it."""
    target = audit.target
    svg, uploads = draw.svg(target.flow), [kind.__name__ for kind in target.uploads]
    at: dict[str, list[Result]] = {}
    for result in audit.results:
        for name in result.strikes if result.seconds else ():
            for place in uploads if name == UPLOAD else [name]:
                at.setdefault(place, []).append(result)

    def marked(found: re.Match[str]) -> str:
        x, y, name = float(found[1]), float(found[2]), found[3]
        return found[0] + "".join(_mark(x, y, i, rows) for i, rows in enumerate(_by_row(at.get(name, []))))

    return re.sub(r'<text class="mail" x="([\d.]+)" y="([\d.]+)"[^>]*>(\w+)</text>', marked, svg)


def _by_row(results: Sequence[Result]) -> list[list[Result]]:
    rows: dict[int, list[Result]] = {}
    for result in results:
        rows.setdefault(result.row, []).append(result)
    return list(rows.values())


def _mark(x: float, y: float, number: int, results: Sequence[Result]) -> str:
    worst = max(results, key=lambda r: list(COLOURS).index(r.verdict.status) if r.verdict.status in COLOURS else -1)
    left = x + 19 * (number % MARKS - MARKS // 2)
    low = y + 32 + 13 * (number // MARKS)
    title = escape("; ".join(f"{r.name}: {told(r.verdict)}" for r in results))
    return (
        f"<g><title>row {worst.row}: {title}</title>"
        f'<rect x="{left - 9:g}" y="{low - 9:g}" width="18" height="12" rx="4" fill="{COLOURS.get(worst.verdict.status, QUIET)}"/>'
        f'<text x="{left:g}" y="{low:g}" text-anchor="middle" style="font-size:9px;fill:#fff">{worst.row or "own"}</text></g>'
    )


def samples(target: Target) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """One party's input, what it sends, and uniform values, each as a share of its range; the second is empty if none is sent."""
    scheme, n = target.scheme, target.parties
    p = scheme.parameters(n, SAMPLE, 1000)
    fed = federation(n, SAMPLE, parameters=p, scheme=scheme, policy=target.own_policy)
    for x in fed.vectors.values():
        x[:] = np.abs(x) // 3  # an input whose shape is seen at once
    sent = observe(fed).uploads(target.uploads).get(1, [])
    uniform = Replay("uniform")().words("uniform", SAMPLE).astype(np.float64) / 2.0**64
    plain = with_count(Vector(fed.vectors[1]), p).astype(np.float64) / float(p.ring.modulus)
    if not sent or sent[-1].dtype.kind not in "iu":
        return plain, np.zeros(0), uniform
    values = sent[-1].reshape(-1).astype(np.float64)
    return plain, values / (float(p.ring.modulus) if values.size == p.size + 1 else 2.0**60), uniform


def histogram(target: Target) -> str:
    """What leaves a party, beside its input and beside chance, as one SVG element; nothing where that does not lie in one range."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    plain, sent, uniform = samples(target)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "securefl", "font.size": 9}):
        canvas = Figure(figsize=(8, 2.2), layout="constrained")
        axes = canvas.subplots(1, 3, sharex=True, sharey=True)
        for place, (values, title, colour) in enumerate(
            ((plain, "what the party has", QUIET), (sent, "what leaves it", ACCENT), (uniform, "chance", INK))
        ):
            axes[place].hist(values, bins=64, range=(0, 1), color=colour, density=True)
            axes[place].set_ylim(0, 3)
            axes[place].set_title(title)
        axes[0].set_xlabel("share of the range")
        out = io.StringIO()
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    return svg[max(svg.find("<svg"), 0) :].strip()
