"""Pictures of a flow, read off its steps: a sequence diagram (Mermaid, SVG) and the table "who remembers what, when".

Nothing is declared a second time: order, arrows, inputs, outputs and loops follow from the types that connect the steps, what a
party remembers from the fields of its states.
"""

from __future__ import annotations

import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

from protocols.flow import Flow, Port, Step
from protocols.picture import Picture

EACH = {"broadcast": "the same for all", "fanout": "one for each"}
"""How a message to many travels, in words, by its carrier."""
LOOP = "once for every sum"
SECURITY, LEARNING, VECTOR = "#e6f0fb", "#fdf0df", "#e5f4e6"
"""Colours of the two layers, steps from ``protocols`` and of plug-ins, and all others; of what a protocol puts around another."""


@dataclass(frozen=True)
class Mail:
    """A message of a step: its type, the step that takes it, and how it travels to many, in words."""

    kind: type
    receiver: Step
    how: str

    @property
    def name(self) -> str:
        """Name of the type."""
        return self.kind.__name__


@dataclass(frozen=True)
class Scene:
    """A step in its place in the picture.

    Attributes:
        step: the step.
        before: values it takes that the party held.
        inputs: types that come from outside.
        sends: its messages.
        after: values that it leaves with the party.
        outputs: types that leave the flow.
    """

    step: Step
    before: tuple[type, ...]
    inputs: tuple[type, ...]
    sends: tuple[Mail, ...]
    after: tuple[type, ...]
    outputs: tuple[type, ...]

    @property
    def change(self) -> str:
        """What is remembered before and after, by type."""
        return f"{_names(self.before) or 'nothing'} → {_names(self.after) or 'nothing'}"


@dataclass(frozen=True)
class Chart:
    """A flow laid out in time.

    Attributes:
        roles: the roles that have steps, in order.
        scenes: the steps in an order in which they can run: that of declaration where it can.
        loops: first and last position of every part that runs again and again; disjoint, ascending.
    """

    roles: tuple[str, ...]
    scenes: tuple[Scene, ...]
    loops: tuple[tuple[int, int], ...]

    def fields(self, kinds: Iterable[type]) -> list[str]:
        """Names of all fields of values; a field that is itself a state is followed one level."""
        states = {kind for scene in self.scenes for kind in (*scene.before, *scene.after)}
        out = list[str]()
        for kind in kinds:
            for name, hint in _hints(kind):
                out += [inner for inner, _ in _hints(hint)] if hint in states and _hints(hint) else [name]
        return list(dict.fromkeys(out))

    def forgets(self, scene: Scene) -> list[str]:
        """Fields (by name) held before a step, and its inputs (by type), for which no state after it has a place."""
        kept, types = self.fields(scene.after), {hint for kind in scene.after for _, hint in _hints(kind)} | set(scene.after)
        inputs = [f"{p.name} ({p.type.__name__})" for p in scene.step.takes if p.type in scene.inputs and p.type not in types]
        return [name for name in self.fields(scene.before) if name not in kept] + inputs


def chart(flow: Flow) -> Chart:
    """Lay a flow out in time."""
    after = {step.name: {s.name for s in flow.steps if _feeds(step, s)} for step in flow.steps}
    downstream = {name: _reach(name, after) for name in after}
    order = _order(flow, downstream)
    roles = tuple(role for role in flow.roles if flow.of(role))
    return Chart(roles, tuple(_scene(flow, step) for step in order), _loops([s.name for s in order], after, downstream))


def mermaid(flow: Flow) -> str:
    """The sequence diagram in Mermaid's language."""
    plan = chart(flow)
    ids = {role: f"{re.sub(r'[^A-Za-z0-9]', '_', role)}_{i}" for i, role in enumerate(plan.roles, 1)}
    lines = ["sequenceDiagram"]
    lines += [f"    participant {ids[role]} as {_plain(_title(flow, role))}" for role in plan.roles]
    starts, ends = {first for first, _ in plan.loops}, {last for _, last in plan.loops}
    for at, scene in enumerate(plan.scenes):
        me, indent = ids[scene.step.role], "    "
        if at in starts:
            lines.append(f"{indent}loop {LOOP}")
        notes = [scene.step.name, *textwrap.wrap(scene.step.doc, 48), scene.change]
        notes += [f"{word} {_names(kinds)}" for word, kinds in (("input", scene.inputs), ("output", scene.outputs)) if kinds]
        lines.append(f"{indent}Note over {me}: " + "<br/>".join(map(_plain, notes)))
        for mail in scene.sends:
            label = mail.name + (f" ({mail.how})" if mail.how else "")
            lines.append(f"{indent}{me}->>{ids[mail.receiver.role]}: {_plain(label)}")
        if at in ends:
            lines.append(f"{indent}end")
    return "\n".join(lines) + "\n"


