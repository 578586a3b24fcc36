"""What users hand to the tuner as it is: hyperparameters, metrics, models, folders, batches."""

from __future__ import annotations

import random
import re

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

import keras_tuner

import keras_adamfamily as kaf
from keras_adamfamily import tuning
from tests.test_tuning import LENGTH, QUIET, STRATEGIES, blobs, build_model, tune
from tests.test_weights import Subclass

pytestmark = pytest.mark.once("torch")


class Batches(keras.utils.PyDataset):
    """The blobs in batches of a size."""

    def __init__(self, size, seed):
        super().__init__()
        self.x, self.y = blobs(seed)
        self.size = size

    @property
    def num_batches(self):
        return len(self.y) // self.size

    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        return self.x[rows], self.y[rows]


def as_in_kerastuners_guides(hp):
    """It chooses an optimizer and its rate, and an architecture beside them."""
    model = keras.Sequential([keras.Input((3,))])
    model.add(keras.layers.Dense(hp.Choice("units", [4, 8]), "relu"))
    model.add(keras.layers.Dense(3))
    optimizer = keras.optimizers.get(hp.Choice("optimizer", ["adam", "sgd"]))
    optimizer.learning_rate = hp.Choice("learning_rate", [0.5, 0.25])
    assert hp.get("learning_rate") == 0.5 and hp.get("units") in (4, 8)
    assert hp.Choice("batch_size", [8, 16]) == 8
    assert hp.Choice("schedule", ["linear", "none"]) == "linear"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss)
    return model


def test_hyperparameters_of_the_optimizer_that_is_replaced_are_not_searched(tmp_path):
    names = r"optimizer='adam', learning_rate=0.5, batch_size=8, schedule='linear'"
    with pytest.warns(UserWarning, match=names) as told:
        study = tune(tmp_path, as_in_kerastuners_guides)
    assert len([w for w in told if "named like the search's own" in str(w.message)]) == 1
    for trial in study.trials:
        own = {f"{trial.optimizer}/learning_rate", f"{trial.optimizer}/weight_decay"}
        assert set(trial.hyperparameters) == {"units", *own}
        rate = trial.hyperparameters[f"{trial.optimizer}/learning_rate"]
        assert trial.short_hyperparameters["learning_rate"] == rate
    assert float(study.best_optimizer().weight_decay.batch_size) == 16
    assert {trial.hyperparameters["units"] for trial in study.trials} == {4, 8}


def as_in_kerastuners_guide_on_layers(hp):
    """What it asks for depends on what it was given."""
    model = keras.Sequential([keras.Input((3,))])
    kind = hp.Choice("kind", ["narrow", "wide"])
    for i in range(hp.Int("layers", 1, 3)):
        model.add(keras.layers.Dense(hp.Choice(f"units_{i}", [4, 6]), "relu"))
        if kind == "wide" and hp.Boolean("dropout"):
            model.add(keras.layers.Dropout(hp.Float("rate", 0.1, 0.5)))
    model.add(keras.layers.Dense(3))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


MET = {"kind", "layers", "units_0", "units_1", "units_2", "dropout", "rate"}


def test_what_is_asked_for_at_some_values_alone_is_searched(tmp_path):
    study = tune(tmp_path, as_in_kerastuners_guide_on_layers, max_trials=8, epochs=1)
    own = {"learning_rate", "weight_decay"}
    for trial in study.trials:
        assert set(trial.short_hyperparameters) == MET | own
    rates = [trial.hyperparameters["rate"] for trial in study.trials if trial.role == "search"]
    assert len(set(rates)) == 4  # the same of both optimizers
    assert {trial.hyperparameters["units_2"] for trial in study.trials} == {4, 6}


def conditional(hp):
    if hp.Choice("kind", ["flat", "deep"]) == "deep":
        with hp.conditional_scope("kind", ["deep"]):
            for i in range(hp.Int("layers", 1, 3)):
                hp.Int(f"units_{i}", 8, 64)


def combined(hp):
    layers, dropout, wide = hp.Int("layers", 1, 3), hp.Boolean("dropout"), hp.Boolean("wide")
    for i in range(layers if dropout and not wide else 1):
        hp.Float(f"rate_{i}", 0.0, 0.5)


def by_factors(hp):
    for i in range(hp.Int("layers", 1, 8, step=2, sampling="log")):
        hp.Fixed(f"unit_{i}", i)


@pytest.mark.parametrize(
    ("asks", "met"),
    [
        (conditional, {"kind", "layers", "units_0", "units_1", "units_2"}),
        (combined, {"layers", "dropout", "wide", "rate_0", "rate_1", "rate_2"}),
        (by_factors, {"layers", *(f"unit_{i}" for i in range(8))}),
    ],
)
def test_all_that_is_asked_for_is_met(asks, met, tmp_path):
    class OfOnesOwn(keras_tuner.HyperModel):
        space = {"units": (8, 64)}  # no SearchSpace

        def build(self, hp):
            asks(hp)
            return build_model()

    oracle = tuning.OptunaOracle("val_loss", 4)
    tuning.OptimizerTuner(oracle, OfOnesOwn(), directory=tmp_path)
    assert {hp.name for hp in oracle.get_space().space} == met


