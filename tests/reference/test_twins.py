"""The twins against the printed numbers, and against what the papers say must hold."""

from functools import partial

import numpy as np
import pytest

from . import around, schedules, twins
from .spec_numbers import CASES

TOLERANCE = 1e-9
RULES = [
    partial(twins.SGD, momentum=0.9, nesterov=True),
    twins.Adagrad,
    partial(twins.RMSprop, centered=True, momentum=0.9),
    twins.Adadelta,
    twins.Adam,
    partial(twins.Adam, epsilon=0.0),
    twins.AMSGrad,
    twins.AdamNC,
    twins.ADOPT,
    twins.Adamax,
    twins.Nadam,
    twins.NAdamW,
]


def iterates(twin, gradients, theta=1.0, project=lambda theta: theta):
    """theta_1, theta_2, ... for given gradients."""
    path = []
    for g in gradients:
        theta = project(twin.step(theta, g))
        path.append(theta)
    return np.array(path)


def close(actual, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_printed_numbers(case):
    twin = getattr(twins, case.algorithm)(**case.arguments)
    close(iterates(twin, case.gradients, case.theta_0), case.expected)


@pytest.mark.parametrize("rule", RULES)
def test_components_do_not_see_each_other(rule):
    gradients = np.random.default_rng(0).normal(size=(5, 2, 3))
    together = iterates(rule(), gradients, np.ones((2, 3)))
    alone = iterates(rule(), gradients[:, 1, 2])
    assert together.shape == (5, 2, 3)
    np.testing.assert_array_equal(together[:, 1, 2], alone)


@pytest.mark.parametrize("rule", RULES)
def test_zero_gradients_move_nothing(rule):
    np.testing.assert_array_equal(iterates(rule(), [0.0] * 3), 1.0)


@pytest.mark.parametrize(
    "name", ["Adagrad", "RMSprop", "Adam", "AMSGrad", "ADOPT", "Adamax", "Nadam"]
)
def test_gradient_scale_does_not_matter_without_epsilon(name):
    gradients = np.random.default_rng(0).normal(size=50)
    path, scaled = (
        iterates(getattr(twins, name)(epsilon=0.0), scale * gradients) for scale in (1, 1024)
    )
    np.testing.assert_array_equal(path, scaled)


def test_beta_1_decays_in_m_but_not_in_its_correction():
    twin = twins.Adam(learning_rate=0.1, beta_1=0.8, beta_1_decay=0.5, beta_2=0.0, epsilon=0.0)
    # sqrt(v) = 1;  m_1 = .2, m_2 = .4 * .2 + .6 = .68, corrected by 1 - .8 and 1 - .64
    close(iterates(twin, [1.0, 1.0]), (0.9, 0.9 - 0.1 * 0.68 / 0.36), 1e-15)


def test_nadamw_adds_decay_to_the_look_ahead():
    twin = twins.NAdamW(learning_rate=0.01, epsilon=0.0, weight_decay=("keras", 0.1))
    # m_1 = .1 g, so the first step is (.9 * .1 g + .1 g) / .1 / |g| = 1.9, and the decay .1 theta_0
    close(twin.step(2.0, 0.3), 2.0 - 0.01 * (1.9 + 0.1 * 2.0), 1e-15)


def test_adamnc_without_momentum_is_adagrad():
    gradients = np.random.default_rng(1).normal(size=200)
    adagrad = twins.Adagrad(learning_rate=0.1, epsilon=0.0)
    adamnc = twins.AdamNC(learning_rate=partial(schedules.inverse_sqrt, alpha=0.1), beta_1=0.0)
    close(iterates(adamnc, gradients), iterates(adagrad, gradients), 1e-14)


def test_reddi_counterexample():
    """f_t = 3x if t mod 3 = 1 else -x on [-1, 1]: Adam is back at the worst point every cycle."""
    rate = partial(schedules.inverse_sqrt, alpha=0.1)
    common = dict(learning_rate=rate, beta_1=0.0, beta_2=0.1, epsilon=0.0, bias_correction=False)

    def six_rounds(rule):
        return iterates(rule(**common), (3, -1, -1) * 2, project=lambda x: np.clip(x, -1, 1))

    adam = (0.8945907447, 0.9486645517, 1, 0.9476403908, 0.9817330719, 1)
    amsgrad = (0.8945907447, 0.9194359444, 0.9397219651, 0.8873623559, 0.9029729752, 0.9172234559)
    close(six_rounds(twins.Adam), adam)
    close(six_rounds(twins.AMSGrad), amsgrad)


def test_decay_is_free_of_the_gradient_scale_and_l2_is_not():
    """The paper's point in five numbers: 2000 steps of pure noise at five scales, decay .1."""
    scales = np.array([0.01, 0.1, 1, 10, 100])
    noise = np.random.RandomState(1).normal(size=2000)

    def final(weight_decay):
        twin, theta = twins.Adam(learning_rate=0.001, weight_decay=weight_decay), np.ones(5)
        for z in noise:
            theta = twin.step(theta, scales * z)
        return theta

    close(final(None), 0.930713, 1e-6)
    close(final(("l2", 0.1)), (0.023267, 0.173775, 0.758009, 0.911668, 0.928790), 1e-6)
    close(final(("keras", 0.1)), 0.757622, 1e-6)


@pytest.mark.parametrize(
    ("points_per_run", "expected"), [(100, 1.264911e-4), (1500, 3.265986e-5), (1800, 2.981424e-5)]
)
def test_normalized_decay(points_per_run, expected):
    close(twins.normalized_decay(0.025, 128, 50000, points_per_run), expected, 1e-10)


def test_decoupled_decay_follows_the_multiplier_and_not_the_rate():
    def decayed(**arguments):
        twin = twins.SGDW(**arguments)
        return iterates(twin, [0.0, 0.0])

    halving = [0.05, 0.025].__getitem__
    lam, normalized = ("decoupled", 0.1), ("normalized", 0.1, 4, 100, 1)
    close(decayed(learning_rate=0.05, weight_decay=lam), (0.9, 0.9 * 0.9))
    close(decayed(learning_rate=halving, weight_decay=lam), (0.9, 0.9 * 0.95))
    close(decayed(learning_rate=halving, weight_decay=normalized), (0.98, 0.98 * 0.99))
    close(
        decayed(learning_rate=halving, weight_decay=lam, initial_learning_rate=0.1),
        (0.95, 0.95 * 0.975),
    )
    close(decayed(learning_rate=halving, weight_decay=("keras", 2.0)), (0.9, 0.9 * 0.95))


def test_a_given_rate_replaces_the_schedule_for_one_step():
    twin = twins.SGD(learning_rate=0.1, weight_decay=("decoupled", 0.1))
    close(twin.step(1.0, 1.0, lr=0.2), 1 - 0.2 - 2 * 0.1)
    close(twin.step(1.0, 1.0), 1 - 0.1 - 0.1)


def test_restarts():
    """Five batches per epoch, T_0 = 2 epochs, T_mult = 2."""
    rate = partial(schedules.cosine_restarts, peak=1.0, cycle_steps=10, cycle_mult=2)
    expected = (
        *(1, 0.9755282581, 0.9045084972, 0.7938926261, 0.6545084972),
        *(0.5, 0.3454915028, 0.2061073739, 0.0954915028, 0.0244717419),
        *(1, 0.9938441703, 0.9755282581),
    )
    close([rate(step) for step in range(13)], expected)
    assert [step for step in range(1600) if rate(step) == 1] == [0, 10, 30, 70, 150, 310, 630, 1270]


def test_restarts_round_their_lengths_and_scale_their_peaks():
    rate = partial(
        schedules.cosine_restarts,
        peak=1.0,
        cycle_steps=3,
        cycle_mult=1.5,
        peak_mult=0.5,
        minimum=0.1,
    )
    starts = [0, 3, 3 + 4, 3 + 4 + 7]  # lengths 3, 4.5, 6.75: ties go to the even number
    close([rate(step) for step in starts], [1, 0.5, 0.25, 0.125])
    close(rate(5), (0.5 + 0.1) / 2)


def test_warmup_cosine():
    rate = partial(schedules.warmup_cosine, peak=0.8, warmup_steps=4, total_steps=12, minimum=0.2)
    close([rate(step) for step in (0, 1, 3, 4, 8, 12, 99)], (0.2, 0.4, 0.8, 0.8, 0.5, 0.2, 0.2))
    assert schedules.warmup_cosine(0, peak=0.8, warmup_steps=0, total_steps=9) == 0.8


def test_clipping():
    g = np.array([3.0, -4.0])
    close(around.clip_value(g, 3.5), (3, -3.5))
    close(around.clip_norm(g, 2.5), (1.5, -2))
    close(around.clip_norm(g, 10), g)
    close(around.clip_norm(0 * g, 1), 0)
    clipped = around.clip_global_norm([g, np.array(12.0)], 6.5)
    close(clipped[0], g / 2)
    close(clipped[1], 6)


def test_average_starts_at_the_first_iterate():
    close(around.average_weights([1.0, 2.0, 4.0], 0.75), (1, 1.25, 1.9375))


def test_accumulation_is_the_mean_of_complete_groups():
    close(around.accumulate_gradients([1.0, 3.0, -2.0, 4.0, 100.0], 2), (2, 1))