def svg(flow: Flow, *, colours: Mapping[str, str] | None = None) -> str:
    """The sequence diagram as a self-contained SVG.

    Args:
        flow: the flow.
        colours: CSS colours of steps by name; others have the colour of their layer, told by the module of the step's function.

    Returns:
        An SVG document, for a white or dark page.
    """
    plan, own = chart(flow), colours or {}
    layers = {s.step.name: _layer(s.step) for s in plan.scenes if s.step.name not in own}
    labels = [text for s in plan.scenes for m in s.sends for text in (m.name, m.how)]
    picture = Picture(flow.name, [(_title(flow, role), flow.roles[role].many) for role in plan.roles], labels)
    starts, ends = {first for first, _ in plan.loops}, {last for _, last in plan.loops}
    column = {role: i for i, role in enumerate(plan.roles)}
    for at, scene in enumerate(plan.scenes):
        step = scene.step
        if at in starts:
            picture.open_loop(LOOP)
        picture.step(
            step.name,
            column[step.role],
            doc=step.doc,
            change=f"remembers {scene.change}",
            corner=_corner(step),
            pills=[f"in: {kind.__name__}" for kind in scene.inputs],
            results=[f"out: {kind.__name__}" for kind in scene.outputs],
            fill=own.get(step.name) or layers[step.name][1],
            mails=[(m.name, m.how, column[m.receiver.role], m.receiver.name) for m in scene.sends],
        )
        if at in ends:
            picture.close_loop()
    return picture.document(sorted(set(layers.values()), reverse=True) if len(set(layers.values())) > 1 else [])


def table(flow: Flow, *, width: int | None = None) -> str:
    """Who remembers what, when: for every role and step the fields held before and after, and what comes and goes, as plain text.

    Args:
        flow: the flow.
        width: letters of a line; where a role's table has more, its steps follow one another as lists.  None: no limit.

    Returns:
        The text.  Fields of a state inside a state stand under their own names; ``forgets`` holds fields and inputs for which no
        state after the step has a place.
    """
    plan = chart(flow)
    parts = [f"{flow.name}: who remembers what, when"]
    again = {plan.scenes[i].step.name for first, last in plan.loops for i in range(first, last + 1)}
    for role in plan.roles:
        rows = [_row(plan, scene, again) for scene in plan.scenes if scene.step.role == role]
        heads = ("step", "remembers before", "receives", "sends", "remembers after", "forgets")
        text = _grid([heads, *rows], (16, 30, 20, 26, 30, 24))
        if width is not None and max(map(len, text.splitlines())) > width:
            text = "\n".join(_stacked(heads, row, width) for row in rows)
        parts.append(f"{_title(flow, role)}\n{text}")
    if again:
        parts.append(f"* runs {LOOP}")
    return "\n\n".join(parts) + "\n"


# The order in time


def _given(step: Step) -> set[tuple[str, type]]:
    """What a step gives, as (role that takes it or "" for a message, type)."""
    return {(step.role if p.carrier in ("value", "output") else "", p.type) for p in step.gives}


def _taken(step: Step) -> set[tuple[str, type]]:
    return {(step.role if p.carrier in ("value", "input") else "", p.type) for p in step.takes if p.carrier != "rand"}


def _feeds(step: Step, other: Step) -> bool:
    return bool(_given(step) & _taken(other))