def test_what_is_too_much_to_look_at_is_said(tmp_path):
    def build(hp):
        for i in range(9):
            if hp.Int(f"a{i}", 0, 15) < 15:
                break
        return build_model()

    with pytest.warns(UserWarning, match="was built at 32 of its values before the search"):
        tuning.OptimizerTuner(tuning.OptunaOracle("val_loss", 4), build, directory=tmp_path)


def test_a_plan_leaves_callbacks_alone(tmp_path):
    (tmp_path / "log.csv").write_text("precious")
    callbacks = [keras.callbacks.CSVLogger(tmp_path / "log.csv")]
    settings = {"optimizers": ["AdamW"], "max_trials": 2, "epochs": 4, "callbacks": callbacks}
    plan = tuning.plan(build_model, blobs(0), blobs(1), strategy="fit", **settings)
    assert plan.seconds > 0.0
    assert (tmp_path / "log.csv").read_text() == "precious"


def stepped(hp):
    hp.Int("log", 16, 256, step=2, sampling="log")
    hp.Float("grid", 0.0, 0.5, step=0.25)
    hp.Choice("name", ["relu", "tanh"])
    hp.Choice("number", [0, 1])
    return build_model()


@pytest.mark.parametrize("point", [{"log": 65}, {"grid": 0.3}, {"name": True}, {"number": True}])
def test_starting_points_lie_on_the_grid(point, tmp_path):
    space = tuning.SearchSpace(["AdamW"], starting_points=[point])
    with pytest.raises(ValueError, match=f"`starting_points` has {next(iter(point))}="):
        tune(tmp_path / "s", stepped, optimizers=space)
    assert not (tmp_path / "s").exists()


def test_starting_points_of_any_kind_are_taken(tmp_path):
    point = {"log": np.int64(64), "grid": np.float32(0.25), "name": "tanh", "number": 1}
    space = tuning.SearchSpace(["AdamW"], starting_points=[point])
    settings = {"max_trials": 1, "epochs": 1, "finalist_seeds": 0}
    (trial,) = tune(tmp_path / "s", stepped, optimizers=space, **settings).trials
    assert {name: trial.hyperparameters[name] for name in point} == point


@pytest.mark.parametrize("oracle", ["RandomSearchOracle", "OptunaOracle"])
@pytest.mark.parametrize("tuner", [keras_tuner.Tuner, tuning.OptimizerTuner])
def test_so_it_is_in_stock_oracles_and_tuners(oracle, tuner, tmp_path):
    if oracle == "OptunaOracle":
        oracle = tuning.OptunaOracle("val_loss", 8, sampler="random")
    else:
        oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", 8, seed=1)
    space = tuning.SearchSpace(["AdamW"])
    model = tuning.OptimizerHyperModel(as_in_kerastuners_guide_on_layers, space, **LENGTH)
    oracle.verbose = 0
    strategy = {"strategy": "fit"} if tuner is tuning.OptimizerTuner else {}
    searched = tuner(oracle, model, directory=tmp_path, **strategy)
    searched.search(*blobs(0), validation_data=blobs(1), epochs=1, verbose=0)
    assert MET <= {hp.name for hp in oracle.get_space().space}
    values = [trial.hyperparameters.values for trial in oracle.trials.values()]
    assert len(values) == 8
    assert len({found["units_2"] for found in values if "units_2" in found}) == 2
    if strategy:  # before the first trial
        assert all(MET <= found.keys() for found in values)
    again = tuner(oracle, model, directory=tmp_path, **strategy)  # reads the trials that are there
    assert len(again.oracle.trials) == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers", 7), ("layers", 1.5), ("layers", "abc"), ("dropout", 5), ("rate", 0.9), ("kind", 1)],
)
def test_a_starting_point_of_the_models_own_is_checked(name, value, tmp_path):
    space = tuning.SearchSpace(["AdamW", "SGDW"], starting_points=[{name: value}])
    with pytest.raises(ValueError, match=rf"`starting_points` has {name}={value!r}, which is not"):
        tune(tmp_path / "s", as_in_kerastuners_guide_on_layers, optimizers=space)
    assert not (tmp_path / "s").exists()


@pytest.mark.once("torch", "jax")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_metric_that_is_a_vector_has_no_curve(strategy, tmp_path):
    def build():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "softmax")])
        model.compile(loss="categorical_crossentropy", metrics=[keras.metrics.F1Score()])
        return model

    data = [(x, np.eye(3, dtype="float32")[y]) for x, y in (blobs(0), blobs(1))]
    study = tune(tmp_path, build, data, strategy=strategy, finalist_seeds=0)
    assert [trial.status for trial in study.trials] == ["ok"] * 4
    assert {name for trial in study.trials for name in trial.curves} == {"loss", "val_loss"}
    with pytest.raises(ValueError, match="'val_f1_score' must be a number .*`average='macro'`"):
        tune(
            tmp_path / "other", build, data, objective=keras_tuner.Objective("val_f1_score", "max")
        )


