import numpy as np
import pytest

import keras_adamfamily as kaf

pytestmark = pytest.mark.slow


def test_the_worst_gradients_take_the_largest_steps_that_are_possible(results):
    adam = {1: 1.0, 2: 1.0013579, 10: 1.0431077, 100: 2.2433641, 1000: 5.7811602}
    for t, value in adam.items():
        assert results["worst steps"][t][0] == pytest.approx(value, abs=1e-7)
    assert results["worst steps"][100][1] == pytest.approx(1.0090880887, abs=1e-9)
    assert results["off the bound, Adam"] < 1e-9
    assert results["off the bound, Adamax"] < 1e-9


def test_the_limit_is_7_27_learning_rates(results):
    _, bound, *_ = results["curves"]
    assert 3.162 < bound[-1] < 0.1 / np.sqrt(0.001 * (1 - 0.81 / 0.999)) == pytest.approx(7.2702918)


def test_sparse_and_random_gradients_stay_below(results):
    expected = {0: 1.0, 1: 0.744, 5: 0.522, 10: 0.482, 50: 0.709, 1000: 2.515, 3000: 3.083}
    for zeros, step in expected.items():
        assert results["after zeros"][zeros] == pytest.approx(step, abs=5e-4)
    assert results["largest of 300 random sequences"] < 3.0


@pytest.mark.parametrize("name", kaf.names())
def test_who_knows_the_gradients_scale(results, name):
    times_1024, small, large = results["relative change"][name]
    if name in ("SGD", "SGDW"):
        assert times_1024 > 1000 and small > 0.99 and large > 0.99e6
    elif name == "Adadelta":
        assert 1e-4 < times_1024 < 1e-2
    else:
        assert times_1024 == 0.0
        assert large < 1e-4
