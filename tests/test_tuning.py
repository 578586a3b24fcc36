"""The tuner: fair, repeatable, resumable, honest about failures; its report is safe to open."""

from __future__ import annotations

import dataclasses
import gc
import math
import shutil
import sqlite3
import statistics
import weakref

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

import keras_tuner
from rich.console import Console

import keras_adamfamily as kaf
from keras_adamfamily import registry, tuning
from keras_adamfamily.tuning.leaderboard import verdict
from keras_adamfamily.tuning.report import render
from keras_adamfamily.tuning.trial import facts_of, without_old_objects
from tests.studies import WrittenStudy

QUIET = Console(quiet=True)
LENGTH = {"batch_size": 16, "dataset_size": 64, "epochs": 2}
#: Strategies on this backend; and the same where `fit` takes too long for every run.
STRATEGIES = ["fit", *(["map"] if keras.config.backend() == "jax" else [])]
SLOW_BY_FIT = [*STRATEGIES[1:], pytest.param("fit", marks=pytest.mark.slow)]


def blobs(seed=0, examples=64):
    """Three overlapping clouds of points."""
    random = np.random.default_rng(seed)
    y = np.arange(examples) % 3
    x = np.eye(3)[y] + random.normal(scale=0.5, size=(examples, 3))
    return x.astype("float32"), y


def build_model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model


def tune(directory, build=build_model, data=None, **changes):
    settings = {
        "optimizers": ("AdamW", "SGDW"),
        "max_trials": 4,
        "epochs": 2,
        "batch_size": 16,
        "finalist_seeds": 2,
        "objective": "val_loss",
        "console": QUIET,
    }
    train, validation = data or (blobs(0), blobs(1))
    return tuning.tune(build, train, validation, directory=directory, **{**settings, **changes})


def what_matters(study):
    """The trials without what may differ between two runs of the same search."""
    chance = {"seconds": 0.0, "memory": None, "finished": None, "worker": None}
    return [dataclasses.replace(trial, **chance) for trial in study.trials]


def copy_of(study, directory):
    """A copy of a study's folder, to go on with."""
    study.close()
    directory.mkdir(exist_ok=True)
    for name in ("study.json", "study.db"):
        shutil.copy(study.directory / name, directory)
    return directory


def forget(directory, group, numbers, state="RUNNING"):
    """Makes trials look as they do when their process was killed amid them."""
    with sqlite3.connect(directory / "study.db") as database:
        for number in numbers:
            (trial,) = database.execute(
                "SELECT trial_id FROM trials JOIN studies USING (study_id) "
                "WHERE study_name LIKE ? AND number = ?",
                (f"%/{group}", number),
            ).fetchone()
            database.execute(
                "UPDATE trials SET state = ?, datetime_complete = NULL WHERE trial_id = ?",
                (state, trial),
            )
            for table in ("trial_values", "trial_intermediate_values"):
                database.execute(f"DELETE FROM {table} WHERE trial_id = ?", (trial,))
            database.execute(
                "DELETE FROM trial_user_attributes WHERE trial_id = ? AND key = 'result'", (trial,)
            )
    database.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tune(tmp_path_factory.mktemp("study") / "run")


# Fairness.


def test_each_optimizer_gets_the_same_trials(study):
    searched = {name: study.scoring.of("search", name) for name in ("AdamW", "SGDW")}
    assert [len(trials) for trials in searched.values()] == [2, 2]
    for a, b in zip(*searched.values(), strict=True):
        assert a.seed == b.seed
        assert place(study, a) == pytest.approx(place(study, b))
    assert place(study, searched["AdamW"][0]) != pytest.approx(place(study, searched["AdamW"][1]))


def place(study, trial):
    """Where a trial lies in its ranges, from 0 to 1 on a log scale."""
    values = trial.short_hyperparameters
    return [
        math.log(values[name] / low) / math.log(high / low)
        for name, (low, high) in study.space.ranges[trial.optimizer].items()
    ]