def test_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "what? a%20b #1 'ü' &=;"
    study = tune(folder, finalist_seeds=0)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert (folder / "study.db").exists()
    study.close()
    assert len(tuning.Study(folder).trials) == 4


@pytest.mark.parametrize("schedule", ["constant", "cosine", "warm_restarts"])
def test_code_of_a_schedule(schedule, tmp_path):
    space = tuning.SearchSpace(["AdamW", "SGDW"], schedule=schedule)
    study = tune(tmp_path, optimizers=space, max_trials=2, finalist_seeds=0)
    best = study.best_optimizer()
    pasted = eval(study.best_code(), {"kaf": kaf, "keras": keras})
    assert {**pasted.get_config(), "name": best.name} == best.get_config()
    page = (tmp_path / "report.html").read_text("utf-8")
    assert ("import keras\n" in page) == (schedule == "cosine")


def test_validation_in_batches_of_another_size(tmp_path):
    train, validation = Batches(16, 0), Batches(32, 1)
    study = tune(tmp_path / "a", data=(train, validation), batch_size=None, finalist_seeds=0)
    more = tuning.resume(study, build_model, train, validation, max_trials=6, console=QUIET)
    assert len(more.trials) == 6
    arrays = tune(tmp_path / "b", data=(blobs(0), validation), finalist_seeds=0)
    assert arrays.settings.batch_size == 16


def test_the_decay_of_a_batch_that_is_larger_than_the_data():
    space = tuning.SearchSpace(["AdamW"])
    values = {"learning_rate": 1e-3, "weight_decay": 0.25}
    decay, same = (
        space.arguments("AdamW", values, batch_size=size, dataset_size=100, epochs=5)[
            "weight_decay"
        ]
        for size in (1024, 100)
    )
    assert decay == same


def test_starting_points_are_checked_before_anything_is_written(tmp_path):
    space = tuning.SearchSpace(["AdamW", "SGDW"], starting_points=[{"learning_rat": 1e-3}])
    with pytest.raises(ValueError, match="`starting_points` has 'learning_rat', which is not"):
        tune(tmp_path / "run", optimizers=space)
    assert not (tmp_path / "run").exists()
    for wrong in ({"batch_size": 48}, {"schedule": "linear"}):
        with pytest.raises(ValueError, match="`starting_points` must lie in the space.*among"):
            tuning.SearchSpace(
                batch_size=[32, 64], schedule=["constant", "cosine"], starting_points=[wrong]
            )


@pytest.mark.once("torch", "jax", "tensorflow")
def test_a_fit_of_ones_own_gets_batches_as_they_come(tmp_path):
    class Own(tuning.OptimizerHyperModel):
        def fit(self, hp, model, x, **kwargs):
            assert isinstance(x, Batches)
            assert kwargs.keys().isdisjoint({"batch_size", "validation_batch_size"})
            return super().fit(hp, model, x, **kwargs)

    tuner = tuning.OptimizerTuner(
        tuning.OptunaOracle("val_loss", max_trials=2),
        Own(build_model, tuning.SearchSpace(["AdamW"]), **LENGTH),
        directory=tmp_path,
        note=lambda text: None,
    )
    tuner.search(Batches(16, 0), validation_data=Batches(32, 1), epochs=1, verbose=0)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 2


def test_a_hypermodel_with_its_own_fit():
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            return build_model()

        def fit(self, hp, model, *args, **kwargs):
            return model.fit(*args, **kwargs)

    with pytest.raises(ValueError, match="hypermodel, Own, with a `fit` of its own"):
        tuning.OptimizerHyperModel(Own(), **LENGTH)


def test_a_compiled_model_is_copied_with_all_that_it_was_compiled_with():
    def loss(y, p):
        return keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True)

    metric = keras.metrics.SparseCategoricalAccuracy(name="hits")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile(loss=loss, metrics=[metric], weighted_metrics=["mse"], jit_compile=False)
    hypermodel = tuning.OptimizerHyperModel(model, **LENGTH)
    copies = [hypermodel.build(keras_tuner.HyperParameters()) for _ in range(2)]
    for copy in copies:
        arguments = copy._compile_config.config
        assert arguments["loss"] is loss and arguments["weighted_metrics"] == ["mse"]
        assert arguments["metrics"][0].get_config() == metric.get_config()
        assert arguments["jit_compile"] is False
    assert len({id(m._compile_config.config["metrics"][0]) for m in [model, *copies]}) == 3


