"""When SWATS switches, to which rate, and that everything around a rule works across the switch."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_adamfamily as kaf
from tests.reference import around
from tests.steps import (
    BACKEND,
    Stepper,
    largest_difference,
    random_problem,
    to_numpy,
    trajectory,
    variables_of,
)
from tests.test_all_optimizers import COMPILED, IN_JAX, follow, twin_of

SCOPES = ["global", "variable"]
compiled_too = pytest.mark.parametrize("compiled", COMPILED, ids=["eager", "compiled"])
EVEN = [0.5] * 5  # a constant gradient
TURNING = (1, -0.5, -0.1, -0.1, 0.1, 0.1, 0.1)


def scalars(optimizer):
    """The state of the switch, that of the first variable if each has its own."""
    states = optimizer._scalar_state or optimizer._states[0]
    return {n: float(to_numpy(states[n])) for n in ("lam", "sgd_rate", "switch_lr", "switch_step")}


def observe(optimizer, gradients, dtype="float64"):
    """gamma and the corrected lam after each step on one weight."""
    (variable,) = variables_of([1.0], dtype)
    lams = [0.0]
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient, dtype)], [variable])
        lams.append(scalars(optimizer)["lam"])
    lams = np.array(lams)
    gammas = (lams[1:] - 0.999 * lams[:-1]) / 0.001
    return gammas, lams[1:] / (1 - 0.999 ** np.arange(1, len(lams)))


def path(optimizer, gradients, dtype="float64", compiled=False):
    """One weight after each step, from 1."""
    steps = [[g] for g in gradients]
    return np.array([w for (w,) in trajectory(optimizer, [1.0], steps, dtype, compiled)])


def alternating(steps=12):
    """Two weights with gradients of which one is constant and the other is not."""
    random = np.random.RandomState(0)
    return [np.ones(2), np.ones(3)], [[np.full(2, 0.5), random.randn(3)] for _ in range(steps)]


def drifting(steps=12):
    """A problem of noisy gradients that mostly point the same way: gamma stays positive."""
    random = np.random.RandomState(0)
    start = [random.randn(2, 3), random.randn(3)]
    return start, [[0.5 + 0.3 * random.randn(*w.shape) for w in start] for _ in range(steps)]


def close(ours, expected, tolerance=1e-9):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance)


# The numbers.


@pytest.mark.parametrize("scope", SCOPES)
def test_gamma_and_lam_step_by_step(scope, x64):
    gammas, lams = observe(kaf.SWATS(0.01, scope=scope), (0.1, -0.2, 0.3))
    close(gammas, (0.0999999684, 0.0183051738, 0.0114413684))
    close(lams, (0.0999999684, 0.0591321372, 0.0432193067))


@pytest.mark.parametrize("scope", SCOPES)
@compiled_too
@pytest.mark.parametrize(
    ("gradient", "rate"), [(1.0, 0.009999999730), (0.5, 0.0199999989)], ids=["1", "0.5"]
)
def test_a_constant_gradient_switches_at_the_second_step(gradient, rate, scope, compiled, x64):
    """Even at the paper's tolerance; the first step of SGD is ten times shorter: v starts at 0."""
    optimizer = kaf.SWATS(0.01, tolerance=1e-9, scope=scope)
    weights = path(optimizer, [gradient] * 5, compiled=compiled)
    found = scalars(optimizer)
    assert found["switch_step"] == 2
    close(found["sgd_rate"], rate, 1e-10)
    close(weights, (0.99, 0.98, 0.979, 0.9771, 0.97439), 3e-9)
    close(np.diff(weights[1:]), -rate * gradient * np.array([0.1, 0.19, 0.271]), 1e-11)


def test_the_whole_state_is_two_numbers_for_each_weight_and_four_in_all():
    optimizer = kaf.SWATS()
    optimizer.build([keras.Variable(np.ones((4, 5))), keras.Variable(np.ones(5))])
    sizes = [int(np.prod(v.shape)) for v in optimizer.variables[2:]]
    assert sizes == [1, 1, 1, 1, 20, 20, 5, 5]
    optimizer = kaf.SWATS(scope="variable")
    optimizer.build([keras.Variable(np.ones((4, 5)))])
    assert [tuple(v.shape) for v in optimizer.variables[2:]] == [(4, 5)] * 2 + [()] * 4


