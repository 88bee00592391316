"""The report in headless Chromium: nothing is blocked, nothing is cut off on a phone, and it prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from securefl import report, tables
from securefl.assessment import Assessment
from securefl.binned import figures, histogram
from tests.browser import PHONE, Looked, looked_at
from tests.securefl import made_result


def readable(found: Looked) -> None:
    assert found.complaints == []
    assert found.width <= PHONE
    assert found.wide == []
    assert found.sheets >= 1
    assert found.elements > 20


def assessed() -> Assessment:
    label = np.arange(400) % 5 == 0
    score = np.clip(0.2 + 0.3 * label + 0.15 * np.sin(np.arange(400)), 0.001, 0.999)
    found = figures(*(counts[None] for counts in histogram(score, label)), min_cell=5)
    sites = {"north": found, "south": found, "east": found}
    return Assessment("", found, "another model", found, found, found, sites, sites, 1)


@pytest.mark.parametrize("assessment", [None, assessed()], ids=["plain", "assessed"])
def test_the_report_is_readable_on_a_phone_and_on_paper(assessment, tmp_path):
    made = made_result.result(assessment=assessment)
    found = looked_at(report.html(made), tmp_path)
    readable(found)
    assert found.title == f"{made.title} – securefl"


def test_a_report_of_many_sites_with_long_names_is_readable_too(tmp_path):
    names = [f"{'a hospital with a long name, ' * 2}number {number}" for number in range(60)]
    made = made_result.result(up=dict.fromkeys(names, 1000), down=dict.fromkeys(names, 10), epsilon=[1.0] * 60, site_metrics={})
    found = looked_at(report.html(made), tmp_path)
    readable(found)
    assert found.sheets > 1


def test_control_what_is_cut_off_or_blocked_is_found(tmp_path):
    page = report.html(made_result.result())
    wide = looked_at(page.replace("<h2>", '<p style="width: 800px">wide</p><h2>', 1), tmp_path)
    assert wide.width > PHONE
    assert "P " in wide.wide
    blocked = looked_at(page.replace("<h2>", '<img src="https://elsewhere.invalid/x.png"><h2>', 1), tmp_path)
    assert any("Content Security Policy" in line for line in blocked.complaints)


def test_the_first_sentence_says_what_came_out(tmp_path: Path):
    made = made_result.result(assessment=assessed())
    sentence = tables.sentence(made)
    auroc = made.assessment.federated.auroc
    assert f"AUROC {auroc.value:.3f} (95 % interval {auroc.low:.3f} to {auroc.high:.3f})" in sentence
    assert "3 sites" in sentence
    assert "a site alone 0.710 to 0.730" in sentence
    assert "for one record ε = 2.75 at most, at δ = 1e-05." in sentence
    assert tables.sentence(made_result.result(epsilon=[])).endswith("so the model may tell of single records.")
    assert sentence in report.html(made).replace("&#39;", "'")