def test_a_copied_model_keeps_what_is_not_trained(tmp_path):
    """Statistics of the data, and a backbone: in a nested model, and in one that is not built."""
    x, y = blobs()
    normalization = keras.layers.Normalization()
    normalization.adapt(1000.0 + 10.0 * x)
    backbone = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="inner")])
    backbone.trainable = False
    model = keras.Sequential([normalization, backbone, keras.layers.Dense(3, name="head")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss)
    hypermodel = tuning.OptimizerHyperModel(model, **LENGTH)
    for is_built in (False, True):
        copy = hypermodel.build(keras_tuner.HyperParameters())
        assert copy(1000.0 + 10.0 * x).shape == model(1000.0 + 10.0 * x).shape
        for own, copied in zip(model.layers[:2], copy.layers[:2], strict=True):
            np.testing.assert_array_equal(own(x), copied(x))
            for mine, other in zip(own.weights, copied.weights, strict=True):
                assert mine is not other
        heads = [m.get_layer("head").get_weights()[0] for m in (model, copy)]
        assert not np.array_equal(*heads), is_built
        assert len(copy.trainable_variables) == 2
    backbone_before = backbone.get_weights()
    tune(tmp_path, model, data=((1000.0 + 10.0 * x, y), (1000.0 + 10.0 * x, y)), finalist_seeds=0)
    for mine, before in zip(backbone.get_weights(), backbone_before, strict=True):
        np.testing.assert_array_equal(mine, before)


def attention(inputs):
    """It makes layers when it is built."""
    layer = keras.layers.MultiHeadAttention(2, 3)
    rows = keras.layers.Reshape((3, 1))(inputs)
    outputs = keras.layers.Flatten()(layer(rows, rows))
    layer.trainable = False
    return outputs


def adapted_by_lora(inputs):
    layer = keras.layers.Dense(4)
    outputs = layer(inputs)
    layer.enable_lora(2)
    return outputs


def one_weight(inputs):
    layer = keras.layers.Dense(4)
    outputs = layer(inputs)
    layer.kernel.trainable = False
    return outputs


def nested(inputs):
    inner = keras.Input((3,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(4)(inner))
    model = keras.Model(inner, hidden)
    model.trainable = False
    return model(inputs)


@pytest.mark.once("torch", "jax", "tensorflow")
@pytest.mark.parametrize("frozen", [attention, adapted_by_lora, one_weight, nested])
def test_what_is_frozen_is_the_same_in_a_copy(frozen):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(3)(frozen(inputs)))
    model.set_weights([w + 0.5 for w in model.get_weights()])
    model.compile(loss="mse")
    copy = tuning.OptimizerHyperModel(model, **LENGTH).build(keras_tuner.HyperParameters())
    flags = [weight.trainable for weight in model.weights]
    assert [weight.trainable for weight in copy.weights] == flags
    assert not all(flags)
    for mine, its, is_new in zip(model.get_weights(), copy.get_weights(), flags, strict=True):
        assert np.array_equal(mine, its) != is_new


@pytest.mark.once("tensorflow")
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="lookups need TensorFlow")
def test_a_copied_model_keeps_its_vocabulary(tmp_path):
    words = np.array([[10], [20], [20], [30]] * 16)
    lookup = keras.layers.IntegerLookup()
    lookup.adapt(words)
    model = keras.Sequential([keras.Input((1,), dtype="int64"), lookup])
    model.add(keras.layers.Embedding(4, 3))
    model.add(keras.layers.Flatten())
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = words, np.arange(64) % 3
    study = tune(tmp_path, model, data=(data, data), finalist_seeds=0)
    assert [trial.status for trial in study.trials] == ["ok"] * 4
    assert study.best_model(model).layers[0].get_vocabulary() == lookup.get_vocabulary()


@pytest.mark.once("tensorflow")
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="lookups need TensorFlow")
def test_text_comes_in_a_dataset(tmp_path):
    import tensorflow as tf

    def dataset(texts):
        return tf.data.Dataset.from_tensor_slices((texts, np.arange(len(texts)) % 3)).batch(16)

    texts = ["one two", "three", "two three four"] * 16
    words = keras.layers.TextVectorization(10, output_sequence_length=3)
    words.adapt(texts)
    model = keras.Sequential([keras.Input((), dtype="string"), words])
    model.add(keras.layers.Embedding(10, 4))
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    given = dataset(texts)
    study = tune(tmp_path, model, (given, given), finalist_seeds=0, epochs=8, batch_size=None)
    assert [trial.status for trial in study.trials] == ["ok"] * 4
    best = study.best_model(model).evaluate(given, verbose=0, return_dict=True)
    assert best["accuracy"] == 1.0 and np.isclose(best["loss"], study.leaderboard()[0].search_score)
    found, other = tuning.data.Data.of(given), tuning.data.Data.of(dataset(["one", *texts[1:]]))
    assert found.fingerprint == tuning.data.Data.of(dataset(texts)).fingerprint
    assert found.fingerprint != other.fingerprint
    with pytest.raises(ValueError, match="not of numbers alone, as a population needs"):
        found.arrays()


