"""The corners of `FamilyOptimizer`: own rules, late changes, saving, accumulating."""

import inspect
import re
import textwrap

import keras
import numpy as np
import pytest
from keras import ops

import keras_adamfamily as kaf
from keras_adamfamily.base import elementwise
from tests.steps import BACKEND, Stepper, largest_difference, to_numpy, trajectory, variables_of


def apply(optimizer, gradients, variable=None):
    """The weight, 1 at first, after each scalar gradient."""
    variable = keras.Variable(1.0) if variable is None else variable
    path = []
    for g in gradients:
        optimizer.apply([ops.convert_to_tensor(g, "float32")], [variable])
        path.append(float(to_numpy(variable)))
    return path


class Delayed(kaf.FamilyOptimizer):
    """Steps by the gradient before the last: its rule returns its inputs, which alias variables."""

    slots = {"last": 0.0, "one_before": 0.0}

    def update(self, g, w, s, c):
        return s.one_before, {"last": c.lr * g, "one_before": s.last}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_rule_may_return_its_inputs(compiled):
    optimizer, variable = Delayed(0.1), keras.Variable(1.0)
    if compiled:
        step = Stepper(optimizer, [variable])
        path = []
        for g in (1.0, 2.0, 3.0, 4.0):
            step([ops.convert_to_tensor(g, "float32")])
            path.append(float(to_numpy(variable)))
    else:
        path = apply(optimizer, [1.0, 2.0, 3.0, 4.0], variable)
    assert np.allclose(path, [1.0, 1.0, 0.9, 0.7], atol=1e-6)


def test_the_docstrings_rule_runs_saves_and_loads(tmp_path):
    source = re.search(r"```python\n(.*?)```", inspect.getdoc(kaf.FamilyOptimizer), re.DOTALL)
    namespace = {}
    exec(textwrap.dedent(source.group(1)), namespace)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(namespace["SignMomentum"](0.1), "mse")
    x, y = np.random.RandomState(0).randn(2, 32, 3)
    model.fit(x, y[:, :1], verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for one, other in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        assert np.array_equal(to_numpy(one), to_numpy(other))


def test_a_hyperparameter_that_is_never_set_is_named():
    class Forgetful(kaf.SGD):
        rho = kaf.RMSprop.rho

    with pytest.raises(AttributeError, match="Forgetful declares `rho`, but its constructor"):
        apply(Forgetful(0.1), [1.0])


class TestShapesOfGradients:
    """On PyTorch a fused kernel reads as much of a gradient as the weights are long."""

    START = np.zeros((3, 4)), np.zeros(4)

    @pytest.mark.parametrize("shape", [(), (4,), (1, 4), (3, 1)])
    @pytest.mark.parametrize("name", kaf.names())
    def test_one_that_can_be_broadcast_is(self, name, shape):
        random = np.random.RandomState(0)
        small = [[random.randn(*shape), random.randn(4)] for _ in range(2)]
        whole = [[np.broadcast_to(g, (3, 4)), b] for g, b in small]
        found, expected = (
            trajectory(kaf.get(name), self.START, gradients) for gradients in (small, whole)
        )
        assert largest_difference(found, expected) == 0

    @pytest.mark.parametrize("clip", [{}, {"clipnorm": 1e3}])
    @pytest.mark.parametrize("shape", [(4, 3), (5, 4), (2, 4), (1, 3, 4), (3,), (12,), (0, 4)])
    @pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "NDAdam"])
    def test_any_other_is_refused(self, name, shape, clip):
        optimizer, variables = kaf.get(name), variables_of(self.START, "float32")
        optimizer = type(optimizer)(**clip)
        with pytest.raises(ValueError, match=re.escape(f"shape (3, 4). Received one of {shape}")):
            optimizer.apply([ops.ones(shape), ops.ones(4)], variables)
        assert not np.any(to_numpy(variables[0]))

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_arrays_of_numpy_are_gradients_too(self, dtype):
        arrays = [np.full((3, 4), 0.5, dtype), np.full(4, 0.5, dtype)]
        found, expected = (variables_of(self.START, "float32") for _ in range(2))
        kaf.Adam(0.1).apply(arrays, found)
        kaf.Adam(0.1).apply([ops.convert_to_tensor(g, "float32") for g in arrays], expected)
        assert largest_difference(*([to_numpy(v) for v in vs] for vs in (found, expected))) == 0

    def test_their_number_is_that_of_the_variables(self):
        with pytest.raises(ValueError, match="1 gradients for 2 variables"):
            kaf.Adam().apply([ops.ones((3, 4))], variables_of(self.START, "float32"))


