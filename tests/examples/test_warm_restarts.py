import pytest

from tests.examples import JAX_ONLY

pytestmark = JAX_ONLY


def test_adamwr_is_ready_early(results):
    difference, half = results["AdamW"]["at 30 epochs"]
    assert difference + half < 0
    _, early, _, late = results["AdamW"]["error at the ends"]
    assert abs(early - late) < 0.3


def test_restarts_gain_and_cost_nothing_in_the_end(results):
    for found in results.values():
        difference, half = found["last snapshot - one cosine"]
        assert abs(difference) < half + 0.1


def test_the_ensemble_of_adamwr_is_better_and_that_of_sgdwr_is_not(results):
    for other in ("ensemble - last snapshot", "ensemble - one cosine"):
        difference, half = results["AdamW"][other]
        assert difference + half < 0
    difference, half = results["SGDW"]["ensemble - one cosine"]
    assert abs(difference) < half


def test_errors_are_those_of_the_header(results):
    ends = {"AdamW": (5.7, 5.1, 5.4, 5.2), "SGDW": (6.5, 5.5, 5.3, 5.3)}
    for name, errors in ends.items():
        assert results[name]["error at the ends"] == pytest.approx(errors, abs=0.4)
    assert results["AdamW"]["ensemble"] == pytest.approx(4.9, abs=0.3)
