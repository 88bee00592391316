"""Copies of a module for each site and round: whatever `copy.deepcopy` gives, and nothing in common with the original."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from securefl import modules
from securefl.errors import UserError
from securefl.models import from_vector, to_vector
from securefl.modules import Copier


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
    assert shape_of(Copier(model)()) == shape_of(copy.deepcopy(model))


@pytest.mark.parametrize("make", PLAIN)
def test_a_plain_module_is_copied_by_hand(make, monkeypatch):
    model = make()
    monkeypatch.setattr(copy, "deepcopy", None)
    Copier(model)()


@pytest.mark.parametrize("make", [*UNUSUAL, lambda: nn.GRU(2, 2)])
def test_an_unusual_module_is_left_to_deepcopy(make):
    assert not modules._plain(make())


@pytest.mark.parametrize("make", PLAIN)
def test_nothing_done_to_a_copy_reaches_the_original_or_another_copy(make):
    model = make()
    copies, before = Copier(model), shape_of(copy.deepcopy(model))
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


def half_trained():
    """Trained and frozen parameters in turn, of several shapes."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False), Counting(), nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)
    return model


def double():
    return nn.Linear(2, 1).double()


@pytest.mark.parametrize("make", [*PLAIN, half_trained, double, tied, view, hooked])
def test_a_copy_with_a_vector_is_a_copy_that_was_set_to_it(make):
    model = make()
    vector = np.arange(to_vector(model).size, dtype=np.float32) + 0.5
    expected = copy.deepcopy(model)
    from_vector(expected, vector)
    got = Copier(model)(vector)
    assert shape_of(got) == shape_of(expected)
    assert (to_vector(got) == vector).all()
    assert [p.shape for p in got.parameters()] == [p.shape for p in model.parameters()]
    assert all(p.is_contiguous() and p.is_leaf for p in got.parameters())


@pytest.mark.parametrize("make", [half_trained, tied])
def test_nothing_done_to_a_copy_with_a_vector_reaches_the_vector_or_another_copy(make):
    copies = Copier(make())
    vector = to_vector(copies())
    before, spoilt, other = vector.copy(), copies(vector), copies(vector)
    for parameter in spoilt.parameters():
        with torch.no_grad():
            parameter.mul_(2).add_(1)
    spoilt.register_forward_hook(lambda *_: None)
    assert (vector == before).all()
    assert shape_of(other) == shape_of(copies(vector))


def test_parameters_of_a_copy_are_changed_each_by_itself():
    """They lie in one vector; a change of one must not spoil the gradient of another, as autograd counts changes."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model = Copier(model)(to_vector(model))
    loss = model(torch.ones(1, 2)).sum()
    with torch.no_grad():
        model[1].bias.add_(1)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_vector_of_another_length_and_a_model_without_parameters_are_refused():
    with pytest.raises(RuntimeError):
        Copier(nn.Linear(2, 1))(np.zeros(2, dtype=np.float32))
    with pytest.raises(UserError, match="no trainable parameter"):
        Copier(nn.ReLU())(np.zeros(0, dtype=np.float32))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16])
def test_parameters_of_any_type_become_a_vector_and_come_back(kind):
    model = nn.Linear(3, 2).to(kind)
    vector = to_vector(model)
    assert vector.dtype == np.float32
    assert vector.tolist() == [v for p in model.parameters() for v in p.flatten().tolist()]
    vector += 1
    assert (to_vector(model) != vector).all()
    from_vector(model, vector)
    assert (to_vector(model) == vector).all()


def test_a_parameter_whose_memory_is_in_another_order_is_read_in_its_own():
    model = nn.Linear(2, 3, bias=False)
    model.weight = nn.Parameter(torch.arange(6.0).view(2, 3).T)
    assert to_vector(model).tolist() == [0, 3, 1, 4, 2, 5]
