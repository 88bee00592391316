"""``securefl demo``: a protocol told round by round in the terminal, with the bytes of a real run in this process.

What it does not show: that masks hide.  The figures on the masked vector are a check that the wiring is right, not a proof.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from protocols import draw, simulate
from protocols.bulk import Bulk, Packed
from protocols.flow import Flow, Output, Step
from protocols.primitives.graph import Harary
from protocols.schema import Message, schema
from protocols.secagg_parameters import LOST
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.suite import Occasion, SumParameters
from protocols.sums import Scheme, client_session, enrol, foreign, names, notice, scheme, server_session
from protocols.vector import Sum, Vector
from securefl.errors import UserError
from securefl.timing import beside

if TYPE_CHECKING:
    from securefl.audit.recording import Recording

SIZE, COLUMNS, HEIGHT, PEAK = 4096, 64, 4, 100
"""Coordinates of an input, columns and rows of its picture, and its largest value."""
MOST = 100
"""Parties at most: more tell nothing new."""
BINS, CHI_LIMIT = 16, 37.7
"""Bins of the chi-square test, and what a uniform vector stays under in 999 of 1000 runs (15 degrees of freedom)."""
ROWS = 3
"""Letters of one kind that are shown; the others are counted."""


@dataclass
class Story:
    """What a run left behind.

    Attributes:
        scheme: the protocol.
        parameters: of the sum.
        inputs: per party, shape (4096,), int64.
        dropped: who vanished.
        letters: per kind of message every delivered letter with its size in bytes.
        memory: by step what the server, or the party that is shown, remembered after it.
        outcome: of the simulation.
    """

    scheme: Scheme
    parameters: SumParameters
    inputs: Mapping[int, NDArray[np.int64]]
    dropped: tuple[int, ...]
    letters: dict[str, list[tuple[Letter, int]]] = field(default_factory=dict)
    memory: dict[str, tuple[object, ...]] = field(default_factory=dict)
    outcome: simulate.Outcome = field(default_factory=lambda: simulate.Outcome({}))

    @property
    def shown(self) -> int:
        """The party whose vector is pictured: the first that stays."""
        return min(set(self.inputs) - set(self.dropped))


def run(
    protocol: str,
    *,
    clients: int = 6,
    dropout: int | None = None,
    step: bool = False,
    console: Console | None = None,
    recording: Recording | None = None,
) -> None:
    """Tell a protocol round by round.

    Args:
        protocol: a name out of `protocols.sums.names`.
        clients: number of parties, 2 to 100.
        dropout: how many of them vanish before their vector leaves; at most as many as the threshold, or a sparse graph, allows, by
            default up to 2.
        step: wait for Enter between rounds; without effect where stdin is no terminal.
        console: where to; by default stdout.
        recording: writes down what the server and each party saw.

    Raises:
        UserError: for an unknown protocol or a number out of its range.
        Abort: where the run ended without a sum.
    """
    if protocol not in names():
        raise UserError(f"no protocol {protocol!r}; there are {', '.join(names())}")
    chosen = scheme(protocol)
    if not 2 <= clients <= MOST:
        raise UserError(f"clients must be in 2..{MOST}, not {clients}")
    parameters = chosen.parameters(clients, SIZE, PEAK)
    sparse = isinstance(getattr(parameters, "graph", None), Harary)
    most = clients // LOST if sparse else clients - parameters.threshold
    dropout = min(2, most) if dropout is None else dropout
    if not 0 <= dropout <= most:
        raise UserError(f"dropout must be in 0..{most} with {clients} clients and threshold {parameters.threshold}, not {dropout}")
    story = play(chosen, parameters, [int((k + 0.5) * clients / dropout) + 1 for k in range(dropout)], recording)
    if story.outcome.abort is not None:
        raise story.outcome.abort
    _tell(story, console or Console(), step=step and sys.stdin.isatty())


def play(scheme: Scheme, parameters: SumParameters, dropped: Iterable[int], recording: Recording | None = None) -> Story:
    """Run a protocol once with real bytes and keep what the story needs.

    Args:
        scheme: the protocol.
        parameters: of the sum.
        dropped: parties that vanish before their vector leaves.
        recording: writes down what the server and each party saw.
    """
    roster, parties = enrol(parameters.parties, policy=scheme.policy)
    terms = scheme.terms(Occasion("demo", 0), roster, parameters)
    story = Story(scheme, parameters, {p.index: hill(p.index, parameters.parties) for p in parties}, tuple(dropped))
    sessions = dict[Address, Session]()
    noting = {at: _noting(story, at.role, lambda at=at: sessions[at]) for at in (SERVER, client(story.shown))}  # type: ignore[misc]
    sessions[SERVER] = server_session(scheme, terms, flow=noting[SERVER])
    sessions |= {client(p.index): client_session(scheme, p, terms, flow=noting.get(client(p.index))) for p in parties}
    spending = next(m.name for s in draw.chart(scheme.flow).scenes if s.step.spends for m in s.sends)

    def watch(letter: Letter, _: Address, size: int) -> None:
        sent = story.letters.setdefault(type(letter.message).__name__, [])
        if not any(letter is other for other, _ in sent):
            sent.append((letter, size))
        if letter.sender in noting:  # an input that came since belongs to what it holds, too
            step, inputs = scheme.flow.sender(type(letter.message)).name, scheme.flow.inputs(letter.sender.role)
            held = story.memory[step]
            came = (v for v in sessions[letter.sender].remembers if type(v) in inputs and not any(v is w for w in held))
            story.memory[step] = (*held, *came)

    network = simulate.vanish({client(u): spending for u in story.dropped})
    given = {client(u): [Vector(x)] for u, x in story.inputs.items()}
    if recording is not None:
        recording.begin(scheme, terms, parties)
    story.outcome = simulate.run(sessions, given, network=network, watch=beside(watch, recording))
    if recording is not None:
        recording.end(story.outcome, story.outcome.outputs[0].contributors if story.outcome.outputs else None)
    return story


def _noting(story: Story, role: str, session: Callable[[], Session]) -> Flow:
    """The flow, with steps of a role that also note what their party remembers when they are done."""
    flow = story.scheme.flow
    awaited = {port.type for step in flow.of(role) for port in step.values}

    def noted(step: Step) -> Callable[..., Any]:
        @wraps(step.fn)
        def fn(**taken: Any) -> Any:
            kept = session().remembers  # all but what the step takes, which is out of the session while it runs
            given = step.fn(**taken)
            items = given if isinstance(given, tuple) and len(step.gives) != 1 else (given,)
            values = (item.value if isinstance(item, Output) else item for item in items)
            stays = zip(step.gives, values, strict=False)  # a step that gives another number is refused where it is run
            story.memory[step.name] = (*kept, *(v for port, v in stays if port.carrier == "value" or type(v) in awaited))
            return given

        return fn

    return flow.replace(**{step.name: noted(step) for step in flow.of(role)})


def hill(index: int, parties: int) -> NDArray[np.int64]:
    """A party's input: one hill, its own place in the row; shape (4096,), int64, in [0, 100]."""
    middle, width = (index - 0.5) / parties, 0.55 / parties
    height = 1 - np.abs((np.arange(SIZE) + 0.5) / SIZE - middle) / width
    return np.rint(PEAK * np.clip(height, 0, 1)).astype(np.int64)


