"""The population: each lane is what `fit` gives, whatever the other lanes do."""

import functools

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

import keras_adamfamily as kaf
from keras_adamfamily.tuning import xla
from keras_adamfamily.tuning.population import Population
from tests.steps import BACKEND

on_jax = pytest.mark.skipif(BACKEND != "jax", reason="a population needs JAX")
both_strategies = pytest.mark.parametrize(
    "strategy", ["map", pytest.param("vmap", marks=pytest.mark.slow)]
)
EXAMPLES, BATCH = 30, 8  # so that the last batch is a small one
LANES = {
    "learning_rate": [1e-3, 3e-2, 1e-2, 1e-1, 3e-3],
    "weight_decay": [0.0, 1e-2, 1e-1, 1e-3, 1e-2],
    "beta_1": [0.9, 0.5, 0.0, 0.8, 0.95],
}
SEEDS = [0, 1, 2, 0, 1]
DECAY = kaf.Decoupled(1e-3)


def data(seed=0, examples=EXAMPLES):
    random = np.random.default_rng(seed)
    y = np.arange(examples) % 3
    return np.eye(3)[y] + random.normal(scale=0.5, size=(examples, 3)), y


def build_model(optimizer=None, **compiling):
    """Every kind of state: weights, moving statistics, Dropout's seed, metrics."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((3,)),
            # No bias: before a normalization its gradient is rounding alone, which Adam amplifies.
            layers.Dense(6, use_bias=False, kernel_regularizer="l2"),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = optimizer or kaf.AdamW(weight_decay=DECAY)
    model.compile(optimizer, loss=loss, metrics=["accuracy"], **compiling)
    return model


def lanes(which=slice(None), build=build_model, **changes):
    settings = {
        "hyperparameters": {name: np.array(v)[which] for name, v in LANES.items()},
        "seeds": np.array(SEEDS)[which],
        "batch_size": BATCH,
        **changes,
    }
    return Population(build, data(0), data(1, examples=10), **settings)


def fit(build, lane, epochs, **values):
    keras.utils.set_random_seed(SEEDS[lane])
    model = build()
    config = {**model.optimizer.get_config(), **values}
    model.optimizer = type(model.optimizer).from_config(config)
    history = model.fit(
        *data(0), batch_size=BATCH, epochs=epochs, validation_data=data(1, 10), verbose=0
    )
    return history.history, model.get_weights()


def assert_same(one, other, tolerance=0.0):
    """Bitwise by default."""
    assert one.keys() == other.keys()
    for name, curve in one.items():
        np.testing.assert_allclose(curve, other[name], rtol=0, atol=tolerance, err_msg=name)


def of(curves, which):
    return {name: curve[which] for name, curve in curves.items()}


@pytest.fixture(scope="module")
def trained():
    """All lanes after three epochs, mapped over all devices, and their curves."""
    together = lanes()
    return together, together.train(epochs=3)


@pytest.fixture
def float64(x64):
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


# A lane is `fit`.

RESTARTS = kaf.CosineWarmRestarts(0.05, first_cycle_steps=5)
EACH = {
    "constant": lambda: kaf.AdamW(0.05, weight_decay=DECAY),
    "cosine": lambda: kaf.AdamW(kaf.WarmupCosine(0.05, 12, warmup_steps=3), weight_decay=DECAY),
    "restarts": lambda: kaf.AdamW(
        RESTARTS,
        weight_decay=kaf.Normalized(0.1, batch_size=8, dataset_size=EXAMPLES, epochs=RESTARTS),
    ),
    "a given lr_0": lambda: kaf.AdamW(RESTARTS, initial_learning_rate=0.1, weight_decay=DECAY),
    "Keras's decay": lambda: kaf.AdamW(0.05, weight_decay=0.1),
    "L2, EMA, accumulation": lambda: kaf.Adam(
        0.05, weight_decay=kaf.L2(0.1), use_ema=True, gradient_accumulation_steps=3
    ),
    "exclusions": lambda: kaf.AdamW(
        0.05, weight_decay=DECAY, weight_decay_exclude=["bias"], global_clipnorm=0.1
    ),
}


def of_lane(lane, optimizer):
    """The arguments that make `optimizer` the one of a lane."""
    values = {name: of_lanes[lane] for name, of_lanes in LANES.items()}
    values["learning_rate"] = with_peak(optimizer, values["learning_rate"])
    if isinstance(optimizer.weight_decay, kaf.weight_decay.WeightDecay):
        form = optimizer.weight_decay.with_rate(values["weight_decay"])
        values["weight_decay"] = keras.saving.serialize_keras_object(form)
    return {**values, "initial_learning_rate": optimizer._given_initial_learning_rate}


def with_peak(optimizer, peak):
    rate = optimizer._learning_rate
    if isinstance(rate, keras.Variable):
        return peak
    schedule = type(rate).from_config({**rate.get_config(), "learning_rate": peak})
    return keras.optimizers.schedules.serialize(schedule)


@on_jax
@pytest.mark.slow
@pytest.mark.parametrize("kind", EACH)
def test_equals_fit_in_float64(kind, float64):
    build = functools.partial(build_in_turn, EACH[kind])
    together = lanes(build=build)
    curves = together.train(epochs=3)
    for lane in (1, 3):
        history, weights = fit(build, lane, 3, **of_lane(lane, EACH[kind]()))
        assert_same({name: curve[lane] for name, curve in curves.items()}, history, 1e-12)
        for ours, of_fit in zip(together.model(lane).get_weights(), weights, strict=True):
            np.testing.assert_allclose(ours, of_fit, rtol=0, atol=1e-12)


@on_jax
def test_vmap_equals_map(float64):
    mapped, vectorized = (lanes(strategy=strategy) for strategy in ("map", "vmap"))
    assert_same(mapped.train(epochs=3), vectorized.train(epochs=3), 1e-12)


def build_in_turn(optimizer):
    return build_model(optimizer())


@on_jax
def test_equals_fit_in_float32_after_an_epoch(trained):
    (history, _), curves = fit(build_model, 4, 1, **of_lane(4, build_model().optimizer)), trained[1]
    assert_same({name: curve[4, :1] for name, curve in curves.items()}, history, 1e-6)


@on_jax
@pytest.mark.parametrize("shuffle", [True, False])
def test_order_and_weights_of_the_examples_are_those_of_fit(shuffle):
    weights = np.linspace(0.0, 2.0, EXAMPLES)
    examples = {"a": data()[0][:, :1], "b": data()[0][:, 1:]}, data()[1], weights

    def build():
        inputs = {"a": keras.Input((1,), name="a"), "b": keras.Input((2,), name="b")}
        joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
        model = keras.Model(inputs, keras.layers.Dense(3)(joined))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(kaf.SGD(0.3), loss=loss)
        return model

    one = Population(
        build, examples, hyperparameters={}, seeds=[7], batch_size=BATCH, shuffle=shuffle
    )
    curves = one.train(epochs=2)
    keras.utils.set_random_seed(7)
    model = build()
    history = model.fit(*examples[:2], BATCH, 2, 0, sample_weight=weights, shuffle=shuffle)
    assert_same({"loss": curves["loss"][0]}, history.history, 1e-6)


class WithItsOwnStep(keras.Model):
    """As in Keras's guide on custom training steps: neither a loss nor metrics are compiled."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.mean = keras.metrics.Mean("loss")

    @property
    def metrics(self):
        return [self.mean]

    def train_step(self, state, data):
        import jax

        trainable, fixed, optimizer, metrics = state
        x, y = data

        def loss(trainable):
            predicted, new = self.stateless_call(trainable, fixed, x, training=True)
            return keras.ops.mean((y[:, None] - predicted) ** 2), new

        (value, fixed), grads = jax.value_and_grad(loss, has_aux=True)(trainable)
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, grads, trainable)
        metrics = self.mean.stateless_update_state(metrics, value)
        logs = {"loss": self.mean.stateless_result(metrics)}
        return logs, (trainable, fixed, optimizer, metrics)


