"""`OptunaOracle` and `OptimizerTuner` within KerasTuner, and KerasTuner's own parts within ours."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

import keras_tuner
import optuna

from keras_adamfamily import tuning
from keras_adamfamily.tuning import oracle as oracle_module
from keras_adamfamily.tuning.strategy import Choice
from keras_adamfamily.tuning.trial import Training
from tests.test_tuning import blobs

ROOT = Path(__file__).resolve().parent.parent
IS_JAX = keras.config.backend() == "jax"
ON_JAX = pytest.mark.skipif(not IS_JAX, reason="programs for many trials run on JAX")
LENGTH = {"dataset_size": 64, "epochs": 2, "batch_size": 16}


def build_model(hp=None):
    units = hp.Int("units", 4, 8, step=4) if hp else 4
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(3)]
    )
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def architecture(hp):
    return build_model(hp)


def hypermodel(build=build_model, optimizers=("AdamW", "SGDW"), **space):
    return tuning.OptimizerHyperModel(build, tuning.SearchSpace(optimizers, **space), **LENGTH)


def search(tuner, **arguments):
    settings = {"epochs": 2, "batch_size": 16, "verbose": 0, "validation_data": blobs(1)}
    tuner.search(*blobs(), **{**settings, **arguments})
    return tuner.oracle


def oracle(max_trials=8, objective="val_loss", **arguments):
    return tuning.OptunaOracle(objective, max_trials, **arguments)


def values(oracle):
    """The hyperparameters of all trials, by id."""
    return {name: trial.hyperparameters.values for name, trial in sorted(oracle.trials.items())}


# The oracle alone, on a cost that is known.


def space(hp):
    """A space of every kind of hyperparameter."""
    hp.Choice("optimizer", ["a", "b"])
    for name in ("a", "b"):
        with hp.conditional_scope("optimizer", [name]):
            hp.Float(f"{name}/rate", 1e-4, 1.0, sampling="log")
    hp.Int("units", 8, 64, step=8)
    hp.Int("width", 4, 256, sampling="log")
    hp.Float("late", 0.1, 0.9, sampling="reverse_log")
    hp.Float("drop", 0.0, 0.5, step=0.25)
    hp.Boolean("norm")
    hp.Fixed("depth", 3)


def cost(values):
    rate = values[f"{values['optimizer']}/rate"]
    return (np.log10(rate) + 2.0) ** 2 + values["drop"]


def plane(hp):
    hp.Choice("optimizer", ["a", "b"])
    for name in ("a", "b"):
        with hp.conditional_scope("optimizer", [name]):
            hp.Float(f"{name}/rate", 1e-4, 1.0, sampling="log")
    hp.Float("drop", 0.0, 0.5)


def play(directory, limit=1, stop=None, space=space, max_trials=32, cost=cost, **arguments):
    """Runs an oracle on a cost; stops as a killed process does, amid the trials, after `stop`."""
    asked = oracle(max_trials, **arguments)
    asked.verbose = 0
    asked._set_project_dir(directory, "project")
    space(asked.hyperparameters)
    done = 0
    while trials := asked.create_trials("tuner", limit):
        for trial in trials:
            if done == stop:
                asked.close()
                return None
            value = cost(trial.hyperparameters.values)
            asked.update_trial(trial.trial_id, {asked.objective.name: value})
            trial.status = "COMPLETED"
            asked.end_trial(trial)
            done += 1
    asked.reload()
    asked.close()
    return values(asked)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play(tmp_path_factory.mktemp("played"))


def test_every_group_gets_the_same_number_within_the_space(played):
    chosen = [v["optimizer"] for v in played.values()]
    assert chosen.count("a") == chosen.count("b") == 16
    for v in played.values():
        assert 1e-4 <= v[f"{v['optimizer']}/rate"] <= 1.0
        assert v["units"] in range(8, 65, 8) and isinstance(v["units"], int)
        assert 4 <= v["width"] <= 256
        assert 0.1 <= v["late"] <= 0.9
        assert v["drop"] in (0.0, 0.25, 0.5)
        assert v["norm"] in (True, False) and v["depth"] == 3
        assert len(v) == 8  # the other group's rate is not there
    assert len({v["units"] for v in played.values()}) > 3


def test_groups_begin_at_the_same_places_or_where_they_learn_together_at_others(played, tmp_path):
    for trials, same in ((played, False), (play(tmp_path, sampler="tpe"), True)):
        for number in range(4):
            a, b = (trials[f"{name}-{number:04d}"] for name in "ab")
            assert (a["a/rate"] == b["b/rate"]) == same
            assert a["units"] == b["units"] or not same


@pytest.mark.parametrize("limit", [3, pytest.param(16, marks=pytest.mark.slow)])
def test_list_of_trials_does_not_depend_on_how_many_run_at_a_time(limit, played, tmp_path):
    assert play(tmp_path, limit) == played


@pytest.mark.parametrize(
    "stop", [pytest.param(0, marks=pytest.mark.slow), 7, pytest.param(30, marks=pytest.mark.slow)]
)
def test_list_of_trials_does_not_depend_on_interruptions(stop, played, tmp_path):
    assert play(tmp_path, limit=4, stop=stop) is None
    assert play(tmp_path, limit=3) == played


def test_seeds(played, tmp_path):
    other = play(tmp_path, seed=1)
    assert not {v["late"] for v in other.values()} & {v["late"] for v in played.values()}


def test_a_sampler_that_learns_does_better_than_chance(tmp_path):
    def late(sampler):
        trials = play(tmp_path / sampler, 8, space=plane, max_trials=96, sampler=sampler)
        return np.median([cost(v) for name, v in trials.items() if int(name[-4:]) >= 24])

    by_chance = late("random")
    assert late("tpe") < 0.5 * by_chance and late("gp") < 0.2 * by_chance


def told(directory, max_trials=16, costs=None, **arguments):
    """The rates that an oracle tries in each group, where every group has a cost of its own."""

    def rate(values):
        return np.log10(values[f"{values['optimizer']}/rate"])

    def cost(values):
        return costs[values["optimizer"]](rate(values))

    trials = play(directory, 4, space=plane, max_trials=max_trials, cost=cost, **arguments)
    return {g: np.array([rate(v) for v in trials.values() if v["optimizer"] == g]) for g in "ab"}


@pytest.mark.parametrize(("sampler", "knows"), [("gp", True), ("tpe", False)])
def test_whether_a_group_knows_what_the_others_have_found(sampler, knows, tmp_path):
    def of_b(best_of_a):
        costs = {"a": lambda rate: (rate - best_of_a) ** 2, "b": lambda rate: (rate + 2.0) ** 2}
        return told(tmp_path / str(best_of_a), costs=costs, sampler=sampler, block=4)["b"]

    one, other = of_b(-2.0), of_b(-3.0)
    assert (one[:4] == other[:4]).all() and (one[4:] != other[4:]).any() == knows


def test_a_group_whose_best_is_elsewhere_is_not_misled(tmp_path):
    costs = {"a": lambda rate: (rate + 3.0) ** 2, "b": lambda rate: (rate + 1.0) ** 2}
    rates = told(tmp_path, 32, costs=costs)
    assert np.abs(rates["a"][8:] + 3.0).min() < 0.1 and np.abs(rates["b"][8:] + 1.0).min() < 0.1


def test_groups_with_the_same_hyperparameters_in_another_order(tmp_path):
    """Each value goes to the hyperparameter that it was proposed for."""

    def space(hp):
        hp.Choice("optimizer", ["a", "b"])
        for group, names in (("a", "xy"), ("b", "yx")):
            with hp.conditional_scope("optimizer", [group]):
                for name in names:
                    hp.Float(f"{group}/{name}", 0.0, 1.0)

    def cost(values):
        group = values["optimizer"]
        return (values[f"{group}/x"] - 0.1) ** 2 + (values[f"{group}/y"] - 0.9) ** 2

    trials = play(tmp_path, 8, space=space, max_trials=48, cost=cost)
    late = [cost(values) for name, values in trials.items() if int(name[-4:]) >= 12]
    assert np.median(late) < 0.02


def fixed(hp):
    hp.Choice("optimizer", ["a", "b"])
    hp.Fixed("rate", 0.1)


def of_one_name(hp):
    plane(hp)
    hp.Float("rate", 0.0, 1.0)


@pytest.mark.parametrize("space", [fixed, of_one_name])
def test_all_trials_of_a_space_that_is_odd(space, tmp_path):
    assert len(play(tmp_path, 4, space=space, max_trials=24, cost=lambda values: 1.0)) == 24


def test_a_score_that_is_to_be_large(tmp_path):
    costs = dict.fromkeys("ab", lambda rate: -((rate + 2.0) ** 2))
    rates = told(tmp_path, 24, objective="val_accuracy", costs=costs)
    assert np.median(np.abs(rates["b"][8:] + 2.0)) < 0.3


def nested(hp):
    plane(hp)
    with hp.conditional_scope("drop", [0.0]):
        hp.Float("never", 0.0, 1.0)


@pytest.mark.parametrize("why", ["conditions", "pruner"])
def test_tpe_takes_over_from_the_gaussian_processes(why, tmp_path):
    arguments = {"space": nested} if why == "conditions" else {"space": plane}
    if why == "pruner":
        arguments["pruner"] = tuning.Halving()
    both = [play(tmp_path / name, 8, sampler=name, **arguments) for name in ("gp", "tpe")]
    assert both[0] == both[1]


def test_samplers_of_ones_own(tmp_path):
    made = []

    def sampler(seed):
        made.append(seed)
        return optuna.samplers.RandomSampler(seed=seed)

    trials = play(tmp_path, sampler=sampler, startup_trials=4)
    assert len(trials) == 32 and len(set(made)) == 12  # the 12 later ones of each group


def test_starting_points_come_first(tmp_path):
    points = [{"optimizer": "a", "a/rate": 0.01, "units": 16}, {"drop": 0.5}]
    trials = play(tmp_path, starting_points=points)
    assert (trials["a-0000"]["a/rate"], trials["a-0000"]["units"]) == (0.01, 16)
    assert trials["a-0001"]["drop"] == trials["b-0000"]["drop"] == 0.5
    with pytest.raises(ValueError, match="'unit', which is not searched"):
        play(tmp_path / "other", starting_points=[{"unit": 3}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_trials": 0}, "`max_trials`"),
        ({"seed": -1}, "`seed`"),
        ({"sampler": "bayes"}, "`sampler` must be one of 'gp'"),
        ({"sampler": optuna.samplers.TPESampler}, "a function from a seed"),
        ({"startup_trials": -1}, "`startup_trials`"),
        ({"block": 0}, "`block`"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        oracle(**arguments)


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite://", "nonsense", "postgresql://host"])
def test_wrong_storage(url, tmp_path):
    with pytest.raises(ValueError, match="`storage`"):
        play(tmp_path, storage=url)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    (tmp_path / "project").mkdir()
    file = tmp_path / "project" / "study.db"
    file.write_bytes(b"precious " * 1000)
    with pytest.raises(ValueError, match="cannot be opened as a database"):
        play(tmp_path)
    assert file.read_bytes() == b"precious " * 1000


def test_halving_keeps_the_better_third():
    halving = tuning.Halving()
    assert halving.rungs(54) == [2, 6, 18]
    assert halving.rungs(5) == []
    assert tuning.Halving(2, min_epochs=4).rungs(20) == [5, 10]
    assert halving.cut([3.0, 1.0, 2.0], "min") == 1.0
    assert halving.cut([3.0, 1.0, 2.0, 4.0], "max") == 3.0


def test_a_pruner_sees_what_has_ended_and_it_is_parsed_once(tmp_path, monkeypatch):
    class Watching(optuna.pruners.MedianPruner):
        seen = []

        def prune(self, study, trial):
            self.seen.append([t.intermediate_values for t in study.trials])
            return super().prune(study, trial)

    asked = oracle(12, sampler="qmc", pruner=Watching(n_startup_trials=2))
    asked.verbose = 0
    asked._set_project_dir(tmp_path, "project")
    asked.hyperparameters.Float("x", 0.0, 1.0)
    parsed, loads = [], json.loads
    monkeypatch.setattr("json.loads", lambda text: parsed.append(text) or loads(text))
    pruned = []
    for number in range(12):
        (trial,) = asked.create_trials("tuner", 1)
        curve = [number + 1.0 / epoch for epoch in range(1, 6)]  # ever worse
        told = [
            asked.update_trial(trial.trial_id, {"val_loss": v}, step=s).status
            for s, v in enumerate(curve)
        ]
        pruned.append("STOPPED" in told)
        asked.describe(
            trial.trial_id, {"status": "ok", "score": curve[-1], "curves": {"val_loss": curve}}
        )
        trial.status = "COMPLETED"
        asked.end_trial(trial)
    assert pruned == [False] * 2 + [True] * 10
    assert Watching.seen[-1] == [
        {epoch: number + 1.0 / epoch for epoch in range(1, 6)} for number in range(11)
    ]
    assert len([text for text in parsed if text.startswith('{"status"')]) == 11
    asked.close()


# With KerasTuner's parts.


def test_any_tuner_of_kerastuner_takes_our_oracle(tmp_path):
    tuner = keras_tuner.Tuner(
        oracle(2), hypermodel(architecture), directory=tmp_path, project_name="p", overwrite=False
    )
    assert len(search(tuner).get_best_trials(9)) == 2
    before = values(tuner.oracle)
    tuner.oracle.close()
    again = keras_tuner.Tuner(
        oracle(4), hypermodel(architecture), directory=tmp_path, project_name="p"
    )
    trials = values(search(again))
    assert len(trials) == 4 and before.items() <= trials.items()
    again.oracle.close()


ORACLES = keras_tuner.oracles


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        (ORACLES.RandomSearchOracle, "auto"),
        pytest.param(ORACLES.RandomSearchOracle, "fit", marks=pytest.mark.slow),
        pytest.param(ORACLES.BayesianOptimizationOracle, "auto", marks=pytest.mark.slow),
        pytest.param(ORACLES.GridSearchOracle, "auto", marks=pytest.mark.slow),
    ],
)
def test_our_tuner_takes_any_oracle_of_kerastuner(kind, strategy, tmp_path):
    tuner = tuning.OptimizerTuner(
        kind(objective="val_loss", seed=1, max_trials=5),
        hypermodel(),
        strategy=strategy,
        lanes=2,
        directory=tmp_path,
        project_name="p",
    )
    best = search(tuner).get_best_trials(1)[0]
    assert len(tuner.oracle.trials) >= 5
    assert best.score == min(t.score for t in tuner.oracle.trials.values())


@pytest.mark.parametrize("strategy", ["fit", pytest.param("map", marks=ON_JAX)])
def test_hyperband_says_how_many_epochs_a_trial_gets(strategy, tmp_path):
    """And a promoted trial goes the way of the one before it, and on."""
    tuner = tuning.OptimizerTuner(
        ORACLES.HyperbandOracle(objective="val_loss", seed=1, max_epochs=4, factor=2),
        hypermodel(),
        strategy=strategy,
        directory=tmp_path,
        project_name="p",
    )
    given = dict(epochs=1, batch_size=16, validation_data=blobs(1))
    training = Training.from_fit(tuner.oracle.objective, *blobs(), **given)
    found = {result.number: result for result in tuner.results(training)}
    assert {(r.status, r.strategy) for r in found.values()} == {("ok", strategy)}
    epochs = {number: r.hyperparameters["tuner/epochs"] for number, r in found.items()}
    assert sorted(set(epochs.values())) == [1, 2, 4]
    assert epochs == {number: r.epoch for number, r in found.items()}
    promoted = [r for r in found.values() if r.hyperparameters["tuner/initial_epoch"]]
    assert len(promoted) > 3
    scores = [trial.score for trial in tuner.oracle.trials.values()]
    assert tuner.oracle.get_best_trials(1)[0].score == min(scores)
    for r in promoted:
        before = found[int(r.hyperparameters["tuner/trial_id"])].curves["val_loss"]
        assert r.curves["val_loss"][: len(before)] == before
    if strategy == "map":  # what Hyperband notes about a trial makes no program of its own
        assert len(tuner._together._populations) == 2


@pytest.mark.parametrize(
    "kind",
    [
        keras_tuner.RandomSearch,
        pytest.param(keras_tuner.BayesianOptimization, marks=pytest.mark.slow),
        pytest.param(keras_tuner.GridSearch, marks=pytest.mark.slow),
    ],
)
def test_our_hypermodel_goes_into_any_tuner_of_kerastuner(kind, tmp_path):
    tuner = kind(
        hypermodel(architecture, batch_size=[16, 32]),
        objective="val_loss",
        max_trials=3,
        directory=tmp_path,
    )
    trials = search(tuner).trials.values()
    assert len(trials) == 3 and all(trial.score is not None for trial in trials)


def test_our_tuner_has_the_results_of_the_search(tmp_path):
    tuner = tuning.OptimizerTuner(
        oracle(6), hypermodel(architecture), directory=tmp_path, project_name="p"
    )
    search(tuner)
    best = tuner.get_best_hyperparameters(2)
    assert len(best) == 2 and "units" in best[0].values
    assert tuner.hypermodel.build(best[0]).optimizer.name in ("adamw", "sgdw")
    (model,) = tuner.get_best_models()
    assert model.layers[0].units == best[0].values["units"]
    tuner.oracle.close()


def part_of_a_cluster(kind, folder):
    """What each process of a cluster runs: the chief, which hands out the trials, or a worker."""
    from keras_tuner.src.distribute import oracle_chief

    # The chief looks every 20 s whether its workers have gone.
    oracle_chief.time = types.SimpleNamespace(sleep=lambda seconds: time.sleep(0.2))
    if kind == "ours":
        tuner = tuning.OptimizerTuner(
            oracle(8), hypermodel(), lanes=2, directory=folder, project_name="p"
        )
    else:
        tuner = keras_tuner.RandomSearch(
            hypermodel(), "val_loss", 8, seed=1, directory=folder, project_name="p"
        )
    folder = Path(folder)
    if tuner.tuner_id != "chief":  # both are there before one has done all
        (folder / tuner.tuner_id).touch()
        while len(list(folder.glob("worker*"))) < 2:
            time.sleep(0.05)
    search(tuner)
    if tuner.tuner_id == "chief":
        trials = {name: [t.status, t.score] for name, t in tuner.oracle.trials.items()}
        best = tuner.get_best_hyperparameters()[0].values
        content = {"trials": trials, "best": best, "ongoing": len(tuner.oracle.ongoing_trials)}
        (folder / "results.json").write_text(json.dumps(content))


def test_a_new_chief_goes_on_with_trials_that_workers_train(tmp_path):
    """They were begun by a chief that has died, and they end once, whoever was given them too."""

    def chief():
        asked = oracle(4)
        asked.verbose = 0
        asked._set_project_dir(tmp_path, "project")
        space(asked.hyperparameters)
        return asked

    first = chief()
    (trial,) = first.create_trials("worker0", 1)
    first.close()
    second = chief()
    second.reload()
    told = second.update_trial(trial.trial_id, {"val_loss": 0.5})
    assert told.status == "RUNNING" and len(second.ongoing_trials) == 1
    (again,) = second.create_trials("worker1", 1)
    assert again.trial_id != trial.trial_id
    for loss in (0.5, 0.25):
        trial.status = "COMPLETED"
        second.end_trial(trial)
        told = second.update_trial(trial.trial_id, {"val_loss": loss})
        assert told.status == "STOPPED"
    assert second.trials[trial.trial_id].score == 0.5
    assert list(second.ongoing_trials) == ["worker1"]
    second.close()


def test_an_oracle_that_raises_lets_go_of_its_lock(tmp_path):
    """A chief whose thread raised would wait for ever."""
    asked = oracle(4)
    asked.verbose = 0
    asked._set_project_dir(tmp_path, "project")
    space(asked.hyperparameters)
    with ThreadPoolExecutor(1) as threads, pytest.raises(IndexError):
        threads.submit(asked.update_trial, "a-0099", {"val_loss": 0.5}).result(10)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(asked.create_trials, "worker", 1).result(10)
    asked.close()


def test_a_fit_of_ones_own_is_called(tmp_path):
    called = []

    class Own(tuning.OptimizerHyperModel):
        def fit(self, hp, model, *args, **kwargs):
            called.append(hp.values["optimizer"])
            return super().fit(hp, model, *args, **kwargs)

    def tuner(**settings):
        own = Own(build_model, tuning.SearchSpace(["AdamW"]), **LENGTH)
        return tuning.OptimizerTuner(oracle(3), own, directory=tmp_path, **settings)

    notes = []
    search(tuner(note=notes.append))
    assert called == ["AdamW"] * 3
    assert notes == ["fit: the hypermodel has a `fit` of its own"]
    with pytest.raises(ValueError, match="needs an OptimizerHyperModel, .* not override `fit`"):
        search(tuner(strategy="map", overwrite=True))


class Fits(keras_tuner.HyperModel):
    """A model, and a `fit` of its own, as in KerasTuner's guides."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def build(self, hp):
        model = build_model(hp)
        model.compile("sgd", model.loss, metrics=["accuracy"])
        return model

    def fit(self, hp, model, *args, **kwargs):
        return self.function(hp, model, *args, **kwargs)


