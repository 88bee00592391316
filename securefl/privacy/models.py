"""Which models may be trained: what DP-SGD cannot handle is named, and what would mend it is shown as a diff.

Opacus' own check (`ModuleValidator`) looks at trainable layers of exactly the types it knows.  It lets through batch normalisation
without trainable parameters, which mixes the records of a batch all the same; here it is refused.

What a look at the layers cannot tell, `securefl.privacy.trials` finds on a few rows.
"""

from __future__ import annotations

import copy
import difflib
import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy

from securefl.errors import UserError

_STATISTICS = ("running_mean", "running_var")
FEWEST_FEATURES = 4
"""Fewest features of which `fix_model` normalises one record by itself: two less are free."""


class ModelUnsupported(UserError):
    """The model has layers that cannot be trained as asked.  The diff stands below the line in a traceback.

    Attributes:
        diff: unified diff of ``repr(model)`` that `fix_model` would make, empty if it changes nothing.
    """

    def __init__(self, text: str, diff: str = "") -> None:
        super().__init__(text)
        self.diff = diff
        if diff:
            self.add_note(diff)


def check_model(model: nn.Module) -> None:
    """Refuse a model that DP-SGD cannot train.

    Raises:
        ModelUnsupported: one line that names each such layer and why, with what `fix_model` would change in ``diff``.
    """
    reasons = _reasons(model)
    if reasons:
        raise _refusal("DP-SGD cannot train", reasons, model)


def refuse_running_statistics(model: nn.Module) -> None:
    """Refuse running statistics: averaged over sites they would be released unnoticed and without noise.

    Raises:
        ModelUnsupported: one line that names each layer, with what `fix_model` would change in ``diff``.
    """
    reasons = {
        name: f"{type(layer).__name__} keeps running statistics of the records"
        for name, layer in model.named_modules()
        if any(name in dict(layer.named_buffers(recurse=False)) for name in _STATISTICS)
    }
    if reasons:
        raise _refusal("training over several sites refuses", reasons, model)


def fix_model(model: nn.Module) -> tuple[nn.Module, str]:
    """A copy of ``model`` that can be trained, and the unified diff of ``repr`` (empty if nothing had to change).

    Layers are replaced by `opacus.validators.ModuleValidator.fix`, but for three.  Batch normalisation becomes group normalisation
    with new weights: of pictures in as many groups as Opacus takes, of flat features in one group (Opacus takes up to 32 there as
    well, which leaves one or two values to a group and nothing to learn from).  Instance normalisation loses its running
    statistics, and layers that work in place no longer do.

    Raises:
        ModelUnsupported: if a layer remains that cannot be replaced; the one line names it.
    """
    fixed = _fixed(model)
    diff = _diff(model, fixed)
    reasons = _reasons(fixed)
    if reasons:
        raise ModelUnsupported(_headline("no replacement is known for", reasons), diff)
    return fixed, diff


def _reasons(model: nn.Module) -> dict[str, str]:
    """Why not, by name of the layer."""
    from opacus.utils.module_utils import trainable_modules  # noqa: PLC0415  (loads in 3 s)
    from opacus.validators import ModuleValidator  # noqa: PLC0415

    reasons = {name: reason for name, layer in model.named_modules() if (reason := _reason(layer))}
    for name, layer in trainable_modules(model):
        found = ModuleValidator.VALIDATORS.get(type(layer), lambda _: [])(layer)
        if name not in reasons and found:
            reasons[name] = f"{type(layer).__name__}: {first_sentence(str(found[0]))}"
        elif name not in reasons and any(True for _ in layer.buffers(recurse=False)):
            reasons[name] = f"{type(layer).__name__} has buffers beside trainable parameters"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        reasons[""] = f"{type(model).__name__} has no trainable parameter"
    return reasons


