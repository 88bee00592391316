"""A server's tape against the parties' own logs: each difference, and who it names.

What a difference proves rests on signatures alone:

* A message on the tape that the party signed, over the sets that the tape says it was told, is the party's.  A log that has another
  one, or other sets, or in whose midst it is missing, is false: the party is named.
* The tape is false where the server went on with what its sender did not sign (`tape-signature`), or with what never came
  (`tape-sets`); the server is named there, logs or not.
* What no signature covers differs without a culprit: what the server said, sealed boxes, a farewell, and a message that is on one
  side alone, which may have been lost on its way.  In particular a party that signed what its log says and not what the tape says
  may have been told so, or not.

What it does not protect: a party and a server who lie together agree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import combinations
from pathlib import Path

from protocols.said import Said
from protocols.schema import Message
from protocols.statements import SETS, STAGE, statement
from securefl.audit.chain import Line
from securefl.audit.findings import Findings
from securefl.audit.log_evidence import collide, contradicts, line_against_message, two_lines
from securefl.audit.log_file import LogFile, LoggedSum, read_log
from securefl.audit.seen import a
from securefl.audit.sitting import Entry, Walk
from securefl.audit.tape_audit import TapeAudit

CHECKS = {
    "log-roster": "each log is of a party of the tape's roster",
    "log-signature": "every line of a log is signed by its party",
    "log-chain": "each line of a log holds the hash of the one before",
    "log-seal": "each log is whole to its end",
    "log-fork": "no party keeps two logs that differ",
    "log-session": "tape and logs have the same sums",
    "log-sent": "what a party says that it sent is what the tape has of it",
    "log-told": "what a party says that it was told is what the tape has for it",
}
"""The checks, in the order in which they are shown."""
UNSAID = "who is right cannot be said"


def reconcile(audit: TapeAudit, paths: Iterable[Path]) -> list[LogFile]:
    """Hold logs against a tape that was read with ``keep``; what is found joins the tape's findings.

    Raises:
        Unreadable: naming the first line of a log that is none.
        OSError: where one cannot be read.
    """
    if audit.roster is None:
        return []
    audit.findings.doubtful = audit.headless
    read = [read_log(path, audit.roster, audit.findings) for path in paths]
    logs = [log for log in read if log is not None]
    for one, other in combinations(logs, 2):
        _forked(audit, one, other)
    for log in logs:
        _Against(audit, log, {sid for other in logs if other is not log and other.party == log.party for sid in other.sums}).all()
    audit.findings.doubtful = False
    return logs


def _forked(audit: TapeAudit, one: LogFile, other: LogFile) -> None:
    """Two logs of one party."""
    f = audit.findings
    if one.party != other.party:
        return
    f.looked("log-fork")
    pairs = [(line, other.lines[at]) for at, line in one.lines.items() if at in other.lines]
    for sid in one.sums.keys() & other.sums.keys():
        for mine, its in ((one.sums[sid].sent, other.sums[sid].sent), (one.sums[sid].told, other.sums[sid].told)):
            pairs += [(mine[key], its[key]) for key in mine.keys() & its.keys()]
    for line, second in pairs:
        what = collide(line.tree, second.tree)
        if what and audit.walks:
            walk = next((audit.walks[sid] for sid in one.sums if sid in audit.walks), next(iter(audit.walks.values())))
            evidence = two_lines(one.party, line, second)
            f.convict("log-fork", line.number, f"client {one.party} signed {what}", evidence, walk.sum, file=one.path.name)
            return


class _Against:
    """One log against the tape."""

    def __init__(self, audit: TapeAudit, log: LogFile, elsewhere: Collection[bytes]) -> None:
        self.audit, self.log, self.u, self.f, self.elsewhere = audit, log, log.party, audit.findings, elsewhere

    def all(self) -> None:
        """Every sum of either."""
        for sid, walk in self.audit.walks.items():
            self.f.looked("log-session")
            self.f.doubtful = walk.doubtful
            logged = self.log.sums.get(sid)
            if logged is None or _refused(logged):
                if sid not in self.elsewhere:
                    self._left_out(walk)
            else:
                self._sent(walk, logged)
                self._told(walk, logged)
        self.f.doubtful = self.audit.doubtful
        for sid, logged in self.log.sums.items():
            if sid not in self.audit.walks:
                detail = f"{_named(logged.at)} is not on the tape, or is there with other terms or another model; {UNSAID}"
                self._report("log-session", "open" if logged.order else "noted", logged.line, detail)

    def _report(self, check: str, status: str, line: int, detail: str) -> None:
        self.f.report(check, status, line, f"client {self.u}: {detail}", file=self.log.path.name)  # type: ignore[arg-type]

    def _name(self, check: str, line: Line, detail: str, said: Said, walk: Walk) -> None:
        """The party is named: a line of its log and what it signed cannot both be true."""
        evidence = line_against_message(self.u, line, said, self._masked(walk))
        self.f.convict(check, line.number, f"client {self.u}: {detail}", evidence, walk.sum, file=self.log.path.name)

    def _masked(self, walk: Walk) -> Said | None:
        """What it signed with its masked vector on the tape."""
        return next((entry.said for entry in self._signed(walk) if STAGE.get(entry.kind) == 2), None)

    def _signed(self, walk: Walk) -> list[Entry]:
        """What it signed on the tape, in order."""
        return [entry for (u, _), entry in walk.entries.items() if u == self.u and entry.signed]

    # Sums

    def _left_out(self, walk: Walk) -> None:
        o, signed = walk.terms.occasion, self._signed(walk)
        where = f"its log lacks {_named((o.run, o.round, o.attempt))}"
        if not signed:
            if any(u == self.u for u, _, _ in walk.turns.served):
                self._report("log-session", "noted", 0, f"{where}, in which it signed nothing")
        elif self._in_the_midst(o.run, (o.round, o.attempt)):
            self._report(
                "log-session", "named", 0, f"{where}, in which it signed line {signed[0].line} of the tape; its log is false"
            )
        else:
            self._report("log-session", "open", 0, f"{where}, and may be in another log of the party; {UNSAID}")

    def _in_the_midst(self, run: str, at: tuple[int, int]) -> bool:
        """Whether the log has sums of the run before and after: a party that starts anew begins another log, maybe gone."""
        known = [s.at[1:] for s in self.log.sums.values() if s.at[0] == run]
        return bool(known) and min(known) < at < max(known)

    # What it sent

    def _sent(self, walk: Walk, logged: LoggedSum) -> None:
        for (u, kind), entry in walk.entries.items():
            if u == self.u:
                self.f.looked("log-sent")
                self._one_sent(walk, logged, kind, entry)
        known = {kind.__name__ for u, kind in walk.entries if u == self.u} | walk.farewells(self.u)
        for (name, _), line in logged.sent.items():
            if name not in known:
                detail = f"its {name} is not on the tape: lost on its way, or left out there; {UNSAID}"
                self._report("log-sent", "open", line.number, detail)

    def _one_sent(self, walk: Walk, logged: LoggedSum, kind: type[Message], entry: Entry) -> None:
        name, line = kind.__name__, logged.sent.get((kind.__name__, 0))
        if line is None:
            if not entry.signed:
                detail = f"{a(name)} in line {entry.line} of the tape that it did not sign, and that its log lacks; {UNSAID}"
                self._report("log-sent", "open", logged.line, detail)
            elif self.log.complete(logged.last) or any(self._answers(walk, kind, later) for _, later in logged.order):
                detail = f"its log lacks the {name} that it signed in line {entry.line} of the tape; its log is false"
                self._report("log-sent", "named", logged.line, detail)
            else:
                detail = f"its log ends before the {name} that it signed in line {entry.line} of the tape; {UNSAID}"
                self._report("log-sent", "open", logged.last, detail)
            return
        if (line.tree["control"], line.tree["vectors"]) == entry.print:
            return
        where = f"its {name} is another one in line {entry.line} of the tape"
        if entry.signed and entry.said is not None and contradicts(line.tree, entry.said, walk.terms):
            self._name("log-sent", line, f"{where}, and that it signed", entry.said, walk)
        elif entry.signed:
            self._report("log-sent", "open", line.number, f"{where}, in what no signature covers; {UNSAID}")
        else:
            self._report(
                "log-sent", "open", line.number, f"{where}, which it did not sign: changed on its way, or on the tape; {UNSAID}"
            )

    def _answers(self, walk: Walk, kind: type[Message], line: Line) -> bool:
        """Whether a line is about a later round than a message of that kind."""
        known = {**walk.up, **walk.down}.get(line.tree["type"])
        stage = STAGE.get(known, SETS.get(known, -1)) if known is not None else -1
        return stage > STAGE.get(kind, 99) or (stage == STAGE.get(kind) and known in SETS)

    # What it was told

    def _told(self, walk: Walk, logged: LoggedSum) -> None:
        served = {(name, epoch): at for (u, name, epoch), at in walk.turns.served.items() if u == self.u}
        for key, (number, mark) in served.items():
            self.f.looked("log-told")
            line = logged.told.get(key)
            if line is None:
                self._untold(walk, logged, key[0], number)
            elif (line.tree["control"], line.tree["vectors"]) != mark:
                self._told_other(walk, logged, key[0], number, line)
        firsts = {line.number for line in logged.told.values()}
        for key, line in logged.received():
            if key not in served or line.number not in firsts:
                detail = f"it says that it was told {a(key[0])} that the tape has not; {UNSAID}, as the server signs nothing"
                self._report("log-told", "open", line.number, detail)

    def _untold(self, walk: Walk, logged: LoggedSum, name: str, number: int) -> None:
        later = [line for sent, line in logged.order if sent and self._needs(walk, line.tree["type"], name)]
        if any(known == name for known, _ in logged.told):
            self._report(
                "log-told", "open", logged.last, f"it was told one {name}, and the tape has another in line {number}; {UNSAID}"
            )
        elif later:
            detail = f"its log lacks the {name} of line {number} of the tape, and has what it answered to it; its log is false"
            self._report("log-told", "named", later[0].number, detail)
        else:
            self._report(
                "log-told", "noted", logged.last, f"the {name} of line {number} of the tape did not reach it, or it says so"
            )

    def _needs(self, walk: Walk, sent: str, told: str) -> bool:
        kind, answered = walk.up.get(sent), walk.down.get(told)
        return kind is not None and answered is not None and answered in walk.needs.get(kind, ())

    def _told_other(self, walk: Walk, logged: LoggedSum, name: str, number: int, line: Line) -> None:
        where = f"it says that it was told another {name} than line {number} of the tape has"
        for entry in self._signed(walk):
            if entry.said is not None and contradicts(line.tree, entry.said, walk.terms, self._masked(walk)):
                self._name("log-told", line, f"{where}, and signed line {entry.line} over what the tape has", entry.said, walk)
                return
        view = logged.view()
        for (u, kind), entry in walk.entries.items():
            said = None if u != self.u or entry.signed else statement(walk.terms, u, view, kind, entry.fields, entry.digests)
            if said is not None and Said(said, entry.fields["signature"]).holds(walk.terms.roster.identity(u)):
                detail = f"{where}, and signed line {entry.line} over what its log has: it was told so, or says so; {UNSAID}"
                self._report("log-told", "open", line.number, detail)
                return
        self._report("log-told", "open", line.number, f"{where}; {UNSAID}, as the server signs nothing")


def _refused(logged: LoggedSum) -> bool:
    """Whether the party left before it signed anything, as from a sum that is proposed to it again."""
    names = {name for name, _ in logged.sent}
    return "Farewell" in names and not any(line.tree["statement"] for line in logged.sent.values())


def _named(at: tuple[str, int, int]) -> str:
    return f"round {at[1]}, attempt {at[2]} of {at[0]}"


def checks_of(findings: Findings) -> dict[str, str]:
    """The checks of logs, where there were any."""
    return CHECKS if findings.applied["log-roster"] else {}
