import keras
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() == "torch", reason="has no compiled loop"),
]


@pytest.fixture(scope="module")
def results(run):
    return run("adam_does_not_converge")


def test_adam_ends_at_the_worst_point_and_the_others_at_the_best(results):
    for games in results.values():
        assert len(games) == 7
        for player, game in games.items():
            assert game["x"] > 0.9 if player == "Adam" else game["x"] < -0.9


EXPECTED = {
    "period-3": {"Adam": 0.666761, "AMSGrad": 0.001660, "AdamNC": 0.000935, "SGD": 0.000503},
    "period-101": {"Adam": 0.258097, "AMSGrad": 0.068451, "AdamNC": 0.089032, "Adagrad": 0.109045},
}


def test_average_regrets(results):
    for problem, regrets in EXPECTED.items():
        for player, regret in regrets.items():
            assert abs(results[problem][player]["R_T / T"] - regret) < 1e-6
    assert all(g["R_T / T"] < 0.0018 for n, g in results["period-3"].items() if n != "Adam")
    assert abs(results["period-101"]["ADOPT"]["R_T / T"] - 0.0923) < 1e-3
    assert abs(results["period-101"]["SGD"]["R_T / T"] - 0.0127) < 1e-3
