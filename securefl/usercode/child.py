"""The program of the child: it runs a job's code on what comes through its standard input, and answers on its standard output.

It is started with nothing but these two, and starts nothing itself.  It is not trusted: whatever it answers, the party checks.

What it does not protect: everything; the walls are `securefl.usercode.isolation`'s.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from securefl.usercode.frames import Arrays, packed, read

if TYPE_CHECKING:
    import torch
    from torch import nn

    from securefl.trainer import ClientTrainer

LONGEST = 300
"""Letters of an error that are told."""
OWN = ("train", "optimizer", "evaluate", "sums", "read", "on_before_training", "on_after_training")

Answer = tuple[dict[str, Any], Arrays]


class Served:
    """A job's model and trainer, and what is asked of them."""

    def __init__(self) -> None:
        self.model: nn.Module | None = None
        self.trainer: ClientTrainer | None = None
        self.first: Arrays = {}

    def start(self, facts: dict[str, Any], _arrays: Arrays) -> Answer:
        """Load the code, and tell its parameters."""
        import torch  # noqa: PLC0415
        from torch import nn  # noqa: PLC0415

        from securefl.models import to_vector, trainable  # noqa: PLC0415
        from securefl.trainer import ClientTrainer  # noqa: PLC0415

        torch.set_num_threads(facts["threads"])
        folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
        for name, text in facts["files"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        sys.path.insert(0, str(folder))
        module, _, function = facts["entry"].partition(":")
        made = getattr(importlib.import_module(module), function)()
        model, trainer = made if isinstance(made, tuple) else (made, ClientTrainer())
        if not isinstance(model, nn.Module) or not isinstance(trainer, ClientTrainer):
            raise TypeError(f"{facts['entry']} must return a torch module, or one and a ClientTrainer")
        trainer.learning_rate = facts["learning_rate"]
        self.model, self.trainer, self.first = model, trainer, {"vector": to_vector(model)}
        own = [name for name in OWN if getattr(type(trainer), name) is not getattr(ClientTrainer, name)]
        wanted = {id(p) for p in trainable(model)}
        listed = [[name, list(p.shape)] for name, p in model.named_parameters() if id(p) in wanted]
        return {"parameters": listed, "own": own}, {}

    def initial(self, _facts: dict[str, Any], _arrays: Arrays) -> Answer:
        """The parameters as they were at the start."""
        return {}, self.first

    def train(self, facts: dict[str, Any], arrays: Arrays) -> Answer:
        """The trainer's own training, without anything around it."""
        from torch.utils.data import TensorDataset  # noqa: PLC0415

        from securefl.models import to_vector  # noqa: PLC0415
        from securefl.privacy.plain import PlainTraining  # noqa: PLC0415

        trainer, model = self._trainer(), self._model(arrays)
        data = TensorDataset(_tensor(arrays["x"]), _tensor(arrays["y"]))
        trainer.on_before_training(model, data)
        trainer.train(model, data, PlainTraining(sample_rate=facts["rate"]), facts["steps"])
        trainer.on_after_training(model, data)
        return {}, {"vector": to_vector(model)}

    def gradients(self, _facts: dict[str, Any], arrays: Arrays) -> Answer:
        """The gradient of every record's loss."""
        import numpy as np  # noqa: PLC0415
        from opacus import GradSampleModule  # noqa: PLC0415

        from protocols.rand import fresh  # noqa: PLC0415
        from securefl.models import trainable  # noqa: PLC0415
        from securefl.privacy.draws import secret_draws  # noqa: PLC0415
        from securefl.privacy.trials import refuse_operations, refuse_packed  # noqa: PLC0415

        trainer, model = self._trainer(), self._model(arrays).train()
        model.zero_grad(set_to_none=True)
        wrapped = GradSampleModule(model, loss_reduction="mean")
        try:
            with secret_draws(fresh()), refuse_packed(model):
                loss = trainer.loss(wrapped(_tensor(arrays["x"])), _tensor(arrays["y"]))
                refuse_operations(model, loss)
                loss.backward()  # type: ignore[no-untyped-call]
            rows = len(arrays["x"])
            each = [_sample(p, rows).detach().float().reshape(rows, -1).numpy() for p in trainable(model)]
        finally:
            wrapped.to_standard_module()
        return {}, {"gradients": np.concatenate(each, axis=1)}

    def scores(self, _facts: dict[str, Any], arrays: Arrays) -> Answer:
        """The probability of class 1 of every row."""
        import torch  # noqa: PLC0415
        from torch.utils.data import TensorDataset  # noqa: PLC0415

        rows = TensorDataset(_tensor(arrays["x"]), torch.zeros(len(arrays["x"])))
        return {}, {"scores": self._trainer().scores(self._model(arrays), rows)[0]}

    def _trainer(self) -> ClientTrainer:
        if self.trainer is None:
            raise RuntimeError("nothing was started")
        return self.trainer

    def _model(self, arrays: Arrays) -> nn.Module:
        from securefl.models import from_vector  # noqa: PLC0415

        if self.model is None:
            raise RuntimeError("nothing was started")
        from_vector(self.model, arrays["vector"])
        return self.model


def _tensor(values: Any) -> torch.Tensor:
    import torch  # noqa: PLC0415

    return torch.tensor(values)  # a copy that lies as torch's own do: how a value is rounded may depend on that


def _sample(parameter: Any, rows: int) -> torch.Tensor:
    found: torch.Tensor = (
        parameter.grad_sample if parameter.grad_sample is not None else parameter.new_zeros((rows, *parameter.shape))
    )
    return found


def _serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    def take(count: int) -> bytearray:
        found, at = bytearray(count), 0
        while at < count:
            got = incoming.readinto(memoryview(found)[at:])  # type: ignore[attr-defined]
            if not got:
                sys.exit(0)  # the party is done
            at += got
        return found

    served = Served()
    asked: dict[str, Callable[[dict[str, Any], Arrays], Answer]] = {
        name: getattr(served, name) for name in ("start", "initial", "train", "gradients", "scores")
    }
    while True:
        facts, arrays = read(take, lambda _facts: None)
        try:
            answer = asked[facts.pop("ask")](facts, arrays)
        except Exception as error:  # noqa: BLE001  (the job's code)
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST]}, {}
        outgoing.writelines(packed(*answer))
        outgoing.flush()


def main() -> None:
    """Take standard input and output for the frames, and leave nothing in their places; say that the walls stand."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    outgoing.write(b"".join(packed({"ready": True}, {})))
    outgoing.flush()
    _serve(incoming, outgoing)


if __name__ == "__main__":
    main()
