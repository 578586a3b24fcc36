"""The weights of the best runs: the models that they make have the scores that were recorded."""

from __future__ import annotations

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

import keras_tuner

from keras_adamfamily import tuning
from keras_adamfamily.tuning.trial import FINAL, SEARCH, Asked
from keras_adamfamily.tuning.weights import Weights
from tests import test_tuning
from tests.test_tuning import SLOW_BY_FIT, STRATEGIES, blobs, build_model

LENGTH = {"dataset_size": 64, "epochs": 2, "batch_size": 16}


def wide(hp):
    """A model with a choice, statistics and dropout, that its first batch builds."""
    layers = keras.layers
    model = keras.Sequential([layers.Dense(hp.Choice("units", [4, 8]), "relu")])
    for layer in (layers.BatchNormalization(), layers.Dropout(0.2), layers.Dense(3)):
        model.add(layer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model


def tune(directory, build=build_model, **changes):
    return test_tuning.tune(directory, build, **changes)


def check(study, build, optimizer=None, role="final"):
    """The best model has the score, the configuration and the metrics of the best run."""
    name = study.leaderboard()[0].optimizer if optimizer is None else optimizer
    run = study.scoring.best_run(name, role)
    model = study.best_model(build, optimizer)
    measured = model.evaluate(*blobs(1), batch_size=16, verbose=0, return_dict=True)
    assert {f"val_{key}": value for key, value in measured.items()} == pytest.approx(
        {key: curve[-1] for key, curve in run.curves.items() if key.startswith("val_")}, abs=1e-6
    )
    wanted = study.space.optimizer(name, run.optimizer_values, **LENGTH)
    assert model.optimizer.get_config() == wanted.get_config()
    return run, model


@pytest.mark.parametrize("strategy", SLOW_BY_FIT)
def test_best_model(strategy, tmp_path):
    study = tune(tmp_path, wide, strategy=strategy, finalist_seeds=3)
    for optimizer in (None, "AdamW", "SGDW"):
        run, _ = check(study, wide, optimizer)
        assert run.score == min(t.score for t in study.scoring.of("final", run.optimizer))
    files = sorted(file.name for file in (tmp_path / "weights").glob("[!.]*"))
    assert files == ["AdamW.weights.h5", "SGDW.weights.h5"]
    check(tuning.Study(tmp_path), wide)


@pytest.mark.parametrize("strategy", SLOW_BY_FIT)
@pytest.mark.parametrize("evaluate_average", [True, False])
def test_weights_are_those_that_were_evaluated(strategy, evaluate_average, tmp_path):
    space = tuning.SearchSpace(["AdamW"], fix={"use_ema": True, "ema_momentum": 0.5})
    settings = {"optimizers": space, "evaluate_average": evaluate_average, "strategy": strategy}
    check(tune(tmp_path, max_trials=2, **settings), build_model)


@pytest.mark.slow
def test_weights_of_the_last_epoch_are_kept_where_others_are_restored(tmp_path):
    stopping = keras.callbacks.EarlyStopping(
        "val_loss", patience=1, min_delta=9.0, restore_best_weights=True
    )
    study = tune(tmp_path, epochs=4, callbacks=[stopping], max_trials=2)
    assert check_with(study).epoch == 2


def check_with(study, role="final"):
    run = study.scoring.best_run("AdamW", role)
    model = study.best_model(build_model, "AdamW")
    loss = model.evaluate(*blobs(1), batch_size=16, verbose=0)[0]
    assert loss == pytest.approx(run.score, abs=1e-6)
    return run


@pytest.mark.parametrize("on_epoch", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_averages_are_kept_where_a_callback_of_keras_swaps_them(on_epoch, tmp_path):
    space = tuning.SearchSpace(["AdamW"], fix={"use_ema": True, "ema_momentum": 0.5})
    callbacks = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch),
        keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=9.0),
    ]
    settings = {"optimizers": space, "max_trials": 1, "finalist_seeds": 0, "strategy": "fit"}
    study = tune(tmp_path, epochs=4, callbacks=callbacks, **settings)
    assert check_with(study, "search").epoch == 2