# The decision.


def test_a_negative_gamma_is_counted_but_no_rate_to_switch_to(x64):
    gammas, lams = observe(kaf.SWATS(0.01), (1, -0.5, 0.4, 0.3))
    close(gammas, (0.0099999997, -0.0053267406, 0.0102297453, 0.0155822544))
    close(lams[1], 0.0023327959)
    # As m lags, it keeps its sign when the gradient turns: p.g > 0, and lam ends below 0.
    optimizer = kaf.SWATS(0.01, beta_1=0.999, tolerance=1e9, min_steps=3)
    gammas, lams = observe(optimizer, TURNING[:4])
    assert np.all(lams[2:] < 0)
    assert optimizer.switch_step is None


def test_a_forced_switch_waits_for_a_positive_rate(x64):
    optimizer = kaf.SWATS(0.01, beta_1=0.999, switch_at=3)
    _, lams = observe(optimizer, TURNING)
    step = optimizer.switch_step
    assert step > 3 and np.all(lams[2 : step - 1] <= 0) and lams[step - 1] > 0
    close(optimizer.sgd_learning_rate, lams[step - 1])


@pytest.mark.parametrize("at", [1, 2, 4])
@compiled_too
def test_a_forced_switch_comes_at_its_step(at, compiled, x64):
    gradients = (0.1, -0.2, 0.3, 0.2, 0.1)
    _, lams = observe(kaf.SWATS(0.01), gradients)
    optimizer = kaf.SWATS(0.01, switch_at=at)
    assert optimizer.switch_step is optimizer.sgd_learning_rate is None
    weights = path(optimizer, gradients, compiled=compiled)
    close(weights[:at], path(kaf.SWATS(0.01), gradients)[:at], 1e-12)
    assert optimizer.switch_step == at and type(optimizer.switch_step) is int
    close(optimizer.sgd_learning_rate, lams[at - 1])
    close(weights[at - 1] - weights[at], 0.1 * lams[at - 1] * gradients[at])


def test_the_criterion_says_nothing_where_the_switch_is_forced():
    optimizer = kaf.SWATS(0.01, switch_at=4)
    path(optimizer, EVEN, "float32")
    assert optimizer.switch_step == 4


def test_min_steps(x64):
    optimizer = kaf.SWATS(0.01, min_steps=4)
    path(optimizer, EVEN)
    assert optimizer.switch_step == 4


def test_a_warmup_needs_min_steps():
    """Both gammas are far below the tolerance there, whatever the gradients."""
    warmup = kaf.WarmupCosine(1e-3, total_steps=10**6, warmup_steps=10**5)
    start, gradients = random_problem(steps=6)
    hasty, patient = kaf.SWATS(warmup), kaf.SWATS(warmup, min_steps=1000)
    for optimizer in (hasty, patient):
        trajectory(optimizer, start, [[1.0 + 0 * g for g in gs] for gs in gradients])
    assert hasty.switch_step == 2
    assert patient.switch_step is None


@pytest.mark.parametrize("scope", SCOPES)
def test_a_step_without_gamma_leaves_lam_and_counts(scope, x64):
    optimizer = kaf.SWATS(0.01, scope=scope, switch_at=1)
    gammas, lams = observe(optimizer, (0.0, 0.0, 0.1))
    assert np.array_equal(lams[:2], [0, 0])
    close(lams[2], 0.001 * gammas[2] / (1 - 0.999**3), 1e-15)
    assert scalars(optimizer)["switch_step"] == 3


def test_no_tolerance_stays_adam():
    start, gradients = random_problem()
    adam = kaf.Adam(0.01, epsilon=1e-9, epsilon_form="hat")
    ours = trajectory(kaf.SWATS(0.01, tolerance=0.0), start, gradients)
    assert largest_difference(ours, trajectory(adam, start, gradients)) < 1e-6


