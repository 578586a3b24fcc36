"""How large a step of Adam and Adamax can be: the sharp bounds, and gradients that reach them.

With `u_i` the weight of g_i in the average and `s_i` its weight in the average square, the step is
`sum(u_i g_i) / sqrt(sum(s_i g_i^2))`, and Cauchy's inequality gives `sqrt(sum(u_i^2 / s_i))`. It is
reached by `g_i ~ u_i / s_i ~ (beta_2 / beta_1)^i`: one growing sequence is the worst case at every
step. Adamax divides by at least `beta_2^(t-i) |g_i|` for each i, so its worst gradients are the
largest that leave its norm where it decays to, `g_i ~ beta_2^i`.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_adamfamily as kaf
from tests.helpers import quick
from tests.steps import trajectory

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.once("torch")]

OPTIMIZERS = {"Adam": kaf.Adam, "Adamax": kaf.Adamax}


def sharp_bound(name, steps, beta_1=0.9, beta_2=0.999):
    """The largest |step| / learning rate at steps 1, 2, ..., `steps`."""
    t = np.arange(1, steps + 1)
    ratio = beta_1**2 / beta_2 if name == "Adam" else beta_1 / beta_2
    average = (1 - beta_1) / (1 - beta_1**t)
    powers = np.cumsum(ratio ** (t - 1.0))
    if name == "Adam":
        return average * np.sqrt(powers * (1 - beta_2**t) / (1 - beta_2))
    return average * powers


def papers_bound(name, beta_1=0.9, beta_2=0.999):
    """What section 2.1 (Adam) and 7.1 (Adamax) of the paper state."""
    if name == "Adamax" or 1 - beta_1 <= np.sqrt(1 - beta_2):
        return 1.0
    return (1 - beta_1) / np.sqrt(1 - beta_2)


def worst_gradients(name, steps, beta_1=0.9, beta_2=0.999):
    """A sequence of gradients that reaches the sharp bound at each of its steps."""
    factor = beta_2 / beta_1 if name == "Adam" else beta_2
    return factor ** (np.arange(steps) - steps / 2)


def relative_steps(name, gradients, beta_1=0.9, beta_2=0.999):
    """|step| / learning rate of our optimizer, in float64 and without epsilon.

    `gradients` are of shape (steps,) or (steps, sequences); so is what it returns.
    """
    optimizer = OPTIMIZERS[name](1.0, beta_1=beta_1, beta_2=beta_2, epsilon=0.0)
    gradients = np.asarray(gradients, "float64")
    start = np.zeros(gradients.shape[1:])
    path = trajectory(optimizer, [start], [[g] for g in gradients], "float64")
    return np.abs(np.diff([start, *(weights[0] for weights in path)], axis=0))


def hostile_gradients(name, steps, sequences, beta_1, beta_2, seed):
    """Gradients of both signs, 12 decades and many zeros; and the worst case, slightly changed."""
    random = np.random.RandomState(seed)
    shape = (steps, sequences)
    wild = random.randn(*shape) * 10.0 ** random.uniform(-6, 6, shape)
    wild[random.rand(*shape) < 0.3] = 0.0
    worst = worst_gradients(name, steps, beta_1, beta_2)[:, None]
    return np.concatenate([wild, worst * np.exp(0.1 * random.randn(*shape))], axis=1)


REACHED = {
    "Adam": {1: 1.0, 2: 1.0013579, 5: 1.0107692, 10: 1.0431077, 100: 2.2433641, 1000: 5.7811602},
    "Adamax": {1: 1.0, 2: 1.0004741584, 5: 1.0017937754, 10: 1.0036590119, 100: 1.0090880887},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_worst_gradients_reach_the_sharp_bound(name):
    steps = max(REACHED[name])
    got = relative_steps(name, worst_gradients(name, steps))
    assert np.allclose(got, sharp_bound(name, steps), rtol=1e-9, atol=0)
    for t, value in REACHED[name].items():
        assert abs(got[t - 1] - value) < 1e-7


@pytest.mark.parametrize("name, limit", [("Adam", 7.2702918), ("Adamax", 1.0090909091)])
def test_the_limit_of_the_sharp_bound_exceeds_what_the_paper_states(name, limit):
    assert abs(sharp_bound(name, 100_000)[-1] - limit) < 1e-6
    reached = relative_steps(name, worst_gradients(name, 400)).max()
    assert papers_bound(name) < reached < limit


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(beta_1=st.floats(0.1, 0.99), beta_2=st.floats(0.1, 0.9999), seed=st.integers(0, 2**32 - 1))
@quick
def test_no_gradients_exceed_the_sharp_bound(name, beta_1, beta_2, seed):
    steps = 25
    gradients = hostile_gradients(name, steps, 200, beta_1, beta_2, seed)
    got = relative_steps(name, gradients, beta_1, beta_2)
    assert np.all(got <= sharp_bound(name, steps, beta_1, beta_2)[:, None] * (1 + 1e-9))


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(beta_1=st.floats(0.1, 0.99), beta_2=st.floats(0.1, 0.9999))
@quick
def test_the_bound_is_sharp_for_all_betas(name, beta_1, beta_2):
    got = relative_steps(name, worst_gradients(name, 25, beta_1, beta_2), beta_1, beta_2)
    assert np.allclose(got, sharp_bound(name, 25, beta_1, beta_2), rtol=1e-9, atol=0)


def test_the_papers_other_case_is_exceeded_too():
    """Where 1 - beta_1 <= sqrt(1 - beta_2), the paper states that a step is at most lr."""
    betas = {"beta_1": 0.5, "beta_2": 0.6}
    assert papers_bound("Adam", **betas) == 1.0
    assert relative_steps("Adam", worst_gradients("Adam", 20, **betas), **betas)[-1] > 1.035


SPARSE = {0: 1.0, 1: 0.744, 5: 0.522, 10: 0.482, 50: 0.709, 100: 0.980, 1000: 2.515, 3000: 3.083}


@pytest.mark.parametrize(
    "longest", [100, pytest.param(3000, marks=pytest.mark.slow)], ids="up to {} zeros".format
)
def test_a_gradient_after_zeros(longest):
    """The sparse case that the paper quotes: one gradient, after so many steps without any."""
    zeros = [k for k in SPARSE if k <= longest]
    gradients = np.arange(longest + 1)[:, None] == zeros
    got = relative_steps("Adam", gradients)
    for i, k in enumerate(zeros):
        assert np.all(got[:k, i] == 0.0)
        assert abs(got[k, i] - SPARSE[k]) < 5e-4