def _reach(start: str, after: Mapping[str, set[str]]) -> set[str]:
    seen, todo = set[str](), [start]
    while todo:
        new = after[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def _order(flow: Flow, downstream: Mapping[str, set[str]]) -> list[Step]:
    """Steps in the order of declaration, but none before what it needs; what comes only from later steps is there at the start."""
    makers = {(step.name, item): [s for s in flow.steps if item in _given(s)] for step in flow.steps for item in _taken(step)}
    done, left = list[Step](), list(flow.steps)

    def ready(step: Step) -> bool:
        sources = [makers[step.name, item] for item in _taken(step)]
        return all(not s or any(m in done for m in s) or all(m.name in downstream[step.name] for m in s) for s in sources)

    while left:
        step = next(s for s in left if ready(s))  # of what is left, some step needs nothing but itself and what follows from it
        left.remove(step)
        done.append(step)
    return done


def _loops(order: Sequence[str], after: Mapping[str, set[str]], downstream: Mapping[str, set[str]]) -> tuple[tuple[int, int], ...]:
    """Spans of the steps that can reach themselves; spans that touch through an arrow or overlap are one."""
    again, spans = [name for name in order if name in downstream[name]], list[tuple[int, int]]()
    both = {name: {o for o in again if o in after[name] or name in after[o]} for name in again}
    for name in again:
        group = [order.index(other) for other in _reach(name, both) | {name}]
        spans.append((min(group), max(group)))
    merged = list[tuple[int, int]]()
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _scene(flow: Flow, step: Step) -> Scene:
    outside, kept = flow.inputs(step.role), {p.type for s in flow.of(step.role) for p in s.takes if p.carrier in ("value", "input")}

    def kinds(ports: Iterable[Port], test: Callable[[Port], bool]) -> tuple[type, ...]:
        return tuple(port.type for port in ports if test(port))

    return Scene(
        step,
        before=kinds(step.takes, lambda p: p.carrier == "value" or (p.carrier == "input" and p.type not in outside)),
        inputs=kinds(step.takes, lambda p: p.carrier == "input" and p.type in outside),
        sends=tuple(
            Mail(p.type, flow.receiver(p.type), EACH.get(p.carrier, ""))
            for p in step.gives
            if p.carrier in ("message", "broadcast", "fanout")
        ),
        after=kinds(step.gives, lambda p: p.carrier == "value" or (p.carrier == "output" and p.type in kept)),
        outputs=kinds(step.gives, lambda p: p.carrier == "output" and p.type not in kept),
    )


# Words


def _names(kinds: Iterable[type]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _title(flow: Flow, role: str) -> str:
    return f"every {role}" if flow.roles[role].many else role


def _layer(step: Step) -> tuple[str, str]:
    """Name and colour of the layer that a step belongs to."""
    if step.layer == "vector":
        return "vector", VECTOR
    security = step.layer == "security" or step.fn.__module__.split(".")[0] == "protocols"
    return ("security", SECURITY) if security else ("learning", LEARNING)


def _corner(step: Step) -> str:
    if step.spends:
        return "spends the input"
    waits = f"at most {step.within:g} s" if step.within is not None else ""
    return f"waits {waits or 'for a quorum'}" if step.quorum is not None or waits else ""


def _plain(text: str) -> str:
    """Text that Mermaid takes as it is: its own signs as entities."""
    return re.sub(r"[#;<>]", lambda m: {"#": "#35;", ";": "#59;", "<": "#lt;", ">": "#gt;"}[m.group()], text)


# The table


def _row(plan: Chart, scene: Scene, again: set[str]) -> tuple[str, ...]:
    mail = [p.type.__name__ for p in scene.step.takes if p.carrier in ("message", "inbox", "arrived")]
    sends = [m.name + (f" ({m.how})" if m.how else "") for m in scene.sends]
    return (
        scene.step.name + (" *" if scene.step.name in again else ""),
        _listed(plan, scene.before),
        ", ".join(mail + [f"input {kind.__name__}" for kind in scene.inputs]),
        ", ".join(sends + [f"output {kind.__name__}" for kind in scene.outputs]),
        _listed(plan, scene.after),
        ", ".join(plan.forgets(scene)),
    )


def _listed(plan: Chart, kinds: Sequence[type]) -> str:
    names = plan.fields(kinds)
    return _names(kinds) + (f": {', '.join(names)}" if names else "")


def _hints(kind: object) -> list[tuple[str, object]]:
    if not isinstance(kind, type) or not is_dataclass(kind):
        return []
    try:
        hints = typing.get_type_hints(kind)
    except NameError:  # a class that was declared within a function
        hints = {}
    return [(f.name, hints.get(f.name)) for f in fields(kind)]


def _stacked(heads: Sequence[str], row: Sequence[str], width: int) -> str:
    """One row as a list under its first cell, wrapped at ``width`` letters; empty cells are left out."""
    lines, column = [row[0]], max(map(len, heads)) + 4
    for head, cell in zip(heads[1:], row[1:], strict=True):
        if cell:
            first = f"  {head}".ljust(column)
            lines += textwrap.wrap(cell, max(width, column + 16), initial_indent=first, subsequent_indent=" " * column)
    return "\n".join(lines)


def _grid(rows: Sequence[Sequence[str]], most: Sequence[int]) -> str:
    """Rows in aligned columns, cells wrapped at ``most`` characters; the first row is the head."""
    cells = [[textwrap.wrap(cell, width) or [""] for cell, width in zip(row, most, strict=True)] for row in rows]
    widths = [max(len(line) for row in cells for line in row[i]) for i in range(len(most))]
    blocks = list[str]()
    for row in cells:
        height = max(map(len, row))
        padded = [cell + [""] * (height - len(cell)) for cell in row]
        blocks.append("\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in zip(*padded, strict=True)))
    return "\n".join([blocks[0], "  ".join("-" * width for width in widths), *blocks[1:]])