def test_the_tolerance_may_change_in_training():
    start, gradients = random_problem()
    optimizer = kaf.SWATS(0.01, tolerance=0.0, tunable=["tolerance"])
    variables = variables_of(start, "float32")
    step = Stepper(optimizer, variables)
    tensors = [[ops.convert_to_tensor(g, "float32") for g in gs] for gs in gradients]
    for grads in tensors[:4]:
        step(grads)
    assert optimizer.switch_step is None
    optimizer.tolerance = 1e6
    for grads in tensors[4:]:
        step(grads)
    assert optimizer.switch_step == 5
    assert step.traces == (0 if BACKEND == "torch" else 1)


def test_a_switch_can_find_a_rate_at_which_sgd_is_not_stable(x64):
    """On f = x^2 / 2 without momentum, above 2; the reason to look at what it has found."""
    optimizer = kaf.SWATS(1e-3, beta_1=0.0, tolerance=1e-9)
    (x,) = variables_of([4.99959124847467e-4], "float64")
    distances = []
    for _ in range(6):
        optimizer.apply([ops.convert_to_tensor(x)], [x])
        distances.append(abs(float(to_numpy(x))))
    assert optimizer.switch_step == 2
    close(optimizer.sgd_learning_rate, 2.000037, 1e-6)
    assert np.all(np.diff(distances) > 0)


# Schedules.


class Drops(keras.optimizers.schedules.LearningRateSchedule):
    """A rate for each step."""

    def __init__(self, *rates):
        self.rates = rates

    def __call__(self, step):
        return ops.take(ops.convert_to_tensor(self.rates, "float32"), ops.cast(step, "int32"))

    def get_config(self):
        return {}


def test_a_drop_after_the_switch_lowers_sgds_rate_by_its_factor():
    constant = path(kaf.SWATS(0.01, switch_at=2), EVEN, "float32")
    optimizer = kaf.SWATS(Drops(0.01, 0.01, 0.01, 0.001, 0.0), switch_at=2)
    moves = np.diff(path(optimizer, EVEN, "float32"))
    close(moves[1:], np.diff(constant)[1:] * [1, 0.1, 0], 2e-7)
    by_hand = kaf.SWATS(0.01, switch_at=2)
    (variable,), weights = variables_of([1.0], "float32"), []
    for rate in (0.01, 0.01, 0.01, 0.001, 0.0):
        by_hand.learning_rate = rate
        by_hand.apply([ops.convert_to_tensor(0.5)], [variable])
        weights.append(float(to_numpy(variable)))
    close(np.diff(weights), moves, 2e-7)


def test_a_drop_before_the_switch_counts_once():
    """gamma is proportional to the rate that it was measured at. With beta_2 = 0 nothing is left of
    the higher rate at the switch, and SGD goes on as if it had never been."""
    dropped = kaf.SWATS(Drops(0.01, 0.01, 0.001, 0.001, 0.001), beta_2=0.0, switch_at=4)
    low = kaf.SWATS(0.001, beta_2=0.0, switch_at=4)
    ours, theirs = (np.diff(path(o, EVEN, "float32"))[-1] for o in (dropped, low))
    close(ours, theirs, 2e-7)
    close(theirs, -0.0001, 2e-7)
    assert dropped.sgd_learning_rate == pytest.approx(low.sgd_learning_rate)
    assert scalars(dropped)["switch_lr"] == pytest.approx(0.001)


def test_no_switch_where_the_rate_is_zero():
    """Nothing moves and nothing is measured there, and lr / lr_s has lr_s > 0."""
    optimizer = kaf.SWATS(Drops(0.01, 0.0, 0.0, 0.01, 0.01), switch_at=2)
    weights = path(optimizer, EVEN, "float32")
    assert optimizer.switch_step == 4
    assert weights[0] == weights[2] > weights[3] > weights[4]


# What switches together.


