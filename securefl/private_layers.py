"""Private layers: of a model only parameters whose names match a pattern enter the secure sum; the others never leave their site.

Source: personalisation layers as in Arivazhagan et al. (2019, arXiv 1912.00818): shared base layers, private heads.  As the vector
that is masked holds the shared parameters alone, it has one length for all, whatever heads a site has.

What it does not protect: the shared parameters are trained together with the private ones, so they depend on them, and on what the
site's labels are.  Without differential privacy nothing bounds what they tell of it, once the sum over all sites is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from securefl.algorithm_knobs import ADAPTIVE
from securefl.errors import UserError
from securefl.models import to_vector
from securefl.modules import Copier
from securefl.recycled import Lent

if TYPE_CHECKING:
    from securefl.job import Job


BESIDE = ("fedavg", *ADAPTIVE)
"""Algorithms that leave a site's steps as they are, and so its private layers."""


def shared_names(model: nn.Module, pattern: str) -> tuple[str, ...]:
    """Names of the trainable parameters that match a pattern, in their order.

    Args:
        model: a module.
        pattern: with ``*``, ``?`` and ``[…]`` as in file names, upper and lower case told apart: ``trunk.*``.

    Raises:
        UserError: where none matches, or all do; where one parameter has several names, of which only some match.
    """
    _refuse_torn(model, pattern)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    found = tuple(name for name in names if fnmatchcase(name, pattern))
    if not found:
        raise UserError(f"model.shared = {pattern!r} matches no parameter of the model, whose parameters are {', '.join(names)}")
    if len(found) == len(names):
        raise UserError(f"model.shared = {pattern!r} matches every parameter of the model, so nothing is private: leave it out")
    return found


def _refuse_torn(model: nn.Module, pattern: str) -> None:
    """Refuse a parameter that is tied, and shared under one name and private under another: it would leave its site.

    Raises:
        UserError: with both names.
    """
    first = dict[nn.Parameter, str]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(parameter, name)
        if parameter.requires_grad and fnmatchcase(name, pattern) != fnmatchcase(other, pattern):
            raise UserError(
                f"{other} and {name} are one parameter, and only one of them matches model.shared = {pattern!r}: share both or none"
            )


