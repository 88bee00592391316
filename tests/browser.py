"""Pages in headless Chromium: how wide they are on a phone, whether anything is blocked, how they print."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

PHONE = 390
"""Width of a phone's screen, in CSS pixels."""
_FRAME = """<!doctype html><body><iframe id="f" width="{width}" height="800" style="border:0" srcdoc="{page}"></iframe><script>
document.getElementById("f").onload = () => {{
  const page = document.getElementById("f").contentDocument;
  const shown = [...page.querySelectorAll("h1, h2, p, td, th, li, pre, svg")].filter(e => e.getClientRects().length);
  const inside = e => e.closest(".scroll") !== null;
  const past = e => e.getBoundingClientRect().right > {width} + 1;
  const wide = shown.filter(e => !inside(e) && past(e)).map(e => e.tagName + " " + e.className);
  const told = {{width: page.documentElement.scrollWidth, elements: shown.length, wide: wide, title: page.title}};
  document.body.innerHTML = "<pre id=told>" + JSON.stringify(told) + "</pre>";
}};
</script>"""


@dataclass(frozen=True)
class Looked:
    """What the browser found.

    Attributes:
        width: of the page's content on a phone.
        elements: that are shown.
        wide: those outside of a scrolling box that reach past the right edge.
        title: of the page.
        complaints: what the browser wrote to its console, such as what the page's own policy blocked.
        sheets: pages of paper.
    """

    width: int
    elements: int
    wide: list[str]
    title: str
    complaints: list[str]
    sheets: int


def chromium() -> str:
    """The browser, or a skip."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("there is no chromium")
    return found


def looked_at(page: str, folder: Path) -> Looked:
    """Open a page on a phone's width, and print it."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "frame.html").write_text(_FRAME.format(width=PHONE, page=html.escape(page)), encoding="utf-8")
    seen = _browser(folder, "--dump-dom", "--virtual-time-budget=5000", (folder / "frame.html").as_uri())
    told = json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', seen.stdout, re.DOTALL).group(1)))
    paper = folder / "page.pdf"
    printed = _browser(folder, f"--print-to-pdf={paper}", "--no-pdf-header-footer", (folder / "page.html").as_uri())
    sheets = len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))
    complaints = [line for run in (seen, printed) for line in run.stderr.splitlines() if "CONSOLE" in line]
    return Looked(**told, complaints=complaints, sheets=sheets)


def _browser(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    return subprocess.run(
        [chromium(), *fixed, *arguments], capture_output=True, encoding="utf-8", errors="replace", timeout=120, check=True
    )