def test_rounds_the_share_of_each_optimizer_down_and_says_so(tmp_path):
    console = Console(record=True, width=120)
    study = tune(tmp_path, max_trials=3, epochs=1, finalist_seeds=0, console=console)
    assert [row.trials for row in study.leaderboard()] == [1, 1]
    assert "max_trials=3 is not a multiple of 2: every optimizer gets 1" in console.export_text()


def test_refuses_an_unequal_number_of_searched_values(tmp_path):
    space = tuning.SearchSpace(["AdamW", "SGDW"], fix={"AdamW/weight_decay": 0.0})
    with pytest.raises(ValueError, match="same number of searched values.*AdamW 1, SGDW 2"):
        tune(tmp_path, optimizers=space)


def test_score_is_the_objective_after_the_last_epoch(study):
    for trial in study.trials:
        assert trial.status == "ok"
        assert trial.epoch == 2
        assert trial.score == trial.curves["val_loss"][-1]


def test_trial_is_what_a_plain_fit_gives(study):
    trial = study.trials[1]
    keras.backend.clear_session()
    keras.utils.set_random_seed(trial.seed)
    model = build_model()
    optimizer = study.space.optimizer(trial.optimizer, trial.optimizer_values, **LENGTH)
    model.compile(optimizer, loss=model.loss, metrics=["accuracy"])
    history = model.fit(
        *blobs(0), validation_data=blobs(1), epochs=2, batch_size=16, verbose=0
    ).history
    assert trial.curves["val_loss"] == pytest.approx(history["val_loss"], rel=1e-6)


def test_leaderboard_is_the_mean_over_fresh_seeds(study):
    rows = study.leaderboard()
    assert [row.rank for row in rows] == [1, 2]
    assert rows[0].mean < rows[1].mean
    searched = {trial.seed for trial in study.trials if trial.role == "search"}
    for row in rows:
        finals = [t for t in study.trials if t.role == "final" and t.optimizer == row.optimizer]
        scores = [trial.score for trial in finals]
        assert len({trial.seed for trial in finals} - searched) == row.n == 2
        assert row.mean == pytest.approx(statistics.fmean(scores))
        assert row.std == pytest.approx(statistics.stdev(scores))
        best = min(study.scoring.of("search", row.optimizer), key=lambda trial: trial.score)
        assert finals[0].hyperparameters == best.hyperparameters
        assert row.search_score == best.score


# Repeating and resuming.


def test_same_seed_same_trials_and_zero_is_a_seed(study, tmp_path):
    again = tune(tmp_path / "again", seed=0)
    assert what_matters(again) == what_matters(study)
    other = tune(tmp_path / "other", seed=1, max_trials=2, finalist_seeds=0, epochs=1)
    used = {value for trial in study.trials for value in place(study, trial)}
    fresh = {value for trial in other.trials for value in place(other, trial)}
    assert not used & fresh


@pytest.mark.parametrize(
    "lost", [{"AdamW": [1]}, {"SGDW": [0, 1]}, {"SGDW": [1], "AdamW on fresh seeds": [0]}]
)
def test_goes_on_where_it_was_killed(lost, study, tmp_path):
    copy_of(study, tmp_path)
    for group, numbers in lost.items():
        forget(tmp_path, group, numbers)
    resumed = tune(tmp_path)
    assert what_matters(resumed) == what_matters(study)
    assert (tmp_path / "best.json").read_bytes() == (study.directory / "best.json").read_bytes()


def test_finished_study_is_not_run_again_but_can_grow(study, tmp_path):
    copy_of(study, tmp_path)
    again = tune(tmp_path)
    assert again.trials == study.trials  # the times too
    grown = tune(tmp_path, max_trials=6)
    assert [row.trials for row in grown.leaderboard()] == [3, 3]
    for name in ("AdamW", "SGDW"):
        assert grown.scoring.of("search", name)[:2] == study.scoring.of("search", name)


def test_refuses_other_settings(study):
    with pytest.raises(ValueError, match="other settings: its seed is 0, now it is 7"):
        tune(study.directory, seed=7)
    with pytest.raises(ValueError, match="trials_per_optimizer is 2, now it is 1"):
        tune(study.directory, max_trials=2)
    assert tuning.Study(study.directory).trials == study.trials


