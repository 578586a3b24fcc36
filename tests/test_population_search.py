"""What a search asks of a population: keep some lanes, stop others, begin again, weigh, average."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

import keras_adamfamily as kaf
from keras_adamfamily.tuning import xla
from keras_adamfamily.tuning.population import Population
from keras_adamfamily.tuning.program import Program
from keras_adamfamily.tuning.stopping import EARLY, Stopping, check_early_stopping
from tests.steps import BACKEND
from tests.test_population import (
    BATCH,
    LANES,
    SEEDS,
    assert_same,
    both_strategies,
    build_model,
    data,
    float64,  # noqa: F401, a fixture
    lanes,
    of,
)

on_jax = pytest.mark.skipif(BACKEND != "jax", reason="a population needs JAX")
Early = keras.callbacks.EarlyStopping


@pytest.fixture(scope="module")
def whole():
    """All lanes for eight epochs, none of which stops."""
    together = lanes()
    return together, together.train(epochs=8)


def weights_equal(one, other):
    for ours, its in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, its)


# Keeping some lanes, and beginning again.


@on_jax
def test_halving_goes_on_exactly(whole):
    together, curves = whole
    halved = lanes()
    parts = [halved.train(2)]
    halved.keep([4, 1, 3])
    parts.append(halved.train(2))
    halved.keep(np.array([2, 1]))
    parts.append(halved.train(4))
    assert len(halved) == 2 and halved.seeds == [SEEDS[3], SEEDS[1]]
    np.testing.assert_array_equal(halved.hyperparameters["beta_1"], [0.8, 0.5])
    np.testing.assert_array_equal(halved.epochs, [8, 8])
    kept = [of(parts[0], [3, 1]), of(parts[1], [2, 1]), parts[2]]
    joined = {name: np.concatenate([part[name] for part in kept], axis=1) for name in curves}
    assert_same(of(curves, [3, 1]), joined)
    weights_equal(halved.model(0), together.model(3))


@on_jax
def test_beginning_again_is_a_new_population_in_the_same_program(whole):
    again = lanes([0, 1, 2])
    again.train(2)
    values = {name: np.array(of_lanes)[[4, 3]] for name, of_lanes in LANES.items()}
    again.restart(values, [SEEDS[4], SEEDS[3]])
    assert_same({n: c[[4, 3]][:, :2] for n, c in whole[1].items()}, again.train(2))
    again.restart(values, [9, SEEDS[3]])
    with_other_seed = again.train(2)
    assert with_other_seed["loss"][0, 0] != whole[1]["loss"][4, 0]
    np.testing.assert_array_equal(with_other_seed["loss"][1], whole[1]["loss"][3, :2])
    assert len(again._program._compiled) == 1


@on_jax
def test_what_is_kept_before_it_has_trained_begins_at_the_start(whole):
    chosen = lanes([0, 1, 2, 3, 4])
    chosen.keep([3, 1])
    assert_same({n: c[[3, 1]][:, :2] for n, c in whole[1].items()}, chosen.train(2))


@on_jax
def test_there_are_no_states_while_the_program_is_compiled(monkeypatch):
    """Both together are what the memory would be largest by."""
    compile_, seen = Program.compile, []

    def watched(self, *arguments):
        before = len(self._compiled)
        compile_(self, *arguments)
        seen.append((len(self._compiled) - before, fresh._states is None))

    monkeypatch.setattr(Program, "compile", watched)
    fresh = lanes([0, 1, 2])
    assert fresh._states is None
    fresh.train(1)
    assert seen == [(1, True)]
    fresh.train(1)
    assert seen == [(1, True), (0, False)]


@on_jax
@pytest.mark.parametrize("wrong", [[], [0, 0], [5], [-1], [0.0], [[0]], 3])
def test_lanes_that_are_not_there_cannot_be_kept(wrong, whole):
    with pytest.raises(ValueError, match="`lanes` must be different integers in"):
        whole[0].keep(wrong)


@on_jax
def test_a_beginning_that_is_refused_changes_nothing(whole):
    same = lanes([0, 1, 2])
    wrong = {name: np.array(of_lanes)[:3].copy() for name, of_lanes in LANES.items()}
    wrong["learning_rate"][0] = -1.0
    with pytest.raises(ValueError, match="learning_rate"):
        same.restart(wrong, [7, 8, 9])
    assert_same({n: c[:3, :2] for n, c in whole[1].items()}, same.train(2))


@on_jax
def test_beginning_again_with_other_names_is_refused(whole):
    with pytest.raises(ValueError, match="beta_1, learning_rate, weight_decay.*beta_2"):
        whole[0].restart({"beta_2": [0.9]}, [0])


# Stopping.

RULES = {
    "val_loss": Early("val_loss", patience=1),
    "impatient": Early("val_loss", patience=0),
    "accuracy": Early("val_accuracy", patience=2),
    "smallest change": Early("loss", min_delta=0.1, patience=1),
    "largest wanted": Early("val_loss", mode="max", patience=2),
    "baseline": Early("val_loss", baseline=0.5, patience=3),
    "late start": Early("val_loss", patience=0, start_from_epoch=4),
}


def as_keras_stops(rule, curves, lane, model):
    """How many epochs `fit` would have trained, had its logs been a lane's curves."""
    callback = Early(
        rule.monitor,
        rule.min_delta,
        rule.patience,
        mode=rule.mode,
        baseline=rule.baseline,
        start_from_epoch=rule.start_from_epoch,
    )
    callback.set_model(model)
    callback.on_train_begin()
    model.stop_training = False
    epochs = len(curves["loss"][lane])
    for epoch in range(epochs):
        callback.on_epoch_end(epoch, {name: float(c[lane, epoch]) for name, c in curves.items()})
        if model.stop_training:
            return epoch + 1
    return epochs


