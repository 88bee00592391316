"""The HTML report: what it says in plain words, where attacks are drawn, what leaves a party."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from securefl.audit import Audit, Measurement, Target, audit_protocol, measure_mechanism
from securefl.audit.measured import reconstruction
from securefl.audit.measured.epsilon import one_run
from securefl.audit.measured.pictures import BAD, intervals, row_of_pictures
from securefl.audit.measured.registry import compared
from securefl.audit.page import SAMPLE, html, samples, struck
from securefl.job import Job
from tests.browser import PHONE, looked_at

ROWS = (1, 8, 18, 28)


@cache
def audited(name: str) -> Audit:
    return audit_protocol(name, rows=ROWS)


def test_page_says_what_came_out_and_shows_the_proof() -> None:
    page = html([audited("secagg"), audited("plain-insecure")], {"securefl": "1"})
    assert audited("secagg").passed, audited("secagg").report
    assert page.count("<h1>") == 2
    tried = sum(r.seconds > 0 for r in audited("secagg").results)
    assert f"None of {tried} attacks succeeds." in page
    proof = next(list(r.verdict.recovered) for r in audited("plain-insecure").broken if r.row == 18)
    assert page.count(str(proof)) >= 2
    assert "A passed audit is not a proof" in page
    assert "<script" not in page
    assert "{{" not in page


def test_one_who_helps_the_server() -> None:
    secagg, he = html([audited("secagg")], {}), html([audited("bfv")], {})
    assert "up to 1 parties that help the server learn, with their own inputs subtracted, the sum over at least 3 others" in secagg
    assert "one party that helps the server opens every input" in he
    assert "one party that helps the server" not in secagg


def test_attacks_stand_at_the_messages_where_they_strike() -> None:
    svg = struck(audited("secagg"))
    after = dict(re.findall(r">(\w+)</text>((?:<g>.*?</g>)*)", svg))
    assert re.findall(r"row (\d+):", after["Agreed"]) == ["1", "8"]
    assert re.findall(r"row (\d+):", after["Sealed"]) == ["8"]
    assert after["Openings"] == ""


def test_texts_in_the_picture_are_escaped() -> None:
    assert "<b>" not in struck(audited("secagg"))
    assert svg_is_well_formed(struck(audited("secagg")))


@cache
def measured(name: str) -> Measurement:
    return measure_mechanism(name, checks=("clip-outlier", "epsilon-gradients", "reconstruction-masked"))


def test_measured_epsilon_stands_beside_the_claimed_one() -> None:
    page = html([], {}, [measured("local-record"), measured("none")])
    assert page.count("<h1>") == 2
    one = next(r.verdict.measured for r in measured("local-record").results if r.notice == "epsilon-gradients")
    assert one is not None
    assert page.count(one.line) == 2  # in the picture and in the table
    assert "None of 3 measurements refutes what is claimed." in page
    assert "Nothing is claimed, and single records show." in page
    assert "{{" not in page
    assert "<script" not in page


def test_what_cannot_tell_is_said_in_plain_words() -> None:
    found = measured("local-record")
    full = one_run(1000, 200, 200, 1e-5)
    beyond = [compared(r.notice, found.setting, 8.0, full, "t") if r.verdict.measured else r.verdict for r in found.results]
    page = html([], {}, [replace(found, results=tuple(map(lambda r, v: replace(r, verdict=v), found.results, beyond)))])
    assert "None of 3 measurements refutes what is claimed; 1 of them could not have." in page
    assert "1 of the measurements cannot tell: what is claimed is more than so many trials show at most" in page
    assert "cannot tell: t: ε = 8 is claimed, and 200 trials show at most 4.16" in page
    assert "cannot tell" not in html([], {}, [found])


def test_a_refuted_claim_is_said_in_plain_words_and_drawn_in_red() -> None:
    found = measured("local-record")
    worse = one_run(1000, 400, 395, 1e-5)
    refuted = [compared(r.notice, found.setting, 3.0, worse, "t") if r.verdict.measured else r.verdict for r in found.results]
    page = html([], {}, [replace(found, results=tuple(map(lambda r, v: replace(r, verdict=v), found.results, refuted)))])
    assert "1 of 3 measurements refute what is claimed." in page
    assert "<strong>it found more than is claimed</strong>" in page
    assert f"ε = 3 is claimed, and refuted by {worse.line}" in page
    assert BAD in re.findall(r'<rect[^>]*fill="(#\w+)"', page)


def test_noise_inside_the_sum_is_told_of_parties() -> None:
    found = measure_mechanism("distributed-party", checks=("sum-worlds", "sum-alone"))
    page = html([], {}, [found])
    for words in (
        "ε = 3 at δ = 1e-05 is claimed for one party over 20 rounds",
        "ε counts parties",
        "sum of updates, all parties alike",
    ):
        assert words in page
    assert "None of 2 measurements refutes what is claimed." in page
    assert "ε counts rows" not in page
    assert "A record out of an update" not in page
    assert "{{" not in page
    one = next(r.verdict.measured for r in found.results if r.notice == "sum-worlds")
    assert one is not None
    assert page.count(one.line) == 2  # in the picture and in the table


@pytest.mark.parametrize("name", ["distributed-record", "central"])
def test_sums_over_records_are_told_of_rows(name: str) -> None:
    found = measure_mechanism(name, checks=("record-clip",))
    page = html([], {}, [found])
    for words in ("is claimed for one record", "a given row was in", "ε counts rows", "single rows of it are covered by ε"):
        assert words in page
    for words in ("ε counts parties", "a given party", "gave a party", "whole parties", "{{"):
        assert words not in page
    trusted = ("the server sees those exactly", "ε does not hold against it", "ε bounds nothing")
    assert [words in page for words in trusted] == [name == "central"] * 3
    assert ("Noise is sized for as many corrupt parties" in page) == (name != "central")


def test_the_annex_says_who_sees_what_and_what_was_opened() -> None:
    noised, bare = (html([], {}, [measured(name)]) for name in ("local-record", "none"))
    covered = re.findall(r"<td>(sum of weighted updates)</td><td[^>]*>20</td><td>([^<]+)</td>", noised + bare)
    assert [how for _, how in covered] == ["covered by ε", "exact"]
    for words in ("a withdrawal can", "a withdrawal cannot", "colluders", "whoever gets the model", "the unit", "sum of weights"):
        assert words in noised
        assert words in bare
    assert "its update lies open" in bare
    assert "its update lies open" not in noised


@pytest.mark.parametrize("scaling", ["auto", "noised"])
def test_the_annex_says_what_scaling_opens(scaling: str) -> None:
    found = measure_mechanism("distributed-party", checks=())
    job = Job.model_validate(found.setting.job.plain() | {"data": {**found.setting.job.plain()["data"], "scaling": scaling}})
    page = html([], {}, [replace(found, setting=replace(found.setting, job=job))])
    assert ("nothing is opened before training" in page) == (scaling == "auto")
    assert ("Moments for scaling are opened once before training, with noise, under the same ε." in page) == (scaling == "noised")


def test_pictures_of_a_measurement_are_well_formed() -> None:
    found = measured("local-record")
    svg = intervals(found)
    assert svg_is_well_formed(svg)
    assert svg.count("stroke-dasharray") == 1
    views = reconstruction.views(found.setting)
    pictures = row_of_pictures(views)
    assert svg_is_well_formed(pictures)
    assert pictures.count('shape-rendering="crispEdges"') == len(views) == 6
    assert intervals(replace(found, results=())) == ""


def svg_is_well_formed(svg: str) -> bool:
    from xml.etree import ElementTree as ET

    return ET.fromstring(svg).tag.endswith("svg")  # noqa: S314  (our own)


@pytest.mark.parametrize("name", ["secagg", "lightsecagg", "bfv", "plain-insecure"])
def test_what_leaves_a_party_looks_like_chance_unless_it_does_not(name: str) -> None:
    """χ² over 64 bins, 63 degrees of freedom: above 150 with probability 2e-9; the input itself lies in a few bins."""
    plain, sent, uniform = samples(Target.of(name))
    counts = [np.histogram(values, bins=64, range=(0, 1))[0] for values in (plain, sent, uniform)]
    chi = [float(((c - c.mean()) ** 2 / c.mean()).sum()) for c in counts]
    assert len(sent) >= min(SAMPLE, 8192)
    assert chi[0] > 1000
    assert chi[2] < 150
    assert (chi[1] < 150) == (name != "plain-insecure")


def test_page_is_readable_on_a_phone_and_on_paper(tmp_path: Path) -> None:
    found = looked_at(html([audited("secagg"), audited("plain-insecure")], {"securefl": "1"}), tmp_path)
    assert found.complaints == []
    assert (found.width <= PHONE, found.wide) == (True, [])
    assert found.sheets > 1