def test_refuses_other_data(study):
    with pytest.raises(ValueError, match="its data is"):
        tuning.tune(
            build_model,
            blobs(5),
            blobs(1),
            directory=study.directory,
            optimizers=("AdamW", "SGDW"),
            max_trials=4,
            epochs=2,
            batch_size=16,
            finalist_seeds=2,
            objective="val_loss",
            console=QUIET,
        )


def test_refuses_a_folder_with_other_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds files that are not a study"):
        tune(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_study_of_a_folder_without_one(tmp_path):
    with pytest.raises(ValueError, match="must be the folder of a study"):
        tuning.Study(tmp_path)


# What goes wrong in a trial is a result.


def test_divergence_is_recorded_and_the_search_goes_on(tmp_path):
    space = tuning.SearchSpace(["SGDW", "AdamW"], ranges={"SGDW/learning_rate": (1e38, 3e38)})
    study = tune(tmp_path, optimizers=space, max_trials=8, epochs=1, finalist_seeds=0)
    lost = study.scoring.of("search", "SGDW")
    assert [trial.status for trial in lost] == ["diverged"] * 4
    assert all(trial.epoch == 1 and trial.score is None for trial in lost)
    assert all("not finite" in trial.cause for trial in lost)
    assert [trial.status for trial in study.scoring.of("search", "AdamW")] == ["ok"] * 4
    assert [row.optimizer for row in study.leaderboard()] == ["AdamW", "SGDW"]
    assert study.leaderboard()[1].diverged == 4
    assert type(study.best_optimizer()) is kaf.AdamW
    assert "only AdamW has a result" in study.verdict()
    assert "diverged" in (tmp_path / "report.html").read_text("utf-8").split("<body>")[1]


def test_exception_is_recorded_and_the_search_goes_on(tmp_path):
    def build(hp):
        if hp.Choice("danger", [0.0, 1.0]) > 0.5:
            raise ValueError("the reactor\nmelted")
        return build_model()

    study = tune(tmp_path, build, max_trials=8, epochs=1, finalist_seeds=1)
    trials = [trial for trial in study.trials if trial.role == "search"]
    assert {trial.status for trial in trials} == {"ok", "failed"}
    for trial in trials:
        assert (trial.status == "failed") == (trial.hyperparameters["danger"] > 0.5)
        assert trial.cause == (None if trial.status == "ok" else "ValueError: the reactor")


def test_broken_build_model_stops_before_anything_is_written(tmp_path):
    def broken():
        raise KeyError("no such layer")

    with pytest.raises(RuntimeError, match="`build_model` gave no model that trains: KeyError"):
        tune(tmp_path / "run", broken)
    assert not (tmp_path / "run").exists()


def test_wrong_shapes_stop_before_the_search(tmp_path):
    def wrong():
        model = keras.Sequential([keras.Input((99,)), keras.layers.Dense(3)])
        model.compile(loss="mse")
        return model

    with pytest.raises(RuntimeError, match="gave no model that trains"):
        tune(tmp_path, wrong)


def test_model_that_is_not_new(tmp_path):
    model = build_model()
    with pytest.raises(RuntimeError, match="same model twice"):
        tune(tmp_path, lambda: model)


# Arguments.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizers": ("AdamQ",)}, "Unknown optimizer 'AdamQ'"),
        ({"optimizers": "AdamW"}, "non-empty list of names"),
        ({"optimizers": ("AdamW", "adamw")}, "must not repeat"),
        ({"max_trials": 1}, "`max_trials` must be an integer >= 2"),
        ({"epochs": 0}, "`epochs` must be an integer >= 1"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"finalist_seeds": -1}, "`finalist_seeds`"),
        ({"seed": -1}, "`seed`"),
        ({"objective": "val_beauty"}, "'val_beauty:max'"),
        ({"objective": "val_beauty:max"}, "must be one of loss, val_loss|must be one of accuracy"),
    ],
)
def test_wrong_arguments(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tune(tmp_path, **changes)


@pytest.mark.parametrize(
    "train", [None, (1, 2), ([[1.0]], [1, 2]), (np.zeros((0, 3)), np.zeros(0)), (["a", None], [1])]
)
def test_wrong_data(tmp_path, train):
    with pytest.raises(ValueError, match="`train` must be"):
        tuning.tune(build_model, train, blobs(1), directory=tmp_path, console=QUIET)


# The search space.


def test_space_follows_the_registry():
    space = tuning.SearchSpace(["adamw", "sgdw"])
    hp = keras_tuner.HyperParameters()
    name, values = space.sample(hp)
    assert (name, set(values)) == ("AdamW", {"learning_rate", "weight_decay"})
    names = [parameter.name for parameter in hp.space]
    assert names[0] == "optimizer"
    assert names[1:] == [
        f"{optimizer}/{argument}"
        for optimizer in ("AdamW", "SGDW")
        for argument in ("learning_rate", "weight_decay")
    ]
    rate = next(parameter for parameter in hp.space if parameter.name == "SGDW/learning_rate")
    assert (rate.min_value, rate.max_value) == registry.find("SGDW").learning_rate
    assert rate.sampling == "log"
    hp = keras_tuner.HyperParameters()
    hp.values = {"optimizer": "SGDW", "SGDW/learning_rate": 0.25, "SGDW/weight_decay": 0.5}
    assert space.sample(hp) == ("SGDW", {"learning_rate": 0.25, "weight_decay": 0.5})


def test_space_changes_ranges_and_fixes_values():
    space = tuning.SearchSpace(
        ["AdamW", "SGDW"],
        ranges={"learning_rate": (1e-3, 1e-2), "adamw/one_minus_beta_2": (1e-4, 1e-1)},
        fix={"weight_decay": 0.0, "AdamW/beta_1": 0.8},
    )
    assert space.ranges["SGDW"] == {"learning_rate": (1e-3, 1e-2)}
    values = {"learning_rate": 2e-3, "one_minus_beta_2": 0.01}
    optimizer = space.optimizer("AdamW", values, **LENGTH)
    config = optimizer.get_config()
    assert (config["beta_1"], config["beta_2"]) == (0.8, pytest.approx(0.99))
    assert optimizer.weight_decay.rate == 0.0
    assert tuning.SearchSpace.from_config(space.get_config()).get_config() == space.get_config()


def test_what_all_share_can_be_fixed():
    space = tuning.SearchSpace(["AdamW", "SGDW"], fix={"batch_size": 8, "schedule": "cosine"})
    same = tuning.SearchSpace(["AdamW", "SGDW"], batch_size=[8], schedule="cosine")
    assert space.get_config() == same.get_config()
    assert space.batch_size({}, 32) == 8


@pytest.mark.skipif(keras.config.backend() != "jax", reason="trials share a program on JAX")
def test_what_cannot_be_tuned_is_no_range():
    with pytest.raises(ValueError, match="Adagrad does not accept.*initial_accumulator_value"):
        tuning.SearchSpace(["Adagrad"], ranges={"initial_accumulator_value": (1e-3, 1e-1)})


def test_weight_decay_is_normalized():
    optimizer = tuning.SearchSpace(["AdamW"]).optimizer(
        "AdamW", {"learning_rate": 1e-3, "weight_decay": 0.05}, **LENGTH
    )
    assert optimizer.weight_decay == kaf.Normalized(0.05, **LENGTH)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranges": {"learning_rate": (1e-2, 1e-3)}}, "low < high"),
        ({"ranges": {"learning_rate": 0.1}}, "low < high"),
        ({"ranges": {"warmth": (1e-3, 1e-2)}}, "AdamW does not accept.*warmth"),
        ({"fix": {"beta_1": 2.0}}, "AdamW does not accept.*beta_1"),
        ({"fix": {"beta_1": None}}, "must be a number"),
        ({"fix": {"SGDW/momentum": 0.5}}, "SGDW is not searched"),
        ({"ranges": {"batch_size": (16, 64)}}, "all optimizers share it. Pass `batch_size`"),
        ({"ranges": {"AdamW/schedule": (1, 2)}}, "all optimizers share it. Pass `schedule`"),
        ({"fix": {"adamw/batch_size": 8}}, "all optimizers share it. Pass `batch_size`"),
        ({"fix": {"batch_size": 0.5}}, "`batch_size` must be an integer >= 1"),
        ({"fix": {"batch_size": 8}, "batch_size": [8, 16]}, "'batch_size' is in `fix` and an arg"),
        ({"fix": {"schedule": "cosin"}}, "`schedule` must be 'constant', 'cosine'"),
        ({"fix": {"schedule": "cosine"}, "schedule": "warm_restarts"}, "'schedule' is in `fix`"),
        (
            {"ranges": {"one_minus_beta_2": (1e-3, 1e-1), "adamw/beta_2": (0.9, 0.99)}},
            "'beta_2' of AdamW is there twice, also as 'one_minus_beta_2'",
        ),
        (
            {"ranges": {"one_minus_beta_2": (1e-3, 1e-1)}, "fix": {"beta_2": 0.5}},
            "'beta_2' of AdamW is there twice",
        ),
        (
            {"ranges": {"learning_rate": (1e-3, 1e-1)}, "fix": {"AdamW/learning_rate": 0.5}},
            "'learning_rate' of AdamW is in `ranges` and in `fix`",
        ),
        ({"starting_points": {"learning_rate": 1e-3}}, "list of dictionaries.*'learning_rate'"),
        (
            {"starting_points": [{"optimizer": "SGDW", "learning_rate": 0.1}]},
            "has one of SGDW, which is not searched. The optimizers of this space: AdamW",
        ),
        ({"fix": {"weight_decay": -1}}, "does not accept.*of learning_rate=.*weight_decay=-1:"),
        ({"schedule": kaf.InverseSqrt(0.1)}, "`schedule` must be 'constant'.*InverseSqrt"),
        ({"batch_size": "many"}, "`batch_size` must be an integer"),
    ],
)
def test_wrong_space(arguments, message):
    with pytest.raises(ValueError, match=message):
        tuning.SearchSpace(["AdamW"], **arguments)


