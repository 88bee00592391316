"""How the server of LightSecAgg gets the sum of the masks out of the helpers' answers, and what it makes of wrong ones.

The first U answers that come are the basis: signed, decoded on arrival, they alone determine the result.  The others can only speak
against it.  Two random parities, drawn when all are here, vanish if all lie on one polynomial of degree < U; where they do, nothing
rests on what the others are signed with, and their signatures are not looked at.  Where they do not, those not signed by their
helpers go, all that is left is projected on two random vectors, and up to ⌊(m−U)/2⌋ wrong answers among it are located.

Source: So et al., LightSecAgg, MLSys 2022 (arXiv 2109.14236), section 4; locating as in `protocols.lagrange`.

Channel assumed: as in `protocols.lightsecagg`.

What it does not protect: at m = U nothing speaks against the basis.  Who can replace the answers beyond the U-th in transit could
as well hold them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Abort, Refused, require
from protocols.lagrange import alphas, betas, coefficients, misfits
from protocols.lightsecagg_parameters import LightParameters
from protocols.lightsecagg_types import Answer
from protocols.primitives.sign import verify
from protocols.products import PackedRows
from protocols.rand import Rand
from protocols.suite import Terms

Shares = Mapping[int, NDArray[Any]]
"""Sums of shares by helper, shape (block,) each, dtype of the field."""


def answer_statement(terms: Terms[LightParameters], u: int, L: bytes, u3: Sequence[int], content: bytes) -> bytes:
    """What a helper signs."""
    return terms.statement("answer", u, L, tuple(u3), content)


def check_answer(terms: Terms[LightParameters], u: int, L: bytes, u3: Sequence[int], said: Answer) -> None:
    """Refuse an answer that its helper did not sign for this list and this U3."""
    valid = verify(terms.roster.identity(u), said.signature, answer_statement(terms, u, L, u3, said.share.digest))
    require(valid, "answer-signature", "over the sum of shares")


def open_mask(
    p: LightParameters, basis: Shares, more: Mapping[int, Answer], check: Callable[[int], None], rand: Rand
) -> tuple[NDArray[Any], tuple[int, ...]]:
    """The sum of the masks, and who was left out.

    Args:
        p: parameters.
        basis: U answers whose signatures hold.
        more: those beyond them, as they came.
        check: refuses one of those that is not signed by its helper; asked only where the answers do not fit.
        rand: for what is drawn after all answers have come.

    Returns:
        Shape (blocks, block), and the helpers whose answers were not signed, no field elements or wrong, ascending.

    Raises:
        Abort: ``answers-fit`` where more are wrong than can be located.
    """
    z, fits = interpolate(p, basis, more, rand)
    if fits:
        return z, ()
    shares, bad = dict(basis), list[int]()
    for u, said in more.items():
        try:
            check(u)
            shares[u] = said.share.values
        except Refused:
            bad.append(u)
    wrong = find_wrong(p, shares, rand)
    if not bad and not wrong:
        raise Abort("answers-fit", "the parities say that an answer is wrong, the projections of none")
    if wrong:
        kept = [u for u in shares if u not in wrong][: p.threshold]
        z, _ = interpolate(p, {u: shares[u] for u in kept}, {}, rand)
    return z, tuple(sorted([*bad, *wrong]))


def interpolate(p: LightParameters, basis: Shares, more: Mapping[int, Answer], rand: Rand) -> tuple[NDArray[Any], bool]:
    """The sum of the masks from U answers, and whether those beyond them lie on the same polynomial of degree < U.

    That is told by two random combinations of what the basis says they are: what is another passes with probability q^−2, which is
    2^−61.99 at most.  They are formed in the product that opens the mask, so an answer beyond the basis costs its unpacking and one
    column of two rows.  One that holds no field elements does not fit.

    Returns:
        Shape (blocks, block), dtype of the field, whatever ``more`` holds; and whether all fit.
    """
    first, points = list(basis.values()), [*alphas(p.parties, p.blocks), *betas(list(more))]
    matrix = coefficients(p.ring, betas(list(basis)), points)
    if not more:
        return p.ring.product(matrix, first), True
    draws = p.ring.uniform(rand, "parities", 2 * len(more)).reshape(2, len(more))
    expected = p.ring.product(draws, matrix[p.blocks :])
    out = p.ring.product(np.concatenate([matrix[: p.blocks], expected]), first)
    try:
        said = p.ring.product(draws, PackedRows([answer.share.data or b"" for answer in more.values()], p.block))
    except Refused:
        return out[: p.blocks], False
    return out[: p.blocks], bool(np.array_equal(said, out[p.blocks :]))


def find_wrong(p: LightParameters, shares: Shares, rand: Rand) -> tuple[int, ...]:
    """Helpers whose answers do not fit a polynomial of degree < U with the others', on two random projections drawn now.

    Raises:
        Abort: ``answers-fit`` where more are wrong than can be located.
    """
    helpers = list(shares)
    if len(helpers) == p.threshold:
        return ()
    vectors = np.stack([p.ring.uniform(rand, f"projection {i}", p.block) for i in range(2)])
    rows = p.ring.dots(np.stack([shares[u] for u in helpers]), vectors)
    wrong = misfits(p.ring, betas(helpers), rows.T.tolist(), p.threshold)
    if wrong is None:
        raise Abort("answers-fit", f"more than {(len(helpers) - p.threshold) // 2} of {len(helpers)} answers are wrong")
    return tuple(wrong)
