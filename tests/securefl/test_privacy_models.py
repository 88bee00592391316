"""Models that cannot be trained are named with the reason and the mending diff."""

from __future__ import annotations

import copy
import traceback

import pytest
import torch
from opacus import GradSampleModule
from opacus.layers import DPLSTM
from torch import nn

from securefl.errors import UserError
from securefl.privacy.models import ModelUnsupported, check_model, fix_model, refuse_running_statistics
from securefl.privacy.trials import try_model


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class OwnNorm(nn.BatchNorm1d):
    """Opacus knows layers by their exact type, so not this one."""


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.recurrent = layer
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


def mlp(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), norm, nn.ReLU(), nn.Linear(8, 1))


GOOD = [
    nn.Linear(3, 1),
    mlp(nn.Identity()),
    mlp(nn.GroupNorm(4, 8)),
    mlp(nn.LayerNorm(8)),
    Recurrent(DPLSTM(3, 4, batch_first=True)),
    nn.Sequential(nn.InstanceNorm1d(4, affine=True), nn.Flatten(), nn.Linear(4, 1)),
]

NORMS = {
    "batch": lambda: nn.BatchNorm1d(8),
    "batch without weights": lambda: nn.BatchNorm1d(8, affine=False),
    "batch without statistics": lambda: nn.BatchNorm1d(8, track_running_stats=False),
    "batch without either": lambda: nn.BatchNorm1d(8, affine=False, track_running_stats=False),
    "frozen batch": lambda: nn.BatchNorm1d(8).requires_grad_(requires_grad=False),
    "own subclass": lambda: OwnNorm(8),
    "instance": lambda: nn.InstanceNorm1d(8, track_running_stats=True),
    "instance with weights": lambda: nn.InstanceNorm1d(8, affine=True, track_running_stats=True),
}


@pytest.mark.parametrize("model", GOOD, ids=lambda model: type(model).__name__)
def test_a_good_model_passes_and_is_not_changed_by_the_fix(model: nn.Module) -> None:
    check_model(model)
    check_model(model.eval())
    refuse_running_statistics(model)
    fixed, diff = fix_model(model)
    assert diff == ""
    assert fixed is not model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fixed.parameters(), strict=True))


@pytest.mark.parametrize("norm", NORMS)
def test_normalisation_that_mixes_or_remembers_records_is_refused_and_mended(norm: str) -> None:
    model = mlp(NORMS[norm]())
    before = copy.deepcopy(model)
    with pytest.raises(ModelUnsupported, match=r"\b1 \((OwnNorm|BatchNorm1d|InstanceNorm1d) ") as caught:
        check_model(model)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)
    fixed, diff = fix_model(model)
    assert caught.value.diff == diff
    removed = [line for line in diff.splitlines() if line.startswith("-") and not line.startswith("---")]
    added = [line for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert len(removed) == len(added) == 1
    assert "(1): " in removed[0]
    assert "Norm" in removed[0]
    assert ("GroupNorm" in added[0]) == ("instance" not in norm)
    assert repr(model) == repr(before), "the given model is left as it was"
    check_model(fixed)
    refuse_running_statistics(fixed)
    GradSampleModule(fixed)  # Opacus agrees
    assert not list(fixed.buffers())


@pytest.mark.parametrize("norm", ["batch", "batch without weights", "own subclass"])
def test_after_the_fix_a_record_no_longer_depends_on_its_batch(norm: str) -> None:
    model = mlp(NORMS[norm]())
    x = torch.arange(24.0).reshape(8, 3) ** 2
    fixed, _ = fix_model(model)
    assert not torch.allclose(model(x)[:2], model(x[:2]))
    assert torch.allclose(fixed(x)[:2], fixed(x[:2]))


@pytest.mark.parametrize("norm", NORMS)
def test_running_statistics_are_refused_with_and_without_privacy(norm: str) -> None:
    model = mlp(NORMS[norm]())
    if list(model.buffers()):
        with pytest.raises(ModelUnsupported, match=r"1 \(.*running statistics") as caught:
            refuse_running_statistics(model)
        assert caught.value.diff.startswith("--- model\n+++ model, fixed\n")
    else:
        refuse_running_statistics(model)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_replaced_by_equal_ones(kind: type[nn.LSTM | nn.GRU]) -> None:
    model = Recurrent(kind(3, 4, batch_first=True))
    with pytest.raises(ModelUnsupported, match=f"recurrent .{kind.__name__}") as caught:
        check_model(model)
    assert f"+  (recurrent): DP{kind.__name__}" in caught.value.diff
    fixed, _ = fix_model(model)
    x = torch.randn(5, 6, 3)
    assert torch.allclose(model(x), fixed(x), atol=1e-6)


def test_attention_is_replaced() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(ModelUnsupported, match=r"self_attn .MultiheadAttention: We do not support"):
        check_model(model)
    check_model(fix_model(model)[0])


def test_a_bad_layer_at_the_root_is_replaced() -> None:
    with pytest.raises(ModelUnsupported, match=r"the model .BatchNorm1d"):
        check_model(nn.BatchNorm1d(8))
    assert isinstance(fix_model(nn.BatchNorm1d(8))[0], nn.GroupNorm)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 3), WithBuffer()), r"1 \(WithBuffer has buffers"),
        (Recurrent(nn.RNN(3, 4, batch_first=True)), r"recurrent \(RNN .* DPRNN"),
        (nn.Sequential(nn.LazyLinear(3)), r"0 \(LazyLinear has no shape yet"),
        (nn.Sequential(nn.LazyBatchNorm1d(affine=False)), r"0 \(LazyBatchNorm1d has no shape yet"),
        (nn.ReLU(), r"the model \(ReLU has no trainable parameter"),
        (nn.Linear(3, 1).requires_grad_(requires_grad=False), "no trainable parameter"),
    ],
)
def test_what_cannot_be_mended_is_refused_by_check_and_fix(model: nn.Module, reason: str) -> None:
    with pytest.raises(ModelUnsupported, match=reason) as caught:
        check_model(model)
    assert caught.value.diff == ""
    with pytest.raises(ModelUnsupported, match=f"no replacement is known for .*{reason}"):
        fix_model(model)