def _reason(layer: nn.Module) -> str:
    kind = type(layer).__name__
    if not any(layer.children()) and _is_unshaped(layer):
        return f"{kind} has no shape yet: pass one batch through the model first"
    if isinstance(layer, _BatchNorm):
        few = _groups(layer) is None
        too_few = f", and has fewer than {FEWEST_FEATURES} features to normalise it by itself: leave the layer out" if few else ""
        return f"{kind} normalises a record by the others in its batch{too_few}"
    if isinstance(layer, _NormBase) and layer.track_running_stats:
        return f"{kind} keeps running statistics of the records"
    if isinstance(layer, nn.RNNBase) and any(parameter.requires_grad for parameter in layer.parameters()):
        return f"{kind} computes no gradient per record, Opacus' DP{kind} does"
    if _is_in_place(layer):
        return f"{kind}(inplace=True) overwrites an output that gradients per record are computed from"
    return "compiled code may round a record's values by what others hold" if kind == "OptimizedModule" else ""


def _fixed(model: nn.Module) -> nn.Module:
    from opacus.validators import ModuleValidator  # noqa: PLC0415  (loads in 3 s)

    if _is_unshaped(model):
        return model
    root = copy.deepcopy(model)
    for layer in root.modules():
        if _is_in_place(layer):
            layer.inplace = False  # type: ignore[assignment]
    known = (*ModuleValidator.FIXERS, _NormBase)
    names = [name for name, layer in root.named_modules() if isinstance(layer, known)]
    for name in names:
        layer = root.get_submodule(name)
        by_opacus = type(layer) in ModuleValidator.FIXERS and not isinstance(layer, _BatchNorm)
        replaced = _without_statistics(ModuleValidator.fix(layer) if by_opacus else layer)
        replaced.train(layer.training)
        if not name:
            return replaced
        parent, _, attribute = name.rpartition(".")
        setattr(root.get_submodule(parent), attribute, replaced)
    return root


def _is_in_place(layer: nn.Module) -> bool:
    return getattr(layer, "inplace", False) is True


def _is_unshaped(layer: nn.Module) -> bool:
    return any(is_lazy(tensor) for tensor in (*layer.parameters(), *layer.buffers()))


def _without_statistics(layer: nn.Module) -> nn.Module:
    if isinstance(layer, _BatchNorm):
        affine, groups = layer.affine, _groups(layer)
        if groups is None:
            return layer
        group = nn.GroupNorm(groups, layer.num_features, eps=layer.eps, affine=affine)
        return group.to(layer.weight.device).requires_grad_(layer.weight.requires_grad) if affine else group
    if isinstance(layer, _NormBase):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return layer


def _groups(layer: _BatchNorm) -> int | None:
    """Groups of channels that stand in for batch normalisation: as many as Opacus takes for pictures, one for flat features.

    None where a flat record has too few features to be normalised by itself.
    """
    if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
        return math.gcd(32, layer.num_features)
    return 1 if layer.num_features >= FEWEST_FEATURES else None


def _refusal(verdict: str, reasons: dict[str, str], model: nn.Module) -> ModelUnsupported:
    fixed = _fixed(model)
    diff = _diff(model, fixed)
    mended = "; model.fix mends it, as its diff shows" if diff and not _reasons(fixed) else ""
    return ModelUnsupported(_headline(verdict, reasons) + mended, diff)


def _headline(verdict: str, reasons: dict[str, str]) -> str:
    layers = "; ".join(f"{name or 'the model'} ({reason})" for name, reason in reasons.items())
    return f"{verdict} {'this layer' if len(reasons) == 1 else f'these {len(reasons)} layers'}: {layers}"


def first_sentence(text: str) -> str:
    """Of an error's text, without the full stop."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def _diff(before: nn.Module, after: nn.Module) -> str:
    old, new = repr(before).splitlines(), repr(after).splitlines()
    return "\n".join(difflib.unified_diff(old, new, "model", "model, fixed", lineterm=""))