def chooses_its_batches(hp, model, *args, **kwargs):
    return model.fit(*args, batch_size=hp.Choice("batch_size", [16, 32]), **kwargs)


def keeps_callbacks_to_itself(hp, model, *args, callbacks, **kwargs):
    return model.fit(*args, **kwargs)


def evaluates_every_second_epoch(hp, model, *args, callbacks, epochs, **kwargs):
    return model.fit(*args, epochs=4, validation_freq=2, **kwargs)


def tells_and_returns_the_best(hp, model, *args, callbacks, **kwargs):
    for callback in callbacks:
        callback.set_model(model)
        for epoch, value in enumerate((0.5, 0.25, 0.75)):
            callback.on_epoch_end(epoch, {"own": value})
    return 0.25


OWN_FITS = {
    "batches": (chooses_its_batches, "val_loss", None),
    "a history": (keeps_callbacks_to_itself, "val_loss", None),
    "a short history": (evaluates_every_second_epoch, "val_loss", None),
    "batches twice": (lambda *a, **k: [chooses_its_batches(*a, **k)] * 2, "val_loss", None),
    "a number": (lambda *a, **k: 0.5, None, 0.5),
    "an integer": (lambda *a, **k: 2, "own:min", 2.0),
    "a mean": (lambda *a, **k: [0.25, {"own": 0.5, "other": 1}], "own:min", 0.375),
    "a dictionary": (lambda *a, **k: {"own": 0.5, "why": "?", "all": [1, 2]}, "own:min", 0.5),
    "the best": (tells_and_returns_the_best, "own:min", 0.25),
}