@pytest.mark.once("torch", "jax", "tensorflow")
@pytest.mark.parametrize("mode", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rank", [None, 2])
def test_what_is_quantized_is_the_same_in_a_copy(mode, rank):
    """Gradients do not go to integers, so no training would make up for other ones."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(3)])
    model.quantize(mode)
    for layer in model.layers if rank else ():
        layer.enable_lora(rank)
    model.compile(loss="mse")
    copy = tuning.OptimizerHyperModel(model, **LENGTH).build(keras_tuner.HyperParameters())
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    assert np.array_equal(model.predict(x, verbose=0), copy.predict(x, verbose=0))
    for mine, its in zip(model.non_trainable_weights, copy.non_trainable_weights, strict=True):
        assert np.array_equal(*map(keras.ops.convert_to_numpy, (mine, its)))


def shared_with_a_wrapper():
    """In Keras's copy there are two of it."""
    shared, inputs = keras.layers.Dense(4), keras.Input((5, 4))
    hidden = shared(keras.layers.TimeDistributed(shared)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


def quantized_within():
    """In Keras's copy the layers within the attention are not."""
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 3)(inputs, inputs))
    model.quantize("int8")
    return model


@pytest.mark.parametrize(
    ("build", "why"),
    [(shared_with_a_wrapper, "55 parameters, not 35"), (quantized_within, "longer|shorter")],
)
def test_a_model_that_keras_copies_otherwise_is_refused(build, why):
    model = build()
    model.compile(loss="mse")
    hypermodel = tuning.OptimizerHyperModel(model, **LENGTH)
    with pytest.raises(ValueError, match=rf"no true copy \(.*({why}).*Pass a function"):
        hypermodel.build(keras_tuner.HyperParameters())
    assert model.compiled


class Weighted(Subclass):
    """A `compile` of its own, with arguments that Keras's has not, as in Keras's guides."""

    def compile(self, optimizer, own_loss, factor=1.0, **others):
        super().compile(optimizer=optimizer, **others)
        self.own_loss, self.factor = own_loss, factor

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.factor * keras.ops.mean(self.own_loss(y, y_pred))


@pytest.mark.once("torch", "jax", "tensorflow")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_compile_of_the_models_own_is_left_as_it_was_called(strategy, tmp_path):
    def build(factor):
        model = Weighted()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, factor=factor)
        return model

    # A rate that leaves the weights where they are: the losses are in the ratio of the factors.
    settings = {"strategy": strategy, "finalist_seeds": 0, "max_trials": 1, "epochs": 1}
    space = tuning.SearchSpace(["AdamW"], ranges={"learning_rate": (1e-12, 2e-12)})
    one, hundred = (
        tune(tmp_path / str(factor), lambda f=factor: build(f), optimizers=space, **settings)
        for factor in (1.0, 100.0)
    )
    for a, b in zip(one.trials, hundred.trials, strict=True):
        np.testing.assert_allclose(100.0 * a.score, b.score, rtol=1e-5)
        np.testing.assert_allclose(100.0 * a.curves["loss"][0], b.curves["loss"][0], rtol=1e-5)


def test_a_model_that_does_not_use_its_optimizer_is_refused(tmp_path):
    class Idle(Subclass):
        def train_step(self, *arguments):
            if keras.config.backend() == "jax":
                state, (x, y) = arguments
                return {"loss": keras.ops.mean(x)}, state
            return {"loss": keras.ops.mean(keras.ops.convert_to_tensor(arguments[0][0]))}

    def build():
        model = Idle()
        model.compile(loss="sparse_categorical_crossentropy")
        return model

    with pytest.raises(RuntimeError, match="`train_step` does not use `self.optimizer`"):
        tune(tmp_path / "s", build, objective="val_loss")
    assert not (tmp_path / "s").exists()


def test_accumulation_is_no_sign_of_idleness(tmp_path):
    """A search begins with one batch, which does not end a step."""
    space = tuning.SearchSpace(["AdamW", "SGDW"], fix={"gradient_accumulation_steps": 4})
    study = tune(tmp_path, optimizers=space, finalist_seeds=0)
    assert [trial.status for trial in study.trials] == ["ok"] * 4


def depending_on_the_optimizer(hp):
    """As KerasTuner's functions do for what one optimizer alone has."""
    name = hp.Choice("optimizer", ["adam", "sgd"])
    with hp.conditional_scope("optimizer", ["sgd"]):
        momentum = hp.Float("momentum", 0.0, 0.9)
        assert momentum is None
        with hp.conditional_scope("momentum", [0.0]):
            assert hp.Boolean("nesterov") is None
    with hp.conditional_scope("optimizer", ["adam"]):
        units = hp.Choice("units", [4, 8])
        with hp.conditional_scope("units", [8]):
            rate = hp.Float("rate", 0.1, 0.5)
            assert (rate is None) == (units == 4)
    hidden = keras.layers.Dense(units, "relu")
    model = keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(name, loss=loss)
    return model