@on_jax
@pytest.mark.parametrize("name", RULES)
def test_early_stopping_is_the_one_of_keras(name, whole):
    together, curves = whole
    rule, model = RULES[name], together.model(0)
    stopping = Stopping(5, rule, model)
    for epoch in range(8):
        running = stopping.running
        stopping.update(running, {n: curve[running, epoch] for n, curve in curves.items()})
    expected = [as_keras_stops(rule, curves, lane, model) for lane in range(5)]
    assert stopping.epochs.tolist() == expected
    assert min(expected) < 8
    early = stopping.epochs < 8
    assert (stopping.reasons[early] == EARLY).all()


@on_jax
@both_strategies
def test_a_lane_stops_and_the_others_do_not_feel_it(strategy, whole):
    rule = Early("val_loss", patience=1)
    stopped = lanes(early_stopping=rule, strategy=strategy)
    whole_curves = whole[1] if strategy == "map" else lanes(strategy=strategy).train(8)
    parts = [stopped.train(3), stopped.train(5)]  # the patience is carried over
    expected = [as_keras_stops(rule, whole_curves, i, stopped.model(0)) for i in range(5)]
    assert stopped.epochs.tolist() == expected and min(expected) < max(expected)
    for name, curve in whole_curves.items():
        found = np.concatenate([part[name] for part in parts], axis=1)
        for lane, epochs in enumerate(expected):
            np.testing.assert_array_equal(found[lane, :epochs], curve[lane, :epochs])
            assert np.isnan(found[lane, epochs:]).all()


@on_jax
@pytest.mark.slow
def test_early_stopping_is_the_one_of_fit(float64):  # noqa: F811
    rule = {"monitor": "val_loss", "patience": 1}
    together = lanes(early_stopping=Early(**rule), hyperparameters={}, seeds=SEEDS)
    curves = together.train(epochs=8)
    for lane in (0, 2):
        keras.utils.set_random_seed(SEEDS[lane])
        history = build_model().fit(
            *data(0), BATCH, 8, 0, [Early(**rule)], validation_data=data(1, 10)
        )
        epochs = len(history.epoch)
        assert together.epochs[lane] == epochs
        found = {name: curve[lane, :epochs] for name, curve in curves.items()}
        assert_same(found, history.history, 1e-12)


@on_jax
def test_evaluations_are_counted_where_there_are_fewer():
    seldom = lanes(early_stopping=Early("val_loss", patience=0))
    seldom.train(8, validation_freq=2)
    assert set(seldom.epochs % 2) == {0} and min(seldom.epochs) >= 4