@pytest.mark.parametrize("kind", OWN_FITS)
@pytest.mark.parametrize("ours", [True, False])
def test_what_a_fit_of_ones_own_returns_counts(kind, ours, tmp_path):
    function, objective, expected = OWN_FITS[kind]
    if objective and ":" in objective:
        objective = keras_tuner.Objective(*objective.split(":"))
    make = tuning.OptunaOracle if ours else ORACLES.RandomSearchOracle
    tuner = tuning.OptimizerTuner(
        make(objective, max_trials=2), Fits(function), directory=tmp_path, note=lambda text: None
    )
    tuner.search(*blobs(0), validation_data=blobs(1), epochs=2, verbose=0)
    trials = list(tuner.oracle.trials.values())
    assert [trial.status for trial in trials] == ["COMPLETED"] * 2
    for trial in trials:
        if expected is not None:
            assert trial.score == expected
        else:
            assert 0.0 < trial.score < 10.0
    if kind in ("batches", "a history", "a short history"):
        (best,) = tuner.get_best_models()
        score = best.evaluate(*blobs(1), verbose=0, return_dict=True)["loss"]
        np.testing.assert_allclose(score, min(trial.score for trial in trials), rtol=1e-4)
    asks = "batches" in kind
    assert all(asks == ("batch_size" in trial.hyperparameters.values) for trial in trials)
    assert asks == ("batch_size" in {hp.name for hp in tuner.oracle.get_space().space})
    if ours:  # and what is read from the database
        tuner.oracle.trials.clear()
        tuner.reload()
        again = tuner.oracle.trials
        for trial in trials:
            assert again[trial.trial_id].hyperparameters.values == trial.hyperparameters.values


