"""Encoding: bounded, unbiased, exact to n steps, deterministic, and nothing that is not finite gets through."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from protocols.errors import Abort, Misuse
from protocols.rand import Rand, Replay, Seed
from protocols.ring import Ring
from securefl.encode import Plan, all_finite, decode, encode, round_each, round_unbiased
from securefl.encoding import SumSpec
from securefl.errors import UserError

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)


def rand(seed: int) -> Rand:
    return Rand(Seed(seed.to_bytes(32, "big")))


def clipped(x: np.ndarray, bound: float) -> np.ndarray:
    """The oracle.  A norm beyond the floats is taken of smaller numbers."""
    norm = math.hypot(*x)
    if norm <= bound:
        return x
    if not math.isfinite(norm):
        x = x / 2.0**600
        norm = math.hypot(*x)
    return x / norm * bound  # bound / norm may be subnormal, and would lose bits


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Plan, list[dict[str, object]], int]:
    blocks = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    precision = draw(st.sampled_from([8, 12, 16, 24, 40]))
    specs = (
        SumSpec("counts", draw(st.integers(1, 3)), float(draw(st.integers(1, 127))), integer=True),
        SumSpec("many", 1, 2.0**45, integer=True),
        SumSpec("real", draw(st.integers(1, 4)), draw(st.floats(1e-3, 1e6))),
    )
    plan = Plan(
        parties=draw(st.integers(2, 9)),
        blocks=blocks,
        clip=draw(st.floats(1e-6, 1e6)),
        w_max=draw(st.integers(1, 127)),
        sums=specs,
        precision=precision,
    )
    size = st.one_of(FINITE, st.floats(-plan.clip, plan.clip))
    parties = [
        {
            "updates": [draw(arrays(np.float64, length, elements=size)) for length in blocks],
            "weights": [draw(st.integers(0, 3 * plan.w_max)) for _ in blocks],
            "sums": {
                "counts": draw(arrays(np.int64, specs[0].size, elements=st.integers(-int(specs[0].max), int(specs[0].max)))),
                "many": draw(arrays(np.int64, 1, elements=st.integers(-(2**45), 2**45))),
                "real": draw(arrays(np.float64, specs[2].size, elements=st.floats(-specs[2].max, specs[2].max))),
            },
        }
        for _ in range(draw(st.integers(1, plan.parties)))
    ]
    return plan, parties, draw(st.integers(0, 2**32))


@settings(deadline=None, max_examples=150)
@given(cohorts())
def test_decoded_sum_is_within_n_steps_of_the_true_one(cohort):
    plan, parties, seed = cohort
    n, ring = len(parties), Ring(plan.bits)
    encoded = [encode(plan, **p, rand=rand(seed + i)) for i, p in enumerate(parties)]
    for e, p in zip(encoded, parties, strict=True):
        assert e.vector.dtype == np.int64
        assert e.vector.shape == (plan.size,)
        assert np.abs(e.vector).max() <= plan.limit
        assert e.cut == tuple(i for i, w in enumerate(p["weights"]) if w > plan.w_max)
    wrapped = np.zeros(plan.size, dtype=ring.dtype)
    for e in encoded:
        wrapped += ring.lift(e.vector)
    ring.reduce(wrapped)
    total = ring.centre(wrapped)
    assert (total == np.sum([e.vector for e in encoded], axis=0)).all()

    weights = np.minimum([p["weights"] for p in parties], plan.w_max)
    if not weights.any():
        with pytest.raises(Abort, match="weight-total"):
            decode(plan, total, n)
        return
    decoded = decode(plan, total, n)
    assert decoded.weights == tuple(weights.sum(axis=0))
    for block, update in enumerate(decoded.updates):
        summed = sum(w * clipped(p["updates"][block], plan.clip) for w, p in zip(weights[:, block], parties, strict=True))
        if update is None:
            assert weights[:, block].sum() == 0
            continue
        rows = weights[:, block].sum()
        # Beside the n steps only what float64 leaves in this oracle and in the mean: a few last bits of the largest possible sum.
        bound = n * plan.step + 2.0**-50 * n * plan.w_max * plan.clip
        assert np.abs(update * rows - summed).max() <= bound
        assert np.abs(update - summed / rows).max() <= bound / rows
    assert decoded.sums["counts"].dtype == np.int64
    assert (decoded.sums["counts"] == sum(p["sums"]["counts"] for p in parties)).all()
    for name, bound in (("many", 2.0**45), ("real", plan.sums[2].max)):
        assert (
            np.abs(decoded.sums[name] - sum(p["sums"][name] for p in parties)).max()
            <= n * bound / plan.limit + 2.0**-50 * n * bound
        )


@given(arrays(np.float64, st.integers(0, 5), elements=st.floats(width=64)))
def test_all_values_are_finite_or_not(values):
    assert all_finite(values) == bool(np.isfinite(values).all())


@given(cohorts())
@settings(deadline=None, max_examples=20)
def test_the_same_randomness_gives_the_same_bits(cohort):
    plan, parties, seed = cohort
    first, again = (encode(plan, **parties[0], rand=rand(seed)) for _ in range(2))
    assert (first.vector == again.vector).all()


def test_other_randomness_rounds_otherwise():
    plan = Plan(parties=2, blocks=(200,))
    x = np.full(200, 0.7123 / math.sqrt(200))
    assert (encode(plan, [x], [1], {}, rand(1)).vector != encode(plan, [x], [1], {}, rand(2)).vector).any()


@pytest.mark.parametrize("value", [-3.75, -0.5, 0.03125, 2.25])
def test_rounding_is_unbiased(value):
    """20 000 roundings of one value, each to a neighbour.  Hoeffding: false alarm of the mean below 1e-27."""
    count = 20_000
    plan = Plan(parties=2, sums=(SumSpec("v", count, 127.0),), precision=8)
    got = encode(plan, [], [], {"v": np.full(count, value)}, rand(7)).vector
    assert set(got) == {math.floor(value), math.floor(value) + 1}
    assert abs(got.mean() - value) < 0.04


@pytest.mark.parametrize("precision", [8, 16, 24, 48])
@pytest.mark.parametrize("clip", [1e-7, 0.1, 1 / 3, 1.0, 1e9])
def test_the_limit_holds_at_the_extremes(precision, clip):
    """Largest update, weight and sums, all signs, values that divisions push past the last step; the ring never wraps."""
    sums = (SumSpec("real", 2, 0.1), SumSpec("count", 1, 100, integer=True))
    plan = Plan(parties=5, blocks=(1, 1, 3), clip=clip, w_max=97, sums=sums, precision=precision)
    for seed in range(20):
        updates = [np.array([-clip]), np.array([1e300]), np.array([0.0, -np.finfo(float).max, 0.0])]
        e = encode(plan, updates, [10**30, 97, 97], {"real": [0.1, -0.1], "count": [100]}, rand(seed))
        q = plan.limit
        assert e.vector.tolist() == [-q, q, 0, -q, 0, 97, 97, 97, q, -q, 100]
        assert e.clipped == (False, True, True)
        assert e.cut == (0,)
        total = 5 * e.vector
        assert np.abs(total).max() < 2 ** (plan.bits - 1)
        decoded = decode(plan, total, 5)
        assert decoded.updates[0] == pytest.approx([-clip])


class Stuck(Rand):
    """Uniforms that all round up, or all down."""

    def __init__(self, word: int) -> None:
        super().__init__(Seed(bytes(32)))
        self.word = np.uint64(word)

    def words(self, label: str, count: int) -> np.ndarray:
        return np.full(count, self.word)


@settings(max_examples=300)
@given(
    arrays(np.float64, 3, elements=st.one_of(FINITE, st.floats(-2, 2), st.just(0.0))),
    st.floats(1e-9, 1e9),
    st.integers(1, 127),
    st.sampled_from([8, 16, 24, 48]),
    st.sampled_from([0, 2**64 - 1]),
)
def test_no_value_is_rounded_beyond_the_limit_whatever_the_uniforms(x, bound, w_max, precision, word):
    """Values at their bound scale to the limit or just below it, never above: one last bit would round to limit + 1."""
    sums = (SumSpec("real", 2, bound), SumSpec("many", 1, 2.0**50, integer=True))
    plan = Plan(parties=2, blocks=(3, 1), clip=bound, w_max=w_max, sums=sums, precision=precision)
    values = {"real": [bound, -bound], "many": [-(2**50)]}
    vector = encode(plan, [x * bound if np.abs(x).max() <= 2 else x, [bound]], [w_max, w_max], values, Stuck(word)).vector
    assert np.abs(vector).max() == plan.limit


def test_unequal_weights_give_the_weighted_mean():
    plan = Plan(parties=3, blocks=(4,), clip=2.0, w_max=500, precision=24)
    x, w = np.array([[1, 0, -0.5, 0.25], [0.3, 0.9, 0, -1], [-1, -1, 1, 0.125]]), [500, 3, 41]
    total = sum(encode(plan, [x[i]], [w[i]], {}, rand(i)).vector for i in range(3))
    assert decode(plan, total, 3).updates[0] == pytest.approx(np.average(x, axis=0, weights=w), abs=3 * plan.step / sum(w))


def test_a_long_block_is_clipped_as_a_whole():
    plan = Plan(parties=2, blocks=(3, 2), clip=5.0, w_max=1, precision=32)
    e = encode(plan, [[6.0, 0.0, 8.0], [3.0, 4.0]], [1, 1], {}, rand(0))
    assert e.clipped == (True, False)
    decoded = decode(plan, e.vector, 1)
    assert decoded.updates[0] == pytest.approx([3, 0, 4], abs=2 * plan.step)
    assert decoded.updates[1] == pytest.approx([3, 4], abs=2 * plan.step)


def test_layout_is_blocks_then_weights_then_sums():
    plan = Plan(parties=2, blocks=(2, 3), w_max=9, sums=(SumSpec("b", 2, 5, integer=True), SumSpec("a", 1, 5, integer=True)))
    assert plan.layout == (
        ("block 0", slice(0, 2)),
        ("block 1", slice(2, 5)),
        ("weights", slice(5, 7)),
        ("b", slice(7, 9)),
        ("a", slice(9, 10)),
    )
    vector = encode(plan, [np.zeros(2), np.zeros(3)], [4, 5], {"a": [-3], "b": [1, 2]}, rand(0)).vector
    assert vector.tolist() == [0, 0, 0, 0, 0, 4, 5, 1, 2, -3]
    assert plan.size == 10


def test_a_block_without_weight_has_no_mean():
    plan = Plan(parties=2, blocks=(1, 1))
    total = sum(encode(plan, [[1.0], [1.0]], [0, 1], {}, rand(i)).vector for i in range(2))
    decoded = decode(plan, total, 2)
    assert decoded.updates[0] is None
    assert decoded.updates[1] == pytest.approx([1.0])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 4), st.booleans())
def test_what_is_not_finite_is_refused_and_named(bad, index, in_update):
    plan = Plan(parties=2, blocks=(2, 5), sums=(SumSpec("loss", 5, 1.0),))
    update, loss = np.zeros(5), np.zeros(5)
    (update if in_update else loss)[index] = bad
    with pytest.raises(UserError, match=f"{'update of block 1' if in_update else 'loss'}.* index {index}"):
        encode(plan, [np.zeros(2), update], [0, 0], {"loss": loss}, rand(0))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"updates": [[0.0]]}, "block 0 must be 2 real numbers"),
        ({"updates": [["a", "b"]]}, "block 0 must be 2 real numbers"),
        ({"updates": []}, "1 blocks need as many"),
        ({"weights": [-1]}, "weight of block 0"),
        ({"weights": [1.5]}, "weight of block 0"),
        ({"weights": [True]}, "weight of block 0"),
        ({"sums": {"n": [1]}}, "loss missing or unknown"),
        ({"sums": {"n": [1], "loss": [0.0], "x": [1]}}, "x missing or unknown"),
        ({"sums": {"n": [11], "loss": [0.0]}}, "'n' is 11 at index 0: it must be within ±10"),
        ({"sums": {"n": [0.5], "loss": [0.0]}}, "'n' takes whole numbers"),
        ({"sums": {"n": [1], "loss": [-2.5000001]}}, "'loss' is -2.5 at index 0"),
    ],
)
def test_bad_input_is_refused_by_name(change, text):
    plan = Plan(parties=2, blocks=(2,), sums=(SumSpec("n", 1, 10, integer=True), SumSpec("loss", 1, 2.5)))
    good = {"updates": [[0.0, 0.0]], "weights": [1], "sums": {"n": [1], "loss": [0.0]}}
    encode(plan, **good, rand=rand(0))
    with pytest.raises(UserError, match=text):
        encode(plan, **{**good, **change}, rand=rand(0))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"parties": 1}, "at least 2 parties, not 1"),
        ({"precision": 7}, "precision must be 8 to 48"),
        ({"precision": 49}, "precision must be 8 to 48"),
        ({"precision": 8, "w_max": 128}, "w_max must be 1 to 127"),
        ({"w_max": 0}, "w_max must be"),
        ({"clip": 0.0}, "L2 bound"),
        ({"clip": math.inf}, "L2 bound"),
        ({"clip": math.nan}, "L2 bound"),
        ({"blocks": (3, 0)}, "at least one coordinate"),
        ({"blocks": ()}, "at least one coordinate"),
        ({"sums": (SumSpec("a", 1, 1.0), SumSpec("a", 2, 1.0))}, "must differ"),
        ({"parties": 2**20, "precision": 48}, "at most 62"),
        ({"parties": 3, "ring": 17}, "3 parties times 32767 overflow a ring of 17 bits"),
    ],
)
def test_a_plan_without_headroom_or_sense_is_refused(change, text):
    with pytest.raises(UserError, match=text):
        Plan(**{"parties": 3, "blocks": (1,), **change})


@given(st.integers(2, 5000), st.sampled_from([8, 16, 24]))
def test_the_ring_is_the_least_that_holds_the_sum(parties, precision):
    plan = Plan(parties=parties, blocks=(1,), precision=precision)
    assert plan.bits == precision + math.ceil(math.log2(parties))
    assert parties * plan.limit < 2 ** (plan.bits - 1)
    assert Plan(parties=parties, blocks=(1,), precision=precision, ring=plan.bits + 1).bits == plan.bits + 1


@pytest.mark.parametrize(
    ("name", "size", "bound"), [("", 1, 1.0), ("a", 0, 1.0), ("a", 1, 0.0), ("a", 1, math.inf), ("a", 1, math.nan)]
)
def test_a_sum_needs_name_size_and_bound(name, size, bound):
    with pytest.raises(UserError):
        SumSpec(name, size, bound)


def test_totals_that_no_honest_parties_could_have_made_are_refused():
    plan = Plan(parties=3, blocks=(1,), w_max=10, sums=(SumSpec("n", 1, 5, integer=True),))
    for total, check in [
        ([0, -1, 0], "weight-total"),
        ([0, 21, 0], "weight-total"),
        ([0, 0, 0], "weight-total"),
        ([2 * plan.limit + 1, 1, 0], "sum-range"),
        ([0, 1, 11], "sum-range"),
    ]:
        with pytest.raises(Abort, match=check):
            decode(plan, np.array(total, dtype=np.int64), 2)
    assert decode(plan, np.array([0, 20, -10], dtype=np.int64), 2).weights == (20,)
    for bad, contributors in [(np.zeros(2, np.int64), 1), (np.zeros(3), 1), (np.zeros(3, np.int64), 0), (np.zeros(3, np.int64), 4)]:
        with pytest.raises(Misuse):
            decode(plan, bad, contributors)


def test_the_private_vector_is_not_printed():
    assert "12345" not in repr(
        encode(Plan(parties=2, sums=(SumSpec("n", 1, 20000, integer=True),)), [], [], {"n": [12345]}, rand(0))
    )


def test_a_mean_that_no_clipped_updates_could_have_is_refused():
    """A negative weight from one party would shrink the divisor and lift the mean beyond the clip."""
    plan = Plan(3, (4,), clip=8.0, w_max=100)
    honest = [encode(plan, [np.full(4, 4.0)], [50], {}, rand(i)).vector for i in range(2)]
    poison = np.full(plan.size, plan.limit, dtype=np.int64)
    poison[-1] = -99
    with pytest.raises(Abort, match="sum-range"):
        decode(plan, honest[0] + honest[1] + poison, 3)
    third = encode(plan, [np.full(4, 4.0)], [100], {}, rand(3)).vector
    assert decode(plan, honest[0] + honest[1] + third, 3).updates[0] is not None


@given(st.integers(1, 6), st.integers(1, 50), st.integers(0, 2**32))
def test_rows_rounded_together_are_those_rounded_alone(k: int, n: int, seed: int) -> None:
    real = np.random.default_rng(seed).uniform(-(2.0**47), 2.0**47, size=(k, n)) / np.random.default_rng(seed).choice(
        [1, 2**20, 2**40]
    )
    sources = lambda: [Replay(f"{seed} {row}")() for row in range(k)]  # noqa: E731
    alone = [round_unbiased(row, rand) for row, rand in zip(real, sources(), strict=True)]
    assert (round_each(real, sources()) == np.array(alone)).all()
    words = [rand.words("stochastic rounding", n) for rand in sources()]
    by_hand = [
        [int(np.floor(v)) + (int(w) >> 11 < (v - np.floor(v)) * 2.0**53) for v, w in zip(*row, strict=True)]
        for row in zip(real, words, strict=True)
    ]
    assert np.array(by_hand).tolist() == np.array(alone).tolist()


@given(st.integers(0, 40), st.integers(0, 2**32))
def test_values_rounded_block_by_block_are_those_of_one_stream(n: int, seed: int) -> None:
    real = np.random.default_rng(seed).uniform(-100, 100, size=(2, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("securefl.encode._AT_ONCE", 7)
        got = round_unbiased(real, Replay(f"{seed}")())
    assert (got == round_unbiased(real, Replay(f"{seed}")())).all()
    words = Replay(f"{seed}")().words("stochastic rounding", real.size).reshape(real.shape)
    assert (got == np.floor(real) + ((words >> np.uint64(11)) < (real - np.floor(real)) * 2.0**53)).all()