# The hypermodel in stock tuners.


@pytest.mark.parametrize(
    "tuner",
    [
        "RandomSearch",
        *(pytest.param(t, marks=pytest.mark.slow) for t in ("BayesianOptimization", "Hyperband")),
    ],
)
def test_hypermodel_runs_in_stock_tuners(tmp_path, tuner):
    space = tuning.SearchSpace(["AdamW", "SGDW"])
    hypermodel = tuning.OptimizerHyperModel(build_model, space, **LENGTH)
    size = {"max_epochs": 2, "factor": 2} if tuner == "Hyperband" else {"max_trials": 3}
    search = getattr(keras_tuner, tuner)(
        hypermodel, objective="val_loss", seed=1, directory=tmp_path, project_name="p", **size
    )
    fit = {} if tuner == "Hyperband" else {"epochs": 1}
    search.search(*blobs(0), validation_data=blobs(1), batch_size=16, verbose=0, **fit)
    best = search.get_best_hyperparameters()[0]
    model = search.hypermodel.build(best)
    name = best["optimizer"]
    assert type(model.optimizer).__name__ == name
    assert float(model.optimizer.learning_rate) == pytest.approx(best[f"{name}/learning_rate"])
    assert {trial.status for trial in search.oracle.trials.values()} == {"COMPLETED"}