def test_a_fit_that_tells_nothing_is_refused_and_one_that_is_not_finite_has_diverged(tmp_path):
    def searched(returned, folder):
        tuner = tuning.OptimizerTuner(
            tuning.OptunaOracle(keras_tuner.Objective("own", "min"), max_trials=2),
            Fits(lambda *args, **kwargs: returned),
            directory=tmp_path / folder,
            note=lambda text: None,
        )
        tuner.search(*blobs(0), validation_data=blobs(1), verbose=0)
        return [(trial.status, trial.message) for trial in tuner.oracle.trials.values()]

    with pytest.raises(keras_tuner.errors.FatalTypeError, match="is None.*forget to return"):
        searched(None, "a")
    with pytest.raises(keras_tuner.errors.FatalValueError, match="own, as one of the keys"):
        searched({"another": 1.0}, "b")
    assert searched(float("nan"), "c") == [("FAILED", "own not finite")] * 2


def test_a_run_trial_of_ones_own_is_refused(tmp_path):
    class Own(tuning.OptimizerTuner):
        def run_trial(self, trial, *args, **kwargs):
            return super().run_trial(trial, *args, **kwargs)

    with pytest.raises(TypeError, match="Own has a `run_trial` of its own.*keras_tuner.Tuner"):
        Own(oracle(), hypermodel(), directory=tmp_path)


