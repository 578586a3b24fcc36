"""Schedules: equal to their numpy twins, exact at every restart, at home in any Keras optimizer."""

import functools
import math

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from keras import ops

import keras_adamfamily as kaf
from tests.helpers import cycles, quick
from tests.reference import schedules as twins
from tests.steps import BACKEND

LAST_STEP = 2**31 - 2

EACH = {
    "restarts": (
        kaf.CosineWarmRestarts(0.3, 7, cycle_multiplier=1.5, peak_multiplier=0.8),
        functools.partial(
            twins.cosine_restarts, peak=0.3, cycle_steps=7, cycle_mult=1.5, peak_mult=0.8
        ),
    ),
    "equal cycles with a floor": (
        kaf.CosineWarmRestarts(0.3, 9, cycle_multiplier=1, minimum_learning_rate=0.01),
        functools.partial(twins.cosine_restarts, peak=0.3, cycle_steps=9, minimum=0.01),
    ),
    "warm-up": (
        kaf.WarmupCosine(0.3, 50, warmup_steps=12, minimum_learning_rate=0.01),
        functools.partial(
            twins.warmup_cosine, peak=0.3, total_steps=50, warmup_steps=12, minimum=0.01
        ),
    ),
    "no warm-up": (
        kaf.WarmupCosine(0.3, 50),
        functools.partial(twins.warmup_cosine, peak=0.3, total_steps=50, warmup_steps=0),
    ),
    "inverse root": (
        kaf.InverseSqrt(0.3),
        functools.partial(twins.inverse_sqrt, alpha=0.3),
    ),
}
each = pytest.mark.parametrize(("schedule", "twin"), EACH.values(), ids=EACH.keys())

rates = st.floats(1e-6, 10.0)


def at(schedule, step, dtype="float32"):
    return float(schedule.value(ops.convert_to_tensor(step, "int32"), dtype))