class Subclass(keras.Model):
    """Its first batch builds it, and no `build` does."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def subclass():
    model = Subclass()
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_a_subclass_that_its_first_batch_builds(tmp_path):
    settings = {"optimizers": ["AdamW"], "max_trials": 1, "finalist_seeds": 0, "strategy": "fit"}
    study = tune(tmp_path, subclass, objective="val_loss", **settings)
    run = study.scoring.best_run("AdamW", "search")
    loss = study.best_model(subclass, "AdamW").evaluate(*blobs(1), batch_size=16, verbose=0)
    assert loss == pytest.approx(run.score, abs=1e-6)


class OwnLoop(keras_tuner.HyperModel):
    """Calls of its callbacks only what it needs, as KerasTuner's guide does."""

    def build(self, hp):
        model = Subclass()
        self.rate = hp.Choice("rate", [0.5, 1.0])
        return model

    def fit(self, hp, model, x, y, validation_data, callbacks, **kwargs):
        for callback in callbacks:
            callback.set_model(model)
        model(x)
        for epoch in range(3):
            model.set_weights([(epoch + 1) * self.rate * np.ones(w.shape) for w in model.weights])
            for callback in callbacks:
                callback.on_epoch_end(epoch, logs={"own": (epoch + 1) * self.rate})


@pytest.mark.parametrize("kind", [tuning.OptunaOracle, keras_tuner.oracles.RandomSearchOracle])
def test_a_training_loop_of_ones_own(kind, tmp_path):
    oracle = kind(objective=keras_tuner.Objective("own", "max"), max_trials=2, seed=1)
    tuner = tuning.OptimizerTuner(oracle, OwnLoop(), directory=tmp_path, project_name="p")
    tuner.search(*blobs(0), validation_data=blobs(1), epochs=9, verbose=0)
    best = tuner.oracle.get_best_trials(1)[0]
    (model,) = tuner.get_best_models()
    assert np.all(model.get_weights()[0] == best.score) and best.score in (1.5, 3.0)


@pytest.mark.parametrize("pruner", [None, "halving"])
@pytest.mark.parametrize("keep_weights", [0, 1])
def test_an_objective_that_is_not_there_ends_the_search(pruner, keep_weights, tmp_path):
    oracle = tuning.OptunaOracle(
        "val_accuracy", max_trials=2, pruner=pruner and tuning.Halving(2, 1)
    )
    hypermodel = tuning.OptimizerHyperModel(subclass, tuning.SearchSpace(["AdamW"]), **LENGTH)
    project = {"directory": tmp_path, "project_name": "p", "keep_weights": keep_weights}
    tuner = tuning.OptimizerTuner(oracle, hypermodel, strategy="fit", **project)
    with pytest.raises(ValueError, match="one of loss, val_loss. .*objective='val_accuracy'"):
        tuner.search(*blobs(0), validation_data=blobs(1), epochs=2, verbose=0)


@pytest.mark.parametrize("strategy", SLOW_BY_FIT)
def test_without_fresh_seeds_the_best_trial_is_kept_also_when_there_are_more(strategy, tmp_path):
    settings = {"optimizers": ["AdamW"], "finalist_seeds": 0, "sampler": "random"}
    settings["strategy"] = strategy
    first, _ = check(tune(tmp_path, max_trials=2, **settings), build_model, "AdamW", "search")
    again, _ = check(tune(tmp_path, max_trials=8, **settings), build_model, "AdamW", "search")
    assert again.score < first.score


