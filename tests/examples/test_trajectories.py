import pytest

from tests.examples import JAX_ONLY

pytestmark = JAX_ONLY


def test_who_reaches_rosenbrocks_minimum(results):
    """From how many of 16 starts; float32 rounding decides one or the other of them."""
    found = results["starts that reach a minimum"]
    starts = {case.split(", ")[0]: n for case, n in found.items() if case.endswith("Rosenbrock")}
    assert starts["SGDW"] == 16
    assert all(starts[name] >= 12 for name in ("Adam", "AMSGrad", "AdamNC"))
    assert all(starts[name] == 0 for name in ("SGD", "RMSprop", "Adadelta", "Nadam"))


def test_only_sgd_stays_at_the_saddle(results):
    for case, starts in results["starts that reach a minimum"].items():
        name, surface = case.split(", ")
        if surface == "Saddle":
            assert starts == (0 if name == "SGD" else 16), name
    assert results["value"]["SGD, Saddle"] == pytest.approx(0.25, abs=1e-6)


def test_momentum_is_what_the_ravine_asks_for(results):
    value = {name: results["value"][f"{name}, Ravine"] for name in ("Adam", "SGD", "SGDW")}
    assert value["Adam"] < 1e-10 and value["SGDW"] < 1e-10
    assert 1e-6 < value["SGD"] < 1e-3 < results["value"]["RMSprop, Ravine"]


def test_rastrigins_optimum_is_out_of_reach(results):
    for case, starts in results["starts that reach a minimum"].items():
        if case.endswith("Rastrigin"):
            assert starts <= 2, case
    for name in ("SGD", "RMSprop", "AdamNC"):
        assert results["value"][f"{name}, Rastrigin"] == pytest.approx(12.93, abs=0.02)
    assert results["value"]["Adam, Rastrigin"] < 5


def test_adamw_without_decay_walks_as_adam_does(results):
    assert (results["paths"]["Adam, Rosenbrock"] == results["paths"]["AdamW, Rosenbrock"]).all()