def test_hypermodel_keeps_everything_but_the_optimizer():
    def own_loss(y, prediction):
        return keras.ops.mean(keras.ops.abs(y - prediction), axis=-1)

    def build():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(
            "rmsprop", loss=own_loss, metrics=["mae"], weighted_metrics=["mse"], run_eagerly=True
        )
        return model

    hypermodel = tuning.OptimizerHyperModel(build, tuning.SearchSpace(["sgdw"]), **LENGTH)
    model = hypermodel.build(keras_tuner.HyperParameters())
    assert type(model.optimizer) is kaf.SGDW
    assert model.loss is own_loss
    assert model.run_eagerly
    x, y = blobs()
    logs = model.fit(x, y.astype("float32")[:, None], verbose=0).history
    assert {"loss", "mae", "mse"} <= set(logs)


def test_hypermodel_needs_a_loss():
    def build():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    hp = keras_tuner.HyperParameters()
    with pytest.raises(ValueError, match="not compiled"):
        tuning.OptimizerHyperModel(build, **LENGTH).build(hp)
    model = tuning.OptimizerHyperModel(build, loss="mse", metrics=["mae"], **LENGTH).build(hp)
    assert model.loss == "mse"


@pytest.mark.parametrize("wrong", [None, "model", lambda a, b: None])
def test_hypermodel_needs_a_function(wrong):
    with pytest.raises(TypeError, match="`build_model` must"):
        tuning.OptimizerHyperModel(wrong, **LENGTH)