def compiled(function):
    """As `fit` compiles it; PyTorch runs `fit` eagerly."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    return function


# The values.


@each
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
def test_equals_the_twin_at_every_step(schedule, twin, dtype, tolerance, x64):
    ours = [at(schedule, step, dtype) for step in range(70)]
    np.testing.assert_allclose(ours, [twin(step) for step in range(70)], rtol=0, atol=tolerance)


def test_the_papers_multipliers(x64):
    """Five batches per epoch, T_0 = 2 epochs, T_mult = 2."""
    schedule = kaf.CosineWarmRestarts(1.0, first_cycle_steps=10, cycle_multiplier=2)
    expected = [1, 0.9755282581, 0.9045084972, 0.7938926261, 0.6545084972]
    expected += [0.5, 0.3454915028, 0.2061073739, 0.0954915028, 0.0244717419]
    expected += [1, 0.9938441703, 0.9755282581]
    ours = [at(schedule, step, "float64") for step in range(13)]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)


@quick
@given(rates, st.integers(1, 10**6), st.integers(0, 10**5), st.floats(0, 1), st.integers(0, 10**6))
def test_warmup_cosine_equals_its_twin(peak, annealing, warmup, floor, step):
    total, floor = warmup + annealing, floor * peak
    schedule = kaf.WarmupCosine(peak, total, warmup, floor)
    expected = twins.warmup_cosine(step, peak, warmup, total, floor)
    assert at(schedule, step) == pytest.approx(expected, rel=1e-5, abs=1e-6 * peak)
    assert at(schedule, total) == pytest.approx(floor, rel=1e-6)
    assert at(schedule, LAST_STEP) == pytest.approx(floor, rel=1e-6)


@quick
@given(rates, st.integers(0, LAST_STEP))
def test_inverse_sqrt_equals_its_twin(alpha, step):
    expected = twins.inverse_sqrt(step, alpha)
    assert at(kaf.InverseSqrt(alpha), step) == pytest.approx(expected, rel=1e-6)


# Restarts.


@pytest.mark.once
@quick
@given(
    peak=rates,
    first=st.integers(2, 10**5),
    multiplier=st.one_of(st.sampled_from([1.0, 1.1, 1.5, 2.0, 3.0, 1000.0]), st.floats(1, 20)),
    floor=st.floats(0, 0.99),
)
@example(peak=0.1, first=219, multiplier=2.0, floor=0.0)
@example(peak=0.1, first=237, multiplier=2.0, floor=0.0)
@example(peak=0.1, first=1, multiplier=1.5, floor=0.0)
@example(peak=0.1, first=100, multiplier=2.0, floor=0.003)
def test_every_restart_is_exactly_the_peak(peak, first, multiplier, floor):
    floor *= peak
    schedule = kaf.CosineWarmRestarts(
        peak, first, cycle_multiplier=multiplier, minimum_learning_rate=floor
    )
    for start, length in cycles(first, multiplier, count=12):
        end = start + length
        if end > LAST_STEP:
            break
        assert at(schedule, start) == np.float32(peak)
        assert int(schedule.cycle_steps(start)) == int(schedule.cycle_steps(end - 1)) == length
        last = floor + (peak - floor) * math.sin(math.pi / 2 / length) ** 2
        if length > 1:
            assert at(schedule, end - 1) == pytest.approx(last, rel=1e-5, abs=2e-7 * peak)


@quick
@given(
    first=st.integers(1, 300),
    multiplier=st.sampled_from([1, 1.25, 1.5, 2, 3]),
    peak_multiplier=st.floats(0, 1),
    step=st.integers(0, 5000),
)
def test_cosine_warm_restarts_equals_its_twin(first, multiplier, peak_multiplier, step):
    schedule = kaf.CosineWarmRestarts(0.1, first, multiplier, peak_multiplier)
    expected = twins.cosine_restarts(step, 0.1, first, multiplier, peak_multiplier)
    assert at(schedule, step) == pytest.approx(expected, rel=1e-4, abs=1e-7)


@quick
@given(
    first=st.integers(1, 50),
    peak_multiplier=st.floats(0, 1),
    floor=st.floats(0, 0.1),
    step=st.integers(0, LAST_STEP),
)
def test_the_rate_stays_between_floor_and_peak(first, peak_multiplier, floor, step):
    schedule = kaf.CosineWarmRestarts(0.1, first, 1.5, peak_multiplier, floor)
    assert floor - 1e-8 <= at(schedule, step) <= 0.1 + 1e-8


@pytest.mark.parametrize(("first", "step"), [(219, 657), (237, 711)])
def test_restarts_that_keras_misses(first, step):
    """Keras finds the cycle by a float32 logarithm, and XLA's says here that it has not ended.

    Where Keras's rate is 0 instead of the peak depends on the compiler. If it mends this, drop its
    half of the test.
    """
    step = ops.convert_to_tensor(step, "int32")
    if BACKEND != "torch":
        of_keras = keras.optimizers.schedules.CosineDecayRestarts(0.1, first, t_mul=2.0)
        assert float(compiled(of_keras)(step)) < 1e-6
    assert float(compiled(kaf.CosineWarmRestarts(0.1, first))(step)) == np.float32(0.1)


@pytest.mark.once
@pytest.mark.parametrize("multiplier", [1.1, 1.5, 2])
def test_fractional_cycles_are_rounded_and_leave_no_gap(multiplier):
    schedule = kaf.CosineWarmRestarts(0.1, 10, cycle_multiplier=multiplier)
    restarts = [step for step in range(300) if at(schedule, step) == np.float32(0.1)]
    expected = [start for start, _ in cycles(10, multiplier, count=20) if start < 300]
    assert restarts == expected


@pytest.mark.parametrize(
    ("first", "multiplier"),
    [(1, 1), (7, 1), (1000, 1), (7, 1 + 2**-40)],  # the last: the table is full before it grows
)
def test_far_beyond_the_table(first, multiplier):
    """The last steps that an int32 counts still lie where integer arithmetic says."""
    schedule = kaf.CosineWarmRestarts(0.1, first, cycle_multiplier=multiplier)
    assert int(schedule.cycle_steps(LAST_STEP)) == first
    expected = twins.cosine(LAST_STEP % first / first, 0.1, 0.0)
    assert at(schedule, LAST_STEP) == pytest.approx(expected, abs=1e-7)
    assert at(schedule, LAST_STEP // first * first) == np.float32(0.1)


@pytest.mark.parametrize("multiplier", [1.7, 2, 1e300])
def test_the_last_cycle_ends_with_the_steps(multiplier):
    schedule = kaf.CosineWarmRestarts(0.1, 10, cycle_multiplier=multiplier)
    assert 0 < int(schedule.cycle_steps(LAST_STEP)) < 2**31
    assert 0 <= at(schedule, LAST_STEP) <= np.float32(0.1)


def test_a_first_cycle_longer_than_any_training():
    schedule = kaf.CosineWarmRestarts(0.1, 10**12)
    assert at(schedule, 0) == np.float32(0.1)
    assert 0 <= at(schedule, LAST_STEP) < 0.1


@pytest.mark.parametrize(
    ("total", "warmup", "expected"), [(10**10, 3 * 10**9, 0.1 / 3e9), (3 * 10**9, 0, 0.1)]
)
def test_a_warm_up_longer_than_any_training(total, warmup, expected):
    schedule = kaf.WarmupCosine(0.1, total, warmup)
    assert at(schedule, 0) == pytest.approx(expected, rel=1e-6)
    assert 0 < at(schedule, LAST_STEP) < 0.1


# In a program.


@each
def test_compiled_equals_eager(schedule, twin):
    function = compiled(schedule)
    for step in (0, 1, 6, 7, 11, 12, 18, 49, 60):
        rate = float(function(ops.convert_to_tensor(step, "int32")))
        assert rate == pytest.approx(at(schedule, step), rel=2e-6, abs=1e-8)


def test_compiled_cycles():
    schedule = kaf.CosineWarmRestarts(0.1, 10, cycle_multiplier=3, minimum_learning_rate=0.003)
    rate, length = compiled(schedule), compiled(schedule.cycle_steps)
    for start, expected in cycles(10, 3, count=8):
        step = ops.convert_to_tensor(start, "int32")
        assert int(length(step)) == expected
        assert float(rate(step)) == np.float32(0.1)


@each
def test_never_below_float32(schedule, twin, monkeypatch):
    monkeypatch.setattr(keras.config, "floatx", lambda: "bfloat16")
    rate = schedule(ops.convert_to_tensor(13, "int32"))
    assert keras.backend.standardize_dtype(rate.dtype) == "float32"
    assert float(rate) == pytest.approx(twin(13), rel=1e-5)


@each
@pytest.mark.parametrize("cls", [keras.optimizers.Adam, kaf.Adam])
def test_in_fit(schedule, twin, cls):
    """Under a constant gradient every step of Adam is the learning rate: the weight adds them."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(cls(schedule, epsilon=0.0), loss=lambda y, prediction: ops.mean(prediction))
    (kernel,) = model.trainable_variables
    kernel.assign([[0.0]])
    model.fit(np.ones((20, 1)), np.ones((20, 1)), batch_size=1, epochs=1, verbose=0)
    total = sum(twin(step) for step in range(20))
    assert -float(ops.convert_to_numpy(kernel)[0, 0]) == pytest.approx(total, rel=1e-4)
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(
        twin(20), rel=1e-4
    )


