"""Step matching finds the factor by which one curve is a stretched copy of another."""

import numpy as np
import pytest

from unimod_jax.evaluation.step_matching import Curve, Matching, match


def decay(time):
    return 1.0 + 3.0 / np.sqrt(1.0 + np.asarray(time) / 40.0)


@pytest.mark.parametrize("stretch", [0.3, 0.455, 0.9, 1.0, 1.2])
def test_a_stretched_curve_has_its_stretch_as_slope_and_end_point(stretch: float):
    places = np.arange(10.0, 2001.0, 10.0)
    # Long enough to reach the end also where it is slower.
    other = np.arange(10.0, 2600.0, 10.0)
    found = match(Curve(places, decay(places)), Curve(other, decay(other / stretch)))
    assert found.slope == pytest.approx(stretch, rel=2e-3)
    assert found.end_point == pytest.approx(stretch, rel=2e-3)


def test_an_example_by_hand():
    baseline = Curve((10, 20, 30, 40), (4.0, 3.0, 3.5, 2.0))
    other = Curve((5, 10, 20), (5.0, 3.0, 1.0))
    # 4 is reached halfway from 5 to 10, 3 at 10; 3.5 asks nothing; 2 at 15.
    slope = (10 * 7.5 + 20 * 10 + 40 * 15) / (10**2 + 20**2 + 40**2)
    assert match(baseline, other) == Matching(pytest.approx(slope), 15 / 40, 3)


def test_what_is_never_reached_is_none():
    baseline = Curve((10, 20), (4.0, 2.0))
    partly = match(baseline, Curve((10, 20, 30), (5.0, 3.0, 2.5)))
    assert partly == Matching(1.5, None, 1)
    assert match(baseline, Curve((10, 20), (6.0, 5.0))) == Matching(None, None, 0)
    assert match(baseline, Curve((), ())) == Matching(None, None, 0)


def test_what_was_reached_before_the_first_measurement_is_no_point_of_the_line():
    baseline = Curve((10, 20), (4.0, 2.0))
    found = match(baseline, Curve((8, 16), (3.0, 1.0)))
    assert found == Matching(12 / 20, 12 / 20, 1)
    assert match(baseline, Curve((8,), (1.0,))) == Matching(None, 8 / 20, 0)
