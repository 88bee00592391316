"""From what became of a run to a verdict: whose sum came out, what the opened sums give away together, who noticed.

Inputs have a coordinate for each party (`securefl.audit.target.Target.federation`), so an opened sum says who is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from protocols import simulate
from protocols.flow import Flow
from protocols.session import SERVER, Session, client
from protocols.vector import Sum
from securefl.audit.cheating import CheatingServer
from securefl.audit.federation import Federation
from securefl.audit.target import PAYLOAD
from securefl.audit.verdict import Verdict, broken, harmless, unavailable

Run = tuple[Federation, simulate.Outcome]
_PRIME = 2**31 - 1


def members(fed: Federation, total: Sum) -> tuple[int, ...] | None:
    """Who is in an opened sum; None where it is not the sum over a set of parties, each once."""
    marks = total.values[PAYLOAD:].tolist()
    if len(marks) != len(fed.vectors) or set(marks) - {0, 1}:
        return None
    inside = tuple(u for u, mark in enumerate(marks, 1) if mark)
    exact = bool(inside) and total.values.tolist() == fed.sum(inside) and total.contributors == len(inside)
    return inside if exact else None


def judge(*runs: Run, why: str = "", finish: bool = False) -> Verdict:
    """What runs of one round come to, all with the same inputs; with ``finish`` one party that lies must not stop the others.

    Broken: a sum that is nobody's, one over fewer than the threshold, or sums from which fewer honest parties can be singled out
    than the parameters promise.  Else refused, by whoever noticed first; else harmless.
    """
    opened, fed = list[tuple[tuple[int, ...], Sum]](), runs[0][0]
    for total in (total for _, outcome in runs for total in outcome.outputs):
        inside = members(fed, total)
        if inside is None:
            return broken("a sum that is not the sum over a set of parties was taken for one", recovered=total.values)
        if len(inside) < fed.t:
            return broken(f"a sum over {len(inside)} was opened where {fed.t} are promised", recovered=total.values)
        opened.append((inside, total))
    if finish and not opened and len(fed.parties) > fed.t:
        return unavailable("what one party sent ended the round of all")
    heard = next(filter(None, (noticed(outcome) for _, outcome in runs)), None)
    exact = f"the sum over {len(opened[0][0])} of {len(fed.parties)} is exact" if opened else "nothing was opened"
    return singled_out(fed, opened) or heard or harmless(why or exact)


def singled_out(fed: Federation, opened: Sequence[tuple[tuple[int, ...], Sum]]) -> Verdict | None:
    """Whether two opened sums of the same inputs differ by fewer parties than the parameters promise to hide."""
    p = fed.terms.parameters
    for (one, first), (other, second) in combinations(opened, 2):
        for more, less, larger, smaller in ((one, other, first, second), (other, one, second, first)):
            alone = sorted(set(more) - set(less))
            if set(less) < set(more) and len(alone) < max(2, p.threshold - p.corrupt):
                names = " and ".join(f"client {u}" for u in alone)
                return broken(
                    f"two sums were opened that differ by {names}",
                    whose=names,
                    recovered=(larger.values - smaller.values)[:PAYLOAD],
                    true=fed.sum(alone)[:PAYLOAD],
                )
    return None


def noticed(outcome: simulate.Outcome) -> Verdict | None:
    """Who noticed first: the server, which expels the sender; a party, which leaves; or the server's end."""
    server = outcome.sessions.get(SERVER)
    for fault in server.faults if server is not None else ():
        step = fault.step or ""
        return Verdict("refused", f"sent by {fault.sender}", "server", step, round_of(outcome, "server", step), fault.check)
    for address, session in outcome.sessions.items():
        if address != SERVER and session.ended is not None:
            return _ended(session)
    if server is not None and server.ended is not None:
        return _ended(server)
    quiet = [s for a, s in outcome.sessions.items() if a != SERVER and s.faults]
    return None if not quiet else Verdict("refused", who=str(quiet[0].me), check=quiet[0].faults[0].check)