def test_every_bad_layer_is_named() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4), WithBuffer()))
    with pytest.raises(ModelUnsupported, match=r"these 3 layers: 0 .*; 2\.0 .*; 2\.1 "):
        check_model(model)
    with pytest.raises(ModelUnsupported, match=r"this layer: 2\.1 ") as caught:
        fix_model(model)
    assert caught.value.diff.count("\n+ ") == 2


@pytest.mark.parametrize("layer", [nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True), nn.SELU(inplace=True)])
def test_a_layer_that_works_in_place_is_refused_and_mended(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Sequential(layer), nn.Linear(8, 1))
    with pytest.raises(ModelUnsupported, match=rf"this layer: 1\.0 .{type(layer).__name__}.inplace=True. .* model\.fix") as caught:
        check_model(model)
    fixed, diff = fix_model(model)
    assert diff == caught.value.diff
    assert "-    (0): " in diff
    assert "inplace=True" not in repr(fixed)
    assert layer.inplace, "the given model is left as it was"
    x = torch.randn(5, 3)
    assert torch.equal(model.eval()(x), fixed.eval()(x))
    check_model(fixed)
    try_model(fixed, loss, torch.randn(1, 3), torch.ones(1))


def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(output.reshape(-1), y)


def test_the_refusal_names_both_ways_to_mend_and_shows_the_diff_in_a_traceback() -> None:
    for check in (check_model, refuse_running_statistics):
        with pytest.raises(ModelUnsupported) as caught:
            check(mlp(nn.BatchNorm1d(8)))
        assert str(caught.value).endswith("; model.fix mends it, as its diff shows")
        shown = "".join(traceback.format_exception(caught.value))
        assert caught.value.diff in shown
        assert "GroupNorm" in shown


def test_no_mending_is_promised_that_would_fail() -> None:
    with pytest.raises(ModelUnsupported) as caught:
        check_model(nn.Sequential(nn.BatchNorm1d(3), WithBuffer()))
    assert "model.fix" not in str(caught.value)


class Own(nn.Module):
    """Owns a parameter beside layers."""

    def __init__(self, dropout: float = 0.0, *, functional: float = 0.0) -> None:
        super().__init__()
        self.scale, self.fc = nn.Parameter(torch.ones(3)), nn.Linear(3, 1)
        self.dropout, self.functional = nn.Dropout(dropout), functional

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(nn.functional.dropout(self.dropout(x * self.scale), self.functional, self.training))


class Residual(nn.Module):
    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.inner, self.outer, self.in_place = nn.Linear(3, 3), nn.Linear(3, 1), in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        if self.in_place:
            y += x
            return self.outer(nn.functional.relu(y, inplace=True))
        return self.outer(torch.relu(y + x))


class Pair(nn.Module):
    """Two tensors in."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return x * self.weight + z

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = self.Inner(), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.inner(x, x))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Own(0.3), "Own: a layer that owns parameters draws random numbers"),
        (Own(functional=0.3), "Own: a layer that owns parameters draws random numbers"),
        (Residual(in_place=True), "Residual: it changes the output of a layer in place"),
        (Pair(), "Pair: one row does not pass .* one tensor"),
    ],
)
def test_what_only_a_trial_shows_is_refused_in_one_line(model: nn.Module, reason: str) -> None:
    check_model(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelUnsupported, match=f"^DP-SGD cannot train {reason}") as caught:
        try_model(model, loss, torch.randn(1, 3), torch.ones(1))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("model", [Own(), Residual(in_place=False), mlp(nn.Dropout(0.3)), *GOOD[:4]])
def test_what_can_be_trained_passes_the_trial_and_stays_plain(model: nn.Module) -> None:
    rng = torch.get_rng_state()
    try_model(model.eval(), loss, torch.randn(1, 3), torch.ones(1))
    torch.set_rng_state(rng)
    assert not model.training
    assert all(p.grad is None and not vars(p) for p in model.parameters())
    assert not any(layer._forward_hooks or layer._backward_hooks for layer in model.modules())


def test_a_model_of_a_local_class_can_be_mended() -> None:
    class Local(nn.Module):  # cannot be pickled
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

    assert isinstance(fix_model(Local())[0].norm, nn.GroupNorm)