class PrivateLayers:
    """One model of one site: its shared parameters come with the round, the others are kept here, and read by nobody else.

    It makes modules as a `securefl.models.ModelFactory` does, from vectors of the shared parameters alone.

    Args:
        template: the model at the start, with the site's own layers.
        shared: names of the parameters that are shared, from `shared_names`.
    """

    def __init__(self, template: nn.Module, shared: Sequence[str]) -> None:
        self._copier, start = Copier(template), to_vector(template)
        trained = [(name, p.numel()) for name, p in template.named_parameters() if p.requires_grad]
        self._shared = np.concatenate([np.full(count, name in shared) for name, count in trained])
        self._own = start[~self._shared]
        self._trained: NDArray[np.float32] | None = None

    def __call__(self, vector: NDArray[np.float32] | None = None) -> nn.Module:
        """A new model as it was at the start, or with these shared parameters, shape (d,), and the private ones as they are now."""
        return self._copier() if vector is None else self._copier(self._whole(vector))

    def lend(self, vector: NDArray[np.float32]) -> Lent:
        """As a call, of a model that goes to `take`."""
        return self._copier.lend(self._whole(vector))

    def take(self, lent: Lent) -> NDArray[np.float32]:
        """As `read`, of a model that was lent and is not used any more."""
        return np.compress(self._shared, self._copier.take(lent))

    def _whole(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        whole = np.empty(self._shared.size, dtype=np.float32)
        whole[self._shared], whole[~self._shared] = vector, self._own
        return whole

    def read(self, model: nn.Module) -> NDArray[np.float32]:
        """The shared parameters of a model that this has made, shape (d,)."""
        return np.compress(self._shared, self._copier.read(model))

    def remember(self, model: nn.Module) -> None:
        """Take the private parameters of a trained model, for when `settle` is called."""
        self._trained = self._copier.read(model)[~self._shared]

    def settle(self, *, opened: bool) -> None:
        """The round is over: go on from what was trained in it if a sum with its update was opened, else from what was before.

        Steps of a round whose update has not left are in no ledger, so nothing that comes later may rest on them.
        """
        if opened and self._trained is not None:
            self._own = self._trained
        self._trained = None


class Layered:
    """The models of all sites of a simulation, with layers in common.

    Args:
        templates: for each site its model at the start.
        pattern: names of the shared parameters.
        models: how many are trained side by side.

    Attributes:
        start: the shared parameters at the start, those of the first site, shape (d,).
        names: of the shared parameters.
        templates: for each site its model at the start.

    Raises:
        UserError: where the pattern matches nothing or everything at a site, or shared parameters differ in name or shape.
    """

    def __init__(self, templates: Mapping[str, nn.Module], pattern: str, models: int) -> None:
        self.templates, (first, *_) = dict(templates), templates
        common = _shapes(templates[first], pattern)
        for site, template in templates.items():
            if template is not templates[first] and (own := _shapes(template, pattern)) != common:
                odd = min({*own.items()} ^ {*common.items()})[0]
                raise UserError(f"{site}: the shared parameters must be those of {first}, in name and shape: {odd} differs")
        self.names = tuple(common)
        self.parts = {site: tuple(PrivateLayers(each, self.names) for _ in range(models)) for site, each in templates.items()}
        self.start = self.parts[first][0].read(templates[first])

    def models(self, site: str, vectors: Sequence[NDArray[np.float32]]) -> list[nn.Module]:
        """A site's models with these shared parameters, one vector of shape (d,) for each that is trained side by side."""
        return [part(vector) for part, vector in zip(self.parts[site], vectors, strict=True)]


def _shapes(model: nn.Module, pattern: str) -> dict[str, tuple[int, ...]]:
    shared = shared_names(model, pattern)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if name in shared}


def one_pattern(argument: str | None, job: Job, *, own_flow: bool) -> str | None:
    """The pattern that a `securefl.Runner` or its job is given, or None.

    Raises:
        UserError: where both are, and differ; where private layers would not be trained, or not kept.
    """
    knob, mechanism = job.model.shared, job.privacy.mechanism
    if argument is not None and knob is not None and argument != knob:
        raise UserError(f"shared is {argument!r}, but model.shared of the job is {knob!r}: name it once")
    pattern = knob if argument is None else argument
    if pattern is not None and job.privacy.summed:
        raise UserError(
            f"model.shared is refused with {mechanism}: a step is taken on the sum over all sites, and private layers are in no "
            "sum, so they would never be trained; local-record trains both under one ε"
        )
    performance = job.performance
    if pattern is not None and (performance.algorithm not in BESIDE or performance.compression == "low-rank"):
        odd = f"algorithm = {performance.algorithm}" if performance.algorithm not in BESIDE else "compression = low-rank"
        raise UserError(
            f"performance.{odd} is refused with model.shared: it works on a site's whole model, of which a part is private; "
            f"{', '.join(BESIDE)} are allowed"
        )
    if pattern is not None and own_flow:
        raise UserError(
            "model.shared is refused beside a local flow of your own: nothing would keep what it makes of private layers"
        )
    return pattern


def models_of(model: object, sites: Iterable[str], made: Callable[[object], nn.Module]) -> dict[str, nn.Module]:
    """For each site its model at the start: that of its name where there is one for each, else the same for all.

    Args:
        model: what a `securefl.Runner` is given.
        sites: names.
        made: makes a checked module of it.

    Raises:
        UserError: for models of other sites; and what ``made`` raises.
    """
    if not isinstance(model, Mapping):
        return dict.fromkeys(sites, made(model))
    if odd := sorted({*model} ^ {*sites}):
        raise UserError(f"models are given by site, but not for the sites of the data: {', '.join(odd)}")
    return {site: made(model[site]) for site in sites}
