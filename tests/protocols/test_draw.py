"""Pictures of flows: complete, in order, legible, and true to the types."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import draw, plain, secagg, secagg_types
from protocols.flow import Broadcast, Fanout, Flow, Inbox, Input, Output, Port, Step
from protocols.schema import Digest, Message
from protocols.vector import Vector

SVG = "{http://www.w3.org/2000/svg}"


class HelperStart: ...


class HelperReady: ...


class ServerStart: ...


class ServerReady: ...


class Start: ...


class Ready: ...


class Tally: ...


@dataclass(frozen=True)
class Held:
    key: Digest


@dataclass(frozen=True)
class HelperKey(Message):
    key: Digest


@dataclass(frozen=True)
class Keys(Message):
    key: Digest


@dataclass(frozen=True)
class Cipher(Message):
    text: Digest


@dataclass(frozen=True)
class Part(Message):
    text: Digest


@dataclass(frozen=True)
class Answer(Message):
    text: Digest


@dataclass(frozen=True)
class Model(Message):
    weights: Digest


@dataclass(frozen=True)
class Before:
    base: Held
    note: int
    gone: Digest


@dataclass(frozen=True)
class KeptAll:
    base: Held
    note: int
    gone: Digest
    x: Vector


@dataclass(frozen=True)
class KeptLess:
    base: Held
    note: int


def one(_: object) -> int:
    return 1


def committee() -> Flow:
    """Three roles, one set-up, many sums."""
    flow = Flow("committee")
    helper = flow.role("helper", many=True)

    @helper
    def publish(start: HelperStart) -> tuple[HelperReady, HelperKey]:
        """Make a key; send it <out> & "away" # now."""

    @flow.server(quorum=one)
    def spread(start: ServerStart, keys: Inbox[HelperKey]) -> tuple[ServerReady, Broadcast[Keys]]:
        """Pass the keys on."""

    @flow.client
    def learn(start: Start, keys: Keys) -> Ready:
        """Remember the keys."""

    @flow.client(spends=True)
    def submit(ready: Ready, x: Input[Vector]) -> tuple[Ready, Cipher, Fanout[Part]]:
        """Encrypt the input, and share the key among the helpers."""

    @helper(quorum=one)
    def answer(ready: HelperReady, parts: Inbox[Part]) -> tuple[HelperReady, Answer]:
        """Add the parts."""

    @flow.server(quorum=one, within=5.0)
    def add(ready: ServerReady, texts: Inbox[Cipher], answers: Inbox[Answer]) -> tuple[ServerReady, Output[Tally]]:
        """Decrypt the sum alone."""

    return flow.check()


class Rows: ...


class Round: ...


class Waiting: ...


def layered() -> Flow:
    """An ML flow around SecAgg: included first, though its mask waits for training."""
    flow = Flow("training").include(secagg.flow)

    @flow.server
    def broadcast(round_: Round) -> tuple[Waiting, Broadcast[Model]]:
        """Send the model."""

    @flow.client
    def train(rows: Input[Rows], model: Model) -> Output[Vector]:
        """Train on own rows."""

    @flow.server
    def improve(waiting: Waiting, total: Input[secagg.Sum]) -> Output[Tally]:
        """Step by the mean."""

    return flow.check()


FLOWS = {"secagg": secagg.flow, "plain": plain.flow, "committee": committee(), "layered": layered()}


@pytest.fixture(params=FLOWS)
def flow(request):
    return FLOWS[request.param]


def names(plan: draw.Chart) -> list[str]:
    return [scene.step.name for scene in plan.scenes]


# The order in time


def test_declared_order_is_kept_where_it_can_run():
    for name in ("secagg", "plain", "committee"):
        assert names(draw.chart(FLOWS[name])) == [step.name for step in FLOWS[name].steps]


@given(st.permutations(secagg.flow.steps))
@settings(max_examples=30, deadline=None)
def test_order_follows_from_the_types_not_from_the_declaration(steps):
    shuffled = Flow("shuffled")
    for step in steps:
        shuffled.add(step)
    assert names(draw.chart(shuffled)) == [step.name for step in secagg.flow.steps]


def test_no_step_stands_before_what_it_needs():
    order = names(draw.chart(FLOWS["layered"]))
    for first, second in (("broadcast", "train"), ("train", "mask"), ("relay", "mask"), ("reveal", "improve")):
        assert order.index(first) < order.index(second)


def test_loop_holds_what_runs_once_per_sum_and_nothing_else():
    plan = draw.chart(FLOWS["committee"])
    ((first, last),) = plan.loops
    assert names(plan)[first : last + 1] == ["submit", "answer", "add"]
    assert draw.chart(secagg.flow).loops == ()


