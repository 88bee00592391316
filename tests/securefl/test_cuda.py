"""Training and noise on a CUDA device: the same federation as on the processor, where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from made_sites import FEATURES, replayed, sites
from torch import nn
from torch.utils.data import TensorDataset

from securefl import Fold, Job, Runner
from securefl.models import initialise

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def on(device: str) -> dict[str, Fold]:
    """Sites whose rows lie on a device."""
    moved = {}
    for name, fold in sites().items():
        train: Any = fold.train
        moved[name] = Fold(TensorDataset(*(tensor.to(device) for tensor in train.tensors)), None)
    return moved


def trained(device: str, mechanism: str, protocol: str, rows: str | None = None) -> list[torch.Tensor]:
    """The parameters after three rounds, on the processor; ``rows`` says where the rows lie, if not with the model."""
    initialise(model := nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 1)), 3)
    job = Job.parse({"privacy": {"mechanism": mechanism, "protocol": protocol, "rounds": 3, "local_steps": 2, "sample_rate": 0.5}})
    runner = Runner(model.to(device), on(rows or device), job=job, entropy=replayed)
    runner.run()
    return [p.detach().cpu() for p in runner.final_models()[0].parameters()]


@needs_cuda
@pytest.mark.parametrize(("mechanism", "protocol"), [("none", "secagg"), ("local-record", "secagg"), ("local-record", "kahe")])
def test_training_and_noise_on_the_device_give_what_the_processor_gives(mechanism: str, protocol: str) -> None:
    """Noise comes from the same bytes on both; only the order of float additions differs."""
    for there, here in zip(trained("cuda", mechanism, protocol), trained("cpu", mechanism, protocol), strict=True):
        assert torch.isfinite(there).all()
        torch.testing.assert_close(there, here, rtol=1e-3, atol=2e-4)


@needs_cuda
def test_rows_that_lie_on_the_processor_are_brought_to_the_model() -> None:
    there, here = trained("cuda", "local-record", "secagg", rows="cpu"), trained("cuda", "local-record", "secagg")
    assert all(torch.equal(one, other) for one, other in zip(there, here, strict=True))


def test_without_a_device_the_same_federation_repeats_on_the_processor() -> None:
    one, other = trained("cpu", "local-record", "secagg"), trained("cpu", "local-record", "secagg")
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
