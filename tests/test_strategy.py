"""Which strategy is chosen, why, and that nothing is chosen which cannot do what is asked."""

import math
import re

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

import keras_adamfamily as kaf
from keras_adamfamily.tuning import strategy
from keras_adamfamily.tuning.data import Data
from keras_adamfamily.tuning.population import Population
from keras_adamfamily.tuning.program import variables_of
from tests.steps import BACKEND, to_numpy
from tests.test_population import BATCH, LANES, SEEDS, assert_same, build_model, data, lanes

on_jax = pytest.mark.skipif(BACKEND != "jax", reason="a population needs JAX")


def choose(build=build_model, train=None, trials=5, **changes):
    given = {
        "hyperparameters": LANES,
        "seeds": SEEDS,
        "trials": trials,
        "epochs": 3,
        **changes,
    }
    train = Data.of(train or data(), BATCH)
    return strategy.choose(build, train, Data.of(data(1, 10), BATCH), **given)


@on_jax
def test_a_small_model_trains_in_a_population_that_is_ready():
    stop = keras.callbacks.EarlyStopping(patience=1)
    choice = choose(callbacks=[stop])
    assert choice.strategy == "map"
    assert "map: " in choice.reason and " a trial against over " in choice.reason
    assert choice.seconds.keys() >= {"map"} and choice.population.epochs.tolist() == [0] * 5
    ready, fresh = choice.population, lanes(early_stopping=stop)
    assert_same(fresh.train(3), ready.train(3))
    np.testing.assert_array_equal(fresh.epochs, ready.epochs)
    assert len(ready._program._compiled) == 1  # the probe's program serves


def measured(monkeypatch, **seconds):
    """Makes the probe measure these, all longer than the set-up of `fit`."""

    def measure(self, name, brief=False):
        chosen = self._population(name, self._sample(self.probed), 1)
        return chosen, seconds[name], 1e-9

    monkeypatch.setattr(strategy._Probe, "_measure", measure)
    monkeypatch.setattr(strategy._Probe, "_measure_fit", lambda self: seconds["fit"])


@on_jax
@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [
        ({"map": 90.0, "vmap": 95.0, "fit": 80.0}, "fit"),
        ({"map": 90.0, "vmap": 70.0, "fit": 80.0}, "vmap"),
        ({"map": 60.0, "vmap": 70.0, "fit": 80.0}, "map"),
    ],
)
def test_the_fastest_is_chosen(seconds, fastest, monkeypatch):
    measured(monkeypatch, **seconds)
    choice = choose()
    assert choice.strategy == fastest and choice.reason.startswith(f"{fastest}: ")
    for name, value in choice.seconds.items():
        assert value == seconds[name] and f"{value:.1f} s" in choice.reason
    assert (choice.population is None) == (fastest == "fit")


@on_jax
def test_a_probe_of_a_large_task_takes_a_part_of_it(monkeypatch):
    monkeypatch.setattr(strategy, "PROBE", 1.0)
    monkeypatch.setattr(strategy._Probe, "_measure_fit", lambda probe: math.inf)
    choice = choose(train=(np.tile(data()[0], (10, 1)), np.tile(data()[1], 10)))
    assert choice.strategy == "map"
    assert choice.population._examples == 300


class Doing(keras.callbacks.Callback):
    pass


def adam_of_keras():
    return build_model(keras.optimizers.Adam())


class Noisy(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, index):
        return np.random.normal(size=(BATCH, 3)), np.zeros(BATCH)


@on_jax
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"callbacks": [Doing()]}, "only fit can call the callback Doing"),
        ({"callbacks": [keras.callbacks.EarlyStopping()] * 2}, "more than one EarlyStopping"),
        (
            {"callbacks": [keras.callbacks.EarlyStopping(restore_best_weights=True)]},
            "restore_best_weights",
        ),
        ({"callbacks": [kaf.callbacks.EvaluateEMAWeights()]}, "use_ema"),
        ({"build": adam_of_keras}, "optimizer of keras_adamfamily.*has Adam"),
        ({"build": lambda: build_model(jit_compile=False)}, "jit_compile"),
        ({"train": Noisy()}, "random.*plain arrays"),
        ({"build": lambda: build_model(kaf.Adam(lambda: 0.1))}, "learning rate"),
    ],
)
def test_why_there_is_no_population(changes, why):
    choice = choose(**changes)
    assert choice.strategy == "fit" and choice.population is None and choice.seconds == {}
    assert choice.reason.startswith("fit: ")
    assert re.search(why, choice.reason)


@on_jax
def test_a_model_that_cannot_be_traced_goes_to_fit():
    def build():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
        model.compile(kaf.Adam(), loss=lambda y, p: np.asarray(p).mean())
        return model

    choice = choose(build, hyperparameters={"learning_rate": [0.1] * 5})
    assert choice.strategy == "fit" and "no common program" in choice.reason


@pytest.mark.skipif(BACKEND == "jax", reason="the message is for the other backends")
def test_other_backends_train_with_fit():
    choice = choose()
    assert choice.strategy == "fit" and f"needs the JAX backend, and this is {BACKEND}" in (
        choice.reason
    )