def test_state_given_back_by_a_later_step_closes_a_loop_over_both():
    flow = Flow("ping")

    @flow.server
    def ask(round_: Round) -> tuple[Waiting, Broadcast[Model]]:
        """Ask."""

    @flow.client
    def reply(ready: Ready, model: Model) -> tuple[Ready, Cipher]:
        """Reply."""

    @flow.server(quorum=one)
    def learn(waiting: Waiting, texts: Inbox[Cipher]) -> Round:
        """Learn."""

    assert draw.chart(flow.check()).loops == ((0, 2),)
    assert names(draw.chart(flow)) == ["ask", "reply", "learn"]


# Mermaid


def test_mermaid_has_every_step_and_message_once_between_its_roles(flow):
    lines = [line.strip() for line in draw.mermaid(flow).splitlines()]
    assert lines[0] == "sequenceDiagram"
    ids = dict(re.fullmatch(r"participant (\w+) as (?:every )?(.+)", x).groups() for x in lines if x.startswith("participant"))
    assert list(ids.values()) == [role for role in flow.roles if flow.of(role)]
    notes = [re.fullmatch(r"Note over (\w+): (\w+)<br/>.*", x).groups() for x in lines if x.startswith("Note")]
    assert sorted((name, ids[me]) for me, name in notes) == sorted((s.name, s.role) for s in flow.steps)
    arrows = [re.fullmatch(r"(\w+)->>(\w+): (\w+)(?: \((.*)\))?", x).groups() for x in lines if "->>" in x]
    assert sorted((kind, ids[a], ids[b]) for a, b, kind, _ in arrows) == sorted(
        (k.__name__, flow.sender(k).role, flow.receiver(k).role) for k in flow.messages()
    )
    hows = {p.type.__name__: draw.EACH.get(p.carrier) for s in flow.steps for p in s.gives}
    assert all(hows[kind] == how for _, _, kind, how in arrows)
    assert lines.count("end") == sum(x.startswith("loop ") for x in lines) == len(draw.chart(flow).loops)


def test_mermaid_sends_a_message_after_its_step_and_before_the_one_that_takes_it(flow):
    text = draw.mermaid(flow)
    for kind in flow.messages():
        arrow = re.search(rf"->>\w+: {kind.__name__}\b", text).start()
        assert text.index(f": {flow.sender(kind).name}<br/>") < arrow < text.index(f": {flow.receiver(kind).name}<br/>")


def test_mermaid_quotes_its_own_signs():
    text = draw.mermaid(FLOWS["committee"])
    assert 'Make a key#59; send it #lt;out#gt; & "away" #35; now.' in text.replace("<br/>", " ")


# SVG


def parse(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314


def boxes(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """Boxes of steps: left, top, right, bottom."""
    out = []
    for rect in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.get(k, "0")) for k in ("x", "y", "width", "height"))
        if w == 336:
            out.append((x, y, x + w, y + h))
    return out


def texts(root: ET.Element, css: str) -> list[ET.Element]:
    return [e for e in root.iter(f"{SVG}text") if e.get("class") == css]


def test_svg_is_complete_and_accessible(flow):
    root = parse(draw.svg(flow))
    assert root.get("role") == "img"
    title = root.find(f"{SVG}title")
    assert flow.name in title.text
    assert root.get("aria-labelledby") == title.get("id")
    assert sorted(e.text for e in texts(root, "name")) == sorted(s.name for s in flow.steps)
    assert sorted(e.text for e in texts(root, "mail")) == sorted(k.__name__ for k in flow.messages())
    said = " ".join(e.text for e in texts(root, "doc"))
    assert all(step.doc in said for step in flow.steps)
    assert len(list(root.iter(f"{SVG}path"))) == len(flow.messages())


