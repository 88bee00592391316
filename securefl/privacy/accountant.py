"""From ε to noise and back, with Opacus' accountants of the Poisson-sampled Gaussian mechanism.

Sources: RDP by Mironov, Talwar and Zhang 2019 (arXiv 1908.10530) with the conversion of Balle et al. 2020 (arXiv 1905.09982,
theorem 21); PRV by Gopi, Lee and Wutschitz 2021 (arXiv 2106.02848).

ε holds for adding or removing one record.  What it does not cover: the number of rows, and everything that is opened besides the
trained weights.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from securefl.errors import UserError

History = tuple[tuple[float, float, int], ...]
"""Runs of equal steps in order: (noise multiplier, sampling rate, number of steps)."""

ACCOUNTANTS = ("rdp", "prv")
PRV_LIMIT = 100.0
"""Largest ε that the PRV accountant is asked for: its tables grow with ε."""

FINE: tuple[float, ...] = (*(1 + x / 100 for x in range(1, 10)), *(1 + x / 10 for x in range(1, 100)))
WHOLE: tuple[float, ...] = tuple(range(2, 64))
LARGE: tuple[float, ...] = (63, 72, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1000)
"""Rényi orders: Opacus' own, continued at both ends.  1000 is near the last whose binomials fit a float64."""


@lru_cache(maxsize=256)
def calibrate(
    *, epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str, models_per_record: int = 1
) -> float:
    """The noise multiplier that keeps all steps together within (ε, δ); at most 1 % of ε is left unused.

    Args:
        epsilon: target ε over everything, > 0 and finite.
        delta: δ in (0, 1).
        sample_rate: probability in (0, 1] with which a record is in a step's batch.
        steps: optimizer steps of one model over all rounds, at least 1.
        accountant: ``rdp`` or ``prv``.
        models_per_record: how many models, trained side by side, one record takes part in, at least 1 (in cross-validation
            folds − 1).

    Returns:
        Standard deviation of the noise divided by the clipping bound.

    Raises:
        UserError: for a value out of range, or an ε that the accountant cannot prove with any noise.
    """
    check_accountant(accountant)
    _check(delta, sample_rate)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise UserError(f"epsilon is {epsilon}: it must be finite and above 0")
    if accountant == "prv" and epsilon > PRV_LIMIT:
        raise UserError(f"epsilon is {epsilon}: the prv accountant takes at most {PRV_LIMIT}, the rdp accountant more")
    total = _whole("steps", steps) * _whole("models_per_record", models_per_record)
    unreachable = (
        f"epsilon {epsilon} with delta {delta} cannot be reached by the {accountant} accountant over {total} steps at "
        f"sampling rate {sample_rate}: choose a larger epsilon, a lower rate or fewer steps"
    )
    try:
        for options in _searches(epsilon, delta, sample_rate, total, accountant):
            noise_multiplier = _search(epsilon, delta, sample_rate, total, accountant, options)
            if epsilon_of(noise_multiplier, sample_rate, total, delta, accountant) <= epsilon:
                return noise_multiplier
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise UserError(unreachable) from error
    raise UserError(unreachable)


def epsilon_of(noise_multiplier: float, sample_rate: float, steps: int, delta: float, accountant: str) -> float:
    """ε at ``delta`` of ``steps`` equal steps; infinity without noise.

    Raises:
        UserError: for a value out of range.
    """
    return epsilon_of_history(((noise_multiplier, sample_rate, _whole("steps", steps)),), delta, accountant)


@lru_cache(maxsize=4096)
def epsilon_of_history(history: History, delta: float, accountant: str) -> float:
    """ε at ``delta`` of the composition of ``history``; 0.0 if nothing happened, infinity if a step had no noise.

    Far above `PRV_LIMIT` the answer is that of RDP, which is an upper bound too.

    Raises:
        UserError: for a value out of range.
    """
    check_accountant(accountant)
    for noise_multiplier, sample_rate, steps in history:
        _check(delta, sample_rate)
        _whole("steps", steps)
        if not noise_multiplier >= 0:
            raise UserError(f"noise_multiplier is {noise_multiplier}: it must be at least 0")
    if not history:
        return 0.0
    if any(noise_multiplier == 0 for noise_multiplier, _, _ in history):
        return math.inf
    from opacus.accountants import create_accountant  # noqa: PLC0415  (loads in 3 s)

    with _quiet():
        try:
            books = create_accountant(mechanism="rdp")
            books.history = list(history)
            epsilon = float(books.get_epsilon(delta=delta, alphas=_orders(history, delta)))
        except ArithmeticError:  # the noise is so small that its square is 0
            return math.inf
        if accountant == "prv" and epsilon <= 2 * PRV_LIMIT:
            books = create_accountant(mechanism="prv")
            books.history = list(history)
            epsilon = float(books.get_epsilon(delta=delta))
    return math.inf if math.isnan(epsilon) else max(epsilon, 0.0)


def check_accountant(name: str) -> None:
    """Raise `UserError` unless ``name`` is an accountant whose ε is an upper bound."""
    if name == "gdp":
        raise UserError(
            "accountant 'gdp' is refused: its central limit approximation can state an ε below the true one; use rdp or prv"
        )
    if name not in ACCOUNTANTS:
        raise UserError(f"accountant is {name!r}: it must be one of {', '.join(ACCOUNTANTS)}")


def _check(delta: float, sample_rate: float) -> None:
    if not 0 < delta < 1:
        raise UserError(f"delta is {delta}: it must lie in (0, 1), both ends excluded")
    if not 0 < sample_rate <= 1:
        raise UserError(f"sample_rate is {sample_rate}: it must lie in (0, 1]")


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} is {value}: it must be a whole number of at least 1")
    return value


def _orders(history: History, delta: float) -> list[float]:
    """Orders around the best one.  Any set of orders gives a bound; fractional ones take seconds where the noise is large."""
    from opacus.accountants import RDPAccountant  # noqa: PLC0415

    books = RDPAccountant()
    books.history = list(history)
    _, best = books.get_privacy_spent(delta=delta, alphas=list(WHOLE))
    if best == WHOLE[-1]:
        return list(LARGE)
    return sorted({*(order for order in (*FINE, *WHOLE) if abs(order - best) <= 1), *WHOLE[:1]})


def _searches(epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str) -> Iterator[dict[str, Any]]:
    """Options of the accountant to search with, best first; each proves its result, the last one always."""
    if accountant == "prv":
        yield {}
        return
    whole = {"alphas": [*WHOLE, *LARGE[1:]]}
    rough = _search(epsilon, delta, sample_rate, steps, accountant, whole)
    with _quiet():
        yield {"alphas": _orders(((rough, sample_rate, steps),), delta)}
    yield whole


def _search(epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str, options: dict[str, Any]) -> float:
    from opacus.accountants.utils import get_noise_multiplier  # noqa: PLC0415  (loads in 3 s)

    with _quiet():
        found = get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=delta,
            sample_rate=sample_rate,
            steps=steps,
            accountant=accountant,
            epsilon_tolerance=0.01 * epsilon,
            **options,
        )
    return float(found)


class _quiet(warnings.catch_warnings):  # noqa: N801  (a context manager that reads as a verb)
    """Without two warnings that change no bound: the best order at the end of the grid, and log 0 at sampling rate 1."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="Optimal order is the")
        warnings.filterwarnings("ignore", message="(divide by zero|invalid value|overflow) encountered")
