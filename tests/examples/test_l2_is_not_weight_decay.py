import numpy as np
import pytest

from tests.examples import JAX_ONLY

pytestmark = JAX_ONLY


def test_five_rows(results):
    rows = results["final weight"]
    assert np.allclose(rows["no decay"], 0.930713, atol=1e-6)
    assert np.allclose(rows["L2"], [0.023267, 0.173775, 0.758009, 0.911668, 0.92879], atol=1e-6)
    assert np.allclose(rows["decoupled"], rows["decoupled"][0], rtol=0, atol=1e-12)
    assert rows["decoupled"][0] == pytest.approx(0.757622, abs=1e-6)


def test_only_the_papers_form_is_decoupled_where_weights_are_scale_invariant(results):
    maps = results["maps"]["normalized"]
    for paper, *others in (
        ("SGDW as in the paper", "SGD + L2", "SGDW as in Keras"),
        ("AdamW as in the paper", "Adam + L2", "AdamW as in Keras"),
    ):
        assert maps[paper]["regret"] < 0.12
        assert all(maps[other]["regret"] > 0.25 for other in others)
        assert abs(maps[paper]["slope"]) < 0.5
        assert all(maps[other]["slope"] < -0.6 for other in others)


@pytest.mark.parametrize("rule, others", [("SGDW", 1.9), ("AdamW", 4.0)])
def test_one_decay_of_the_papers_form_serves_every_good_rate(results, rule, others):
    """It is within a fifth of the best there; in Keras's form none is within `others` of the best.

    With 24 seeds the factors are 2.01 and 4.70, and 95 % of resamplings of them lie in 1.91-2.16
    and 4.4-4.9; the three parts of 8 seeds gave 1.99-2.08 and 4.4-5.0.
    """
    for form, low, high in ((" as in the paper", 1.0, 1.2), (" as in Keras", others, np.inf)):
        loss = results["maps"]["normalized"][rule + form]["loss"]
        best = loss.min(axis=1, keepdims=True)
        good = best[:, 0] <= 1.5 * best.min()
        assert good.sum() >= 5
        assert low <= (loss / best)[good].max(axis=0).min() < high


def test_without_normalization_it_is_the_other_way_round(results):
    maps = results["maps"]["plain"]
    for rule in ("SGD", "Adam"):
        paper = maps[f"{rule}W as in the paper"]["regret"]
        assert paper > 0.15
        assert all(maps[rule + form]["regret"] < 0.1 for form in (" + L2", "W as in Keras"))


def test_the_best_losses_hardly_differ(results):
    for maps in results["maps"].values():
        best = [found["best loss"] for found in maps.values()]
        assert max(best) < 1.3 * min(best)
