"""Fixed point in digits: exact integers, exact sums, bounded error."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from protocols.rand import Rand, Seed
from securefl.encode import Plan, decode, encode
from securefl.errors import UserError
from securefl.fixed import Fixed


@settings(deadline=None)
@given(
    arrays(np.float64, (3, 4), elements=st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, 1.0, 0.0]))),
    st.floats(1e-9, 1e9),
    st.sampled_from([8, 16, 24, 48]),
    st.integers(1, 48),
)
def test_the_sum_comes_out_to_half_a_unit_a_party(values, bound, precision, resolution):
    limit = 2 ** (precision - 1) - 1
    fixed, values = Fixed("v", 4, bound, limit, resolution), np.clip(values * bound, -bound, bound)
    plan = Plan(parties=3, sums=fixed.specs(), precision=precision)
    rand = Rand(Seed(bytes(32)))
    vectors = [encode(plan, [], [], fixed.split(v), rand.child(str(i))).vector for i, v in enumerate(values)]
    got = fixed.join(decode(plan, sum(vectors), 3).sums)
    assert fixed.unit <= bound / (2**resolution - 1) * (1 + 1e-12)
    assert np.abs(got - values.sum(axis=0)).max() <= 3 * fixed.unit / 2 * (1 + 1e-9) + 8 * np.spacing(bound)


def test_digits_are_those_of_the_rounded_integer():
    fixed = Fixed("v", 3, 1.0, 2**15 - 1, 30)
    digits = fixed.split([1.0, -1.0, 40000 / (2**30 - 1)])
    assert digits["v.0"].tolist() == [32767, -32767, 40000 - 32768]
    assert digits["v.1"].tolist() == [32767, -32767, 1]
    assert fixed.limbs == 2


@pytest.mark.parametrize("bad", [[math.nan, 0], [1.001, 0], [0, -math.inf], [0]])
def test_bad_values_are_refused_by_name(bad):
    with pytest.raises(UserError, match="'speed'"):
        Fixed("speed", 2, 1.0, 127).split(bad)


@pytest.mark.parametrize(
    "change", [{"max": 0.0}, {"max": math.inf}, {"limit": 0}, {"limit": 100}, {"resolution": 0}, {"resolution": 49}]
)
def test_senseless_parameters_are_refused(change):
    with pytest.raises(UserError, match="'v'"):
        Fixed(**{"name": "v", "size": 1, "max": 1.0, "limit": 127, **change})