class TestLateChanges:
    def test_a_tunable_decay_keeps_its_form(self):
        for change_before_build in (True, False):
            optimizer = kaf.SGDW(0.1, weight_decay=kaf.Decoupled(1e-3), tunable=["weight_decay"])
            variable = keras.Variable(1.0)
            if not change_before_build:
                optimizer.build([variable])
            optimizer.weight_decay = 0.2
            assert np.allclose(apply(optimizer, [0.0], variable), [0.8])

    def test_a_schedule_set_later_brings_its_own_peak(self):
        optimizer = kaf.SGDW(0.01, weight_decay=kaf.Decoupled(0.1))
        optimizer.learning_rate = kaf.WarmupCosine(1.0, total_steps=100)
        assert np.allclose(apply(optimizer, [0.0]), [0.9])

    def test_what_is_set_later_is_checked(self):
        optimizer = kaf.AdamW(lambda: 0.1)
        with pytest.raises(ValueError, match="initial_learning_rate"):
            optimizer.weight_decay = kaf.Decoupled(0.1)
        with pytest.raises(ValueError, match=r"`learning_rate` must be a float between \[0, inf"):
            kaf.Adam().learning_rate = -1.0
        decay = kaf.Normalized(0.1, batch_size=10, dataset_size=100, epochs=10)
        optimizer = kaf.AdamW(weight_decay=decay, tunable=["weight_decay"])
        with pytest.raises(ValueError, match="must be below 1"):
            optimizer.weight_decay = 10.0

    def test_a_constant_cannot_change_after_build(self):
        optimizer = kaf.SGD(0.1)
        apply(optimizer, [1.0])
        with pytest.raises(ValueError, match=r"make_tunable\('momentum'\)"):
            optimizer.momentum = 0.9

    @pytest.mark.parametrize("value", [0.5, None, kaf.Decoupled(0.3)])
    def test_a_decay_is_a_constant_too(self, value):
        optimizer = kaf.AdamW(0.1, weight_decay=kaf.Decoupled(0.1))
        before = optimizer.get_config()
        optimizer.build([keras.Variable([1.0])])
        with pytest.raises(ValueError, match=r"constant once .* `make_tunable\('weight_decay'\)`"):
            optimizer.weight_decay = value
        with pytest.raises(ValueError, match=r"`make_tunable\('initial_learning_rate'\)`"):
            optimizer.initial_learning_rate = 0.2
        assert optimizer.get_config() == before

    @pytest.mark.parametrize("value", [None, kaf.L2(0.3)])
    def test_a_tunable_decay_cannot_change_its_form(self, value):
        tunable = ["weight_decay", "initial_learning_rate"]
        optimizer = kaf.AdamW(0.1, weight_decay=kaf.Decoupled(0.1), tunable=tunable)
        before = optimizer.get_config()
        optimizer.build([keras.Variable([1.0])])
        with pytest.raises(ValueError, match="keeps its form .* set by a float. Received: weight_"):
            optimizer.weight_decay = value
        with pytest.raises(ValueError, match="`initial_learning_rate` must be a float"):
            optimizer.initial_learning_rate = None
        assert optimizer.get_config() == before
        optimizer.initial_learning_rate = 0.2
        assert optimizer.get_config()["initial_learning_rate"] == 0.2

    def test_a_schedules_own_call_counts(self):
        class Half(kaf.CosineWarmRestarts):
            def __call__(self, step):
                return 0.5 * super().__call__(step)

        assert np.allclose(apply(kaf.SGD(Half(0.1, 10)), [1.0]), [0.95])


