"""Several devices compute what one does: `tf.distribute` on TensorFlow, sharding on JAX."""

import contextlib

import keras
import numpy as np
import pytest

import keras_adamfamily as kaf
from tests.steps import BACKEND, to_numpy

SETTINGS = {
    "accumulation, and decay by path": lambda: kaf.AdamW(
        0.01,
        weight_decay=kaf.Decoupled(0.01),
        weight_decay_exclude=["bias"],
        gradient_accumulation_steps=3,
    ),
    "global clipping, and an average": lambda: kaf.Adam(
        0.01, global_clipnorm=0.1, use_ema=True, ema_overwrite_frequency=3
    ),
    "switch": lambda: kaf.SWATS(0.01, switch_at=5),
    "switch of each variable": lambda: kaf.SWATS(0.01, switch_at=5, scope="variable"),
    "weight vectors": lambda: kaf.NDAdam(0.001, use_ema=True, ema_overwrite_frequency=3),
    "restarts": lambda: kaf.SGDW(
        kaf.CosineWarmRestarts(0.05, 4),
        weight_decay=kaf.Normalized(
            0.025, batch_size=16, dataset_size=64, epochs=kaf.CosineWarmRestarts(0.05, 4)
        ),
    ),
}
#: The switch of the whole model is part of the one of each variable.
EACH_SETTING = [
    pytest.param(setting, marks=[pytest.mark.slow] * (setting == "switch")) for setting in SETTINGS
]
RULES = {name: (lambda name=name: kaf.get(name)) for name in kaf.names()}

FEATURES = np.random.RandomState(0).randn(64, 6).astype("float32")
TARGETS = FEATURES @ np.random.RandomState(1).randn(6, 2).astype("float32")


def fit(make_optimizer, scope):
    """Weights and optimizer state after nine batches in `model.fit`."""
    keras.utils.clear_session(free_memory=False)
    with scope:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])
        model.build((None, 6))
        model.compile(make_optimizer(), "mse")
    model.fit(FEATURES[:48], TARGETS[:48], batch_size=16, epochs=3, shuffle=False, verbose=0)
    return model, [to_numpy(v) for v in model.weights + model.optimizer.variables]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


def assert_near(one, other):
    """Weights with narrow state: a last bit of a gradient may round some of it another way."""
    for variable, *held in zip(one[0].weights, one[1], other[1], strict=False):
        assert np.abs(held[0] - held[1]).mean() < 0.05 * 9 * 0.01, variable.path  # of nine steps
    dtypes = [[v.dtype for v in model.optimizer.variables] for model, _ in (one, other)]
    assert dtypes[0] == dtypes[1]


