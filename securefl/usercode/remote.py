"""A job's model and trainer that run in a child, in the places of a model and a trainer that run here.

`trainer_of` gives both.  The model is a shell: names, shapes and values of parameters, and no layer.  The trainer hands rows of a
batch to the child and takes back an update (``none``, ``distributed-party``), or one gradient a record (``local-record``,
``distributed-record``, ``central``).  Sampling of records, clipping, noise, encoding and masking happen here, around what comes
back, as around any trainer: code in the child cannot skip them.

What it does not protect: an ε whose unit is a record holds for code that computes a record's gradient from that record alone.
Malicious code sees a batch, remembers those before it, and can write any record into the gradients of others: each is clipped, but
all of them may change when one record does.  The question of `securefl.privacy.mixing` is put to the child (``code-mixing``);
that finds mistakes, not malice.  The ε of ``distributed-party`` holds for any code, as what is clipped is the whole update.  A
child that fails on purpose tells one bit in each round: that its party dropped out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from securefl.encode import all_finite
from securefl.errors import UserError
from securefl.models import from_vector, to_vector
from securefl.privacy.batches import count_rows, in_blocks, take
from securefl.privacy.mixing import TRIED
from securefl.privacy.per_record import PerRecord
from securefl.privacy.plain import LocalTraining, PlainTraining
from securefl.trainer import ClientTrainer
from securefl.usercode.frames import fault
from securefl.usercode.isolation import Isolation
from securefl.usercode.process import Child
from securefl.usercode.shell import Shapes, of_file, shell_of, told

AT_ONCE = 1 << 24
"""Values of gradients that come in one answer."""
ALIKE = 1e-3
"""Largest distance of a record's gradient in a batch from that of the record alone, as a share of the longest."""
BY_RECORD = ("train", "optimizer", "on_before_training", "on_after_training")
"""What a trainer must leave as it is where one gradient a record comes back: the party's own code does it."""
METRICS = ("evaluate", "sums", "read")
"""What a trainer in a child must leave as it is: metrics are counted here, from scores."""


@dataclass(eq=False)
class Code:
    """A job's code and its children: one for training, one for held-out rows, so that the latter never sees a training row.

    Attributes:
        files: texts by name.
        entry: ``module:function``, which returns a torch module, or one and a `ClientTrainer`.
        isolation: the walls.
        learning_rate: of the trainer.
        initial: the model at the start as `model_file` writes it; without, a child is asked.
    """

    files: Mapping[str, str]
    entry: str
    isolation: Isolation
    learning_rate: float
    initial: bytes | None = None
    _children: dict[str, Child] = field(default_factory=dict)
    _shapes: Shapes | None = None

    def __post_init__(self) -> None:
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not name.isprintable() or "\\" in name:
                raise UserError(f"a file of the job's code is named {name!r}: a relative path is allowed")
        module, _, function = self.entry.partition(":")
        if not (all(part.isidentifier() for part in module.split(".")) and function.isidentifier()):
            raise UserError(f"the entry of the job's code is {self.entry!r}: module:function is allowed")

    def child(self, what: str) -> Child:
        """The child for one kind of rows, started; its parameters are the model's.

        Raises:
            CodeFault: ``code-parameters`` where they are not.
        """
        if what not in self._children:
            start = {"files": dict(self.files), "entry": self.entry, "learning_rate": self.learning_rate}
            self._children[what] = Child(start, self.isolation)
        child = self._children[what]
        child.start()
        found = told(child.facts)
        if self._shapes is None:
            self._shapes = found
        if list(found) != list(self._shapes):
            child.end()
            raise fault("code-parameters", "the code has other parameters than its model file, or than it had before")
        return child

    def template(self) -> nn.Module:
        """The model at the start, as a shell."""
        if self.initial is not None:
            self._shapes, vector = of_file(self.initial)
            shell = shell_of(self._shapes)
        else:
            asked = self.child("training")
            shell = shell_of(told(asked.facts))
            vector = asked.ask("initial", {}, {}, {"vector": ("float32", to_vector(shell).shape)})["vector"]
            _refuse_not_finite(vector, "the model at the start")
        from_vector(shell, vector)
        return shell

    def close(self) -> None:
        """End the children."""
        while self._children:
            self._children.popitem()[1].close()


