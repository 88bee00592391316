"""What a run leaves behind for later audits: the server's tape, each party's log, and evidence where a party was named.

    with Recording(tape=Path("run.tape"), logs=Path("logs")) as recording:
        Runner(model, data, recording=recording).run()

What happens is told by `protocols.simulate`'s ``watch``; a driver of one's own tells it the same way, or records one party's
session (`securefl.audit.recorded.Recorded`).  Nothing here reads a party's state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from protocols.errors import Misuse, Refused
from protocols.session import SERVER, Address, Letter
from protocols.simulate import Outcome
from protocols.suite import Terms
from protocols.sums import Party, Scheme
from securefl import files
from securefl.audit.evidence import write_evidence
from securefl.audit.party_log import PartyLog, log_name
from securefl.audit.seen import Seen
from securefl.audit.tape import Tape
from securefl.errors import UserError


class Recording:
    """Writes a tape, logs and evidence, any of which may be left out.

    A context: where it ends well, tape and logs are sealed.  Where bad input ends it before training has begun (`keep`), what was
    written is removed; where anything else does, it stays as far as it came.

    Args:
        tape: a file that does not exist.
        logs: a folder for one log a party; none of those files may exist.
        evidence: a folder for what convicts a party; made when there is any.
        version: of the software, for the tape's header.

    Attributes:
        written: files, when all is over.
        unproven: where evidence is asked for, whom the server named without any, and by which check.
        convicted: files of evidence that were written.

    Raises:
        UserError: for a file or folder that cannot be written, before anything is.
    """

    def __init__(
        self, *, tape: Path | None = None, logs: Path | None = None, evidence: Path | None = None, version: str = ""
    ) -> None:
        if tape is not None:
            _check_new(tape, "--tape")
        for folder in (logs, evidence):
            if folder is not None:
                files.check_folder(folder)
        self.written: list[Path] = []
        self.unproven: list[str] = []
        self.convicted = 0
        self._tape_path, self._folder, self._evidence, self._version = tape, logs, evidence, version
        self._tape: Tape | None = None
        self._logs: dict[int, PartyLog] = {}
        self._last: tuple[Letter, Seen, int] | None = None
        self._sum: tuple[Scheme, Terms[Any]] | None = None
        self._kept = False

    @property
    def watches(self) -> bool:
        """Whether deliveries are written down: without tape and logs a run need not tell of them."""
        return self._tape_path is not None or self._folder is not None

    @property
    def needed(self) -> bool:
        """Whether anything at all was asked for."""
        return self.watches or self._evidence is not None

    def begin(self, scheme: Scheme, terms: Terms[Any], parties: Iterable[Party]) -> None:
        """A sum begins."""
        self._sum, self._last = (scheme, terms), None
        if self._tape_path is not None:
            if self._tape is None:
                self._tape = Tape(self._tape_path, self._version)
            self._tape.begin(scheme, terms)
        if self._folder is not None:
            self._open_logs(self._folder, terms, parties)
        for log in self._logs.values():
            log.begin(scheme, terms)

    def _open_logs(self, folder: Path, terms: Terms[Any], parties: Iterable[Party]) -> None:
        missing = [party for party in parties if party.index not in self._logs]
        paths = {party.index: folder / log_name(party.index, terms.roster.name(party.index)) for party in missing}
        for path in paths.values():
            _check_new(path, "--logs")
        folder.mkdir(parents=True, exist_ok=True)
        for party in missing:
            self._logs[party.index] = PartyLog(paths[party.index], party.index, party.identity, terms.roster)

    def watch(self, letter: Letter, to: Address, _size: int) -> None:
        """One delivery; of a letter to many the tape has one line."""
        if self._last is not None and self._last[0] is letter and self._last[2]:
            seen, left = self._last[1], self._last[2]
        else:
            seen, left = Seen.of(letter), len(letter.to)
            if self._tape is not None:
                self._tape.message(seen)
            if letter.sender.role == "client" and letter.sender.index in self._logs:
                self._logs[letter.sender.index].sent(seen)
        if to.role == "client" and to.index in self._logs:
            self._logs[to.index].was_told(seen)
        self._last = letter, seen, left - 1

    def end(self, outcome: Outcome, contributors: int | None) -> None:
        """The sum has ended: over so many, or for the outcome's reason."""
        server = outcome.sessions[SERVER]
        faults = [*server.faults, *(server.ended.faults if server.ended is not None else ())]
        if self._tape is not None:
            self._tape.end(contributors, outcome.abort, unique(faults))
        for index, log in self._logs.items():
            session = outcome.sessions.get(Address("client", index))
            log.end(None if session is None else session.ended)
        self._convict(faults)

    def _convict(self, faults: Iterable[Refused]) -> None:
        found = [fault.evidence for fault in faults if fault.evidence is not None]
        named = {f"{fault.sender}: {fault.check}, not provable" for fault in faults if fault.evidence is None and fault.sender}
        self.unproven += [] if self._evidence is None else sorted(named)
        if self._evidence is not None and self._sum is not None and found:
            files_of = write_evidence(self._evidence, [(evidence, *self._sum) for evidence in found])
            self.written += files_of
            self.convicted += len(files_of)

    @property
    def verdict(self) -> str:
        """What became of the evidence that was asked for, in one line; empty where a file says it, or none was asked for."""
        if self._evidence is None or self.convicted:
            return ""
        why = "what the server named somebody for is not provable" if self.unproven else "the server accused nobody"
        return f"no evidence: {why}, so nothing was written into {self._evidence}"

    def keep(self) -> None:
        """From now on what was written stays, whatever happens."""
        self._kept = True

    def close(self) -> list[Path]:
        """Seal what was written; its files."""
        if self._tape is not None:
            self._tape.seal()
            self.written.append(self._tape.chain.path)
        for log in self._logs.values():
            log.seal()
            self.written.append(log.chain.path)
        return self.written

    @property
    def left(self) -> list[Path]:
        """Files that stay behind where the run was broken off."""
        chains = [log.chain for log in self._logs.values()] + ([] if self._tape is None else [self._tape.chain])
        return [chain.path for chain in chains if chain.path.exists()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        chains = [log.chain for log in self._logs.values()] + ([] if self._tape is None else [self._tape.chain])
        if kind is None:
            self.close()
        elif issubclass(kind, UserError | Misuse) and not self._kept:
            for chain in chains:
                chain.discard()
        else:
            for chain in chains:
                chain.close()


def unique(faults: Iterable[Refused]) -> list[Refused]:
    """Each fault once: an abort repeats those that its step found."""
    known: Mapping[tuple[str | None, str, str | None], Refused] = {(f.sender, f.check, f.step): f for f in faults}
    return list(known.values())


def _check_new(path: Path, option: str) -> None:
    if path.exists() or path.is_symlink():
        raise UserError(f"{option}: {path} exists, and what was recorded is never written over: name another, or remove it")
    if option == "--tape":
        if not path.parent.is_dir():
            raise UserError(f"{option}: {path} cannot be written: there is no folder {path.parent}")
        files.check_folder(path.parent)
