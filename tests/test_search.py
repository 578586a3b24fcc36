"""What a search may be asked for: budgets, halving, data and models of every kind, schedules."""

from __future__ import annotations

import collections

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

import keras_tuner
import optuna

import keras_adamfamily as kaf
from keras_adamfamily import tuning
from keras_adamfamily.tuning import population
from keras_adamfamily.tuning import trial as trial_module
from keras_adamfamily.tuning.data import Data
from tests import test_tuning
from tests.test_tuning import (
    LENGTH,
    QUIET,
    SLOW_BY_FIT,
    blobs,
    build_model,
    copy_of,
    forget,
    what_matters,
)

BACKEND = keras.config.backend()


def tune(directory, build=build_model, **changes):
    return test_tuning.tune(directory, build, **{"finalist_seeds": 0, **changes})


def test_a_time_that_is_up_ends_the_search_when_all_have_had_the_same(tmp_path):
    settings = {"max_trials": 16, "epochs": 1, "sampler": "random", "lanes": 2}
    short = tune(tmp_path / "a", max_minutes=1e-9, **settings)
    counts = [len(short.scoring.of("search", name)) for name in ("AdamW", "SGDW")]
    assert counts[0] == counts[1] and 0 < counts[0] <= 8
    later = tune(tmp_path / "a", **settings)
    assert what_matters(later) == what_matters(tune(tmp_path / "b", **settings))


@pytest.mark.parametrize("strategy", SLOW_BY_FIT)
def test_halving_gives_up_the_worse_and_keeps_the_others_as_they_were(strategy, tmp_path):
    settings = {"max_trials": 18, "epochs": 6, "strategy": strategy, "sampler": "qmc"}
    whole = tune(tmp_path / "whole", **settings)
    halved = tune(tmp_path / "halved", pruner=tuning.Halving(min_epochs=1), **settings)
    assert len(halved.trials) == len(whole.trials) == 18
    for trial, full in zip(halved.trials, whole.trials, strict=True):
        assert trial.hyperparameters == full.hyperparameters
        assert trial.status == ("ok" if trial.epoch == 6 else "pruned")
        for name, curve in trial.curves.items():
            assert curve == full.curves[name][: trial.epoch]
    if strategy == "map":
        for name in ("AdamW", "SGDW"):
            epochs = [t.epoch for t in halved.scoring.of("search", name)]
            assert sorted(epochs) == [2] * 6 + [6] * 3
            best = min(whole.scoring.of("search", name), key=lambda t: t.curves["val_loss"][1])
            assert halved.scoring.of("search", name)[best.number].epoch == 6
    else:
        assert sum(t.epoch for t in halved.trials) < 0.8 * 18 * 6


@pytest.mark.skipif(BACKEND != "jax", reason="lanes need JAX")
def test_halving_that_was_killed_gives_up_the_same(tmp_path):
    settings = {"max_trials": 18, "epochs": 6, "strategy": "map", "sampler": "qmc"}
    settings["pruner"] = "halving"
    whole = tune(tmp_path / "whole", **settings)
    copy_of(whole, tmp_path / "killed")
    forget(tmp_path / "killed", "AdamW", [3, 4, 8])
    assert what_matters(tune(tmp_path / "killed", **settings)) == what_matters(whole)


@pytest.mark.skipif(BACKEND != "jax", reason="lanes need JAX")
def test_what_cannot_be_built_does_not_keep_the_others_apart(tmp_path):
    """Nor does it cost them what halving saves."""

    def build(hp):
        model = build_model()
        if hp.Choice("layer", ["good", "bad"]) == "bad":
            raise ValueError("no such layer")
        return model

    settings = {"max_trials": 12, "epochs": 6, "strategy": "map", "sampler": "random"}
    study = tune(tmp_path, build, optimizers=["AdamW"], pruner="halving", **settings)
    found = collections.Counter((trial.status, trial.strategy) for trial in study.trials)
    assert found.keys() == {("failed", "fit"), ("pruned", "map"), ("ok", "map")}
    assert all("no such layer" in t.cause for t in study.trials if t.status == "failed")


