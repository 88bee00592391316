"""Mutants of noise inside a sum, as patches of this process: noise, grid, rounding, accounts, one thing wrong in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.errors import require
from protocols.rand import Rand, Replay
from protocols.ring import Ring
from securefl import site_side
from securefl.privacy import noise_plan, noised, party, rounding
from securefl.privacy.noise_plan import NoisePlan

Patch = pytest.MonkeyPatch
Whole = NDArray[np.int64]
NOISE, CLIP, CONTRIBUTION, EVENT, ENCODE = (
    noised.noise,
    rounding.clip,
    noised.contribution,
    NoisePlan.event,
    party.PartyLevel.encode,
)
DRAWN = noised.drawn


def noise_by(make: Callable[[NoisePlan, Rand], Whole]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(noised, "noise", make)


def off(plan: NoisePlan, _rand: Rand) -> Whole:
    return np.zeros(plan.dimension, np.int64)


def uniform(plan: NoisePlan, rand: Rand) -> Whole:
    """Of the same variance."""
    reach = round(((12 * plan.share + 1) ** 0.5 - 1) / 2)
    values: Whole = np.array(rand.below("noise", 2 * reach + 1, plan.dimension), np.int64)
    centred: Whole = values - reach
    return centred


def half_of_the_values(plan: NoisePlan, rand: Rand) -> Whole:
    values = NOISE(plan, rand)
    values[::2] = 0
    return values


def the_same(plan: NoisePlan, _rand: Rand) -> Whole:
    return NOISE(plan, Replay("always the same")())


def half_of_the_parties(patch: Patch) -> None:
    calls = iter(range(10**9))
    noise_by(lambda plan, rand: NOISE(plan, rand) if next(calls) % 2 else off(plan, rand))(patch)


def sigma_halved(patch: Patch) -> None:
    patch.setattr(noised, "drawn", lambda kind, rand, label, size, share: DRAWN(kind, rand, label, size, share / 4))


def machines_repeat(patch: Patch) -> None:
    """Every party has noise of its own, the same in every round: parties are told by their turn in a round."""
    turn: dict[str, Any] = {"round": b"", "party": 0}

    def again(plan: NoisePlan, update: Any, signs: Any, rand: Rand) -> Whole:
        same = turn["round"] == signs.reveal()
        turn["round"], turn["party"] = signs.reveal(), turn["party"] + 1 if same else 0
        noise_by(lambda plan, _rand: NOISE(plan, Replay(f"machine {turn['party']}")()))(patch)
        return CONTRIBUTION(plan, update, signs, rand)

    patch.setattr(party, "contribution", again)


def clipping_off(patch: Patch) -> None:
    patch.setattr(noised, "clip", lambda update, _bound: update)


def clip_of_each_block(patch: Patch) -> None:
    def each(update: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
        return np.concatenate([CLIP(part, bound) for part in np.split(update, [len(update) // 2])])

    patch.setattr(noised, "clip", each)


def rounded_once(patch: Patch) -> None:
    def once(scaled: NDArray[np.float64], _square: int, rand: Rand) -> Whole:
        down = np.floor(scaled)
        up = (rand.words("rounding 0", scaled.size) >> np.uint64(11)) * 2.0**-53 < scaled - down
        return down.astype(np.int64) + up

    patch.setattr(noised, "round_within", once)


def both(*patches: Callable[[Patch], None]) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        for one in patches:
            one(patch)

    return apply


def sized_for_all_invited(patch: Patch) -> None:
    real = noise_plan.Cohort
    patch.setattr(noise_plan, "Cohort", lambda clients, _smallest, _corrupt=0: real(clients, clients, 0))


def finer_grid(patch: Patch) -> None:
    def finer(plan: NoisePlan, *rest: Any) -> Whole:
        return CONTRIBUTION(replace(plan, granularity=plan.granularity / 2), *rest)

    patch.setattr(party, "contribution", finer)


def coarser_grid(patch: Patch) -> None:
    def coarser(plan: NoisePlan, *rest: Any) -> Whole:
        return CONTRIBUTION(replace(plan, granularity=plan.granularity * 2), *rest)

    patch.setattr(party, "contribution", coarser)


def told_all_invited(patch: Patch) -> None:
    charge = party.Account.charge
    patch.setattr(party.Account, "charge", lambda self, _survivors: charge(self, self.plan.cohort.clients))


def corrupt_counted(patch: Patch) -> None:
    patch.setattr(NoisePlan, "event", lambda self, s, rounds=1: EVENT(self, s + self.cohort.corrupt, rounds))


def charged_at_success(patch: Patch) -> None:
    over = site_side.SiteSide.over
    patch.setattr(site_side.SiteSide, "over", lambda self, count: None if count is None else over(self, count))


def amplified(patch: Patch) -> None:
    patch.setattr(NoisePlan, "event", lambda self, s, rounds=1: replace(EVENT(self, s, rounds), rate=0.5))


def not_centred(patch: Patch) -> None:
    patch.setattr(Ring, "centre", lambda _self, values: values.astype(np.int64))


def metrics_taken(patch: Patch) -> None:
    def taking(self: Any, updates: Any, weights: Any, _sums: Mapping[str, Any], occasion: Any, rand: Rand) -> Any:
        return ENCODE(self, updates, weights, {}, occasion, rand)

    patch.setattr(party.PartyLevel, "encode", taking)


def weights_go_along(patch: Patch) -> None:
    def weighed(self: Any, updates: Any, weights: Any, sums: Any, occasion: Any, rand: Rand) -> Any:
        encoded = ENCODE(self, updates, weights, sums, occasion, rand)
        return replace(encoded, vector=encoded.vector + np.eye(1, len(encoded.vector), dtype=np.int64)[0] * weights[0])

    patch.setattr(party.PartyLevel, "encode", weighed)


def silent_without_an_update(patch: Patch) -> None:
    def silent(self: Any, updates: Any, weights: Any, sums: Any, occasion: Any, rand: Rand) -> Any:
        require(any(np.any(update) for update in updates), "update-nothing", "there is nothing to say")
        return ENCODE(self, updates, weights, sums, occasion, rand)

    patch.setattr(party.PartyLevel, "encode", silent)