def two_devices():
    """A strategy that sums by copying; collective kernels clash between tests of one process."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
class TestMirroredStrategy:
    @pytest.mark.parametrize("setting", EACH_SETTING)
    def test_fit_on_two_devices_equals_one(self, setting):
        strategy = two_devices()
        _, alone = fit(SETTINGS[setting], contextlib.nullcontext())
        model, mirrored = fit(SETTINGS[setting], strategy.scope())
        assert_same(mirrored, alone)
        for variable in model.optimizer.variables[1:]:
            if hasattr(variable.value, "values"):
                one, other = (v.numpy() for v in variable.value.values)
                assert np.array_equal(one, other)  # both devices hold the same state

    @pytest.mark.parametrize("state_dtype", ["bfloat16", "mixed_float8"])
    def test_narrow_state(self, state_dtype):
        def make():
            return kaf.AdamW(0.01, state_dtype=state_dtype)

        mirrored = fit(make, two_devices().scope())
        assert_near(mirrored, fit(make, contextlib.nullcontext()))
        for variable in mirrored[0].optimizer.variables[1:]:
            one, other = (v.numpy() for v in variable.value.values)
            assert np.array_equal(one, other)

    def test_averages_are_evaluated(self):
        curves, data = [], tuple(np.random.RandomState(0).randn(2, 24, 3).astype("float32"))
        for scope in (contextlib.nullcontext(), two_devices().scope()):
            keras.utils.set_random_seed(0)
            with scope:
                model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
                model.compile(kaf.AdamW(0.05, use_ema=True, ema_momentum=0.8), "mse")
            settings = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
            averaged = kaf.callbacks.EvaluateEMAWeights()
            history = model.fit(*data, **settings, validation_data=data, callbacks=[averaged])
            curves.append(history.history["val_loss"])
        np.testing.assert_allclose(*curves, rtol=1e-5)

    def test_a_model_that_is_built_in_a_scope_gets_its_optimizer_there(self):
        keras_tuner = pytest.importorskip("keras_tuner")
        from keras_adamfamily import tuning

        strategy, curves = two_devices(), []

        def build(scope):
            with scope:
                model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
                model.compile(loss="mse")
            return model

        space = tuning.SearchSpace(["SGDW"])
        given = build(strategy.scope())
        for build_model in (
            lambda: build(contextlib.nullcontext()),
            lambda: build(strategy.scope()),
            given,
        ):
            hypermodel = tuning.OptimizerHyperModel(build_model, space, dataset_size=48, epochs=2)
            keras.utils.set_random_seed(0)
            model = hypermodel.build(keras_tuner.HyperParameters())
            fitted = model.fit(FEATURES[:48], TARGETS[:48], 16, 2, verbose=0, shuffle=False)
            curves.append(fitted.history["loss"])
            assert to_numpy(model.optimizer.iterations) == 6
        assert model.distribute_strategy is strategy
        assert_same(curves[1:], curves[:1] * 2)

    @pytest.mark.slow
    def test_a_search_in_a_scope_begins_each_trial_as_it_was(self, tmp_path):
        pytest.importorskip("keras_tuner")
        from rich.console import Console

        from keras_adamfamily import tuning

        strategy = two_devices()
        with strategy.scope():
            base = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)], name="base")
        before = base.get_weights()

        def build():
            with strategy.scope():
                model = keras.Sequential([keras.Input((6,)), base, keras.layers.Dense(2)])
                model.compile(loss="mse")
            return model

        study = tuning.tune(
            build,
            (FEATURES[:48], TARGETS[:48]),
            (FEATURES[:48], TARGETS[:48]),
            optimizers=tuning.SearchSpace(
                ["SGDW"], fix={"learning_rate": 0.01, "weight_decay": 0.0}
            ),
            max_trials=2,
            epochs=2,
            batch_size=16,
            finalist_seeds=0,
            objective="val_loss",
            directory=tmp_path / "study",
            console=Console(quiet=True),
        )
        assert [trial.status for trial in study.trials] == ["ok"] * 2
        assert study.trials[0].curves == study.trials[1].curves
        assert all(map(np.array_equal, before, base.get_weights()))

    def test_an_optimizer_made_outside_of_the_scope_is_refused(self):
        with two_devices().scope():
            model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
        model.compile(kaf.AdamW(), "mse")
        with pytest.raises(ValueError, match=r"within `strategy.scope\(\)` too"):
            model.fit(FEATURES[:48], TARGETS[:48], verbose=0)

    @pytest.mark.parametrize("rule", RULES)
    def test_gradients_of_the_replicas_are_summed(self, rule):
        import tensorflow as tf

        strategy = two_devices()
        start = np.array([1.0, -2.0, 3.0], "float32")
        gradients = np.random.RandomState(0).randn(4, 2, 3).astype("float32")
        with strategy.scope():
            mirrored, optimizer = keras.Variable(start), RULES[rule]()
            optimizer.build([mirrored])
        alone, reference = keras.Variable(start), RULES[rule]()

        @tf.function
        def step(pair):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([tf.gather(pair, replica)], [mirrored])

        for pair in gradients:
            strategy.run(step, args=(tf.constant(pair),))
            reference.apply([tf.constant(pair.sum(axis=0))], [alone])
        assert_same([to_numpy(mirrored)], [to_numpy(alone)])


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution")
class TestSharding:
    @pytest.fixture
    def data_parallel(self):
        distribution = keras.distribution.DataParallel(devices=keras.distribution.list_devices())
        assert len(distribution.device_mesh.devices.flatten()) == 4
        return distribution.scope()

    @pytest.mark.parametrize("setting", EACH_SETTING)
    def test_data_parallel_on_four_devices_equals_one(self, setting, data_parallel):
        _, alone = fit(SETTINGS[setting], contextlib.nullcontext())
        _, parallel = fit(SETTINGS[setting], data_parallel)
        assert_same(parallel, alone)

    @pytest.mark.parametrize("state_dtype", ["bfloat16", "mixed_float8"])
    def test_narrow_state(self, state_dtype, data_parallel):
        def make():
            return kaf.AdamW(0.01, state_dtype=state_dtype)

        assert_near(fit(make, data_parallel), fit(make, contextlib.nullcontext()))

    @pytest.mark.parametrize("rule", RULES)
    def test_state_is_sharded_like_its_variable(self, rule):
        mesh = keras.distribution.DeviceMesh((4,), ["model"], keras.distribution.list_devices())
        layout = keras.distribution.LayoutMap(mesh)
        layout[".*kernel"] = keras.distribution.TensorLayout((None, "model"), mesh)
        distribution = keras.distribution.ModelParallel(layout_map=layout)
        random = np.random.RandomState(0)
        start, gradient = random.randn(6, 8), random.randn(6, 8).astype("float32")

        def apply(scope):
            with scope:
                kernel = keras.Variable(start, dtype="float32", name="kernel")
                optimizer = RULES[rule]()
                optimizer.apply([gradient], [kernel])
            return kernel, [v for v in optimizer.variables if v.shape == kernel.shape]

        alone, _ = apply(contextlib.nullcontext())
        sharded, states = apply(distribution.scope())
        assert_same([to_numpy(sharded)], [to_numpy(alone)])
        for state in states:
            assert state.value.sharding.is_equivalent_to(sharded.value.sharding, 2)
            assert not state.value.is_fully_replicated