def test_a_scope_on_an_optimizer_that_is_replaced_holds_what_its_default_says(tmp_path):
    with pytest.warns(UserWarning, match="keep their defaults .optimizer='adam'. and are not"):
        study = tune(tmp_path, depending_on_the_optimizer, max_trials=8, finalist_seeds=0)
    assert [trial.status for trial in study.trials] == ["ok"] * 8
    for trial in study.trials:
        own = {"learning_rate", "weight_decay", "units"}
        if trial.hyperparameters["units"] == 8:
            own.add("rate")
        assert set(trial.short_hyperparameters) == own
    assert {trial.hyperparameters["units"] for trial in study.trials} == {4, 8}


@pytest.mark.once("torch", "jax")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_names_that_keras_counts_are_the_first_in_every_trial(strategy, tmp_path):
    """Of metrics that are objects, and of outputs without a name."""

    def build():
        inputs = keras.Input((3,))
        outputs = [keras.layers.Dense(1, "sigmoid")(inputs) for _ in range(2)]
        model = keras.Model(inputs, outputs)
        model.compile(
            loss=["binary_crossentropy"] * 2, metrics=[[keras.metrics.AUC()], [keras.metrics.AUC()]]
        )
        return model

    data = [(x, [y == 0, y == 1]) for x, y in (blobs(0), blobs(1))]
    data = [(x, [np.float32(one)[:, None] for one in y]) for x, y in data]
    given = keras.layers.Dense(2), keras.metrics.AUC()  # as in a session that has some already
    settings = {"max_trials": 2, "epochs": 1, "finalist_seeds": 1, "strategy": strategy}
    study = tune(tmp_path, build, data, objective="val_dense_1_auc_1:max", **settings)
    assert [trial.status for trial in study.trials] == ["ok"] * 4
    for trial in study.trials:
        assert {"val_dense_auc", "val_dense_1_loss"} <= set(trial.curves)
    assert given[0].name.startswith("dense")


def test_a_model_of_a_class_of_ones_own_is_not_copied():
    class Scaled(keras.Model):
        def call(self, x):
            return 2.0 * x

    model = Scaled()
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="class of its own, Scaled.*Pass a function"):
        tuning.OptimizerHyperModel(model, **LENGTH)


def test_cause_of_an_input_of_another_shape_is_told(tmp_path):
    """Keras's first line says only which layer was called."""

    def wide():
        model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(3)])
        model.compile(loss="mse")
        return model

    with pytest.raises(RuntimeError) as caught:
        tuning.tune(wide, blobs(), blobs(1), directory=tmp_path / "s", console=QUIET)
    assert re.search(r"\b7\b.*\b3\b", str(caught.value))
    assert "\x1b" not in str(caught.value)


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x


@pytest.mark.once("torch", "jax")
@pytest.mark.parametrize("strategy", STRATEGIES[-1:])
def test_what_is_set_for_all_models_is_set_for_those_of_a_search_and_afterwards(strategy, tmp_path):
    policy, seen = keras.config.dtype_policy(), []

    def build():
        seen.append(keras.config.dtype_policy().name)
        config = {"class_name": "Doubled", "config": {}}  # found in the scope alone
        doubled = keras.layers.deserialize(config)
        model = keras.Sequential([keras.Input((3,)), doubled, keras.layers.Dense(3)])
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.disable_interactive_logging()
    try:
        with keras.saving.custom_object_scope({"Doubled": Doubled}):
            study = tune(tmp_path, build, strategy=strategy, max_trials=2, finalist_seeds=1)
        assert {trial.status for trial in study.trials} == {"ok"}
        assert set(seen) == {"mixed_bfloat16"} == {keras.config.dtype_policy().name}
        assert not keras.config.is_interactive_logging_enabled()
        assert study.environments[-1]["dtype_policy"] == "mixed_bfloat16"
        keras.config.set_dtype_policy("float32")
        with (
            keras.saving.custom_object_scope({"Doubled": Doubled}),
            pytest.raises(ValueError, match="other settings: its training.*bfloat16.*float32"),
        ):
            tune(tmp_path, build, strategy=strategy, max_trials=2, finalist_seeds=1)
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.enable_interactive_logging()


@pytest.mark.once("tensorflow")
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="an error of TensorFlow's")
def test_cause_of_an_error_in_a_graph_is_told(tmp_path):
    x, y = blobs()
    with pytest.raises(RuntimeError, match="that trains: InvalidArgument.*label value of 9"):
        tuning.tune(build_model, (x, y + 7), blobs(1), directory=tmp_path / "s", console=QUIET)


