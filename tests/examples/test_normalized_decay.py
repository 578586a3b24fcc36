import pytest

from tests.examples import JAX_ONLY

pytestmark = JAX_ONLY


def test_the_best_lambda_falls_with_the_root_of_the_budget(results):
    assert -0.65 < results["slope of lambda"] < -0.35
    low, high = results["95 % interval of lambda_norm's"]
    assert low < 0 < high and high - low < 0.4


def test_the_best_normalized_decay_stays_within_a_factor_of_two(results):
    ten, *norms = results["best lambda_norm"]
    assert max(norms) < 2 * min(norms)
    assert 0.08 < min(norms) and max(norms) < 0.25
    assert ten < min(norms)


def test_both_axes_show_the_same_runs(results):
    factors = [
        n / m for n, m in zip(results["best lambda_norm"], results["best lambda"], strict=True)
    ]
    assert factors[-1] / factors[0] == pytest.approx(4.0)
