"""Exports hold what the study holds, as the programs that they are for read it."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path

import pytest

pytest.importorskip("keras_tuner")

import optuna

from keras_adamfamily.tuning import exports
from keras_adamfamily.tuning.study import Study
from tests.studies import WrittenStudy, landscape, trial


@pytest.fixture(scope="module")
def study():
    return landscape(("AdamW", "SGDW"), trials=12, seeds=2, epochs=8)


@pytest.mark.parametrize("to", exports.EXPORTS)
def test_a_study_is_not_written_over(to, study, tmp_path):
    """Nor is what its database may yet make beside itself, by whatever name it is called."""
    pytest.importorskip("tensorboard" if to == "tensorboard" else "json")
    written = Study.open(tmp_path / "study", study.settings)
    folder, text = written.directory, (tmp_path / "study" / "study.json").read_text()
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "linked.json").hardlink_to(folder / "study.json")
    own = [folder / name for name in ("study.json", "study.db", "study.db-wal", "study.db-shm")]
    own += [folder / "weights", folder / "weights" / "new" / "AdamW.weights.h5"]
    own += [folder / "x" / ".." / "study.json", tmp_path / "link" / "study.json"]
    before = sorted(tmp_path.rglob("*"))
    for path in (*own, tmp_path / "linked.json"):
        with pytest.raises(ValueError, match="the study itself lies there"):
            exports.EXPORTS[to][1](written, path)
        with pytest.raises(ValueError, match="the study itself lies there"):
            written.report(path)
    written.close()
    assert {*tmp_path.rglob("*")} <= {*before}
    assert (folder / "study.json").read_text() == text


def test_a_database_elsewhere_is_not_written_over(study, tmp_path):
    database = tmp_path / "elsewhere.db"
    written = Study.open(tmp_path / "study", study.settings, f"sqlite:///{database}")
    for path in (database, tmp_path / "elsewhere.db-wal"):
        with pytest.raises(ValueError, match="the study itself lies there"):
            exports.to_csv(written, path)
    exports.to_csv(written, tmp_path / "study" / "study.db")  # what is not its own is a name
    written.close()


def test_other_files_are_written_over(study, tmp_path):
    written = Study.open(tmp_path / "study", study.settings)
    for path in (written.directory / "leaderboard.csv", written.directory / "study.db.csv"):
        for _ in range(2):
            exports.to_csv(written, path)
        assert path.read_text().startswith("optimizer,role,")
    written.close()


def test_hyperparameters_may_be_called_anything(tmp_path):
    """Also as a column is, and texts may look like formulas."""
    given = {"n": 3, "mean": 0.25, "score": "=x"}
    written = WrittenStudy([trial(score=0.5, hyperparameters=given)], directory=tmp_path)
    written._write_leaderboard()
    exports.to_csv(written, tmp_path / "a.csv")
    rows = []
    for name in ("leaderboard.csv", "a.csv"):
        with open(tmp_path / name, newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    board, listed = rows
    assert (board["n"], board["mean"], board["score"]) == ("0", "", "'=x")
    assert (board["hyperparameter n"], board["hyperparameter mean"]) == ("3", "0.25")
    assert (listed["score"], listed["hyperparameter score"], listed["n"]) == ("0.5", "'=x", "3")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_optuna_export_that_cannot_be_made_names_the_path(study):
    with pytest.raises(OSError) as caught:
        exports.to_optuna(study, Path("/proc/x.db"))
    assert caught.value.filename in ("/proc/x.db", Path("/proc/x.db"))
    assert caught.value.strerror


def test_csv_has_every_trial(study, tmp_path):
    exports.to_csv(study, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(study.trials) == 28
    for row, trial_ in zip(rows, study.trials, strict=True):
        assert row["score"] == ("" if trial_.score is None else repr(trial_.score))
        assert float(row["learning_rate"]) == trial_.short_hyperparameters["learning_rate"]
        assert (row["optimizer"], row["status"]) == (trial_.optimizer, trial_.status)


def test_csv_has_no_formulas_and_no_column_twice(tmp_path):
    values = {"score": 3, "=1+1": "@SUM(A1)", "note": "-5", "rate": -5.0}
    exports.to_csv(WrittenStudy([trial(hyperparameters=values)]), tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        header, row = csv.reader(file)
    assert len(set(header)) == len(header)
    found = dict(zip(header, row, strict=True))
    assert (found["score"], found["hyperparameter score"]) == ("0.5", "3")
    assert (found["'=1+1"], found["note"], found["rate"]) == ("'@SUM(A1)", "'-5", "-5.0")


def test_json_has_everything(study, tmp_path):
    exports.to_json(study, tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert found["verdict"] == study.verdict()
    assert found["settings"]["objective"] == "val_accuracy"
    assert found["trials"][3]["curves"] == study.trials[3].curves
    assert len(found["leaderboard"]) == 2 and found["comparisons"][0]["paired"]


def test_optuna_reads_its_export(study, tmp_path):
    path = tmp_path / "a? 100%20.db"
    exports.to_optuna(study, path)
    assert list(tmp_path.iterdir()) == [path]
    plain = path.rename(tmp_path / "a.db")
    loaded = optuna.load_study(study_name="AdamW", storage=f"sqlite:///{plain}")
    plain.rename(path)
    trials = study.scoring.of("search", "AdamW")
    best = max((t for t in trials if t.status == "ok"), key=lambda t: t.score)
    assert loaded.best_value == best.score
    assert loaded.best_params == best.short_hyperparameters
    states = {"ok": "COMPLETE", "pruned": "PRUNED", "diverged": "FAIL"}
    assert [t.state.name for t in loaded.trials] == [states[t.status] for t in trials]
    assert list(loaded.trials[0].intermediate_values.values()) == trials[0].curves["val_accuracy"]
    assert (loaded.direction.name, loaded.trials[0].user_attrs["seed"]) == ("MAXIMIZE", 0)
    with pytest.raises(FileExistsError, match="is there already"):
        exports.to_optuna(study, path)


def test_optuna_has_the_times_and_the_integers(tmp_path):
    """A number of layers is one, and a trial lasted as long as it did."""
    layers, ends = (1, 3, 2), (1.8e9, None, 1.8e9 + 7.0)
    trials = [
        trial(
            number=number,
            hyperparameters={"layers": layers[number], "AdamW/learning_rate": 0.01 * (number + 1)},
            seconds=2.5,
            finished=ends[number],
        )
        for number in range(3)
    ]
    exports.to_optuna(WrittenStudy(trials), tmp_path / "a.db")
    loaded = optuna.load_study(study_name="AdamW", storage=f"sqlite:///{tmp_path / 'a.db'}")
    assert [type(t.params["layers"]) for t in loaded.trials] == [int] * 3
    assert [t.params["layers"] for t in loaded.trials] == list(layers)
    distributions = loaded.trials[0].distributions
    assert distributions["layers"] == optuna.distributions.IntDistribution(1, 3)
    assert isinstance(distributions["learning_rate"], optuna.distributions.FloatDistribution)
    for exported, end in zip(loaded.trials, ends, strict=True):
        if end is not None:  # what was recorded before there were times has none
            assert exported.datetime_complete == datetime.datetime.fromtimestamp(end)
            assert exported.duration == datetime.timedelta(seconds=2.5)


def test_tensorboard_shows_the_trials(study, tmp_path):
    """Through the code behind TensorBoard's HPARAMS and SCALARS tabs."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import (
        api_pb2,
        backend_context,
        get_experiment,
        list_session_groups,
    )

    exports.to_tensorboard(study, tmp_path / "logs")
    with pytest.raises(FileExistsError, match="is there already"):
        exports.to_tensorboard(study, tmp_path / "logs")
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path / "logs")).Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path / "logs"))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    experiment = get_experiment.Handler(
        RequestContext(), context, "e", api_pb2.GetExperimentRequest()
    ).run()
    assert {"learning_rate", "weight_decay", "optimizer", "role", "status"} <= {
        info.name for info in experiment.hparam_infos
    }
    statuses = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_UNKNOWN]
    name = api_pb2.MetricName(tag="val_accuracy")
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=statuses, start_index=0, slice_size=1000, col_params=[]
    )
    groups = (
        list_session_groups.Handler(RequestContext(), context, "e", request).run().session_groups
    )
    assert len(groups) == 28
    sessions = {session.name: (group, session) for group in groups for session in group.sessions}
    for t in study.trials:
        group, session = sessions[f"{t.optimizer}-{t.role}-{t.number}"]
        rate = group.hparams["learning_rate"].number_value
        assert rate == t.short_hyperparameters["learning_rate"]
        values = [m.value for m in session.metric_values if m.name == name]
        assert values == pytest.approx([t.curves["val_accuracy"][-1]])
        lost = t.status == "diverged"
        wanted = api_pb2.STATUS_FAILURE if lost else api_pb2.STATUS_SUCCESS
        assert session.status == wanted
