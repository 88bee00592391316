"""Copies of a module for each site and round: whatever `copy.deepcopy` gives, and nothing in common with the original."""

import copy

import pytest
import torch
from torch import nn

from securefl import modules
from securefl.modules import copier


class Counting(nn.Module):
    """Constants, a buffer that is not saved, a frozen parameter, an absent one."""

    def __init__(self):
        super().__init__()
        self.steps, self.shape, self.label = 3, (2, 4), "own"
        self.register_buffer("seen", torch.arange(4.0))
        self.register_buffer("hidden", torch.ones(2, dtype=torch.int64), persistent=False)
        self.scale = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
        self.register_parameter("absent", None)
        self.inner = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 1, bias=False)).eval()


class Listing(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.history = [1]


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def twice():
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, layer)


def view():
    model, whole = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.arange(8.0)
    model[0].weight, model[1].weight = nn.Parameter(whole[:4].view(2, 2)), nn.Parameter(whole[4:].view(2, 2))
    return model


def hooked():
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: None)
    return model


def with_gradient():
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    return model


def marked():
    model = nn.Linear(2, 1)
    model.weight.mark = ["anything"]
    return model


def shape_of(model):
    """All that a module holds, tensors by value."""
    tensor = lambda t: None if t is None else (type(t), t.dtype, t.requires_grad, t.tolist(), vars(t), t.grad is None)  # noqa: E731
    return [
        (
            type(m),
            {k: (type(v), v) for k, v in vars(m).items() if k not in ("_parameters", "_buffers", "_modules")},
            [(k, tensor(t)) for k, t in [*m._parameters.items(), *m._buffers.items()]],
            [*m._modules],
        )
        for m in model.modules()
    ]


PLAIN = [Counting, lambda: nn.Linear(3, 1), lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()]
UNUSUAL = [tied, twice, view, hooked, with_gradient, marked, Listing]


@pytest.mark.parametrize("make", PLAIN + UNUSUAL)
def test_a_copy_is_what_deepcopy_gives(make):
    model = make()
    assert shape_of(copier(model)()) == shape_of(copy.deepcopy(model))


@pytest.mark.parametrize("make", PLAIN)
def test_a_plain_module_is_copied_by_hand(make, monkeypatch):
    model = make()
    monkeypatch.setattr(copy, "deepcopy", None)
    copier(model)()


@pytest.mark.parametrize("make", [*UNUSUAL, lambda: nn.GRU(2, 2)])
def test_an_unusual_module_is_left_to_deepcopy(make):
    assert not modules._plain(make())


@pytest.mark.parametrize("make", PLAIN)
def test_nothing_done_to_a_copy_reaches_the_original_or_another_copy(make):
    model = make()
    copies, before = copier(model), shape_of(copy.deepcopy(model))
    spoilt, other = copies(), copies()
    spoilt.train(not spoilt.training)
    spoilt.own = "attribute"
    spoilt.add_module("more", nn.ReLU())
    spoilt.register_forward_hook(lambda *_: None)
    spoilt.register_buffer("more_memory", torch.ones(1), persistent=False)
    for module in spoilt.modules():
        module.register_full_backward_hook(lambda *_: None)
    for tensor in [*spoilt.parameters(), *spoilt.buffers()]:
        with torch.no_grad():
            tensor.add_(1)
        if tensor.is_floating_point():
            tensor.requires_grad_(not tensor.requires_grad)
            tensor.grad = torch.ones_like(tensor)
    assert shape_of(model) == before == shape_of(other) == shape_of(copies())
