"""The figures in the header of examples/adam_does_not_converge.py."""

import keras
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() == "torch", reason="needs a compiled loop"),
]

REGRETS = {
    "period-3": (0.6668, 0.00166, 0.00094, 0.00094, 0.00032, 0.00050),
    "period-101": (0.2581, 0.0685, 0.0890, 0.1090, 0.0923, 0.0127),
}


@pytest.mark.parametrize("problem", REGRETS)
def test_average_regrets(results, problem):
    games = results["games"][problem]
    assert list(games) == ["Adam", "AMSGrad", "AdamNC", "Adagrad", "ADOPT", "SGD"]
    for game, expected in zip(games.values(), REGRETS[problem], strict=True):
        last_digit = 1e-5 if expected < 0.01 else 1e-4
        assert abs(game["regret"] - expected) < 0.51 * last_digit
    assert all(
        game["x"] > 0.99 if name == "Adam" else game["x"] < -0.99 for name, game in games.items()
    )


def test_adams_regret_stays_and_the_others_fall(results):
    """In the last decade of rounds: by hardly anything, and by at least a factor of 2.5."""
    for games in results["games"].values():
        for name, game in games.items():
            decade = game["average_regret"][game["rounds"] == 10**5][0] / game["regret"]
            assert decade < 1.6 if name == "Adam" else decade > 2.5
    adam = results["games"]["period-3"]["Adam"]
    assert abs(adam["regret"] - 2 / 3) < 1e-4 and adam["regret"] > 2 / 3


def test_what_beta_2_does(results):
    from adam_does_not_converge import FORGETTING

    adam, amsgrad, adopt = (results["sweep"][name] for name in ("Adam", "AMSGrad", "ADOPT"))
    for forgetting, x in zip(FORGETTING, adam, strict=True):
        assert x > 0.99 if forgetting > 0.99e-3 else x < -0.98
    assert all(x < -0.9 for x in amsgrad)
    assert adopt[0] > 0.9 and all(x < -0.9 for x in adopt[1:])


def test_three_amsgrads(results):
    forms = results["forms"]
    for form, early, x in (
        ("the paper", 0.777, -1),
        ("Keras", 0.738, -1),
        ("Optax", 0.182, -0.29),
    ):
        assert abs(forms[form]["regret_1e4"] - early) < 5e-4
        assert abs(forms[form]["x_constant_rate"] - x) < 5e-3
