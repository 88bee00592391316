"""Personalisation by fine-tuning: after training each site goes on alone from the global model, and keeps what it gets.

Source: Wang et al., *Federated Evaluation of On-device Personalization* (2019, arXiv 1910.10252).

Needs no sum: nothing leaves a site.

What it does not protect: a site's own model is of its own rows, without noise, and is not to be given away.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray
from torch import nn

from protocols.rand import Entropy, fresh
from securefl.errors import UserError
from securefl.models import from_vector, to_vector
from securefl.privacy.plain import PlainTraining
from securefl.round_types import Fold
from securefl.trainer import ClientTrainer


def fine_tuned(
    model: nn.Module,
    fold: Fold,
    trainer: ClientTrainer,
    *,
    steps: int,
    sample_rate: float = 1.0,
    keep: float = 0.0,
    entropy: Entropy = fresh,
) -> nn.Module:
    """A site's own model: the global one after ``steps`` more steps on its rows, at home.

    Args:
        model: the final global model; it stays as it is.
        fold: the site's rows.
        trainer: how it trains.
        steps: optimizer steps, at least 1.
        sample_rate: probability with which a row is in a batch.
        keep: share of the global model in what comes out, 0 … 1: parameters are mixed.
        entropy: of the batches.

    Raises:
        UserError: for a value out of range.
    """
    if not 0 <= keep <= 1:
        raise UserError(f"keep is {keep}: it must lie in [0, 1]")
    own = copy.deepcopy(model)
    copy.deepcopy(trainer).train(own, fold.train, PlainTraining(sample_rate=sample_rate, entropy=entropy), steps)
    mixed: NDArray[np.float64] = keep * to_vector(model).astype(np.float64) + (1 - keep) * to_vector(own)
    from_vector(own, mixed.astype(np.float32))
    return own