def growing():
    """Gradient descent that multiplies the error in each step."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(kaf.SGD(1.0), loss="mse")
    return model


@on_jax
def test_the_epoch_in_which_a_lane_diverged():
    train = np.ones((8, 1)), np.zeros((8, 1))
    rates = {"learning_rate": [0.1, 1e5, 1e2, 3.0]}
    together = Population(growing, train, train, hyperparameters=rates, seeds=[0] * 4, batch_size=4)
    curves = together.train(20)
    for lane, rate in enumerate(rates["learning_rate"]):
        keras.utils.set_random_seed(0)
        model = growing()
        model.optimizer.learning_rate = rate
        history = model.fit(*train, 4, 20, 0, validation_data=train).history
        fine = np.isfinite([history["loss"], history["val_loss"]]).all(axis=0)
        epochs = 20 if fine.all() else int(np.argmin(fine)) + 1
        assert together.epochs[lane] == epochs
        before = slice(epochs - 1)
        np.testing.assert_allclose(curves["loss"][lane, before], history["loss"][before])
        assert np.isnan(curves["loss"][lane, epochs:]).all()
    assert together.stopped[0] is None and together.epochs[0] == 20
    assert 1 <= together.epochs[1] < together.epochs[2] < 20
    assert together.stopped[2].endswith("loss not finite")
    before = together.epochs
    assert np.isnan(together.train(1)["loss"][1:3]).all()
    np.testing.assert_array_equal(together.epochs[1:3], before[1:3])


# Weights of classes and of examples; averages.


def plain(loss="sparse_categorical_crossentropy", **optimizer):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "softmax")])
    model.compile(kaf.Adam(0.01, **optimizer), loss=loss, weighted_metrics=["accuracy"])
    return model


@on_jax
@pytest.mark.parametrize("one_hot", [pytest.param(False, marks=pytest.mark.slow), True])
def test_weights_of_classes_and_of_validation_examples_are_those_of_fit(one_hot):
    (x, y), loss = data(), "sparse_categorical_crossentropy"
    if one_hot:
        y, loss = np.eye(3)[y], "categorical_crossentropy"
    classes = {0: 3.0, 2: 0.1}
    validation = x[:10], y[:10], np.linspace(0.0, 2.0, 10)
    arguments = {"batch_size": BATCH, "class_weight": classes}
    one = Population(
        lambda: plain(loss), (x, y), validation, hyperparameters={}, seeds=[3], **arguments
    )
    curves = one.train(2)
    keras.utils.set_random_seed(3)
    history = plain(loss).fit(x, y, epochs=2, verbose=0, validation_data=validation, **arguments)
    assert_same({name: curve[0] for name, curve in curves.items()}, history.history, 1e-6)


@on_jax
@pytest.mark.parametrize("accumulation", [pytest.param(None, marks=pytest.mark.slow), 6])
def test_evaluation_of_averages_is_the_one_of_the_callback(accumulation):
    """With 4 batches an epoch, an accumulation of 6 has no average after the first epoch."""

    def build():
        average = {"use_ema": True, "ema_momentum": 0.9}
        return plain(gradient_accumulation_steps=accumulation, **average)

    arguments = {"hyperparameters": {}, "seeds": [5], "batch_size": BATCH}
    one = Population(build, data(), data(1, 10), evaluate_average=True, **arguments)
    curves = one.train(3)
    keras.utils.set_random_seed(5)
    model = build()
    averaged = [kaf.callbacks.EvaluateEMAWeights()]
    history = model.fit(*data(), BATCH, 3, 0, averaged, validation_data=data(1, 10))
    assert_same({name: curve[0] for name, curve in curves.items()}, history.history, 1e-6)
    for ours, of_fit in zip(one.model(0).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, of_fit, rtol=0, atol=1e-6)
    without = Population(build, data(), data(1, 10), **arguments).train(3)
    np.testing.assert_array_equal(without["loss"], curves["loss"])
    assert without["val_loss"][0, 2] != curves["val_loss"][0, 2]


# What cannot be is refused.


@on_jax
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate_average": True}, "use_ema=True"),
        ({"class_weight": [1.0, 2.0]}, "`class_weight` must map"),
        ({"early_stopping": 3}, "EarlyStopping or None.*3"),
        ({"early_stopping": Early(restore_best_weights=True)}, "restore_best_weights=False"),
        ({"early_stopping": Early("what")}, "`early_stopping`.*mode"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        lanes(**changes)


@on_jax
def test_class_weight_and_sample_weight_exclude_each_other():
    train = *data(), np.ones(len(data()[1]))
    with pytest.raises(ValueError, match="`class_weight`.*no sample weights"):
        Population(plain, train, hyperparameters={}, seeds=[0], class_weight={0: 2.0})


@on_jax
def test_what_early_stopping_monitors_must_be_there():
    one = Population(
        plain, data(), hyperparameters={}, seeds=[0], early_stopping=Early("val_loss", mode="min")
    )
    with pytest.raises(ValueError, match="must monitor one of .*loss.*'val_loss'"):
        one.train(2)


def test_a_rule_is_checked_without_jax():
    assert check_early_stopping(None) is None
    with pytest.raises(ValueError, match="`early_stopping`"):
        check_early_stopping("val_loss")


# The compilation cache.

TRAIN_TWO_LANES = """
import sys
from keras_adamfamily.tuning import xla
from tests.test_population import LANES, lanes
xla.use_compilation_cache(sys.argv[1])
import jax
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
shift = float(sys.argv[2])
together = lanes([0, 1])
values = {name: [v * shift for v in of[:2]] for name, of in LANES.items()}
together.restart(values, [0, 1])
together.train(1)
for outcome in ("hits", "misses"):
    print(hits.count(f"/jax/compilation_cache/cache_{outcome}"))
"""


@on_jax
@pytest.mark.slow
def test_another_process_with_other_values_compiles_nothing(tmp_path):
    def run(shift):
        command = [sys.executable, "-c", TRAIN_TWO_LANES, str(tmp_path / "xla"), str(shift)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        return [int(line) for line in done.stdout.split()[-2:]]

    assert run(1.0)[1] > 0
    hits, misses = run(0.5)
    assert hits > 0 and misses == 0


@on_jax
def test_a_configured_compilation_cache_is_respected(tmp_path):
    import jax

    before = {
        name: getattr(jax.config, name)
        for name in (
            "jax_compilation_cache_dir",
            "jax_persistent_cache_min_compile_time_secs",
            "jax_compilation_cache_max_size",
        )
    }
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
        assert xla.use_compilation_cache() == tmp_path / "mine"
        least = "jax_persistent_cache_min_compile_time_secs"
        assert getattr(jax.config, least) == before[least]
        assert xla.use_compilation_cache(tmp_path / "new") == tmp_path / "new"
        assert (tmp_path / "new").is_dir()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "new")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_the_cache_folder_follows_the_platform(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/caches")
    assert str(xla.cache_folder()) == os.path.join("/home/me/caches", "keras_adamfamily")