@pytest.mark.skipif(IS_JAX, reason="trains many together")
def test_a_worker_asks_for_one_trial_at_a_time(tmp_path):
    asked = ORACLES.RandomSearchOracle("val_loss", max_trials=4)
    tuner = tuning.OptimizerTuner(asked, hypermodel(), directory=tmp_path)
    assert len(tuner._ask()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_chief_and_workers(kind, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(name):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KERAS_BACKEND": keras.config.backend(),
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": "127.0.0.1",
            "KERASTUNER_ORACLE_PORT": str(port),
        }
        script = f"from tests import test_oracle as t; t.part_of_a_cluster{kind, str(tmp_path)}"
        return subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=ROOT)

    processes = [start("chief"), start("worker0"), start("worker1")]
    assert [process.wait(timeout=300) for process in processes] == [0, 0, 0]
    results = json.loads((tmp_path / "results.json").read_text())
    statuses, scores = zip(*results["trials"].values(), strict=True)
    assert statuses == ("COMPLETED",) * 8 and results["ongoing"] == 0
    assert len(set(scores)) == 8 and 0.1 < min(scores) < max(scores) < 10
    assert results["best"]["optimizer"] in ("AdamW", "SGDW")


def test_what_lost_a_trial_is_said_where_it_ran(tmp_path):
    """In a cluster the chief keeps the trials, without what was wrong with them."""

    def build(hp):
        if hp.Int("units", 1, 2) == 2:
            raise OSError("no such wheel")
        return build_model()

    notes = []
    tuner = tuning.OptimizerTuner(
        ORACLES.GridSearchOracle(objective="val_loss"),
        hypermodel(build, ["AdamW"], fix={"learning_rate": 1e-3, "weight_decay": 0.1}),
        strategy="fit",
        directory=tmp_path,
        note=notes.append,
    )
    trials = search(tuner).trials.values()
    assert sorted(t.status for t in trials) == ["COMPLETED", "FAILED"]
    assert notes == ["AdamW trial 1 failed: OSError: no such wheel"]


