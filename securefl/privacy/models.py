"""Which models may be trained: what DP-SGD cannot handle is named, and what would mend it is shown as a diff.

Opacus' own check (`ModuleValidator`) looks at trainable layers of exactly the types it knows.  It lets through batch normalisation
without trainable parameters, which mixes the records of a batch all the same; here it is refused.

What it does not find: a loss or a forward pass of the user's own that mixes records (a contrastive loss, a mean over the batch).
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


class ModelUnsupported(UserError):
    """The model has layers that cannot be trained as asked.

    Attributes:
        diff: unified diff of ``repr(model)`` that `fix_model` would make, empty if it changes nothing.
    """

    def __init__(self, text: str, diff: str = "") -> None:
        super().__init__(text)
        self.diff = diff


def check_model(model: nn.Module) -> None:
    """Refuse a model that DP-SGD cannot train.

    Raises:
        ModelUnsupported: one line that names each such layer and why, with what `fix_model` would change in ``diff``.
    """
    reasons = _reasons(model)
    if reasons:
        raise ModelUnsupported(_headline("DP-SGD cannot train", reasons), _diff(model, _fixed(model)))


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
        raise ModelUnsupported(_headline("federated averaging refuses", reasons), _diff(model, _fixed(model)))


def fix_model(model: nn.Module) -> tuple[nn.Module, str]:
    """A copy of ``model`` that can be trained, and the unified diff of ``repr`` (empty if nothing had to change).

    Layers are replaced by `opacus.validators.ModuleValidator.fix`; what it leaves is mended here: batch normalisation without
    trainable parameters becomes group normalisation, and instance normalisation loses its running statistics.  Group
    normalisation starts with new weights.

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

    reasons: dict[str, str] = {}
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        if not any(layer.children()) and _is_unshaped(layer):
            reasons[name] = f"{kind} has no shape yet: pass one batch through the model first"
        elif isinstance(layer, _BatchNorm):
            reasons[name] = f"{kind} normalises a record by the others in its batch"
        elif isinstance(layer, _NormBase) and layer.track_running_stats:
            reasons[name] = f"{kind} keeps running statistics of the records"
        elif isinstance(layer, nn.RNNBase) and any(parameter.requires_grad for parameter in layer.parameters()):
            reasons[name] = f"{kind} computes no gradient per record, Opacus' DP{kind} does"
    for name, layer in trainable_modules(model):
        found = ModuleValidator.VALIDATORS.get(type(layer), lambda _: [])(layer)
        if name not in reasons and found:
            reasons[name] = f"{type(layer).__name__}: {_first_sentence(str(found[0]))}"
        elif name not in reasons and any(True for _ in layer.buffers(recurse=False)):
            reasons[name] = f"{type(layer).__name__} has buffers beside trainable parameters"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        reasons[""] = f"{type(model).__name__} has no trainable parameter"
    return reasons


def _fixed(model: nn.Module) -> nn.Module:
    from opacus.validators import ModuleValidator  # noqa: PLC0415  (loads in 3 s)

    if _is_unshaped(model):
        return model
    root = copy.deepcopy(model)
    known = (*ModuleValidator.FIXERS, _NormBase)
    names = [name for name, layer in root.named_modules() if isinstance(layer, known)]
    for name in names:
        layer = root.get_submodule(name)
        replaced = _without_statistics(ModuleValidator.fix(layer) if type(layer) in ModuleValidator.FIXERS else layer)
        replaced.train(layer.training)
        if not name:
            return replaced
        parent, _, attribute = name.rpartition(".")
        setattr(root.get_submodule(parent), attribute, replaced)
    return root


def _is_unshaped(layer: nn.Module) -> bool:
    return any(is_lazy(tensor) for tensor in (*layer.parameters(), *layer.buffers()))


def _without_statistics(layer: nn.Module) -> nn.Module:
    if isinstance(layer, _BatchNorm):
        affine = layer.affine
        group = nn.GroupNorm(math.gcd(32, layer.num_features), layer.num_features, eps=layer.eps, affine=affine)
        return group.to(layer.weight.device).requires_grad_(layer.weight.requires_grad) if affine else group
    if isinstance(layer, _NormBase):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return layer


def _headline(verdict: str, reasons: dict[str, str]) -> str:
    layers = "; ".join(f"{name or 'the model'} ({reason})" for name, reason in reasons.items())
    return f"{verdict} {'this layer' if len(reasons) == 1 else f'these {len(reasons)} layers'}: {layers}"


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def _diff(before: nn.Module, after: nn.Module) -> str:
    old, new = repr(before).splitlines(), repr(after).splitlines()
    return "\n".join(difflib.unified_diff(old, new, "model", "model, fixed", lineterm=""))