def test_hypermodel_needs_a_model():
    with pytest.raises(TypeError, match="must return a keras.Model"):
        hypermodel = tuning.OptimizerHyperModel(lambda: 3, **LENGTH)
        hypermodel.build(keras_tuner.HyperParameters())


# The files of a study.


def test_best_json_is_the_best_optimizer(study):
    loaded = kaf.get(study.directory / "best.json")
    best = study.best_optimizer()
    row = study.leaderboard()[0]
    assert type(loaded).__name__ == row.optimizer
    assert loaded.get_config() == best.get_config()
    assert float(loaded.learning_rate) == pytest.approx(row.hyperparameters["learning_rate"])
    pasted = eval(study.best_code(), {"kaf": kaf})
    assert {**pasted.get_config(), "name": best.name} == best.get_config()


def test_files_hold_no_paths(study):
    assert {path.name for path in study.directory.iterdir()} == {
        "best.json",
        "leaderboard.csv",
        "report.html",
        "study.db",
        "study.db.locks",
        "study.json",
        "weights",
    }
    for path in study.directory.rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".db", ".csv", ".html", ".h5", ""}
            assert str(study.directory.parent).encode() not in path.read_bytes()


def test_report_is_a_function_of_the_folder(study, tmp_path):
    again = tuning.Study(study.directory)
    assert render(again) == (study.directory / "report.html").read_text("utf-8")
    assert again.report(tmp_path / "other.html").read_text("utf-8") == render(study)
    body = render(study).split("<body>")[1]
    for row in study.leaderboard():
        assert f"{row.mean:.4f} ± {row.std:.4f}</td><td>2</td>" in body
    assert "http" not in body
    assert "<link" not in body


HOSTILE = "<script>alert('x')</script>"


def written_study(directory, scores, direction="max", statuses=None):
    """A study as if it had run: `scores` gives those on fresh seeds, by optimizer."""
    settings = dataclasses.replace(
        WrittenStudy([], optimizers=list(scores)).settings,
        objective=HOSTILE,
        direction=direction,
        trials_per_optimizer=1,
        epochs=1,
        batch_size=1,
        dataset_size=10,
        finalist_seeds=max(map(len, scores.values())),
        build_model=f"module.{HOSTILE}",
        parameters=1,
        data="",
        backend=keras.config.backend(),
    )
    study = tuning.Study.open(directory, settings)
    for optimizer, finals in scores.items():
        for number, score in enumerate([0.5, *finals]):
            status = "ok" if score is not None else "failed"
            study.add(
                tuning.TrialResult(
                    optimizer=optimizer,
                    role="search" if number == 0 else "final",
                    number=max(number - 1, 0),
                    seed=number,
                    hyperparameters={
                        f"{optimizer}/learning_rate": 0.01,
                        f"{optimizer}/weight_decay": 0.1,
                        HOSTILE: 1.0,
                    },
                    status=status,
                    score=score,
                    epoch=1,
                    cause=None if status == "ok" else f"ValueError: {HOSTILE}",
                    seconds=1.0,
                    curves={HOSTILE: [score]},
                    facts={HOSTILE: HOSTILE},
                )
            )
    return study


def test_report_escapes_what_it_shows(tmp_path):
    study = written_study(tmp_path, {"AdamW": [0.5, 0.6, None], "SGDW": [0.5, 0.6, 0.7]})
    page = render(study)
    assert HOSTILE not in page
    assert "&lt;script&gt;alert" in page