@pytest.mark.parametrize("name", ["trials", "epochs", "chunk_size"])
def test_wrong_numbers(name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        choose(**{name: 0})


@keras.saving.register_keras_serializable("tests")
class OfOnesOwn(keras.optimizers.schedules.CosineDecay):
    def __call__(self, step):
        return keras.ops.maximum(super().__call__(step), 0.004)


RATES = {
    "constant": lambda peak: peak,
    "cosine": lambda peak: keras.optimizers.schedules.CosineDecay(peak, 8),
    "restarts": lambda peak: kaf.CosineWarmRestarts(peak, first_cycle_steps=3),
    "warmup": lambda peak: kaf.WarmupCosine(peak, 8, warmup_steps=2),
    "with a floor": lambda peak: kaf.WarmupCosine(peak, 8, minimum_learning_rate=peak / 4),
    "of one's own": lambda peak: OfOnesOwn(peak, 8),
    "of Keras": lambda peak: keras.optimizers.schedules.PolynomialDecay(peak, 8, peak / 4),
}


def scheduled(rate, peak):
    optimizer = kaf.AdamW(
        RATES[rate](peak),
        beta_1=0.8,
        weight_decay=kaf.Decoupled(1e-2),
        weight_decay_exclude=["bias"],
    )
    model = build_model(optimizer)
    model.optimizer.build(model.trainable_variables)  # as a hypermodel does
    return model


@pytest.mark.parametrize(
    "rate",
    [rate if rate == "restarts" else pytest.param(rate, marks=pytest.mark.slow) for rate in RATES],
)
def test_sharing_a_program_changes_no_number(rate, tmp_path):
    def trained(share):
        keras.utils.set_random_seed(0)
        model = scheduled(rate, 0.01)
        if share:
            assert strategy.share_program(model, ["learning_rate", "beta_1"]) is model
        model.fit(*data(), BATCH, 2, 0)
        return model

    plain, shared = trained(False), trained(True)
    for one, other in zip(plain.get_weights(), shared.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert shared.optimizer.is_tunable("beta_1") == (BACKEND == "jax")
    path = tmp_path / "shared.keras"
    shared.save(path)
    loaded = keras.saving.load_model(path)
    for one, other in zip(shared.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))
    assert float(loaded.optimizer.learning_rate) == float(shared.optimizer.learning_rate)
    if rate != "constant":
        again, first = loaded.optimizer._learning_rate, RATES[rate](0.01)
        again = again.as_it_is() if BACKEND == "jax" else again
        assert again.get_config() == first.get_config() and type(again) is type(first)
        for step in (0, 1, 5, 9):
            assert float(again(step)) == pytest.approx(float(first(step)), rel=1e-6)


def test_snapshots_of_a_model_that_shares_its_program():
    model = strategy.share_program(scheduled("restarts", 0.01), ["learning_rate"])
    ensemble = kaf.callbacks.SnapshotEnsemble()
    model.fit(*data(), BATCH, 3, 0, callbacks=[ensemble])
    assert list(ensemble.snapshots) == [1, 2]


def test_another_kind_of_optimizer_stays():
    other = build_model(keras.optimizers.Adam())
    assert strategy.share_program(other, ["learning_rate"]).optimizer is other.optimizer


@on_jax
@pytest.mark.parametrize("rate", ["constant", "cosine", "restarts"])
def test_trials_with_other_values_have_the_same_program(rate):
    import jax

    def program(peak):
        keras.backend.clear_session()
        model = strategy.share_program(scheduled(rate, peak), ["learning_rate", "weight_decay"])
        batch = tuple(array[:BATCH] for array in data())
        model._symbolic_build(data_batch=batch)
        state = [[v.value for v in group] for group in variables_of(model)]
        state.append([v.value for v in model.metrics_variables])
        return jax.jit(model.train_step).lower(tuple(state), batch).as_text()

    assert program(0.01) == program(0.02)


# Convolutions.


@on_jax
@pytest.mark.parametrize(
    "layer",
    [
        lambda layers: layers.Conv2D(3, 3, padding="same"),
        lambda layers: layers.Conv2D(4, 3, dilation_rate=2, groups=2),
        *(
            pytest.param(layer, marks=pytest.mark.slow)
            for layer in (
                lambda layers: layers.Conv2D(3, 3, strides=2),
                lambda layers: layers.DepthwiseConv2D(3),
                lambda layers: layers.Conv2DTranspose(3, 2, strides=2),
            )
        ),
    ],
)
def test_convolutions_in_the_fast_layout_compute_the_same(layer):
    import jax

    from keras_adamfamily.tuning.convolutions import with_fast_convolutions

    model = keras.Sequential([keras.Input((7, 8, 2)), layer(keras.layers)])
    x = np.random.default_rng(0).normal(size=(5, 7, 8, 2)).astype("float32")
    weights = [v.value for v in model.trainable_variables]

    def loss(weights, x):
        y, _ = model.stateless_call(weights, [], x)
        return (y**2).sum()

    gradients = jax.grad(loss, argnums=(0, 1))
    plain, fast = gradients(weights, x), with_fast_convolutions(gradients)(weights, x)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(fast), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    program = str(jax.make_jaxpr(with_fast_convolutions(jax.jit(gradients)))(weights, x))
    assert program.count("conv_general_dilated[") == 3  # forward, and a gradient of each operand
    layouts = program.split("lhs_spec=")[1:]
    assert all(layout.startswith("(0, 3, 1, 2)") for layout in layouts)


@on_jax
def test_a_convolutional_lane_equals_fit():
    def build():
        layers = keras.layers
        model = keras.Sequential(
            [keras.Input((4, 4, 1)), layers.Conv2D(3, 3, padding="same", activation="relu")]
        )
        model.add(layers.Flatten())
        model.add(layers.Dense(3, "softmax"))
        model.compile(kaf.SGD(0.1), "sparse_categorical_crossentropy")
        return model

    random = np.random.default_rng(0)
    train = random.normal(size=(20, 4, 4, 1)), np.arange(20) % 3
    one = Population(build, train, hyperparameters={}, seeds=[0], batch_size=8)
    curves = one.train(2)
    keras.utils.set_random_seed(0)
    history = build().fit(*train, 8, 2, 0)
    np.testing.assert_allclose(curves["loss"][0], history.history["loss"], atol=1e-6)