def test_the_model_decides_as_one_vector():
    start, gradients = alternating()
    parts = kaf.SWATS(0.01, switch_at=6)
    trajectory(parts, start, gradients)
    whole = kaf.SWATS(0.01, switch_at=6)
    trajectory(whole, [np.concatenate(start)], [[np.concatenate(gs)] for gs in gradients])
    assert scalars(parts) == pytest.approx(scalars(whole), rel=1e-5)


@compiled_too
def test_variables_switch_at_their_own_steps(compiled, x64):
    start, gradients = alternating(40)
    arguments = {"learning_rate": 0.01, "tolerance": 0.001, "scope": "variable"}
    optimizer, twins = kaf.SWATS(**arguments), [twin_of("SWATS", arguments) for _ in start]
    assert optimizer.switch_step is None
    ours = trajectory(optimizer, start, gradients, "float64", compiled)
    for i, twin in enumerate(twins):
        weights = start[i]
        for grads in gradients:
            weights = twin.step(weights, grads[i])
        close(ours[-1][i], weights)
    steps = {f"w{i}": twin.switch_step for i, twin in enumerate(twins)}
    assert steps["w0"] == 2 < steps["w1"]
    assert optimizer.switch_step == steps
    assert optimizer.sgd_learning_rate == pytest.approx(
        {f"w{i}": twin.Lambda for i, twin in enumerate(twins)}, rel=1e-9
    )
    assert optimizer.facts() == {"variables switched": "2 of 2"}


def test_a_variable_that_has_not_switched_says_so():
    start, gradients = alternating(3)
    optimizer = kaf.SWATS(0.01, scope="variable")
    trajectory(optimizer, start, gradients)
    assert optimizer.switch_step == {"w0": 2, "w1": None}
    assert optimizer.sgd_learning_rate == {"w0": pytest.approx(0.02), "w1": None}
    assert optimizer.facts() == {"variables switched": "1 of 2"}


def test_a_variable_without_a_gradient_after_its_switch_starts_afresh():
    random = np.random.RandomState(0)
    variables = variables_of([random.randn(3), random.randn(2)], "float32")
    optimizer = kaf.SWATS(0.01, switch_at=3, scope="variable")
    for step in range(1, 6):
        used = variables[:1] if step == 4 else variables
        optimizer.apply([ops.full(v.shape, 0.1) for v in used], used)
    assert np.allclose(to_numpy(optimizer._states[1]["momentum"]), 0.1, rtol=1e-6, atol=0)


# Around the rule, across the switch.


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(
    ("ours", "twins"),
    [
        (0.3, ("keras", 0.3)),
        (kaf.Decoupled(0.1), ("decoupled", 0.1)),
        (kaf.L2(0.3), ("l2", 0.3)),
    ],
    ids=["float", "decoupled", "L2"],
)
def test_weight_decay(ours, twins, scope, x64):
    start, gradients = drifting()
    arguments = {"learning_rate": 0.01, "switch_at": 5, "scope": scope}
    twin = twin_of("SWATS", {**arguments, "weight_decay": twins})
    optimizer = kaf.SWATS(**arguments, weight_decay=ours)
    weights = trajectory(optimizer, start, gradients, "float64")
    assert largest_difference(weights, follow(twin, start, gradients)) < 1e-9
    assert scalars(optimizer)["switch_step"] == 5


@pytest.mark.parametrize("scope", SCOPES)
def test_clipping_and_averages(scope, x64):
    start, gradients = drifting()
    arguments = {"learning_rate": 0.01, "switch_at": 5, "scope": scope}
    optimizer = kaf.SWATS(**arguments, global_clipnorm=0.5, use_ema=True, ema_momentum=0.9)
    weights = trajectory(optimizer, start, gradients, "float64")
    clipped = [around.clip_global_norm(gs, 0.5) for gs in gradients]
    assert largest_difference(weights, follow(twin_of("SWATS", arguments), start, clipped)) < 1e-9
    average = to_numpy(optimizer._model_variables_moving_average[0])
    close(average, around.average_weights([w[0] for w in weights], 0.9)[-1])
    assert scalars(optimizer)["switch_step"] == 5