class TestArguments:
    @pytest.mark.parametrize(
        "make, name",
        [
            (lambda: kaf.AdamNC(beta_2=0.5), "beta_2"),
            (lambda: kaf.AdamNC(amsgrad=True), "amsgrad"),
            (lambda: kaf.NAdamW(schedule="simple"), "schedule"),
            (lambda: kaf.AMSGrad(amsgrad=False), "amsgrad"),
            (lambda: kaf.Adam(lr=0.1), "lr"),
        ],
    )
    def test_what_an_algorithm_fixes_is_not_its_argument(self, make, name):
        with pytest.raises(ValueError, match=rf"does not know the argument\(s\) \['{name}'\]"):
            make()

    def test_epsilons_that_float32_rounds_to_zero_give_no_nan(self):
        for epsilon in (1e-50, 1e-42):
            assert apply(kaf.Adam(0.1, epsilon=epsilon), [0.0]) == [1.0]

    def test_excluding_a_variable_excludes_no_namesake(self):
        one, other = (keras.Variable(1.0, name="same") for _ in range(2))
        optimizer = kaf.SGD(0.1, weight_decay=1.0)
        optimizer.exclude_from_weight_decay(var_list=[one])
        optimizer.apply([ops.zeros(()), ops.zeros(())], [one, other])
        assert [float(to_numpy(v)) for v in (one, other)] == [1.0, pytest.approx(0.9)]


class TestAccumulation:
    def test_a_gradient_whose_last_batch_is_missing_is_not_lost(self):
        """It waits for the next update of its variable."""
        one, other = variables_of([1.0, 1.0], "float32")
        optimizer = kaf.SGD(1.0, gradient_accumulation_steps=2)
        g, nothing = ops.convert_to_tensor(1.0, "float32"), ops.zeros(())
        for first in (g, None, nothing, nothing):
            optimizer.apply([first, g], [one, other])
        assert [float(to_numpy(v)) for v in (one, other)] == [0.5, -1.0]

    def test_cycles_of_normalized_decay_count_updates(self):
        """With batches of 6 and 4 of them per update, b is 24: T_i is the same in epochs."""

        def decayed(epochs, learning_rate):
            decay = kaf.Normalized(0.1, batch_size=24, dataset_size=240, epochs=epochs)
            optimizer = kaf.SGD(learning_rate, weight_decay=decay, gradient_accumulation_steps=4)
            return apply(optimizer, [0.0] * 4)[-1]

        restarts = kaf.CosineWarmRestarts(0.1, first_cycle_steps=20 * 40, minimum_learning_rate=0.1)
        assert np.isclose(decayed(20, 0.1), decayed(restarts, restarts), atol=1e-7)

    def test_with_loss_scaling(self):
        """LossScaleOptimizer builds its inner optimizer with a tuple of variables."""
        optimizer = kaf.AdamW(0.1, gradient_accumulation_steps=2)
        optimizer.build(tuple(variables_of([1.0], "float32")))
        assert len(optimizer._states) == 1


class TestSaving:
    def model(self, optimizer):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(optimizer, "mse")
        return model

    def test_a_model_that_was_never_trained(self, tmp_path):
        self.model(kaf.AdamW()).save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        again.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
        assert int(to_numpy(again.optimizer.iterations)) == 1

    def test_weights_of_another_optimizer_do_not_bring_its_exclusions(self, tmp_path):
        x, y = np.ones((4, 3)), np.ones((4, 1))
        one = self.model(kaf.AdamW(weight_decay_exclude=["kernel"]))
        other = self.model(kaf.AdamW(weight_decay_exclude=["bias"]))
        for model in (one, other):
            model.fit(x, y, verbose=0)
        one.save_weights(tmp_path / "one.weights.h5")
        other.load_weights(tmp_path / "one.weights.h5")
        assert [traits["decays"] for traits in other.optimizer._traits] == [True, False]

    def test_averages_of_some_variables(self):
        variables = variables_of([0.0, 1.0, 2.0], "float32")
        optimizer = kaf.SGD(1.0, use_ema=True)
        optimizer.apply([ops.zeros(())] * 3, variables)
        for v in variables:
            v.assign(5.0)
        optimizer.finalize_variable_values(variables[1:])
        assert [float(to_numpy(v)) for v in variables] == [5.0, 1.0, 2.0]

    def test_an_unregistered_schedule_in_the_decay(self):
        class Own(kaf.CosineWarmRestarts):
            pass

        decay = kaf.Normalized(0.1, batch_size=10, dataset_size=100, epochs=Own(0.1, 10))
        config = kaf.AdamW(0.1, weight_decay=decay).get_config()
        assert config["weight_decay"]["config"]["rate"] == 0.1