class RemoteTrainer(ClientTrainer):
    """Trains and scores in children.

    Args:
        code: the job's.
    """

    def __init__(self, code: Code) -> None:
        super().__init__(learning_rate=code.learning_rate)
        self._code, self._tried = code, False

    def __deepcopy__(self, memo: dict[int, Any]) -> RemoteTrainer:
        """A trainer with the same children: there is one pair for a run."""
        new = copy.copy(self)
        new.metrics = copy.deepcopy(self.metrics, memo)
        return new

    def close(self) -> None:
        """End the children."""
        self._code.close()

    def check(self, *, by_record: bool) -> None:
        """Start the code: what does not fit the job is refused before anything leaves.

        Args:
            by_record: whether one gradient a record will be asked for.

        Raises:
            UserError: for methods of its own that the party's code takes the place of.
            CodeFault: where it fails at once, or has other parameters than the model.
        """
        self._child("training", (*METRICS, *(BY_RECORD if by_record else ())))

    def train(self, model: nn.Module, data: Dataset[Any], training: LocalTraining, steps: int) -> None:
        """As `ClientTrainer.train`, with what is the job's code in the child.

        Raises:
            CodeFault: what the child did wrong; nothing of it is in the model then.
        """
        if isinstance(training, PerRecord):
            self._by_record(model, data, training, steps)
        elif isinstance(training, PlainTraining):
            self._whole(model, data, training, steps)
        else:
            raise UserError(f"a job's code in a child does not train with {type(training).__name__}")

    def scores(self, model: nn.Module, data: Dataset[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """As `ClientTrainer.scores`; the child sees features alone.

        Raises:
            CodeFault: what the child did wrong; ``code-score`` for a score that is none.
        """
        child, vector = self._child("held-out", METRICS), to_vector(model)
        scores, labels = [np.empty(0)], [np.empty(0, dtype=np.int64)]
        for _, (x, y) in in_blocks(data):
            arrays = {"vector": vector, "x": x.numpy(force=True)}
            found = child.ask("scores", {}, arrays, {"scores": ("float64", (len(x),))})["scores"]
            if not ((found >= 0) & (found <= 1)).all():
                raise fault("code-score", "a score of the job's code is no probability")
            scores.append(found)
            labels.append(y.reshape(-1).long().numpy(force=True))
        return np.concatenate(scores), np.concatenate(labels)

    def _child(self, what: str, refused: Sequence[str]) -> Child:
        child = self._code.child(what)
        said = child.facts.get("own")
        own = [name for name in refused if isinstance(said, list) and name in said]
        if own:
            raise UserError(f"the job's trainer has {', '.join(own)} of its own: in a child it must be ClientTrainer's")
        return child

    def _whole(self, model: nn.Module, data: Dataset[Any], training: PlainTraining, steps: int) -> None:
        child = self._child("training", METRICS)
        x, y = self._rows(data)
        start = to_vector(model)
        asked = {"steps": steps, "rate": training.sample_rate}
        found = child.ask("train", asked, {"vector": start, "x": x, "y": y}, {"vector": ("float32", start.shape)})["vector"]
        _refuse_not_finite(found, "the update")
        from_vector(model, found)

    def _by_record(self, model: nn.Module, data: Dataset[Any], training: PerRecord, steps: int) -> None:
        self.check(by_record=True)
        child = self._code.child("training")
        if not self._tried and count_rows(data) > 1:
            _refuse_mixing(child, to_vector(model), *self._rows(data, TRIED))
            self._tried = True
        own = [p for p in model.parameters() if p.requires_grad]
        step = torch.optim.SGD(own, lr=self.learning_rate)
        with training.private(model, step, data, steps) as (_, optimizer, batches):
            for x, y in batches:
                optimizer.zero_grad()
                each = _gradients(child, to_vector(model), x.numpy(force=True), y.numpy(force=True))
                parts = torch.split(torch.from_numpy(each), [p.numel() for p in own], dim=1)
                for parameter, part in zip(own, parts, strict=True):
                    parameter.grad_sample = part.reshape(len(x), *parameter.shape).to(parameter.dtype)  # type: ignore[attr-defined]
                optimizer.step()

    @staticmethod
    def _rows(data: Dataset[Any], most: int | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = count_rows(data)
        x, y = take(data, np.arange(rows if most is None else min(rows, most)))
        return x.numpy(force=True), y.numpy(force=True)


def trainer_of(
    files: Mapping[str, str], entry: str, isolation: Isolation, *, learning_rate: float = 0.5, initial: bytes | None = None
) -> tuple[RemoteTrainer, nn.Module]:
    """A trainer and a model at the start that run a job's code in children.

    Args:
        files: the code, texts by name.
        entry: ``module:function``.
        isolation: the walls.
        learning_rate: of the trainer.
        initial: the model at the start; with it no code runs before a site trains, and none at a server.

    Raises:
        UserError: where there are no walls, or names are not allowed.
        CodeFault: where the code fails at once.
    """
    code = Code(files, entry, isolation, learning_rate, initial)
    return RemoteTrainer(code), code.template()


def _refuse_not_finite(values: NDArray[Any], what: str) -> None:
    if not all_finite(values):
        raise fault("code-finite", f"{what} of the job's code has a value that is not finite")


def _gradients(child: Child, vector: NDArray[np.float32], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float32]:
    rows = max(1, AT_ONCE // vector.size)
    return np.concatenate([_asked(child, vector, x[at : at + rows], y[at : at + rows]) for at in range(0, len(x), rows)])


def _asked(child: Child, vector: NDArray[np.float32], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float32]:
    kind = ("float32", (len(x), vector.size))
    return child.ask("gradients", {}, {"vector": vector, "x": x, "y": y}, {"gradients": kind})["gradients"]


def _refuse_mixing(child: Child, vector: NDArray[np.float32], x: NDArray[Any], y: NDArray[Any]) -> None:
    """Hold the gradients of some records in one batch to those of each alone: a mistake is found, malice need not be.

    The weights are moved a little, as zeros hide what depends on them.
    """
    vector = (vector + 0.1 * np.sin(np.arange(1, vector.size + 1))).astype(np.float32)
    together = _asked(child, vector, x, y)
    alone = np.concatenate([_asked(child, vector, x[at : at + 1], y[at : at + 1]) for at in range(len(x))])
    longest = float(np.max(np.linalg.norm(alone, axis=1), initial=0.0))
    apart = float(np.max(np.linalg.norm(together - alone, axis=1), initial=0.0))
    if apart > ALIKE * longest:
        raise fault("code-mixing", "a record's gradient depends on the records beside it: ε of a record would not hold")