@pytest.mark.skipif(BACKEND != "jax", reason="lanes need JAX")
def test_halving_stays_where_trials_that_fail_together_go_one_by_one(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError("too many lanes")

    monkeypatch.setattr(population.Population, "train", fail)
    settings = {"max_trials": 9, "epochs": 6, "strategy": "map", "sampler": "random"}
    study = tune(tmp_path, optimizers=["AdamW"], pruner="halving", **settings)
    found = collections.Counter((trial.status, trial.strategy) for trial in study.trials)
    assert found.keys() == {("pruned", "fit"), ("ok", "fit")} and found["pruned", "fit"] >= 2


def test_pruner_of_optunas(tmp_path):
    pruner = optuna.pruners.PercentilePruner(25.0, n_startup_trials=2)
    study = tune(tmp_path, max_trials=12, epochs=6, pruner=pruner)
    assert {t.status for t in study.trials} == {"ok", "pruned"}
    assert "pruner" in tuning.Study(tmp_path).settings.__dict__
    with pytest.raises(ValueError, match="`pruner` of the study"):
        tuning.resume(study, build_model, blobs(0), blobs(1))


def test_resume_takes_the_settings_of_the_study(tmp_path):
    study = tune(tmp_path / "a", finalist_seeds=1)
    settings = {"max_trials": 8, "console": QUIET}
    resumed = tuning.resume(study, build_model, blobs(0), blobs(1), **settings)
    assert what_matters(resumed) == what_matters(
        tune(tmp_path / "b", finalist_seeds=1, max_trials=8)
    )


@pytest.mark.parametrize("strategy", SLOW_BY_FIT)
def test_schedules_batch_sizes_and_averages(strategy, tmp_path):
    space = tuning.SearchSpace(
        ["AdamW"],
        fix={"use_ema": True},
        schedule=["cosine", "warm_restarts(T_0=1, T_mult=1)"],
        batch_size=[8, 16],
    )
    study = tune(tmp_path, optimizers=space, max_trials=6, strategy=strategy, evaluate_average=True)
    assert {t.hyperparameters["batch_size"] for t in study.trials} == {8, 16}
    assert len({t.hyperparameters["schedule"] for t in study.trials}) == 2
    alike = collections.defaultdict(list)
    for trial in study.trials:
        alike[trial.hyperparameters["batch_size"], trial.hyperparameters["schedule"]].append(trial)
    trial = max(alike.values(), key=len)[-1]  # not the one whose numbers the program was made with
    assert trial.number > min(t.number for t in max(alike.values(), key=len))
    keras.utils.set_random_seed(trial.seed)
    model = build_model()
    size = trial.hyperparameters["batch_size"]
    optimizer = space.optimizer(
        "AdamW", trial.optimizer_values, batch_size=16, dataset_size=64, epochs=2
    )
    model.compile(optimizer, loss=model.loss, metrics=["accuracy"])
    history = model.fit(
        *blobs(0),
        validation_data=blobs(1),
        validation_batch_size=16,
        epochs=2,
        batch_size=size,
        callbacks=[kaf.callbacks.EvaluateEMAWeights()],
        verbose=0,
    ).history
    assert trial.curves["val_loss"] == pytest.approx(history["val_loss"], rel=1e-5)


@pytest.mark.parametrize("strategy", SLOW_BY_FIT)
def test_early_stopping_and_class_weights(strategy, tmp_path):
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=0.05)
    study = tune(
        tmp_path,
        max_trials=8,
        epochs=12,
        callbacks=[stopping],
        class_weight={0: 2.0},
        strategy=strategy,
    )
    assert {t.status for t in study.trials} == {"ok"}
    assert min(t.epoch for t in study.trials) < 12
    for trial in study.trials:
        losses = trial.curves["val_loss"]
        assert len(losses) == trial.epoch and trial.score == losses[-1]


def test_a_model_with_hyperparameters_of_its_own(tmp_path):
    def build(hp):
        model = keras.Sequential([keras.layers.Dense(hp.Choice("units", [2, 4]), "relu")])
        model.add(keras.layers.Dense(3))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss=loss, metrics=["accuracy"])
        return model

    settings = {"optimizers": ["AdamW"], "max_trials": 6, "epochs": 1, "finalist_seeds": 1}
    study = tune(tmp_path, build, **settings)
    assert {t.hyperparameters["units"] for t in study.trials} == {2, 4}
    assert "units" in (tmp_path / "leaderboard.csv").read_text().splitlines()[0]