@pytest.mark.skipif(BACKEND != "jax", reason="Keras clips sparse gradients on TensorFlow alone")
@pytest.mark.parametrize("bound", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_sparse_gradients_are_clipped_on_jax(bound):
    from jax.experimental import sparse

    found = []
    dense = np.zeros((5, 2), "float32")
    dense[1], dense[3] = 3.0, -4.0
    for g in (sparse.BCOO.fromdense(dense, n_dense=1), keras.ops.convert_to_tensor(dense)):
        variable = keras.Variable(np.ones((5, 2), "float32"))
        kaf.Adagrad(0.1, **{bound: 0.5}).apply([g], [variable])
        found.append(np.asarray(variable))
    assert np.array_equal(*found)


@pytest.mark.skipif(BACKEND == "jax", reason="of TensorFlow and PyTorch")
@pytest.mark.parametrize("around", [{}, {"clipnorm": 0.4}, {"gradient_accumulation_steps": 2}])
@pytest.mark.parametrize("name", kaf.names())
def test_sparse_gradients_are_what_they_stand_for(name, around):
    """`tf.IndexedSlices` need not tell the shape of the whole."""
    rows, dense = [1, 4, 1], np.zeros((6, 4), "float32")
    np.add.at(dense, rows, 0.5)
    results = []
    for is_sparse in (True, False):
        gradient = ops.convert_to_tensor(dense)
        if is_sparse and BACKEND == "torch":
            import torch

            gradient = torch.sparse_coo_tensor([rows], torch.full((3, 4), 0.5), dense.shape)
        elif is_sparse:
            import tensorflow as tf

            gradient = tf.IndexedSlices(tf.fill([3, 4], 0.5), tf.constant(rows))
        (variable,) = variables_of([np.ones(dense.shape)], "float32")
        optimizer = type(kaf.get(name))(**around)
        for _ in range(2):
            optimizer.apply([gradient], [variable])
        results.append(to_numpy(variable))
    assert np.allclose(*results, rtol=0, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sparse gradients are TensorFlow's")
@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_repeated_rows_are_merged_before_clipping(clip):
    import tensorflow as tf

    sparse = tf.IndexedSlices(tf.fill([3, 2], 0.5), tf.constant([1, 1, 3]), tf.constant([5, 2]))
    results = []
    for gradient in (sparse, tf.convert_to_tensor(sparse)):
        (variable,) = variables_of([np.ones((5, 2))], "float32")
        kaf.SGD(1.0, **{clip: 0.4}).apply([gradient], [variable])
        results.append(to_numpy(variable))
    assert np.allclose(*results, atol=1e-6)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_float64_gradients_are_clipped_in_float64(clip, x64):
    gradient = np.array([1 / 3, 7.1])
    (variable,) = variables_of([np.zeros(2)], "float64")
    optimizer = kaf.SGD(1.0, **{clip: 1.0})
    optimizer.apply([ops.convert_to_tensor(gradient, "float64")], [variable])
    assert np.allclose(-to_numpy(variable), gradient / np.hypot(*gradient), rtol=1e-15)


def test_a_rate_by_a_function_is_not_rounded(x64):
    (variable,) = variables_of([np.zeros(2)], "float64")
    kaf.SGD(lambda: 0.01).apply([ops.ones(2, "float64")], [variable])
    assert np.array_equal(to_numpy(variable), [-0.01, -0.01])


def test_a_float64_layer_among_others_trains(x64):
    """TensorFlow makes the optimizer's state while it traces the first step."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="float64")])
    model.compile(kaf.AdamW(0.01), "mse")
    model.fit(np.ones((32, 3)), np.ones((32, 2)), verbose=0)
    assert float(to_numpy(model.optimizer.learning_rate)) == 0.01


def test_the_whole_model_pass_runs_in_the_widest_precision(x64):
    seen = []

    class Watcher(kaf.FamilyOptimizer):
        def survey(self, grads, weights, states, c):
            seen.append(c.dtype)
            return {}, {}

        def update(self, g, w, s, c):
            return c.lr * g, {}

    variables = [keras.Variable(1.0, dtype=dtype) for dtype in ("float32", "float64")]
    Watcher(0.1).apply([ops.ones((), "float32"), ops.ones((), "float64")], variables)
    assert seen == ["float64"]


@pytest.mark.parametrize("compiled", [True, False])
def test_the_whole_model_pass_sees_decayed_and_clipped_gradients(compiled):
    class Watcher(kaf.FamilyOptimizer):
        def survey(self, grads, weights, states, c):
            return {"total": sum(ops.sum(g) for g in grads)}, {}

        def update(self, g, w, s, c):
            return c.lr * c.total + 0.0 * g, {}

    start, gradients = [np.ones(2), np.ones(2)], [[np.full(2, 3.0), np.full(2, 4.0)]] * 2
    decayed = Watcher(0.1, weight_decay=kaf.L2(0.5))
    (path,) = trajectory(decayed, start, gradients[:1], compiled=compiled)
    assert np.allclose(path[0], 1.0 - 0.1 * (2 * 3.5 + 2 * 4.5))
    clipped = Watcher(0.1, global_clipnorm=1.0, gradient_accumulation_steps=2)
    _, path = trajectory(clipped, start, gradients, compiled=compiled)
    assert np.allclose(path[0], 1.0 - 0.1 * 14 / np.sqrt(50))


@pytest.mark.parametrize("compiled", [True, False])
def test_an_elementwise_rule_with_traits(compiled):
    class Scaled(kaf.FamilyOptimizer):
        slots = {"count": 0.0}

        def traits(self, variables):
            return [{"factor": float(i)} for i, _ in enumerate(variables)]

        @elementwise
        def update(self, g, w, s, c):
            return s.factor * c.lr * g, {"count": s.count + 1.0}

    class Halved(kaf.FamilyOptimizer):
        @elementwise
        def update(self, g, w, s, c):
            return (1.0 if s.decays else 0.5) * c.lr * g, {}

    for optimizer, factors in (
        (Scaled(0.1), (0.0, 1.0)),
        (Halved(0.1, weight_decay_exclude=["w1"]), (1.0, 0.5)),
    ):
        if BACKEND == "torch" and isinstance(optimizer, Halved):
            continue
        (path,) = trajectory(optimizer, [np.ones(2)] * 2, [[np.ones(2)] * 2], compiled=compiled)
        for weights, factor in zip(path, factors, strict=True):
            assert np.allclose(weights, 1.0 - 0.1 * factor)


@pytest.mark.skipif(BACKEND != "jax", reason="jax.vmap")
@pytest.mark.parametrize("name", kaf.names())
def test_lanes_with_their_own_hyperparameters_run_in_one_program(name):
    """`jax.vmap` over optimizer states equals one run after the other: a population of trials."""
    import jax

    rates, decays = np.array([0.001, 0.01, 0.1], "float32"), np.array([0.0, 0.01, 0.1], "float32")
    tunable = ["weight_decay", "initial_learning_rate"]

    def make(rate=0.01, decay=0.01, **arguments):
        return kaf.get(name).__class__(rate, weight_decay=kaf.Decoupled(float(decay)), **arguments)

    variable = keras.Variable(np.ones(3, "float32"))
    optimizer = make(tunable=tunable)
    optimizer.build([variable])
    names = [v.path.rsplit("/")[-1] for v in optimizer.variables]
    own = {"learning_rate": rates, "weight_decay": decays, "initial_learning_rate": rates}
    state = [
        own.get(n, np.stack([to_numpy(v)] * 3))
        for n, v in zip(names, optimizer.variables, strict=True)
    ]
    weights = [np.ones((3, 3), "float32")]
    lanes = jax.vmap(lambda s, w, g: optimizer.stateless_apply(s, [g], w), in_axes=(0, 0, None))
    gradients = np.random.RandomState(0).randn(5, 3).astype("float32")
    for g in gradients:
        weights, state = lanes(state, weights, g)
    for i, (rate, decay) in enumerate(zip(rates, decays, strict=True)):
        alone, reference = keras.Variable(np.ones(3, "float32")), make(float(rate), decay)
        for g in gradients:
            reference.apply([g], [alone])
        assert np.allclose(weights[0][i], to_numpy(alone), atol=1e-5)
