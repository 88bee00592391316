"""Copies of a module for each site and round: whatever `copy.deepcopy` gives, and nothing in common with the original."""

import copy
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from securefl import modules, recycled
from securefl.errors import UserError
from securefl.models import arrays, from_vector, to_vector
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


# Copies that are given again


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def bare():
    module = nn.Module()
    module.w, module.b, module.notes = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.zeros(1)), {1, 2}
    return module


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(5, 3)).square().sum().backward()
        optimizer.step()


VECTORS = [np.arange(26, dtype=np.float32) - at for at in range(3)]


def test_a_copy_that_nobody_holds_is_given_again_as_new():
    copies = Copier(net())
    first = id(copies(VECTORS[0]))
    for vector in VECTORS * 2:
        model = copies(vector)
        assert id(model) == first
        assert shape_of(model) == shape_of(Copier(net())(vector))
        train(model)
        assert (copies.read(model) == to_vector(model)).all()
        assert (to_vector(model) != vector).any()
        del model


def graph(model):
    return model(torch.ones(1, 3)).sum()


HOLDS = {
    "module": lambda m: m,
    "part": lambda m: m[0],
    "parameter": lambda m: m[2].bias,
    "parameters": lambda m: torch.optim.Adam(m.parameters()),
    "state": lambda m: m.state_dict(),
    "tensor": lambda m: m[0].weight.detach()[0],
    "data": lambda m: m[0].weight.data,
    "array": lambda m: m[0].weight.detach().numpy()[1:],
    "own array": lambda m: arrays(m)[0],
    "part of own array": lambda m: arrays(m)[0][:1],
    "graph": graph,
    "weakly": weakref.ref,
    "parameter weakly": lambda m: weakref.ref(m[0].weight),
}


@pytest.mark.parametrize("what", HOLDS)
def test_a_copy_of_which_something_is_held_is_not_given_again(what):
    copies = Copier(net())
    model = copies(VECTORS[0])
    held, first = HOLDS[what](model), id(model)
    del model
    other = copies(VECTORS[1])
    assert id(other) != first or isinstance(held, weakref.ref)
    assert shape_of(other) == shape_of(Copier(net())(VECTORS[1]))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(99)
    seen = held.state_dict() if isinstance(held, nn.Module) else held
    for part in seen.values() if isinstance(seen, dict) else [seen]:
        if isinstance(part, torch.Tensor | np.ndarray):
            assert (np.asarray(part.detach() if isinstance(part, torch.Tensor) else part) != 99).all()
    if what == "graph":
        held.backward()  # nothing that it needs was changed
    elif isinstance(held, weakref.ref):
        assert held() is None


def replaced(m):
    m[0].weight = nn.Parameter(m[0].weight.detach().clone())


def renamed(m):
    own = m[2]._parameters
    own["other"] = own.pop("bias")


def turned(m):
    m[0].weight.data = m[0].weight.data.reshape(3, 4)


def stretched(m):
    m[0].weight.data = m[0].weight.data[:2]


def swapped(m):
    one, other = m[0].bias, nn.Parameter(m[0].bias.detach() + 0)
    m[0].bias, m[0].more = other, one


def another_kind(m):
    m[1].__class__ = nn.ReLU


CHANGES = {
    "mode": lambda m: m.eval(),
    "attribute": lambda m: setattr(m[0], "own", 1),
    "constant": lambda m: setattr(m[0], "in_features", 7),
    "hook": lambda m: m[1].register_forward_hook(lambda *_: None),
    "gradient's hook": lambda m: m[0].weight.register_hook(lambda _: None),
    "hook after": lambda m: m[0].weight.register_post_accumulate_grad_hook(lambda _: None),
    "frozen": lambda m: m[2].bias.requires_grad_(False),
    "mark": lambda m: setattr(m[2].bias, "mark", 1),
    "module": lambda m: m.append(nn.ReLU()),
    "fewer": lambda m: m.pop(2),
    "memory": lambda m: m[0].register_buffer("seen", torch.ones(1), persistent=False),
    "data": lambda m: setattr(m[0].bias, "data", torch.ones(4)),
    "kind": another_kind,
    "replaced": replaced,
    "renamed": renamed,
    "turned": turned,
    "stretched": stretched,
    "swapped": swapped,
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_copy_that_was_changed_is_not_given_again_and_is_read_as_it_is(what):
    copies = Copier(net())
    model = copies(VECTORS[0])
    CHANGES[what](model)
    if any(p.requires_grad for p in model.parameters()):
        assert copies.read(model).tolist() == to_vector(model).tolist()
    del model
    other = copies(VECTORS[1])
    assert shape_of(other) == shape_of(Copier(net())(VECTORS[1]))
    assert not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in other.parameters())