# Pictures and figures


def bars(values: NDArray[Any], low: int, high: int) -> list[str]:
    """A vector as ``HEIGHT`` lines of ``COLUMNS`` block characters: every so many-th coordinate, scaled from [low, high]."""
    sample = values[len(values) // COLUMNS // 2 :: len(values) // COLUMNS][:COLUMNS].astype(float)
    levels = np.clip(np.rint((sample - low) / max(high - low, 1) * 8 * HEIGHT), 0, 8 * HEIGHT).astype(int)
    return ["".join(" ▁▂▃▄▅▆▇█"[min(8, max(0, level - 8 * row))] for level in levels) for row in reversed(range(HEIGHT))]


def on_the_wire(story: Story, message: Message) -> tuple[NDArray[Any], int] | None:
    """The first `SIZE` values of the packed vector in a message, read off its bytes, and their modulus; None without one."""
    layouts = story.scheme.layouts(story.parameters)
    for name, hint in schema(type(message)):
        value, layout = getattr(message, name), layouts.get(getattr((*get_args(hint), None)[1], "key", ""))
        if isinstance(value, Bulk) and isinstance(layout, Packed) and layout.size >= SIZE:
            return layout.ring.unpack(value.data or b"", layout.size)[:SIZE], layout.ring.modulus
    return None


def figures(x: NDArray[np.int64], masked: NDArray[Any], modulus: int) -> tuple[float, float]:
    """Correlation of a masked vector with its input, and chi-square of the masked vector against uniform over `BINS` bins."""
    y = masked.astype(float)
    counts = np.histogram(y, bins=BINS, range=(0, modulus))[0]
    expected = len(y) / BINS
    return float(np.corrcoef(x, y)[0, 1]), float(((counts - expected) ** 2 / expected).sum())


# Telling


def _tell(story: Story, console: Console, *, step: bool) -> None:
    parameters, plan = story.parameters, draw.chart(story.scheme.flow)
    console.print(Text(f"{story.scheme.name}: {parameters.parties} parties, one server, threshold {parameters.threshold}", "bold"))
    say = f"Every party holds a vector of {SIZE} values in 0..{PEAK}; sums are taken modulo {parameters.ring.title}."
    console.print(Text(say + " All bytes below are real and new in every run.", "dim"))
    if line := notice(story.scheme.name, parameters):
        console.print(Text(f"{line}.", "dim"))
    if line := foreign(story.scheme):
        console.print(Text(f"{line[0].upper()}{line[1:]}.", "yellow"))
    number, answered = 0, True
    for scene in plan.scenes:
        many = story.scheme.flow.roles[scene.step.role].many
        if answered and (many or number == 0):  # what the server does after one another belongs to one round
            _pause(console, step=step and number > 0)
            console.print()
            console.print(Rule(Text(f"Round {number}", "bold"), align="left", style="blue"))
            number += 1
        _scene(story, plan, scene, console)
        answered = not many
    _end(story, console)


def _pause(console: Console, *, step: bool) -> None:
    if step:
        try:
            console.input("[dim]Enter goes on [/dim]")
        except EOFError:
            console.print()


def _scene(story: Story, plan: draw.Chart, scene: draw.Scene, console: Console) -> None:
    role, name = scene.step.role, scene.step.name
    who = f"every {role}" if story.scheme.flow.roles[role].many else f"the {role}"
    console.print(Text.assemble("\n", (name, "bold cyan"), (f"  {who}", "bold"), f"\n{scene.step.doc}"))
    if scene.step.spends and story.dropped:
        gone = ", ".join(map(str, story.dropped))
        console.print(
            Text(
                f"Before that, client {gone} vanished." if len(story.dropped) == 1 else f"Before that, clients {gone} vanished.",
                "bold red",
            )
        )
    for mail in scene.sends:
        _letters(story.letters.get(mail.name, []), mail, console)
        if scene.step.spends:
            _masked(story, mail.name, console)
    _memory(story, role, story.memory.get(name, ()), plan.forgets(scene), console)
    for result in story.outcome.outputs if scene.outputs else ():
        _opened(story, result, console)


def _letters(sent: Sequence[tuple[Letter, int]], mail: draw.Mail, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("message", "from", "to", "bytes", "first bytes"):
        table.add_column(heading, justify="right" if heading == "bytes" else "left", no_wrap=True)
    for letter, size in sent[:ROWS]:
        to = str(letter.to[0]) if len(letter.to) == 1 else f"{len(letter.to)} {letter.to[0].role}s"
        chunks = [bytes(chunk) for chunk in letter.chunks()]
        table.add_row(Text(mail.name, "bold magenta"), str(letter.sender), to, str(size), _hex(chunks[0]))
        if len(chunks) > 1:
            table.add_row("", "", "", Text("vector", "dim"), _hex(chunks[1]))
    rest = [size for _, size in sent[ROWS:]]
    if rest:
        table.add_row("", "", "", str(sum(rest)), Text(f"in {len(rest)} more", "dim"))
    console.print(Padding(table, (0, 0, 0, 2)))


def _hex(data: bytes) -> str:
    return data[:20].hex(" ", -4)


def _masked(story: Story, kind: str, console: Console) -> None:
    """The input of one party beside what left it."""
    u = story.shown
    message = next((letter.message for letter, _ in story.letters.get(kind, ()) if letter.sender == client(u)), None)
    if message is None or (found := on_the_wire(story, message)) is None:
        console.print(Text(f"  {kind} holds no packed vector of {SIZE} values: no picture", "dim"))
        return
    x, (y, modulus) = story.inputs[u], found
    _picture(f"what client {u} holds", bars(x, 0, PEAK), "green", console)
    _picture(f"what the server gets from client {u}", bars(y, 0, modulus - 1), "red", console)
    correlation, chi = figures(x, y, modulus)
    hidden = abs(correlation) < 6 / SIZE**0.5 and chi < 100  # a false alarm once in 10^8 runs
    lines = (
        f"correlation with the input {correlation:+.3f} (chance: within ±{2 / SIZE**0.5:.3f} in 19 of 20 runs)",
        f"chi-square against uniform {chi:.1f} over {BINS} bins (uniform: below {CHI_LIMIT} in 999 of 1000 runs)",
        "looks like noise" if hidden else "does not look like noise: the input shows",
    )
    console.print(
        Padding(Text("\n".join(lines) + "; a wiring check, not a proof", "default" if hidden else "bold red"), (0, 0, 0, 2))
    )


def _opened(story: Story, result: Sum, console: Console) -> None:
    expected = sum((x for u, x in story.inputs.items() if u not in story.dropped), np.zeros(SIZE, np.int64))
    _picture(
        f"what the server opens: the sum of {result.contributors}",
        bars(result.values, 0, int(result.values.max())),
        "yellow",
        console,
    )
    stayed, same = len(story.inputs) - len(story.dropped), np.array_equal(result.values, expected)
    line = f"equal to the sum of the {stayed} inputs that stayed, value by value: {'yes' if same else 'NO'}"
    console.print(Padding(Text(line, "bold green" if same else "bold red"), (0, 0, 0, 2)))


def _picture(title: str, lines: Sequence[str], style: str, console: Console) -> None:
    console.print(Text(f"\n  {title} (every {SIZE // COLUMNS}th of {SIZE} values)", "dim"))
    for line in lines:
        console.print(Text(f"  {line}", style), no_wrap=True, overflow="crop")


def _memory(story: Story, role: str, held: Sequence[object], forgets: Sequence[str], console: Console) -> None:
    who = f"client {story.shown}" if role == "client" else f"the {role}"
    console.print(Text.assemble("  ", (f"{who} now remembers", "dim"), "" if held else " nothing"))
    for value in held:
        parts = [shown(value).removeprefix(type(value).__name__).strip()] if _redacted(value) else _parts(value, story.scheme.flow)
        console.print(Padding(Text.assemble((type(value).__name__, "bold"), "  ", ", ".join(parts)), (0, 0, 0, 4)))
    if forgets:
        console.print(Padding(Text.assemble(("forgot ", "dim"), ", ".join(forgets)), (0, 0, 0, 4)))


def shown(value: object) -> str:
    """A remembered value by its type; secrets and bytes never by content."""
    if value is None or isinstance(value, bool | int):
        return "none" if value is None else str(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, tuple) and all(isinstance(item, int) for item in value):
        return "{" + ", ".join(map(str, value)) + "}"
    if isinstance(value, Mapping):
        return f"{len(value)} × {shown(next(iter(value.values())))}" if value else "none"
    return type(value).__name__ + (" [redacted]" if _redacted(value) else "")


def _redacted(value: object) -> bool:
    """Whether a value hides something of its own, not only in a part of it."""
    text = repr(value)
    return text.endswith("[redacted])") and text.count("(") == 1


def _parts(value: object, flow: Flow) -> list[str]:
    """Fields of a state; those of a state inside it under their own names."""
    states = {port.type for s in flow.steps for port in (*s.takes, *s.gives) if port.carrier == "value"}
    out = list[str]()
    for f in fields(value) if is_dataclass(value) else ():
        inner = getattr(value, f.name)
        out += _parts(inner, flow) if type(inner) in states else [f"{f.name}: {shown(inner)}"]
    return out


def _end(story: Story, console: Console) -> None:
    up, down = (
        sum(size for _, sender, to, size in story.outcome.traffic if client(story.shown) == (sender if out else to))
        for out in (True, False)
    )
    least = story.parameters.ring.packed_size(SIZE + 1)
    console.print(Text(f"\nclient {story.shown} sent {up} bytes and got {down}; its vector alone has {least}.", "dim"))