def with_a_loss_of_its_own():
    inputs = keras.Input((3,))
    model = WithItsOwnStep(inputs, keras.layers.Dense(1)(inputs))
    model.compile(kaf.AdamW(0.05))
    return model


def with_an_added_loss():
    class Added(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(x**2))
            return x

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Added()(keras.layers.Dense(1)(inputs)))
    model.compile(kaf.AdamW(0.05))
    return model


@on_jax
@pytest.mark.parametrize("build", [with_a_loss_of_its_own, with_an_added_loss])
def test_order_of_a_model_that_fit_need_not_look_at(build):
    """It has nothing to be built, so `fit` draws no order beside those of the epochs."""
    x, y = data()[0], data()[1].astype("float32")
    one = Population(build, (x, y), hyperparameters={}, seeds=[7], batch_size=BATCH)
    curves = one.train(epochs=2)
    keras.utils.set_random_seed(7)
    history = build().fit(x, y, BATCH, 2, 0).history
    np.testing.assert_allclose(curves["loss"][0], history["loss"], rtol=1e-5)


@on_jax
def test_a_seed_decides_initial_weights_order_and_dropout():
    same = {"learning_rate": [0.01] * 3}
    loss = lanes(hyperparameters=same, seeds=[0, 0, 1]).train(epochs=1)["loss"]
    assert loss[0] == loss[1] != loss[2]


# A lane does not feel its neighbours.


@on_jax
@pytest.mark.parametrize("lane", [0, 3])
def test_a_mapped_lane_equals_the_lane_alone_bitwise(lane, trained):
    together, curves = trained
    alone = lanes([lane], devices=[together._mesh.devices[0]])
    assert_same(of(curves, [lane]), alone.train(epochs=3))
    weights = together.model(lane).get_weights(), alone.model(0).get_weights()
    for ours, its in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, its)


