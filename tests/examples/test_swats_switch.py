from tests.examples import JAX_ONLY

pytestmark = JAX_ONLY


def test_the_learned_rate_is_near_that_of_a_tuned_sgd(results):
    tuned = results["tuned rate"]["SGD"]
    rates = [rate for rates in results["SGD rate"].values() for rate in rates]
    assert len(rates) > 24
    assert all(tuned / 2 < rate < 2 * tuned for rate in rates)


def test_forced_switches_come_when_told(results):
    for when, step in (("at 5 %", 38), ("at 20 %", 152), ("at 70 %", 532)):
        assert results["switch step"][when] == [step] * 8
    assert len(results["switch step"]["by itself"]) >= 4


def test_no_switch_costs_or_gains_much(results):
    errors = {name: mean for name, (mean, _) in results["error"].items()}
    assert all(abs(error - errors["SGD"]) < 0.6 for error in errors.values())
    assert all(7.0 < error < 8.5 for error in errors.values())