def test_copies_that_are_taken_back_are_given_again_as_new():
    copies, before = Copier(net()), set()
    for at in range(3):
        lent = [copies.lend(vector) for vector in VECTORS]
        given = {id(one.model) for one in lent}
        assert len(given) == len(VECTORS)  # all are out at a time
        assert at == 0 or given == before
        for one, vector in zip(lent, VECTORS, strict=True):
            assert shape_of(one.model) == shape_of(Copier(net())(vector))
            train(one.model)
        values = [to_vector(one.model).tolist() for one in lent]
        assert [copies.take(one).tolist() for one in lent] == values
        assert not any(hasattr(one, "model") for one in lent)
        before = given
    assert id(copies(VECTORS[0])) in before


@pytest.mark.parametrize("what", [*HOLDS, *CHANGES])
def test_a_copy_that_is_taken_back_held_or_changed_is_read_as_it_is_and_not_given_again(what):
    copies = Copier(net())
    lent = copies.lend(VECTORS[0])
    seen = {**HOLDS, **CHANGES}[what](lent.model)
    if any(p.requires_grad for p in lent.model.parameters()):
        values = to_vector(lent.model).tolist()
        assert copies.take(lent).tolist() == values
    other = copies.lend(VECTORS[1]).model
    assert shape_of(other) == shape_of(Copier(net())(VECTORS[1]))
    assert not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in other.parameters())
    if isinstance(seen, nn.Module):
        assert seen is not other


@pytest.mark.parametrize("make", [tied, half_trained])
def test_a_model_that_is_never_given_again_is_lent_and_read_too(make):
    copies, start = Copier(make()), to_vector(make())
    lent = copies.lend(start + 1)
    assert copies.take(lent).tolist() == (start + 1).tolist()
    assert to_vector(copies.lend(start).model).tolist() == start.tolist()


def test_a_set_that_was_changed_and_gradients_do_not_come_back():
    copies, vector = Copier(bare()), np.arange(7, dtype=np.float32)
    model = copies(vector)
    model.w.sum().backward()
    first = id(model)
    del model
    model = copies(vector)
    assert id(model) == first
    assert model.w.grad is None
    model.notes.add(3)
    del model
    assert copies(vector).notes == {1, 2}


def test_where_torch_does_not_count_no_copy_is_given_again(monkeypatch):
    monkeypatch.setattr(recycled, "_shared", None)
    copies = Copier(net())
    held = copies(VECTORS[0]).state_dict()
    before = {name: tensor.clone() for name, tensor in held.items()}
    copies(VECTORS[1])
    assert all(torch.equal(held[name], before[name]) for name in held)


@pytest.mark.parametrize("make", [net, half_trained, tied, bare])
def test_what_is_written_to_the_arrays_is_in_the_model(make):
    start = to_vector(make())
    model = Copier(make())(start)
    for at, array in enumerate(arrays(model)):
        np.add(array, at + 1, out=array)
    assert (to_vector(model) == np.concatenate([a.reshape(-1) for a in arrays(model)])).all()
    assert (to_vector(model) >= start + 1).all()


def test_what_is_done_to_an_array_itself_stays_there():
    copies = Copier(net())
    arrays(copies(VECTORS[0]))[0].setflags(write=False)
    arrays(copies(VECTORS[0]))[0][:] = 1


def test_arrays_are_those_of_the_parameters_that_the_model_has_now():
    model = Copier(net())(VECTORS[0])
    replaced(model)
    arrays(model)[0][:] = 5
    assert (model[0].weight == 5).all()
    with pytest.raises(UserError, match="float32"):
        arrays(double())
