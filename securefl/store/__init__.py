"""What a server remembers: runs, rounds and attempts in SQL, models as files.

A party's own ledger of ε is `securefl.privacy.store`; nothing here is a party's secret, and no key is kept.
"""

from securefl.store.checkpoints import Checkpoint, Checkpoints
from securefl.store.held import Fates, HeldRun, Past, Progress
from securefl.store.runs import RunStore
from securefl.store.shelf import Shelf, Shelved
from securefl.store.stages import Attempt, HeldStage, SoFar

__all__ = [
    "Attempt",
    "Checkpoint",
    "Checkpoints",
    "Fates",
    "HeldRun",
    "HeldStage",
    "Past",
    "Progress",
    "RunStore",
    "Shelf",
    "Shelved",
    "SoFar",
]