def _ended(session: Session) -> Verdict:
    end = session.ended
    if end is None:
        return harmless("the session has not ended")
    return Verdict(
        "refused", who=str(session.me), step=end.step or "", round=_round(session.flow, session.me.role, end.step), check=end.check
    )


def round_of(outcome: simulate.Outcome, role: str, step: str) -> int | None:
    """Number of the round of a step."""
    return next((_round(s.flow, role, step) for s in outcome.sessions.values()), None)


def _round(flow: Flow, role: str, name: str | None) -> int | None:
    """A client's step belongs to the round of the message that it sends, a server's to that of the one it takes."""
    sent, steps = flow.messages("server"), flow.of(role)
    here = next((i for i, step in enumerate(steps) if step.name == name), None)
    if here is None:
        return None
    ports = [port for step in steps[here:] for port in (step.gives if role == "client" else step.takes)]
    kinds = [port.type for port in ports if port.type in sent]
    return sent.index(kinds[0]) if kinds else None


def stolen(
    server: CheatingServer, victim: int, found: Sequence[int], *, honest: Iterable[int] | None = None, why: str = ""
) -> Verdict:
    """The verdict on a cheating server that came out with ``found`` for the victim's input.

    Broken where it is the input; else refused by the first honest party that ended or noted something, else harmless.
    """
    return of_set(server, [victim], found, honest=honest, why=why)


def of_set(
    server: CheatingServer, victims: Sequence[int], found: Sequence[int], *, honest: Iterable[int] | None = None, why: str = ""
) -> Verdict:
    """As `stolen`, for the sum over parties whom nobody agreed to open."""
    true = server.fed.sum(victims)
    if found and list(found) == true:
        return broken(
            why or "the server computes it", whose=" and ".join(f"client {u}" for u in victims), recovered=found, true=true
        )
    return by_party(server, honest)


def by_party(server: CheatingServer, honest: Iterable[int] | None = None) -> Verdict:
    """Refused by the first honest party that ended or noted something, else harmless."""
    who = list(server.sessions if honest is None else honest)
    for u in who:
        session = server.sessions[u]
        if session.ended is not None:
            return _ended(session)
    for u in who:
        for fault in server.sessions[u].faults:
            return Verdict("refused", who=f"client {u}", step=fault.step or "", check=fault.check)
    return harmless("nothing that came opens an input")


def exposed(sets: Sequence[Iterable[int]], parties: Iterable[int]) -> tuple[int, ...]:
    """Parties whose input follows from exact sums over ``sets`` of inputs that do not change: unit vectors in the row space.

    Args:
        sets: who was in each sum.
        parties: all of them.
    """
    columns = {u: i for i, u in enumerate(parties)}
    rows = [[1 if u in inside else 0 for u in columns] for inside in map(set, sets)]
    reduced = _reduced(rows)
    return tuple(u for u, i in columns.items() if any(row[i] and sum(map(bool, row)) == 1 for row in reduced))


def _reduced(rows: list[list[int]]) -> list[list[int]]:
    """Reduced row echelon form over a prime field; a unit vector in the row space is a row of it."""
    matrix, at = [row[:] for row in rows], 0
    for column in range(len(matrix[0]) if matrix else 0):
        pivot = next((r for r in range(at, len(matrix)) if matrix[r][column]), None)
        if pivot is None:
            continue
        matrix[at], matrix[pivot] = matrix[pivot], matrix[at]
        inverse = pow(matrix[at][column], -1, _PRIME)
        matrix[at] = [value * inverse % _PRIME for value in matrix[at]]
        for r, row in enumerate(matrix):
            if r != at and row[column]:
                matrix[r] = [(a - row[column] * b) % _PRIME for a, b in zip(row, matrix[at], strict=True)]
        at += 1
    return matrix[:at]


def only(outcome: simulate.Outcome, parties: Iterable[int]) -> Mapping[int, Session]:
    """The sessions of some parties."""
    return {u: outcome.sessions[client(u)] for u in parties}
