"""TensorFlow's fast ways to make a step compute what the plain one does."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_adamfamily as kaf
from tests.steps import BACKEND, largest_difference, random_problem, to_numpy, variables_of

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's programs")

if BACKEND == "tensorflow":
    import tensorflow as tf

    from keras_adamfamily import programs

#: How the step around the update runs.
AROUND = {
    "eager": lambda step: step,
    "graph": tf.function if BACKEND == "tensorflow" else None,
    "XLA": lambda step: tf.function(step, jit_compile=True),
}


def weights_after(optimizer, start, gradients, around="eager"):
    """The weights after some steps, and how often the optimizer's rule was called by Python."""
    variables, calls = variables_of(start, "float32"), []
    rule = optimizer.update

    def counted(*args):
        calls.append(args)
        return rule(*args)

    counted.elementwise = getattr(rule, "elementwise", False)
    optimizer.update = counted
    optimizer.build(variables)
    step = AROUND[around](lambda grads: optimizer.apply(grads, variables))
    for grads in gradients:
        step([ops.convert_to_tensor(g, "float32") for g in grads])
    return [to_numpy(v) for v in variables], len(calls)


@pytest.fixture
def large(monkeypatch):
    """Every model counts as large."""
    monkeypatch.setattr(programs, "COMPILE_FROM", 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", kaf.names())
def test_a_program_computes_the_rule(name, monkeypatch):
    """To rounding: XLA contracts and reorders at most 8 operations on values of at most 4."""
    start, gradients = random_problem(steps=3)
    arguments = {"weight_decay": kaf.Decoupled(0.1), "weight_decay_exclude": ["w1"]}

    def run():
        return weights_after(kaf.get(name).__class__(0.1, **arguments), start, gradients)

    plain, in_python = run()
    monkeypatch.setattr(programs, "COMPILE_FROM", 0)
    fast, traced = run()
    assert largest_difference(fast, plain) < 3 * 8 * 2.0**-24 * 4
    assert in_python == 6 and traced == 2


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("extra", ["clipnorm", "global_clipnorm", "use_ema", "accumulate"])
def test_with_what_keras_adds(around, extra, monkeypatch):
    start, gradients = random_problem(steps=4)
    arguments = {
        "clipnorm": {"clipnorm": 0.1},
        "global_clipnorm": {"global_clipnorm": 0.1},
        "use_ema": {"use_ema": True, "ema_overwrite_frequency": 3},
        "accumulate": {"gradient_accumulation_steps": 2},
    }[extra]
    plain, _ = weights_after(kaf.Adam(0.1, **arguments), start, gradients)
    monkeypatch.setattr(programs, "COMPILE_FROM", 0)
    fast, _ = weights_after(kaf.Adam(0.1, **arguments), start, gradients, around)
    assert largest_difference(fast, plain) < 4 * 8 * 2.0**-24 * 4


@pytest.mark.parametrize("around", ["graph", "XLA"])
@pytest.mark.parametrize("from_parameters", [0, np.inf])
def test_a_rule_is_traced_once_for_all_variables(around, from_parameters, monkeypatch):
    """Of one rank and one decay: here for vectors, matrices, and the vectors without decay."""
    monkeypatch.setattr(programs, "COMPILE_FROM", from_parameters)
    random = np.random.RandomState(0)
    shapes = [(2, 3), (4,), (3, 5), (7,), (1, 2), (6,), (9,)]
    start = [random.randn(*shape) for shape in shapes]
    optimizer = kaf.AdamW(0.1, weight_decay_exclude=["w[13]"])
    _, traced = weights_after(optimizer, start, [start], around)
    assert traced == 3


def test_a_sparse_gradient_updates_its_rows_alone(large):
    table, dense = variables_of([np.ones((5, 2)), np.ones(3)], "float32")
    optimizer = kaf.Adagrad(0.1)
    gradient = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([3]), tf.constant((5, 2)))
    step = tf.function(lambda: optimizer.apply([gradient, tf.ones(3)], [table, dense]))
    optimizer.build([table, dense])
    step()
    moved = to_numpy(table) != 1.0
    assert moved[3].all() and moved.sum() == 2 and (to_numpy(dense) != 1.0).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_save_and_go_on(large, tmp_path, jit_compile):
    random = np.random.RandomState(0)
    x, y = random.randn(32, 3), random.randn(32, 1)
    schedule = kaf.WarmupCosine(0.1, total_steps=20, warmup_steps=2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(kaf.AdamW(schedule), "mse", jit_compile=jit_compile)
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, again):
        one.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(model.weights, again.weights, strict=True):
        assert np.allclose(to_numpy(a), to_numpy(b), rtol=1e-6)


def test_a_learning_rate_that_changes(large):
    variable = keras.Variable(1.0)
    optimizer = kaf.SGD(0.1)
    optimizer.apply([tf.ones(())], [variable])
    optimizer.learning_rate = 0.5
    optimizer.apply([tf.ones(())], [variable])
    assert np.isclose(to_numpy(variable), 0.4)


CHANGES = {
    "weight_decay": 0.5,
    "initial_learning_rate": 2.0,
    "clipnorm": 1e-3,
    "ema_momentum": 0.1,
    "ema_overwrite_frequency": 1,
}


CONSTANTS = ("weight_decay", "initial_learning_rate")  # of a compiled training step


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("tunable", [(), ("weight_decay", "initial_learning_rate")])
def test_what_is_assigned_between_eager_steps_counts(name, tunable, monkeypatch):
    """As it does for small models, whose steps read it each time; or it is refused."""

    def run(compile_from):
        monkeypatch.setattr(programs, "COMPILE_FROM", compile_from)
        variables = [keras.Variable([1.0, 2.0])]
        arguments = {"weight_decay": kaf.Decoupled(0.01), "clipnorm": 1e6, "use_ema": True}
        optimizer = kaf.SGD(0.1, initial_learning_rate=0.1, tunable=tunable, **arguments)
        path = []
        for value in (None, CHANGES[name], CHANGES[name]):
            if value is not None:
                value = kaf.Decoupled(value) if name == "weight_decay" else value
                if name in CONSTANTS and not tunable:
                    with pytest.raises(ValueError, match=f"`{name}` is a constant once .* built"):
                        setattr(optimizer, name, value)
                    return None
                setattr(optimizer, name, value)
            optimizer.apply([tf.constant([1.0, -2.0])], variables)
            path += [to_numpy(v) for v in (*variables, *optimizer.variables)]
        made = optimizer._programs._program.cache_info().misses
        return path, made

    if name in CONSTANTS and not tunable:
        assert run(np.inf) is run(0) is None
        return
    (plain, none), (compiled, made) = run(np.inf), run(0)
    assert (none, made) == (0, 1 if name in tunable else 2)
    for a, b in zip(plain, compiled, strict=True):
        assert np.allclose(a, b, rtol=1e-6)
    assert not np.allclose(plain[-1], plain[len(plain) // 3 - 1])
