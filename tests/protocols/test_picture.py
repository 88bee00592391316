"""The drawing of a sequence diagram: all that it was told is there once, can be read, and points where it should."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from typing import Any

import pytest
from drawn import CLASSES, COLOUR, PICTURES, SVG, Area, document, parsed, steps


@pytest.fixture(params=list(PICTURES))
def told(request: pytest.FixtureRequest) -> Any:
    return PICTURES[request.param]


def test_everything_that_was_told_is_there_once_and_nothing_else(told: Any) -> None:
    said, heads, legend = told
    drawn, own = parsed(document(*told)), steps(said)
    loops = [one for one in said if isinstance(one, str) and one != "end"]
    mails = [mail for _, _, more in own for mail in more["mails"]]
    words = {
        "name": [name for name, _, _ in own],
        "mail": [mail[0] for mail in mails],
        "role": [label for label, _ in heads],
        "small": [x for _, _, more in own for x in (more["corner"], *(mail[1] for mail in more["mails"])) if x],
        "pill": loops + [x for _, _, more in own for x in (*more["pills"], *more["results"])],
    }
    assert {css: [text.text for text in drawn.of(css)] for css in words} == words
    for css, key in (("doc", "doc"), ("change", "change")):
        lines = [text for text in drawn.of(css) if not text.text.endswith(" flow")]
        assert " ".join(text.text for text in lines) == " ".join(more[key] for _, _, more in own if more[key])
    assert [text.text for text in drawn.of("doc") if text.text.endswith(" flow")] == [f"{name} flow" for name, _ in legend]
    assert len(drawn.arrows) == len(drawn.heads) == len(mails)
    assert len(drawn.lifelines) == len(heads)
    assert {text.css for _, text in drawn.texts} <= set(CLASSES)
    cards = sum(3 if many else 1 for _, many in heads)
    pills = len(words["pill"]) - len(loops)
    assert len(drawn.rects) == 1 + 2 * len(loops) + cards + len(own) + pills + len(legend)
    stray = [drawn.root.text, *(e.tail for e in drawn.root)]
    assert not "".join(x or "" for x in stray).strip()


def test_title_description_and_size(told: Any) -> None:
    root = parsed(document(*told)).root
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert desc is not None
    assert (root.tag, root.get("aria-labelledby"), root.get("role")) == (f"{SVG}svg", title.get("id"), "img")
    assert title.text == "sums <of> many & few: who does what, in order"
    assert desc.text == ", ".join(name for name, _, _ in steps(told[0]))
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    assert document(*told).endswith("</svg>\n")


def test_colours_fonts_and_classes_are_such(told: Any) -> None:
    root = parsed(document(*told)).root
    style = root.findtext(f"{SVG}style") or ""
    sizes = {
        css: float(size)
        for names, size in re.findall(r"([^{}]+) \{[^}]*font-size: ([\d.]+)px", style)
        for css in names.split(".")[1:]
    }
    default = float(re.findall(r"text \{[^}]*font-size: ([\d.]+)px", style)[0])
    assert {css: sizes.get(css, default) for css in CLASSES} == CLASSES
    assert all(COLOUR.fullmatch(value) for value in re.findall(r"fill: ([^;]+);", style))
    for families in re.findall(r"font-family: ([^;]+);", style):
        assert families.split(", ")[-1] in ("sans-serif", "monospace")
        assert families.split(", ")[0] in ("system-ui", "ui-monospace")
    for e in root:
        assert all(COLOUR.fullmatch(e.get(key, "none")) for key in ("fill", "stroke"))
        assert re.fullmatch(r"none|\d+ \d+", e.get("stroke-dasharray", "none"))
        assert float(e.get("rx", "0")) >= 0
    fills = [rect.fill for rect in parsed(document(*told)).rects]
    for _, _, more in steps(told[0]):
        assert more["fill"] in fills


def test_nothing_that_can_be_read_is_covered_crossed_or_outside(told: Any) -> None:
    drawn = parsed(document(*told))
    (background, *rects), areas = drawn.rects, [(order, text.area) for order, text in drawn.texts]
    assert background.area == drawn.view
    boxes = drawn.boxes.values()
    assert min(box.left for box in boxes) == pytest.approx(drawn.view.right - max(box.right for box in boxes))
    for order, area in areas:
        assert area.within(drawn.view)
        over = [rect for rect in rects if rect.order > order and rect.area.meets(area)]
        assert not over, "painted over"
        for line in drawn.arrows:
            low, high = sorted((float(line.get("x1", "")), float(line.get("x2", ""))))
            y = float(line.get("y1", ""))
            assert not area.meets(Area(low, y - 0.75, high, y + 0.75))
    for (_, one), (_, other) in combinations(areas, 2):
        assert not one.meets(other)
    assert all(rect.area.within(drawn.view) for rect in rects)


def test_a_steps_words_stand_in_its_box_from_top_to_bottom(told: Any) -> None:
    drawn, boxes = parsed(document(*told)), parsed(document(*told)).boxes
    for name, column, more in steps(told[0]):
        box = boxes[name]
        inside = [text for _, text in drawn.texts if text.area.within(box)]
        lines = [text for text in inside if text.css in ("name", "doc", "change")]
        assert " ".join(text.text for text in lines) == " ".join(x for x in (name, more["doc"], more["change"]) if x)
        assert all(one.y + 10 <= other.y for one, other in pairwise(lines))
        assert len({text.x for text in lines}) == 1
        assert [text.text for text in inside if text.css == "small"] == ([more["corner"]] if more["corner"] else [])
        for corner in (text for text in inside if text.css == "small"):
            assert abs(corner.y - lines[0].y) <= 2
            assert corner.anchor == "end"
        assert (box.left + box.right) / 2 == float(drawn.lifelines[column].get("x1", ""))
        assert {rect.fill for rect in drawn.rects if rect.area == box} == {more["fill"]}


def test_pills_hold_their_words_and_sit_on_the_edges_of_their_box(told: Any) -> None:
    drawn, boxes = parsed(document(*told)), parsed(document(*told)).boxes
    around = {text.text: [r for r in drawn.rects if text.area.within(r.area)][-1] for text in drawn.of("pill")}
    said = dict.fromkeys(around, 0)
    for name, _, more in steps(told[0]):
        box = boxes[name]
        for edge, labels in ((box.top, more["pills"]), (box.bottom, more["results"])):
            pills = [around[label].area for label in labels]
            assert all((pill.top + pill.bottom) / 2 == pytest.approx(edge) for pill in pills)
            assert all(one.right + 4 <= other.left for one, other in pairwise(pills))
            if pills:
                assert pills[0].left + pills[-1].right == pytest.approx(box.left + box.right, abs=0.1)
            for label, pill in zip(labels, pills, strict=True):
                text = next(text for text in drawn.of("pill") if text.text == label)
                assert (text.x, text.anchor) == (pytest.approx((pill.left + pill.right) / 2, abs=0.01), "middle")
                said[label] += 1
    inputs = {around[x].fill for _, _, more in steps(told[0]) for x in more["pills"]}
    outputs = {around[x].fill for _, _, more in steps(told[0]) for x in more["results"]}
    assert len(inputs) <= 1
    assert len(outputs) <= 1
    assert not inputs & outputs
    assert {label for label, times in said.items() if not times} == {x for x in told[0] if isinstance(x, str)} - {"end"}


def test_boxes_and_pills_are_apart_and_steps_follow_each_other_downwards(told: Any) -> None:
    drawn, boxes = parsed(document(*told)), list(parsed(document(*told)).boxes.values())
    assert all(one.top < other.top for one, other in pairwise(boxes))
    assert not any(Area(a.left, a.top - 4, a.right, a.bottom + 4).meets(b) for a, b in combinations(boxes, 2))
    around = [
        [r.area for r in drawn.rects if text.area.within(r.area)][-1]
        for text in drawn.of("pill")
        if text.text[:3] in ("in:", "out")
    ]
    assert not any(one.meets(other) for one, other in combinations(around, 2))
    assert all(sum(pill.meets(box) for box in boxes) == 1 for pill in around)


def test_arrows_go_from_the_senders_edge_to_the_receivers_or_to_its_lifeline_and_through_nothing(told: Any) -> None:
    drawn, boxes = parsed(document(*told)), parsed(document(*told)).boxes
    centres = [float(line.get("x1", "")) for line in drawn.lifelines]
    sent = [(name, column, mail) for name, column, more in steps(told[0]) for mail in more["mails"]]
    labels = drawn.of("mail")
    for (name, column, (_, how, there, taker)), line, head, label in zip(sent, drawn.arrows, drawn.heads, labels, strict=True):
        start, tip, y = (float(line.get(key, "")) for key in ("x1", "x2", "y1"))
        assert y == float(line.get("y2", ""))
        box, target, side = boxes[name], boxes.get(taker), 1 if there > column else -1
        assert box.top + 4 < y < box.bottom - 4
        assert start == (box.right if side == 1 else box.left)
        x, at, back, up, down = re.fullmatch(r"M (\S+) (\S+) l (\S+) (\S+) v (\S+) z", head).groups()  # type: ignore[union-attr]
        end = centres[there]
        if target and target.top < y < target.bottom:
            end = target.left if side == 1 else target.right
        assert (float(x), float(at), float(up) * 2 + float(down)) == (end, y, 0)
        assert 0 < (end - tip) * side < -float(back) * side < 20, "the line ends within the head, which points at the receiver"
        assert target is None or y < target.top + 20, "no arrow ends below the head of the step that takes it"
        span = Area(min(start, end) + 0.1, y - 1, max(start, end) - 0.1, y + 1)
        assert not any(span.meets(other) for other in boxes.values())
        assert label.x == pytest.approx((centres[column] + centres[column + side]) / 2)
        assert (label.anchor, 0 < y - label.y < 12) == ("middle", True)
        below = [text for text in drawn.of("small") if text.text == how and text.x == label.x and 0 < text.y - y < 20]
        assert len(below) == bool(how)
        beside = [
            a
            for a, text in ((label.area, label), *((text.area, text) for text in below))
            if any(a.meets(b) for b in boxes.values())
        ]
        assert not beside


def test_a_message_whose_receiver_comes_next_goes_from_box_to_box() -> None:
    drawn = parsed(document(*PICTURES["short"]))
    (line,), two = drawn.arrows, drawn.boxes["two"]
    assert two.top < float(line.get("y1", "")) < two.bottom
    assert two.left - 12 < float(line.get("x2", "")) < two.left


def test_a_loops_frame_holds_its_steps_and_no_other_and_its_label_stands_in_the_corner(told: Any) -> None:
    drawn, boxes, inside = parsed(document(*told)), parsed(document(*told)).boxes, list[set[str]]()
    running = False
    for one in told[0]:
        if isinstance(one, str) and one != "end":
            inside.append(set())
        running = one != "end" if isinstance(one, str) else running
        if running and isinstance(one, tuple):
            inside[-1].add(one[0])
    frames = [rect.area for rect in drawn.rects if rect.dash != "none"]
    labels = [one for one in told[0] if isinstance(one, str) and one != "end"]
    pills = [[r.area for r in drawn.rects if text.area.within(r.area)][-1] for text in drawn.of("pill") if text.text not in labels]
    for frame, names, label in zip(frames, inside, labels, strict=True):
        assert (
            {name for name, box in boxes.items() if box.within(frame)}
            == {name for name, box in boxes.items() if box.meets(frame)}
            == names
        )
        assert all(pill.within(frame) == pill.meets(frame) for pill in pills)
        (text,) = [text for text in drawn.of("pill") if text.text == label]
        (tab,) = [r.area for r in drawn.rects if text.area.within(r.area) and r.area not in (frame, drawn.view)]
        assert (tab.left, tab.top) == (frame.left, frame.top)
        assert tab.within(frame)
        assert not any(tab.meets(area) for area in (*boxes.values(), *pills))


def test_headings_stand_on_their_lifelines_many_parties_on_three_cards(told: Any) -> None:
    drawn, heads = parsed(document(*told)), told[1]
    boxes, cards = parsed(document(*told)).boxes.values(), list[list[Area]]()
    end = max(area.bottom for area in boxes)
    for (_, many), text, line in zip(heads, drawn.of("role"), drawn.lifelines, strict=True):
        x, y1, y2 = (float(line.get(key, "")) for key in ("x1", "y1", "y2"))
        assert (text.x, text.anchor, line.get("x2")) == (x, "middle", line.get("x1"))
        top = [rect.area for rect in drawn.rects[1:] if text.area.within(rect.area)]
        stack = [rect.area for rect in drawn.rects if any(rect.area.meets(area) for area in top) and rect.area != drawn.view]
        assert len(stack) == (3 if many else 1)
        front = stack[-1]
        assert text.area.within(front)
        assert (front.left + front.right) / 2 == pytest.approx(x)
        assert len({(area.left, area.top) for area in stack}) == len(stack), "each card shows"
        assert all(front.top <= area.bottom and area.top <= front.top and area.left >= front.left for area in stack)
        assert front.top < y1 <= front.bottom < end < y2 < drawn.view.bottom
        cards.append(stack)
    assert not any(a.meets(b) for one, other in combinations(cards, 2) for a in one for b in other)
    assert all(card.bottom + 8 < box.top for stack in cards for card in stack for box in boxes)


def test_a_legend_shows_every_colour_beside_its_name_below_all_else(told: Any) -> None:
    said, heads, legend = told
    drawn = parsed(document(*told))
    words = [text for text in drawn.of("doc") if text.text.endswith(" flow")]
    squares = drawn.rects[len(drawn.rects) - len(legend) :]
    others = [*drawn.rects[1 : len(drawn.rects) - len(legend)]]
    for (name, colour), text, square in zip(legend, words, squares, strict=True):
        assert (text.text, square.fill) == (f"{name} flow", colour)
        assert 0 < text.area.left - square.area.right < 20
        assert square.area.top < text.y < square.area.bottom
        assert square.area.top > max(rect.area.bottom for rect in others)
        assert square.area.top > max(float(line.get("y2", "")) for line in drawn.lifelines)
    assert not any(a.area.meets(b.area) for a, b in combinations(squares, 2))
    if legend:
        assert drawn.view.bottom > parsed(document(said, heads)).view.bottom