class Scripted(ORACLES.RandomSearchOracle):
    """Answers as it was told, and then stops; remembers who is left."""

    def __init__(self, answers):
        super().__init__(objective="val_loss", seed=1)
        self.answers = iter(answers)

    def populate_space(self, trial_id):
        return {**super().populate_space(trial_id), "status": next(self.answers, "STOPPED")}


@pytest.mark.parametrize(
    ("strategy", "answers", "trained"),
    [
        ("fit", ["IDLE", "IDLE", "RUNNING", "IDLE", "RUNNING"], 2),
        # Two names ask; one by one only the first goes on; the second has a trial to come.
        # Where there are no programs for many trials one name asks, and is told to stop.
        ("auto", ["RUNNING", "IDLE", "STOPPED", "IDLE", "RUNNING"], 1 + IS_JAX),
    ],
)
def test_idle_is_not_the_end(strategy, answers, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_adamfamily.tuning.tuner.PATIENCE", 0.0)
    monkeypatch.setattr(
        "keras_adamfamily.tuning.together.Together.choose", lambda *_: Choice("fit", "as told")
    )
    tuner = tuning.OptimizerTuner(
        Scripted(answers),
        hypermodel(),
        strategy=strategy,
        lanes=2,
        directory=tmp_path,
        note=lambda text: None,
    )
    asked = search(tuner)
    assert [trial.status for trial in asked.trials.values()] == ["COMPLETED"] * trained
    assert not asked.tuner_ids and not asked.ongoing_trials  # or a chief would wait for ever


def test_a_range_ends_where_its_last_step_does(recwarn):
    """Optuna warns of what KerasTuner means."""
    hp = keras_tuner.HyperParameters()
    hp.Int("units", 4, 18, step=5)
    hp.Float("rate", 0.1, 0.55, step=0.2)
    for own, last in zip(hp.space, (14, 0.5), strict=True):
        assert oracle_module._distribution(own).high == pytest.approx(last)
    assert not [w for w in recwarn.list if "divisible" in str(w.message)]