def test_a_compiled_model(tmp_path):
    model = build_model()
    before = [np.array(weight) for weight in model.get_weights()]
    study = tune(tmp_path, model, epochs=1)
    assert {t.status for t in study.trials} == {"ok"}
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_py_dataset(tmp_path):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return tuple(part[16 * index : 16 * index + 16] for part in blobs(0))

    study = tune(tmp_path, data=(Batches(), blobs(1)), epochs=1)
    assert study.settings.dataset_size == 64
    assert {t.status for t in study.trials} == {"ok"}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="needs TensorFlow")
def test_a_tensorflow_dataset(tmp_path):
    import tensorflow as tf

    train = tf.data.Dataset.from_tensor_slices(blobs(0)).shuffle(64).batch(16)
    study = tune(tmp_path, data=(train, blobs(1)), epochs=1)
    assert {t.status for t in study.trials} == {"ok"}


@pytest.mark.skipif(BACKEND != "torch", reason="needs PyTorch")
def test_a_data_loader(tmp_path):
    import torch

    tensors = torch.utils.data.TensorDataset(*map(torch.as_tensor, blobs(0)))
    train = torch.utils.data.DataLoader(tensors, 16, shuffle=True)
    study = tune(tmp_path, data=(train, blobs(1)), epochs=1)
    assert {t.status for t in study.trials} == {"ok"}


def test_plan_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = tuning.plan(
        build_model, blobs(0), blobs(1), max_trials=12, epochs=9, pruner="halving", strategy="fit"
    )
    assert (plan.trials, plan.finals, plan.programs) == (12, 24, 3)
    assert plan.trial_epochs == 3 * (4 * 3 + 2 * 6) + 24 * 9
    assert list(tmp_path.iterdir()) == []
    assert plan.seconds > 0.0  # measured, whatever the backend


def estimated(monkeypatch, ticks, batch_size, limit):
    """Seconds of five epochs, by a clock that `ticks` move; and the batches of one.

    Args:
        ticks: From the names of methods to functions of their argument that give seconds.
    """
    now = [0.0]
    monkeypatch.setattr(trial_module.time, "perf_counter", lambda: now[0])

    def ticking(name):
        def method(self, *arguments, **logs):
            now[0] += ticks[name](arguments[0] if arguments else None)
            getattr(super(Ticking, self), name)(*arguments, **logs)

        return method

    Ticking = type("Ticking", (trial_module._Stopwatch,), {name: ticking(name) for name in ticks})
    monkeypatch.setattr(trial_module, "_Stopwatch", Ticking)
    training = trial_module.Training(
        train=Data.of(blobs(0), batch_size),
        validation=Data.of(blobs(1), 16),
        epochs=5,
        objective=keras_tuner.Objective("val_loss", "min"),
    )
    hypermodel = tuning.OptimizerHyperModel(build_model, tuning.SearchSpace(["SGDW"]), **LENGTH)
    asked = trial_module.Asked("SGDW", "search", 0, 1, {})
    return training.seconds(hypermodel, asked, limit), -(-len(blobs(0)[1]) // batch_size)


@pytest.mark.parametrize("limit", [1e9, 2.5])  # all of both epochs, and a part of the first
def test_a_trial_takes_what_its_steps_do(limit, monkeypatch):
    """A step takes 1 s, the first of all 10 s, and an evaluation 3 s."""
    first = iter([10.0])
    ticks = {"on_train_batch_end": lambda _: next(first, 1.0), "on_test_end": lambda _: 3.0}
    found, steps = estimated(monkeypatch, ticks, 16, limit)
    assert found == pytest.approx(9.0 + 5 * (steps * 1.0 + 3.0))


@pytest.mark.parametrize("limit", [1e9, 21.5])
def test_batches_that_come_several_at_a_time_take_what_they_do(limit, monkeypatch):
    """As from three workers: each third is waited for; and to start them takes its time too."""
    begin = 30.0 if limit == 1e9 else 0.0
    ticks = {
        "on_epoch_begin": lambda _: begin,
        "on_train_batch_end": lambda batch: 0.0 if batch % 3 else 6.0,
    }
    found, steps = estimated(monkeypatch, ticks, 4, limit)
    whole = 5 * (begin + 6.0 * -(-steps // 3))
    assert found == pytest.approx(whole, rel=0.0 if limit == 1e9 else 0.2)
