"""Small models, data and the training loop that the tests of `securefl.privacy` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.utils.data import Dataset, TensorDataset

from protocols.rand import Replay
from securefl.privacy.dpsgd import LocalRecordDP
from securefl.privacy.noise import gaussian
from securefl.privacy.plain import LocalTraining

TINY = 1e-12


DELTA = 1e-5


def table(rows: int, features: int = 3) -> TensorDataset:
    x = gaussian(Replay(f"table {rows}")(), "x", (rows, features), 2.0)
    return TensorDataset(x, (x[:, :1] > 0).float())


def account(**change: Any) -> LocalRecordDP:
    knobs: dict[str, Any] = {
        "noise_multiplier": 1.5,
        "sample_rate": 0.5,
        "clip": 1.0,
        "delta": DELTA,
        "accountant": "rdp",
        "planned_steps": 1000,
        "entropy": Replay("dp"),
    }
    return LocalRecordDP(**{**knobs, **change})


def fit(
    training: LocalTraining,
    model: nn.Module,
    data: Dataset[Any],
    steps: int,
    *,
    rate: float = 1.0,
    seen: Callable[[torch.Tensor, torch.Tensor], object] = lambda _x, _y: None,
) -> None:
    sgd = torch.optim.SGD(model.parameters(), lr=rate)
    with training.private(model, sgd, data, steps) as (wrapped, optimizer, batches):
        for x, y in batches:
            seen(x, y)
            optimizer.zero_grad()
            if len(x):
                bce(wrapped(x), y).backward()
            optimizer.step()


def logistic(features: int = 3) -> nn.Linear:
    model = nn.Linear(features, 1)
    nn.init.constant_(model.weight, 0.3)
    nn.init.zeros_(model.bias)
    return model


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def released(model: nn.Module, start: torch.Tensor) -> torch.Tensor:
    return start - flat(model)  # one SGD step at learning rate 1


class Tokens(nn.Module):
    """Sums a linear layer over words: its layer sees words, not records, in dimension 0."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.word(x.reshape(-1, 3)).reshape(len(x), 4).sum(1, keepdim=True)


class Scaled(nn.Module):
    """A parameter of its own, no layer of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.scale).sum(1, keepdim=True)


class Owning(nn.Module):
    """A parameter of its own beside layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner, self.outer = nn.Parameter(torch.tensor([0.5, -1.0, 2.0])), nn.Linear(3, 4), nn.Linear(4, 1)
        for number, layer in enumerate((self.inner, self.outer)):
            layer.weight.data = torch.linspace(-1, 1 + number, layer.weight.numel()).reshape(layer.weight.shape)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(x * self.scale)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.GroupNorm(1, 5), nn.Tanh(), nn.Linear(5, 1))


MODELS: dict[str, Callable[[], nn.Module]] = {"logistic": logistic, "mlp": mlp, "parameter": Scaled, "owning": Owning}


def assert_plain(model: nn.Module) -> None:
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not vars(parameter)
    for layer in model.modules():
        assert not layer._forward_hooks
        assert not layer._backward_hooks
        assert not {"activations", "max_batch_len", "ft_compute_sample_grad", "autograd_grad_sample_hooks"} & set(vars(layer))