@pytest.mark.parametrize("strategy", STRATEGIES[-1:])
def test_a_search_that_was_interrupted_is_searched_on(strategy, tmp_path):
    """In the same process, as in a notebook: none of its trials stays behind as running."""
    oracle = tuning.OptunaOracle("val_loss", max_trials=6)
    hypermodel = tuning.OptimizerHyperModel(build_model, **LENGTH)
    tuner = tuning.OptimizerTuner(oracle, hypermodel, strategy=strategy, directory=tmp_path)
    describe, told = oracle.describe, []

    def interrupted(*arguments):
        told.append(arguments)
        if len(told) == 2:
            raise KeyboardInterrupt
        describe(*arguments)

    oracle.describe = interrupted
    arguments = {"validation_data": blobs(1), "epochs": 2, "batch_size": 16, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        tuner.search(*blobs(), **arguments)
    tuner.search(*blobs(), **arguments)
    assert [trial.status for trial in oracle.trials.values()] == ["COMPLETED"] * 6
    assert tuner.get_best_models()[0].count_params() == 12


def test_arguments_that_a_search_has_no_use_for(tmp_path):
    oracle = tuning.OptunaOracle("val_loss", max_trials=4)
    hypermodel = tuning.OptimizerHyperModel(build_model, **LENGTH)
    with pytest.raises(ValueError, match="no use for executions_per_trial, loss"):
        tuning.OptimizerTuner(oracle, hypermodel, executions_per_trial=3, loss="mse")
    tuner = tuning.OptimizerTuner(oracle, hypermodel, directory=tmp_path)
    for more, message in (
        ({"validation_split": 0.2}, "Received: validation_split"),
        ({}, "Received: no validation_data"),
    ):
        with pytest.raises(ValueError, match=message):
            tuner.search(*blobs(), epochs=1, verbose=0, **more)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "vamp"}, "`strategy` must be one of 'auto', 'fit', 'map', 'vmap'.*'vamp'"),
        ({"lanes": 0}, "`lanes` must be an integer >= 1"),
        ({"pruner": "hyperband"}, "`pruner` must be 'halving', a `Halving`"),
        ({"max_trials": 1}, "`max_trials` must be .* >= 2. Each of the 2 optimizers needs one."),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1. `None` is 32."),
        (
            {
                "strategy": "map",
                "callbacks": [keras.callbacks.EarlyStopping(restore_best_weights=True)],
            },
            "`strategy='map'` cannot be had here, use 'fit' or 'auto': .*"
            + ("restore_best_weights" if "map" in STRATEGIES else "needs the JAX backend"),
        ),
    ],
)
@pytest.mark.once("torch", "jax")
def test_settings_are_checked_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tune(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_plan_says_what_it_takes(tmp_path):
    with pytest.raises(TypeError, match="no argument 'directory'.*takes optimizers, max_trials"):
        tuning.plan(build_model, blobs(), blobs(1), directory=tmp_path)


def test_a_tuner_evaluates_in_batches_of_the_size_that_it_trains_in(tmp_path):
    """As `fit` does, and `tune`: a metric may depend on it."""
    oracle = tuning.OptunaOracle("val_loss", max_trials=1)
    hypermodel = tuning.OptimizerHyperModel(
        build_model, tuning.SearchSpace(["AdamW"]), batch_size=8, dataset_size=64, epochs=1
    )
    tuner = tuning.OptimizerTuner(oracle, hypermodel, directory=tmp_path, note=lambda text: None)
    given = tuner._training(*blobs(), validation_data=blobs(1), batch_size=8)
    assert given.validation.validation_arguments()["validation_batch_size"] == 8
    in_batches = tuner._training(Batches(16, 0), validation_data=Batches(32, 1))
    assert (in_batches.train.batch_size, in_batches.validation.batch_size) == (16, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_size": "64"}, "`dataset_size` must be an integer >= 1. Received: .*'64'"),
        ({"epochs": 0}, "`epochs` must be an integer >= 1"),
        ({"batch_size": 1.5}, "`batch_size` must be an integer >= 1"),
        ({"space": ["adamw"]}, r"`space` must be a SearchSpace. Received: space=\['adamw'\]"),
    ],
)
def test_a_hypermodel_is_told_numbers(changes, message):
    with pytest.raises(ValueError, match=message):
        tuning.OptimizerHyperModel(build_model, **{**LENGTH, **changes})


@pytest.mark.parametrize("seed", [keras.utils.set_random_seed, np.random.seed, random.seed])
def test_a_model_that_sets_the_seed_is_refused(seed, tmp_path):
    """All runs on fresh seeds would be one, and seem to tell a winner."""

    def build():
        seed(42)
        return build_model()

    with pytest.raises(RuntimeError, match="sets the random seed itself"):
        tune(tmp_path, build)


@pytest.mark.once("torch", "jax", "tensorflow")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_layers_made_outside_begin_each_trial_as_they_were(strategy, tmp_path):
    """A pretrained base and an augmentation, as in Keras's guides; a frozen one too."""
    keras.utils.set_random_seed(0)
    noise = keras.Sequential([keras.Input((3,)), keras.layers.GaussianNoise(0.5)])
    base = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "relu")])
    frozen = keras.layers.Dense(8, trainable=False, name="frozen")

    def build():
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(3)(frozen(base(noise(inputs)))))
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    build()  # the layers have their weights
    before = [np.array(w) for w in base.get_weights() + frozen.get_weights()]
    seeds = [int(np.asarray(keras.ops.convert_to_numpy(v)).sum()) for v in noise.variables]
    fixed = tuning.SearchSpace(["SGDW"], fix={"learning_rate": 0.1, "weight_decay": 0.0})
    study = tune(tmp_path, build, optimizers=fixed, strategy=strategy, epochs=2)
    search = [t.curves["loss"] for t in study.trials if t.role == "search"]
    assert len(search) == 4 and all(curve == search[0] for curve in search)
    finals = [t.curves["loss"] for t in study.trials if t.role == "final"]
    assert finals[0] != finals[1]
    after = base.get_weights() + frozen.get_weights()
    assert all(map(np.array_equal, before, after))
    assert seeds == [int(np.asarray(keras.ops.convert_to_numpy(v)).sum()) for v in noise.variables]
    best = study.best_model(build)
    assert not np.array_equal(best.layers[2].get_weights()[0], before[0])