def test_a_new_best_configuration_takes_over(tmp_path):
    """Also where a fresh seed of the old one was luckier."""
    settings = {"optimizers": ["AdamW"], "strategy": STRATEGIES[-1], "sampler": "random"}
    first, _ = check(tune(tmp_path, max_trials=2, **settings), build_model, "AdamW")
    study = tuning.Study(tmp_path)
    weights = study.weights()
    lucky = Asked(**{**vars(first.asked), "number": 9})
    weights.keep(lucky, -1.0, lambda: study.best_model(build_model, "AdamW"))
    assert weights.has(lucky) and not weights.has(first.asked)
    study.close()
    again, _ = check(tune(tmp_path, max_trials=8, **settings), build_model, "AdamW")
    assert again.hyperparameters != first.hyperparameters
    study = tuning.Study(tmp_path)
    study.weights().keep(first.asked, -1.0, lambda: pytest.fail("it is the best no longer"))
    assert study.weights().has(again.asked)
    study.close()


def test_errors_of_best_model(tmp_path):
    few = {"optimizers": ["AdamW"], "max_trials": 1, "finalist_seeds": 0, "strategy": "fit"}
    study = tune(tmp_path / "a", wide, **few, keep_weights=False)
    assert not (tmp_path / "a" / "weights").exists()
    with pytest.raises(ValueError, match="the weights of the best run of .* are not in"):
        study.best_model(wide)
    study = tune(tmp_path / "b", wide, max_trials=2, finalist_seeds=1, strategy="fit")
    with pytest.raises(ValueError, match="Unknown optimizer 'adamv'"):
        study.best_model(wide, "adamv")
    with pytest.raises(ValueError, match="`optimizer` must be one of the study's, AdamW, SGDW"):
        study.best_model(wide, "adam")
    with pytest.raises(ValueError, match="12 parameters in 2 variables"):
        study.best_model(build_model)
    file = tmp_path / "b" / "weights" / f"{study.leaderboard()[0].optimizer}.weights.h5"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="the weights of the best run of .* are not in"):
        study.best_model(wide)


ORACLES = keras_tuner.oracles


@pytest.mark.parametrize("strategy", SLOW_BY_FIT)
@pytest.mark.parametrize(
    "kind",
    [pytest.param(tuning.OptunaOracle, marks=pytest.mark.slow), ORACLES.RandomSearchOracle],
)
def test_best_models_of_a_tuner(kind, strategy, tmp_path):
    def tuner(max_trials, **arguments):
        return tuning.OptimizerTuner(
            kind(objective="val_loss", max_trials=max_trials, seed=1),
            tuning.OptimizerHyperModel(wide, tuning.SearchSpace(["AdamW", "SGDW"]), **LENGTH),
            strategy=strategy,
            directory=tmp_path,
            project_name="p",
            **arguments,
        )

    for max_trials in (4, 8):  # the second time it goes on
        searched = tuner(max_trials, keep_weights=2)
        data = {"validation_data": blobs(1), "verbose": 0}
        searched.search(*blobs(0), epochs=2, batch_size=16, **data)
        scores = sorted(t.score for t in searched.oracle.trials.values())
        assert len(scores) == max_trials
        for model, score in zip(searched.get_best_models(2), scores[:2], strict=True):
            loss, _ = model.evaluate(*blobs(1), verbose=0)
            assert loss == pytest.approx(score, abs=1e-6)
        assert len(list((tmp_path / "p" / "weights").glob("[!.]*"))) == 2
        with pytest.raises(ValueError, match="only those of the best `keep_weights=2` trials are"):
            searched.get_best_models(3)
    assert len(tuner(8, keep_weights=0).get_best_models(2)) == 2  # they are still there
    with pytest.raises(ValueError, match="`keep_weights`"):
        tuner(8, keep_weights=-1)