@pytest.mark.parametrize("scope", SCOPES)
@compiled_too
def test_accumulation(scope, compiled, x64):
    """Steps are updates of the weights, not batches."""
    start, gradients = drifting(steps=15)
    arguments = {"learning_rate": 0.01, "switch_at": 2, "scope": scope}
    optimizer = kaf.SWATS(**arguments, gradient_accumulation_steps=3)
    micro = trajectory(optimizer, start, gradients, "float64", compiled)[2::3]
    means = [[sum(gs) / 3 for gs in zip(*gradients[i : i + 3])] for i in range(0, 15, 3)]  # noqa: B905
    assert largest_difference(micro, follow(twin_of("SWATS", arguments), start, means)) < 1e-9
    assert scalars(optimizer)["switch_step"] == 2


@pytest.mark.parametrize("scope", SCOPES)
def test_loss_scaling_leaves_gamma_as_it_is(scope):
    start, gradients = drifting()
    inner, alone = (kaf.SWATS(0.01, switch_at=5, scope=scope) for _ in range(2))
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0)
    scaled = [[1024.0 * g for g in grads] for grads in gradients]
    weights = trajectory(optimizer, start, scaled, compiled=IN_JAX)
    assert largest_difference(weights, trajectory(alone, start, gradients)) < 1e-5
    assert scalars(inner) == pytest.approx(scalars(alone), rel=1e-5)
    assert scalars(inner)["switch_step"] == 5


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, scope):
    """Weights and gradients are rounded; what is measured and learned from them is not."""
    start, gradients = drifting()
    start, gradients = keras.tree.map_structure(
        lambda a: to_numpy(ops.cast(a, dtype)).astype("float64"), (start, gradients)
    )
    arguments = {"learning_rate": 0.01, "switch_at": 5, "scope": scope}
    low, single = kaf.SWATS(**arguments), kaf.SWATS(**arguments)
    weights = trajectory(low, start, gradients, dtype)
    trajectory(single, start, gradients, "float32")
    assert scalars(low) == pytest.approx(scalars(single), rel=1e-6)
    assert all(np.any(a != b) for a, b in zip(weights[4], weights[5], strict=True))


def test_variables_of_two_precisions(x64):
    start, gradients = drifting()
    wide, narrow = variables_of(start[:1], "float64") + variables_of(start[1:], "float32")
    optimizer = kaf.SWATS(0.01, switch_at=5)
    for one, other in gradients:
        grads = [ops.convert_to_tensor(one, "float64"), ops.convert_to_tensor(other, "float32")]
        optimizer.apply(grads, [wide, narrow])
    truth = follow(twin_of("SWATS", {"learning_rate": 0.01, "switch_at": 5}), start, gradients)
    scale = max(1, np.max(np.abs(truth[-1][1])))
    assert largest_difference([to_numpy(wide), to_numpy(narrow)], truth[-1]) < 2e-6 * scale
    assert optimizer.switch_step == 5


@pytest.mark.parametrize("scope", SCOPES)
def test_what_was_learned_is_saved_with_the_model(scope, tmp_path):
    random = np.random.RandomState(0)
    x, y = random.randn(32, 3).astype("float32"), random.randn(32, 1).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(kaf.SWATS(0.01, switch_at=3, scope=scope), "mse")
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").optimizer
    assert scalars(loaded) == scalars(model.optimizer)
    if scope == "global":
        assert loaded.switch_step == 3 and loaded.sgd_learning_rate > 0
        assert loaded.facts() == {"switch step": 3, "SGD rate": loaded.sgd_learning_rate}
    else:
        paths = [v.path for v in loaded._trainable_variables]
        assert list(loaded.switch_step) == paths and "dense/kernel" in paths[0]
        assert [*loaded.switch_step.values()] == [*model.optimizer.switch_step.values()]
        assert 3 in loaded.switch_step.values()