def test_svg_needs_nothing_from_outside(flow):
    text = draw.svg(flow).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|url\(|<script|<image|href|@import", text)


def check_boxes_are_apart_inside_and_in_order(flow: Flow) -> None:
    root = parse(draw.svg(flow))
    found, height, width = boxes(root), float(root.get("height")), float(root.get("width"))
    assert len(found) == len(flow.steps)
    for i, (left, top, right, bottom) in enumerate(found):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert all(right <= x or x2 <= left or bottom + 4 <= y or y2 + 4 <= top for x, y, x2, y2 in found[:i])
        assert all(top > y for _, y, _, _ in found[:i])


def check_arrows_cross_no_box_and_point_at_the_receiver(flow: Flow) -> None:
    root = parse(draw.svg(flow))
    found = dict(zip([e.text for e in texts(root, "name")], boxes(root), strict=True))
    lines = [e for e in root.iter(f"{SVG}line") if not e.get("stroke-dasharray")]
    mails = [m for scene in draw.chart(flow).scenes for m in scene.sends]
    for line, mail in zip(lines, mails, strict=True):
        x1, x2, y = float(line.get("x1")), float(line.get("x2")), float(line.get("y1"))
        low, high = sorted((x1, x2))
        assert not [n for n, (a, t, b, u) in found.items() if t < y < u and a < high - 1 and b > low + 1], mail.name
        sender, receiver = found[flow.sender(mail.kind).name], found[mail.receiver.name]
        assert sender[1] < y < sender[3]
        assert receiver[0] - 10 <= x2 <= receiver[2] + 10
        assert y < receiver[1] + 20, "no arrow ends below the head of the step that takes it"


def test_svg_has_room_for_everything(flow):
    check_boxes_are_apart_inside_and_in_order(flow)
    check_arrows_cross_no_box_and_point_at_the_receiver(flow)


MESSAGES = [dataclass(frozen=True)(type(f"M{i}", (Message,), {"__annotations__": {"text": Digest}})) for i in range(12)]
VALUES = [type(f"V{i}", (), {}) for i in range(9)]


@st.composite
def random_flows(draw_):
    """Steps of four roles in a row, with messages from earlier to later ones."""
    flow = Flow("random")
    roles = [flow.client, flow.server, flow.role("helper", many=True), flow.role("auditor")]
    cast = [draw_(st.sampled_from(roles)) for _ in range(draw_(st.integers(2, 9)))]
    pairs = [(i, j) for j in range(len(cast)) for i in range(j) if cast[i] is not cast[j]]
    chosen = draw_(st.lists(st.sampled_from(pairs), max_size=len(MESSAGES), unique=True)) if pairs else []
    for at, role in enumerate(cast):
        takes, gives = [Port("value", VALUES[at], "state")], []
        for kind, (i, j) in zip(MESSAGES, chosen, strict=False):
            if j == at:
                takes.append(Port("inbox" if cast[i].many else "message", kind, kind.__name__))
            if i == at:
                gives.append(Port(draw_(st.sampled_from(["broadcast", "fanout"])) if cast[j].many else "message", kind))
        if draw_(st.booleans()):
            takes.append(Port("input", Rows, "rows"))
        if draw_(st.booleans()):
            gives.append(Port("output", Tally))
        flow.add(Step(f"step{at}", role.name, committee, tuple(takes), tuple(gives), quorum=one))
    return flow


@given(random_flows())
@settings(max_examples=150, deadline=None)
def test_any_flow_has_room_for_everything(flow):
    assert names(draw.chart(flow)) == [step.name for step in flow.steps]
    check_boxes_are_apart_inside_and_in_order(flow)
    check_arrows_cross_no_box_and_point_at_the_receiver(flow)


def test_svg_secagg_arrows_go_from_box_to_box():
    root = parse(draw.svg(secagg.flow))
    found = dict(zip([e.text for e in texts(root, "name")], boxes(root), strict=True))
    lines = [e for e in root.iter(f"{SVG}line") if not e.get("stroke-dasharray")]
    for line, kind in zip(lines, secagg.flow.messages(), strict=True):
        left, top, right, bottom = found[secagg.flow.receiver(kind).name]
        assert top < float(line.get("y1")) < bottom
        assert min(abs(float(line.get("x2")) - left), abs(float(line.get("x2")) - right)) <= 9


def test_svg_text_fits_its_box_in_a_wide_font(flow):
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    fonts = {"doc": ("DejaVu Sans", 12.5), "change": ("DejaVu Sans Mono", 11.5), "mail": ("DejaVu Sans Mono", 13)}
    root = parse(draw.svg(flow))
    found, width = boxes(root), float(root.get("width"))
    for css, (family, size) in fonts.items():
        for text in texts(root, css):
            need = TextPath((0, 0), text.text.replace("$", "S"), size=size, prop=FontProperties(family)).get_extents().width
            x, y = float(text.get("x")), float(text.get("y"))
            if css == "mail":
                room = [min(abs(x - edge) for box in found for edge in (box[0], box[2])) * 2]
            else:
                room = [right - x for left, top, right, bottom in found if left < x < right and top < y < bottom] or [width - x]
            assert need < room[0] - 8, text.text


def test_svg_layers_differ_in_colour_and_a_legend_names_them():
    def fills(text: str) -> dict[str, str]:
        root = parse(text)
        colours = [r.get("fill") for r in root.iter(f"{SVG}rect") if r.get("width") == "336"]
        return dict(zip([e.text for e in texts(root, "name")], colours, strict=True))

    flow = FLOWS["layered"]
    got = fills(draw.svg(flow))
    assert {name for name, fill in got.items() if fill == draw.SECURITY} == {s.name for s in secagg.flow.steps}
    assert {name for name, fill in got.items() if fill == draw.LEARNING} == {"broadcast", "train", "improve"}
    assert "learning flow" in draw.svg(flow)
    assert "security flow" in draw.svg(flow)
    assert "security flow" not in draw.svg(secagg.flow)
    own = fills(draw.svg(flow, colours={"mask": "gold", "train": '"<&'}))
    assert own == {**got, "mask": "gold", "train": '"<&'}


def test_svg_frames_the_loop():
    root = parse(draw.svg(FLOWS["committee"]))
    (frame,) = [r for r in root.iter(f"{SVG}rect") if r.get("stroke-dasharray") == "6 4"]
    top, bottom = float(frame.get("y")), float(frame.get("y")) + float(frame.get("height"))
    found = dict(zip([e.text for e in texts(root, "name")], boxes(root), strict=True))
    assert {name for name, (_, t, _, b) in found.items() if top < t and b < bottom} == {"submit", "answer", "add"}
    assert all(b < top for name, (_, _, _, b) in found.items() if name in ("publish", "spread", "learn"))


def test_one_role_alone_can_be_drawn():
    flow = Flow("alone")

    @flow.server
    def turn(waiting: Waiting, rows: Input[Rows]) -> tuple[Waiting, Output[Tally]]:
        """Turn once more."""

    root = parse(draw.svg(flow.check()))
    assert [e.text for e in texts(root, "role")] == ["server"]
    assert {e.text for e in texts(root, "pill")} == {draw.LOOP, "in: Rows", "out: Tally"}


# The table


def cells(text: str, role: str, step: str) -> dict[str, str]:
    """One row of the table, wrapped lines joined."""
    block = next(part for part in text.split("\n\n") if re.match(rf"(every )?{role}\n", part)).splitlines()[1:]
    at = [m.span() for m in re.finditer(r"-+", block[1])]
    heads = [block[0][a:b].strip() for a, b in at]
    rows, last = dict[str, list[str]](), ""
    for line in block[2:]:
        row = [line[a:b].strip() for a, b in at]
        last = row[0].removesuffix(" *") if row[0] else last
        rows[last] = [f"{x} {y}".strip() for x, y in zip(rows.get(last, [""] * len(at)), row, strict=True)]
    return dict(zip(heads, rows[step], strict=True))


def test_table_mask_forgets_keys_seed_and_input():
    row = cells(draw.table(secagg.flow), "client", "mask")
    kept, had = {f.name for f in fields(secagg_types.Covered)}, {f.name for f in fields(secagg_types.Shared)}
    assert set(row["forgets"].split(", ")) == (had - kept) | {"x (Vector)"}
    assert {"c", "s", "b"} < set(row["forgets"].split(", "))
    assert row["receives"] == "Sealed, input Vector"
    assert row["sends"] == "Masked"
    assert row["remembers before"].startswith("Shared: me, identity, terms, policy, L,")


def test_table_follows_a_state_inside_a_state():
    remembered = cells(draw.table(secagg.flow), "server", "gather")["remembers after"]
    assert remembered == "Opened: terms, L, s_pks, u2, dealt, near, mail, coverings, total, u3, said"
    assert cells(draw.table(secagg.flow), "client", "open_shares")["remembers after"] == "Finished: me"


@pytest.mark.parametrize(("after", "forgets"), [(KeptAll, ""), (KeptLess, "gone, x (Vector)"), (Held, "note, gone, x (Vector)")])
def test_table_forgets_exactly_what_the_next_state_has_no_place_for(after, forgets):
    flow = Flow("small")

    def first(start: Start) -> Held:
        """Begin."""

    def step(before: Before, x: Input[Vector]): ...

    step.__annotations__["return"] = after
    flow.client(first)
    flow.client(step)
    assert cells(draw.table(flow.check()), "client", "step")["forgets"] == forgets


def test_table_has_every_step_under_its_role_and_stays_narrow(flow):
    text = draw.table(flow)
    for step in flow.steps:
        row = cells(text, step.role, step.name)
        for port in (*step.takes, *step.gives):
            if port.carrier != "rand":
                assert port.type.__name__ in " ".join(row.values())
    assert max(map(len, text.splitlines())) <= 150
    assert not re.search(r" +$", text, re.MULTILINE)


def test_table_marks_what_runs_for_every_sum():
    marked = re.findall(r"^(\w+) \*", draw.table(FLOWS["committee"]), re.MULTILINE)
    assert sorted(marked) == ["add", "answer", "submit"]
    assert "*" not in draw.table(secagg.flow)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_table_that_is_too_wide_becomes_lists_with_every_word(width: int) -> None:
    wide, narrow = draw.table(secagg.flow), draw.table(secagg.flow, width=width)
    assert max(map(len, narrow.splitlines())) <= width < max(map(len, wide.splitlines()))
    words = set(re.findall(r"\w+", wide)) - {"step", "remembers"}
    assert words - set(re.findall(r"\w+", narrow)) == set()
    assert draw.table(secagg.flow, width=1000) == wide