def with_base(base):
    model = keras.Sequential([keras.Input((3,)), base, keras.layers.Dense(3)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def dense(units, name="base"):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)], name=name)


FIXED = {"learning_rate": 0.1, "weight_decay": 0.0}


def test_a_layer_made_outside_may_be_used_at_some_values_alone(tmp_path):
    """It begins anew whenever it is met, also where it learns without being trained."""
    normalized = keras.Sequential([dense(4), keras.layers.BatchNormalization()], name="other")
    bases = {2: dense(2), 4: normalized}
    space = tuning.SearchSpace(["SGDW"], fix=FIXED)
    study = tune(
        tmp_path,
        lambda hp: with_base(bases[hp.Choice("units", [2, 4])]),
        optimizers=space,
        max_trials=8,
        strategy="fit",
        finalist_seeds=0,
    )
    curves = {2: [], 4: []}
    for trial in study.trials:
        curves[trial.hyperparameters["units"]].append(trial.curves)
    for own in curves.values():
        assert len(own) >= 2 and all(curve == own[0] for curve in own)


def test_a_layer_made_outside_holds_what_the_function_puts_into_it(tmp_path):
    base = dense(4)
    weights = {"first": base.get_weights(), "zeros": [0 * w for w in base.get_weights()]}

    def build(hp):
        base.set_weights(weights[hp.Choice("weights", ["first", "zeros"])])
        return with_base(base)

    hypermodel = tuning.OptimizerHyperModel(build, **LENGTH)
    hp = keras_tuner.HyperParameters()
    for name in ("first", "first", "zeros", "first", "zeros"):
        hp.values["weights"] = name
        hypermodel.build(hp)
        assert all(map(np.array_equal, base.get_weights(), weights[name]))


@pytest.mark.skipif(keras.config.backend() != "torch", reason="of Keras's torch.nn.Module")
def test_weights_whose_gradients_would_not_be_cleared_are_refused(tmp_path):
    """Keras counts names anew in each trial, and a layer made before has the first ones too."""
    keras.backend.clear_session()
    base = dense(4, name=None)
    with pytest.raises(RuntimeError, match="two weights .* the path .*kernel.*name='base'"):
        tune(tmp_path, lambda: with_base(base))


@pytest.mark.parametrize("asked", ["a plan", "a wrong objective", "a tuner"])
def test_a_layer_made_outside_is_left_as_it_was(asked, tmp_path):
    base = dense(4)
    before = base.get_weights()
    if asked == "a tuner":
        oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=3, seed=0)
        tuner = tuning.OptimizerTuner(
            oracle,
            tuning.OptimizerHyperModel(lambda: with_base(base), **LENGTH),
            directory=tmp_path,
            strategy="fit",
            note=lambda text: None,
        )
        tuner.search(*blobs(0), validation_data=blobs(1), epochs=1, batch_size=16, verbose=0)
    elif asked == "a plan":
        data = blobs(0), blobs(1)
        tuning.plan(lambda: with_base(base), *data, objective="val_loss", strategy="fit", epochs=1)
    else:
        with pytest.raises(ValueError, match="`objective` must be one of"):
            tune(tmp_path, lambda: with_base(base), objective="val_mean:min")
    assert all(map(np.array_equal, before, base.get_weights()))


@pytest.mark.once("torch", "jax")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stock_oracle_may_have_several_objectives(strategy, tmp_path):
    both = ["val_loss", keras_tuner.Objective("val_accuracy", "max")]
    oracle = keras_tuner.oracles.RandomSearchOracle(both, max_trials=3, seed=0)
    tuner = tuning.OptimizerTuner(
        oracle,
        tuning.OptimizerHyperModel(build_model, **LENGTH),
        strategy=strategy,
        directory=tmp_path,
        note=lambda text: None,
    )
    tuner.search(*blobs(0), validation_data=blobs(1), epochs=2, batch_size=16, verbose=0)
    trials = oracle.get_best_trials(3)
    assert [trial.status for trial in trials] == ["COMPLETED"] * 3
    for trial in trials:
        one, other = (trial.metrics.get_last_value(n) for n in ("val_loss", "val_accuracy"))
        assert trial.score == pytest.approx(one - other, abs=1e-6)
    assert sorted(t.score for t in trials) == [t.score for t in trials]


def test_one_batch_size_needs_no_list():
    assert tuning.SearchSpace(["AdamW"], batch_size=64).batch_sizes == (64,)
