import numpy as np
import pytest

from tests.examples import JAX_ONLY

pytestmark = JAX_ONLY


def losses(results, how, beta_1, beta_2, epoch):
    """The loss at each learning rate by its logarithm, rounded to half a decade."""
    keys = np.round(2 * np.log10(results["rates"])) / 2
    return dict(zip(keys, results["losses"][how, beta_1, beta_2, epoch], strict=True))


def test_with_correction_beta_2_makes_no_difference(results):
    for beta_1 in (0.0, 0.9):
        at = [losses(results, "with", beta_1, beta_2, 10) for beta_2 in (0.99, 0.9999)]
        for rate in at[0]:
            assert at[0][rate] == pytest.approx(at[1][rate], rel=0.02)


def test_without_it_early_training_fails_at_the_best_rate_as_beta_2_nears_1(results):
    for beta_2, expected in ((0.99, 27.1), (0.999, 28.3), (0.9999, np.inf)):
        assert results["best rate"]["with", 0.0, beta_2, 10] == 1e-2
        assert losses(results, "with", 0.0, beta_2, 10)[-2.0] == pytest.approx(26.6, abs=0.2)
        loss = losses(results, "without", 0.0, beta_2, 10)[-2.0]
        assert loss == pytest.approx(expected, abs=0.5) or (np.isnan(loss) and expected == np.inf)
    for beta_1 in (0.0, 0.9):
        best = [results["best rate"]["without", beta_1, beta_2, 10] for beta_2 in (0.99, 0.9999)]
        assert best[1] < best[0] / 5


def test_without_it_ever_smaller_rates_diverge(results):
    diverged = [
        sum(not loss < 62 for loss in losses(results, "without", 0.0, beta_2, 10).values())
        for beta_2 in (0.99, 0.999, 0.9999)
    ]
    assert diverged == sorted(set(diverged)) and diverged[0] >= 1
    for beta_2 in (0.99, 0.999, 0.9999):
        assert all(loss < 62 for loss in losses(results, "with", 0.0, beta_2, 10).values())


def test_small_rates_learn_faster_without_it(results):
    with_it, without = (losses(results, how, 0.0, 0.9999, 10)[-4.0] for how in ("with", "without"))
    assert with_it > 40 and without < 30


def test_at_their_own_best_rates_the_two_end_close_together(results):
    for case, loss in results["best loss"].items():
        if case[0] == "without" and case[-1] == 100:
            assert loss == pytest.approx(results["best loss"]["with", *case[1:]], rel=0.02)