# Serialization.


@each
@pytest.mark.parametrize(
    ("save", "load"),
    [
        (keras.optimizers.schedules.serialize, keras.optimizers.schedules.deserialize),
        (keras.saving.serialize_keras_object, keras.saving.deserialize_keras_object),
        (lambda schedule: schedule.get_config(), None),
    ],
    ids=["schedules", "saving", "config"],
)
def test_round_trip(schedule, twin, save, load):
    load = load or type(schedule).from_config
    again = load(save(schedule))
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert [at(again, step) for step in (0, 8, 40)] == [at(schedule, step) for step in (0, 8, 40)]


@each
def test_initial_learning_rate_is_the_peak(schedule, twin):
    assert schedule.initial_learning_rate == 0.3
    assert schedule.name == type(schedule).__name__


def test_integers_are_numbers():
    assert kaf.InverseSqrt(1).get_config()["learning_rate"] == 1.0
    schedule = kaf.CosineWarmRestarts(1, np.int64(5), 2, 1, 0)
    assert [at(schedule, step) for step in (0, 5, 15)] == [1.0, 1.0, 1.0]


def test_warm_up_must_end_before_training_does():
    with pytest.raises(ValueError, match="`warmup_steps`.*warmup_steps=10, total_steps=10"):
        kaf.WarmupCosine(0.1, total_steps=10, warmup_steps=10)