@on_jax
@both_strategies
def test_permuting_the_lanes_permutes_the_results(strategy, trained):
    """In other chunks too, unless lanes are vectorized: the compiler may then round otherwise."""
    order = [3, 0, 4, 2, 1]
    if strategy == "map":
        curves = trained[1]
        permuted = lanes(order, chunk_size=2).train(epochs=3)
    else:
        curves, permuted = (
            lanes(which, strategy="vmap").train(3) for which in ([*range(5)], order)
        )
    assert_same(of(curves, order), permuted, 0.0 if strategy == "map" else 1e-5)


@on_jax
@both_strategies
def test_a_nan_lane_leaves_the_others_alone(strategy, trained):
    rates = {**LANES, "learning_rate": [1e-3, 3e-2, 1e38, 1e-1, 3e-3]}
    spoilt = lanes(hyperparameters=rates, strategy=strategy).train(epochs=3)
    whole = trained[1] if strategy == "map" else lanes(strategy=strategy).train(epochs=3)
    assert np.isnan(spoilt["loss"][2, -1]) and np.isnan(spoilt["val_loss"][2, -1])
    assert_same(of(spoilt, [0, 1, 3, 4]), of(whole, [0, 1, 3, 4]))


# Training goes on.


@on_jax
def test_training_in_parts_equals_training_at_once(trained):
    in_parts = lanes()
    parts = [in_parts.train(epochs=1), in_parts.train(epochs=2)]
    joined = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
    assert_same(trained[1], joined)


@on_jax
def test_evaluation_every_second_epoch(trained):
    seldom = lanes().train(2, validation_freq=2)
    assert seldom["val_loss"].shape == (5, 1) and seldom["loss"].shape == (5, 2)
    every = {name: c[:, 1:2] if "val" in name else c[:, :2] for name, c in trained[1].items()}
    assert_same(every, seldom)


@on_jax
def test_validation_in_one_batch_and_none_at_all(trained):
    at_once = lanes(validation_batch_size=10).train(epochs=3)
    assert_same(trained[1], at_once, 1e-6)
    without = Population(build_model, data(), hyperparameters={}, seeds=[0]).train(epochs=1)
    assert without.keys() == {"loss", "accuracy"}


@on_jax
def test_progress_by_chunks():
    import jax

    seen = []
    together = lanes(chunk_size=2, devices=jax.devices()[:2])
    together.train(1, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert len(together) == 5


# What cannot be is refused.


def a_rate():
    return 0.1


@on_jax
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyperparameters": {"momentum": [0.1] * 5}}, "AdamW.*'momentum'"),
        ({"hyperparameters": {"beta_1": [0.1] * 4 + [1.0]}}, "AdamW.*`beta_1`.*beta_1=1.0"),
        ({"hyperparameters": {"learning_rate": [0.1] * 4}}, r"5 lanes.*\(4,\)"),
        ({"hyperparameters": {"learning_rate": [0.0] * 5}}, "`initial_learning_rate`.*0.0"),
        ({"hyperparameters": {"weight_decay": [float("nan")] * 5}}, "`weight_decay`.*nan"),
        ({"hyperparameters": {"learning_rate": 0.1}}, r"5 lanes.*\(\)"),
        ({"seeds": [-1] * 5}, "`seeds`"),
        ({"seeds": [2**32] * 5}, "`seeds`"),
        ({"seeds": []}, "`seeds`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"chunk_size": 0}, "`chunk_size`"),
        ({"strategy": "pmap"}, "`strategy`.*'map', 'vmap'"),
        ({"build": lambda: build_model(run_eagerly=True)}, "run_eagerly"),
        ({"build": lambda: build_model(jit_compile=False)}, "jit_compile"),
        ({"build": lambda: build_model(keras.optimizers.Adam())}, "keras_adamfamily"),
        ({"build": lambda: keras.Sequential([keras.Input((3,))])}, "compiled"),
        ({"build": functools.cache(build_model)}, "new model at each call"),
        ({"build": lambda: build_model(kaf.Adam(a_rate))}, "learning rate.*float, or a schedule"),
        (
            {"build": lambda: build_model(kaf.Adam()), "hyperparameters": LANES},
            "`weight_decay`.*None",
        ),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        lanes(**changes)


@on_jax
def test_wrong_data_and_epochs():
    for wrong in ((data()[0], data()[1][:-1]), [*data()], (), (np.zeros((0, 3)), np.zeros(0))):
        with pytest.raises(ValueError, match="`train`"):
            Population(build_model, wrong, hyperparameters={}, seeds=[0])
    together = lanes()
    with pytest.raises(ValueError, match="`epochs`"):
        together.train(0)
    with pytest.raises(ValueError, match="validation_freq=2, epochs=3"):
        together.train(3, validation_freq=2)
    with pytest.raises(IndexError):
        together.model(5)


@pytest.mark.skipif(BACKEND == "jax", reason="the message is for the other backends")
def test_other_backends_are_refused():
    for call in (lanes, xla.use_all_cores):
        with pytest.raises(RuntimeError, match="KERAS_BACKEND=jax.*" + BACKEND):
            call()