def test_each_trial_of_a_group_has_its_own_file(tmp_path):
    def build(hp):
        model = keras.Sequential([keras.layers.Dense(3, hp.Choice("act", ["relu", "tanh"]))])
        model.compile(loss="mse")
        return model

    data = (blobs(0)[0], blobs(0)[0][:, :3])
    tuner = tuning.OptimizerTuner(
        tuning.OptunaOracle("val_loss", max_trials=2, seed=1, group_by="act"),
        tuning.OptimizerHyperModel(build, tuning.SearchSpace(["AdamW"]), **LENGTH),
        strategy="fit",
        directory=tmp_path,
        project_name="p",
        keep_weights=2,
    )
    tuner.search(*data, validation_data=data, epochs=1, verbose=0)
    files = {file.name.split(".")[0] for file in (tmp_path / "p" / "weights").glob("[!.]*")}
    assert files == set(tuner.oracle.trials) and len(tuner.get_best_models(2)) == 2


# A file for each, taken over whole or not at all.


def run(number, score=None, **changes):
    return Asked("AdamW", FINAL, number, number, {"AdamW/learning_rate": 0.1, **changes})


def model_of(value):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.full((2, 1), value), np.zeros(1)])
    model.compile("sgd", "mse")
    return model


def value_of(weights, asked):
    return float(weights.load(asked, lambda: model_of(0.0)).get_weights()[0][0, 0])


def test_two_processes_keep_the_better_one(tmp_path):
    one, other = (Weights(tmp_path, "max", lambda run: run.optimizer, role=FINAL) for _ in "ab")
    one.keep(run(0), 0.5, lambda: model_of(0.5))
    other.keep(run(1), 0.4, lambda: pytest.fail("it is worse"))
    other.keep(run(2), 0.7, lambda: model_of(0.7))
    one.keep(run(3), 0.6, lambda: pytest.fail("the other one's is better by now"))
    one.keep(run(4), 0.7, lambda: pytest.fail("the first of equals"))
    one.keep(Asked("AdamW", "search", 0, 0, {}), 0.9, lambda: pytest.fail("another role"))
    for weights in (one, other):
        assert weights.has(run(2)) and not weights.has(run(0))
        assert value_of(weights, run(2)) == pytest.approx(0.7)
    one.keep(run(5, units=3), 0.1, lambda: model_of(0.1))
    assert value_of(other, run(5, units=3)) == pytest.approx(0.1)


def test_runs_of_another_role_in_the_same_folder_are_left_alone(tmp_path):
    """As those of a study's finals are by a tuner that is given the study's folder."""
    finals = Weights(tmp_path, "max", lambda run: run.optimizer, role=FINAL)
    trials = Weights(tmp_path, "max", lambda run: f"{run.optimizer}-{run.number}", most=1)
    final = Asked("AdamW", FINAL, 0, 0, {})
    found = [Asked("AdamW", SEARCH, number, 0, {}) for number in range(2)]
    finals.keep(final, 0.9, build_model)
    for run, score in zip(found, (0.3, 0.5), strict=True):
        trials.keep(run, score, build_model)
    assert finals.has(final)
    assert [trials.has(run) for run in found] == [False, True]


def test_what_cannot_be_written_leaves_the_old_file_and_is_said(tmp_path, monkeypatch):
    said = []
    weights = Weights(tmp_path, "min", lambda run: run.optimizer, role=FINAL, note=said.append)
    weights.keep(run(0), 0.5, lambda: model_of(0.5))
    better = model_of(0.1)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
        weights.keep(run(1), 0.1, lambda: better)
    assert len(said) == 1 and "AdamW are not kept" in said[0] and "disk full" in said[0]
    assert better.optimizer is not None
    assert value_of(weights, run(0)) == pytest.approx(0.5) and not weights.has(run(1))
    assert [file.name for file in tmp_path.glob("*.h5")] == ["AdamW.weights.h5"]
    left = tmp_path / ".AdamW.weights.h5"
    left.write_bytes(b"of a process that was killed")
    weights.keep(run(1), 0.1, lambda: better)
    assert weights.has(run(1)) and not left.exists()
