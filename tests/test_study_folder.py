"""A study's folder: what is lost or cannot be written is said, and nothing is made up or left."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import shutil

import pytest

pytest.importorskip("keras_tuner")

from rich.console import Console

from keras_adamfamily import _version, tuning
from keras_adamfamily.tuning import progress, storage
from keras_adamfamily.tuning import study as study_module
from keras_adamfamily.tuning.study import Study
from tests.studies import finals, landscape


@pytest.fixture
def written():
    return landscape(("AdamW", "SGDW"), trials=2, seeds=1)


@pytest.fixture
def folder(written, tmp_path):
    study = Study.open(tmp_path / "what? 100 %23#", written.settings)
    for trial in written.trials:
        study.add(trial)
    study.write()
    study.close()
    return study.directory


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def lose_database(folder):
    for path in folder.glob("study.db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_lost_database_is_not_taken_for_an_empty_one(folder, written):
    lose_database(folder)
    before = contents(folder)
    for look in (Study, lambda folder: Study.open(folder, written.settings)):
        with pytest.raises(ValueError, match="trials of the study are not there: .* is missing"):
            look(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("other", ["nothing", "empty tables", "a study of the same name"])
def test_another_database_is_not_taken_for_the_own_one(other, folder, written, tmp_path):
    """What is there would be replaced by the results of no trials, or of other ones."""
    lose_database(folder)
    database = folder / "study.db"
    if other == "nothing":
        database.touch()
    elif other == "empty tables":
        storage.Storage(f"sqlite:///{tmp_path / 'empty.db'}", "else", "max").close()
        shutil.copy(tmp_path / "empty.db", database)
    else:
        changed = dataclasses.replace(written.settings, objective="val_loss", direction="min")
        Study.open(tmp_path / "b" / folder.name, changed).close()
        shutil.copy(tmp_path / "b" / folder.name / "study.db", database)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".db"}
    message = "its objective is 'val_loss', now it is" if "name" in other else "does not hold the"
    for look in (Study, lambda folder: Study.open(folder, written.settings)):
        with pytest.raises(ValueError, match=message):
            look(folder)
    after = {name: (folder / name).read_bytes() for name in before}
    assert after == before and (folder / "best.json").exists()


def test_a_name_that_a_database_knows_already(written, tmp_path):
    """The folder is left empty, so that another name, or another database, can be chosen."""
    url = storage.sqlite_url(tmp_path / "common.db")
    space = written.settings.space
    ranges = {**space["ranges"], "SGDW": {**space["ranges"]["SGDW"], "momentum": [0.5, 0.9]}}
    changed = dataclasses.replace(written.settings, space={**space, "ranges": ranges})
    Study.open(tmp_path / "a" / "mine", written.settings, url).close()
    with pytest.raises(ValueError, match="another study named 'mine'.*another name") as caught:
        Study.open(tmp_path / "b" / "mine", changed, url)
    assert "{'ranges': {'SGDW': {'momentum': [0.5, 0.9]}}}" in str(caught.value)
    assert not [*(tmp_path / "b" / "mine").iterdir()]
    Study.open(tmp_path / "b" / "mine", changed).close()


def test_more_trials_asked_for_elsewhere_are_the_same_study(written, tmp_path):
    url = storage.sqlite_url(tmp_path / "common.db")
    more = dataclasses.replace(written.settings, trials_per_optimizer=9, block=2)
    first = Study.open(tmp_path / "a" / "mine", written.settings, url)
    Study.open(tmp_path / "b" / "mine", more, url).close()
    first.close()
    again = Study(tmp_path / "a" / "mine")
    assert again.settings.trials_per_optimizer == written.settings.trials_per_optimizer
    assert again.storage.settings()["trials_per_optimizer"] == 9
    again.close()
    with pytest.raises(ValueError, match="its trials_per_optimizer is 9, now it is 2"):
        Study.open(tmp_path / "a" / "mine", written.settings, url)


@pytest.mark.parametrize("name", ["study.json", "study.db"])
def test_no_file_of_another_study_is_written_over(name, folder, written):
    with pytest.raises(ValueError, match="another study lies there"):
        written.report(folder / name)


def test_a_study_that_was_begun_and_killed_at_once_can_begin(folder, written):
    """Its `study.json` comes before its database."""
    lose_database(folder)
    content = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps(content | {"environments": []}))
    study = Study.open(folder, written.settings)
    assert (study.trials, len(study.environments)) == ([], 1)
    study.close()


def test_a_study_that_was_killed_at_once_can_begin_with_other_optimizers(folder, written):
    lose_database(folder)
    content = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps(content | {"environments": []}))
    space = tuning.SearchSpace(["NAdamW"])
    changed = dataclasses.replace(written.settings, space=space.get_config())
    study = Study.open(folder, changed)
    assert study.space.optimizers == ("NAdamW",)
    study.close()
    # Killed once more, with the settings in the database and not yet in `study.json`.
    (folder / "study.json").write_text(json.dumps(content | {"environments": []}))
    Study.open(folder, changed).close()


def setting_of_later(content):
    content["settings"]["new_thing"] = 1


def space_of_earlier(content):
    del content["settings"]["space"]["starting_points"]


def unknown_optimizer(content):
    ranges = content["settings"]["space"]["ranges"]
    ranges["Adamant"] = ranges.pop("AdamW")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (setting_of_later, "TypeError: .*'new_thing'"),
        (space_of_earlier, "KeyError: 'starting_points'"),
        (unknown_optimizer, "ValueError: Unknown optimizer 'Adamant'"),
    ],
)
def test_a_study_of_another_version_is_told_from_no_study(change, cause, folder):
    content = json.loads((folder / "study.json").read_text())
    content["environments"][-1]["keras_adamfamily"] = "7.0"
    change(content)
    (folder / "study.json").write_text(json.dumps(content))
    versions = f"another version: by keras_adamfamily 7.0, this is {_version.__version__}$"
    with pytest.raises(ValueError, match=f"study.json in .* cannot be read .{cause}.*{versions}"):
        Study(folder)


@pytest.mark.parametrize("damage", ["cut off", "a list", "no environments", "other environments"])
def test_a_damaged_study_is_told_from_no_study(damage, folder):
    text = (folder / "study.json").read_text()
    content = json.loads(text)
    damaged = {
        "cut off": text[: len(text) // 2],
        "a list": "[]",
        "no environments": json.dumps({"settings": content["settings"]}),
        "other environments": json.dumps({"settings": 1, "environments": [1]}),
    }
    (folder / "study.json").write_text(damaged[damage])
    message = "study.json in .* cannot be read .*: it is damaged, or was written by another version"
    with pytest.raises(ValueError, match=f"{message}$"):
        Study(folder)


def test_a_study_that_cannot_be_opened_is_not_called_damaged(folder):
    (folder / "study.json").unlink()
    with pytest.raises(ValueError, match="must be the folder of a study"):
        Study(folder)
    with pytest.raises(ValueError, match="must be the folder of a study"):
        Study(folder / "study.db")
    (folder / "study.json").mkdir()
    with pytest.raises(ValueError, match="study.json in .* cannot be read .*Error: .*") as caught:
        Study(folder)
    assert "damaged" not in str(caught.value)


def test_a_folder_that_cannot_be_written_can_be_looked_at(folder, written, tmp_path, monkeypatch):
    usual = Study(folder)
    usual.close()
    monkeypatch.setattr(storage, "_is_for_reading", lambda database: True)  # also for root
    before = contents(folder)
    study = Study(folder)
    assert study.trials == usual.trials and len(study.trials) == len(written.trials)
    assert study.verdict() == written.verdict()
    study.report(tmp_path / "elsewhere.html")
    with pytest.raises(PermissionError, match="can be looked at, but it cannot go on"):
        Study.open(folder, written.settings)
    with pytest.raises(PermissionError, match="cannot go on"):
        study.storage.lock()
    study.close()
    assert contents(folder) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_permissions_tell_what_cannot_be_written(folder):
    os.chmod(folder, 0o500)
    try:
        assert storage._is_for_reading(folder / "study.db")
        assert Study(folder).trials
    finally:
        os.chmod(folder, 0o700)
    assert not storage._is_for_reading(folder / "study.db")


def test_trials_that_are_only_in_the_log_are_not_passed_over(folder, tmp_path, monkeypatch):
    """SQLite reads the log beside a database only where it may write there."""
    study = Study(folder)
    study.add(study.trials[0])
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    study.close()
    assert (copy / "study.db-wal").stat().st_size
    monkeypatch.setattr(storage, "_is_for_reading", lambda database: True)
    with pytest.raises(ValueError, match="latest trials are in .*study.db-wal.*copy the folder"):
        Study(copy)


def test_a_file_that_cannot_be_finished_leaves_nothing(folder, monkeypatch):
    before = contents(folder)
    study = Study(folder)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        study.report()
    study.close()
    assert contents(folder).keys() == before.keys()


@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
def test_leaderboard_is_whole_at_any_width(width):
    study = finals({"NAdamW": [3.1e-6, 3.2e-6, 3.4e-6], "SGDW": [0.51, 0.53, 0.52]})
    many = {f"NAdamW/{name}": 0.12345678 for name in ("beta_1", "one_minus_beta_2", "epsilon")}
    many["schedule"] = "warm_restarts(T_0=10, T_mult=2)"
    for trial in study.trials:
        if trial.optimizer == "NAdamW":
            trial.hyperparameters.update(many)
    out = io.StringIO()
    progress.show_leaderboard(study, Console(file=out, width=width))
    text = out.getvalue()
    assert "…" not in text
    for part in ("NAdamW", "SGDW", "0.5200 ± 0.0100", "3.233e-06 ± 1.5e-07", "0.1235"):
        assert part in text
    assert "warm_restarts(T_0=10, T_mult=2)" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.97131, "0.9713"), (0.0, "0.0000"), (3e-6, "3e-06"), (-1.23456e-4, "-0.0001235")]
    + [(123.4, "123.4000"), (1e27, "1e+27"), (-0.001, "-0.0010")],
)
def test_decimal(value, text):
    assert progress.decimal(value) == text
    assert progress.decimal(value, "+") == (text if value < 0 else f"+{text}")


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:hunter2@127.0.0.1:1/db", "postgresql://me@127.0.0.1:1/db?password=hunter2"],
)
def test_a_password_is_not_written_down(url, written, tmp_path, monkeypatch):
    """Also where the database cannot be reached; and PostgreSQL may take it from elsewhere."""
    pytest.importorskip("psycopg")
    with pytest.raises(ConnectionError, match="cannot be reached.*PGPASSWORD") as caught:
        Study.open(tmp_path / "s", written.settings, url)
    assert not [*(tmp_path / "s").iterdir()]
    monkeypatch.setattr(study_module, "_withdraw", lambda folder: None)  # to see what was written
    with pytest.raises(ConnectionError):
        Study.open(tmp_path / "s", written.settings, url)
    text = (tmp_path / "s" / "study.json").read_text()
    assert "hunter2" not in text + str(caught.value) and "***" not in text
    assert json.loads(text)["storage"] == "postgresql+psycopg://me@127.0.0.1:1/db"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:me:hunter2@127.0.0.1/db",
        "postgresql://me:p@ss:hunter2/d%#@127.0.0.1:1/db",
        "postgresql://me:hunter2@127.0.0.1:port/db",
        "mysql://me:hunter2@127.0.0.1/db",
        "postgresql://127.0.0.1:port/db?PASSWORD=hunter2&connect_timeout=3",
    ],
)
def test_a_url_that_is_none_does_not_show_its_password(url):
    with pytest.raises(ValueError, match="`storage` must be") as caught:
        storage.without_password(url)
    assert "hunter2" not in str(caught.value) and "127.0.0.1" in str(caught.value)
    assert caught.value.__cause__ is None