def test_report_shows_what_the_optimizers_found(tmp_path):
    space = tuning.SearchSpace(["AdamW", "SWATS"], fix={"SWATS/switch_at": 3})
    study = tune(tmp_path / "run", optimizers=space, max_trials=2, finalist_seeds=1)
    for trial in study.trials:
        if trial.optimizer == "AdamW":
            assert trial.facts == {}
            continue
        assert trial.facts["switch step"] == 3 and trial.facts["SGD rate"] > 0
        row = f"<td>SWATS</td><td>{trial.role} 0</td><td>{trial.score:.4g}</td><td>3</td>"
        assert f"{row}<td>{trial.facts['SGD rate']:.4g}</td>" in render(study)
    assert tuning.Study(study.directory).trials == study.trials


def test_facts_of_any_optimizer():
    class Curious(kaf.SGD):
        def facts(self):
            return {"step": 3, "rate": math.inf, "note": HOSTILE}

    facts = {"step": 3, "rate": None, "note": HOSTILE}
    assert facts_of(Curious()) == facts
    assert facts_of(keras.optimizers.LossScaleOptimizer(Curious())) == facts
    assert facts_of(keras.optimizers.SGD()) == facts_of(kaf.SGD()) == {}


def test_verdict_names_a_winner_only_if_the_runs_tell(tmp_path):
    near = written_study(tmp_path / "near", {"AdamW": [0.90, 0.91, 0.92], "SGDW": [0.9, 0.92, 0.9]})
    assert near.verdict().startswith("No clear winner: AdamW and SGDW cannot be told apart")
    far = written_study(
        tmp_path / "far", {"AdamW": [0.50, 0.51, 0.52] * 2, "SGDW": [0.9, 0.91, 0.92] * 2}
    )
    assert far.verdict().startswith("SGDW wins, ahead of AdamW")
    same = written_study(tmp_path / "same", {"AdamW": [0.9, 0.9], "SGDW": [0.9, 0.9]})
    assert same.verdict().startswith("No clear winner")
    one = written_study(tmp_path / "one", {"AdamW": [0.9], "SGDW": [0.8]})
    assert "one fresh seed" in one.verdict()
    alone = written_study(tmp_path / "alone", {"AdamW": [0.9, 0.8]})
    assert "only AdamW" in alone.verdict()


def test_direction_turns_the_order(tmp_path):
    scores = {"AdamW": [0.50, 0.51, 0.52] * 2, "SGDW": [0.9, 0.91, 0.92] * 2}
    study = written_study(tmp_path, scores, direction="min")
    assert [row.optimizer for row in study.leaderboard()] == ["AdamW", "SGDW"]


def test_configuration_lost_on_a_fresh_seed_does_not_win(tmp_path):
    study = written_study(tmp_path, {"AdamW": [0.9, 0.9, None], "SGDW": [0.5, 0.5, 0.5]})
    rows = study.leaderboard()
    assert [row.optimizer for row in rows] == ["SGDW", "AdamW"]
    assert (rows[1].mean, rows[1].finals_lost, rows[1].n) == (None, 1, 3)
    assert verdict(rows).startswith("SGDW wins: no other optimizer")


def test_digits_task_is_what_it_says():
    task = tuning.TASKS["digits"]
    (x_train, y_train), (x_validation, y_validation) = task.load_data()
    assert x_train.shape == (1437, 64)
    assert x_validation.shape == (360, 64)
    assert 0.0 <= x_train.min() and x_train.max() <= 1.0
    assert np.bincount(y_validation).min() >= 34
    assert not {row.tobytes() for row in x_train} & {row.tobytes() for row in x_validation}
    assert task.build_model().count_params() == 26_122


def test_collections_leave_out_what_was_there_before():
    gc.unfreeze()  # what the tests have frozen
    try:
        with without_old_objects():
            assert gc.get_freeze_count() > 10_000
            model = build_model()
            model.myself, gone = model, weakref.ref(model)
            del model
            with without_old_objects():
                gc.collect()
            assert gone() is None and gc.get_freeze_count() > 10_000
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()
