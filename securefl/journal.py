"""A party's journal on its disk: what it has joined and spent, written before anything leaves.

The file is held by one process at a time.  It is written anew beside the old one, flushed and renamed, so a crash leaves one or the
other; a session whose entry may be lost has sent nothing.

What it does not protect: whoever puts an old copy back makes the party forget what came after it.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Self

from protocols.policy import MemoryJournal
from protocols.suite import Occasion
from securefl import files
from securefl.errors import UserError

FORMAT = "securefl journal 1"


class FileJournal:
    """A `protocols.policy.Journal` in a file.

    Args:
        path: the file; made where there is none.

    Raises:
        UserError: where another process of this party has it, or it is damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UserError(f"the journal {path} is in use: another process of this party takes part") from None
        except OSError as error:
            raise UserError(f"the journal {path} cannot be used: {error.strerror or error}") from None
        try:
            self._memory = self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> MemoryJournal:
        if not self._path.exists():
            return MemoryJournal()
        try:
            tree = json.loads(self._path.read_bytes())
            joined = {str(run): (int(at[0]), int(at[1])) for run, at in tree["joined"].items()}
            spent = {str(run): int(number) for run, number in tree["spent"].items()}
            known = tree["format"] == FORMAT
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            known = False
        if not known:
            raise UserError(f"the journal {self._path} is damaged: without it nobody knows what this party has sent")
        return MemoryJournal(joined, spent)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def join(self, occasion: Occasion) -> None:
        """As `MemoryJournal.join`, on the disk when it returns."""
        self._memory.join(occasion)
        self._write()

    def spend(self, occasion: Occasion) -> None:
        """As `MemoryJournal.spend`, on the disk when it returns."""
        self._memory.spend(occasion)
        self._write()

    def _write(self) -> None:
        tree = {"format": FORMAT, "joined": self._memory.joined, "spent": self._memory.spent}
        files.atomic_write(self._path, (json.dumps(tree, indent=1) + "\n").encode())
        files.sync_folder(self._path.parent)
