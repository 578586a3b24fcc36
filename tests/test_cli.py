"""The command: what it prints, what it writes, and one readable line with a code when it fails."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import sys
from pathlib import Path

import keras
import pytest

pytest.importorskip("typer")
pytest.importorskip("keras_tuner")

import optuna
import sqlalchemy
from rich.console import Console

import keras_adamfamily as kaf
from keras_adamfamily import cli, regret, tuning
from keras_adamfamily.cli import common, search
from keras_adamfamily.cli.search import _subject_of
from keras_adamfamily.tuning import leaderboard
from keras_adamfamily.tuning.space import DEFAULT_OPTIMIZERS
from tests.helpers import TINY

ROOT = Path(__file__).resolve().parent.parent

MODULE = f"""{TINY}
def broken_model():
    raise ValueError("a layer is\\nmissing")

def broken_data():
    raise OSError("the disk is gone")

def no_pair():
    return 1

from keras_adamfamily.tuning.tasks import digits_data, digits_mlp

def load_half():
    (x, y), validation = digits_data()
    return (x[:718], y[:718]), validation

def like_digits():
    return digits_mlp()

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with the module `tiny` in it."""
    (tmp_path / "tiny.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    yield tmp_path
    sys.modules.pop("tiny", None)


def run(monkeypatch, capsys, *arguments):
    """Runs the command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["adamfamily", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    captured = capsys.readouterr()
    return exit.value.code or 0, captured.out, captured.err


def test_list_names_every_algorithm(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "list")
    assert code == 0
    for name in kaf.names():
        assert f" {name} " in out
    code, out, _ = run(monkeypatch, capsys, "list", "--json")
    described = json.loads(out)
    assert [record["name"] for record in described] == kaf.names()
    adam = next(record for record in described if record["name"] == "Adam")
    assert (adam["state_per_parameter"], adam["state_per_vector"]) == (2, 0)
    nd_adam = next(record for record in described if record["name"] == "NDAdam")
    assert (nd_adam["state_per_parameter"], nd_adam["state_per_vector"]) == (1, 1)
    assert "1412.6980" in adam["paper"]


def test_help_has_examples(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "tune", "--help")
    assert code == 0
    assert "adamfamily tune --task digits" in " ".join(out.split())
    code, out, _ = run(monkeypatch, capsys)
    assert code == 0
    assert "tune" in out and "report" in out


def test_examples_of_the_help_run(folder, monkeypatch, capsys):
    """Those of the built-in task, as they stand but that nothing is trained."""
    lines = [line.strip() for line in search.TUNE_HELP.splitlines()]
    examples = [shlex.split(x) for x in lines if x.startswith("adamfamily") and "my_" not in x]
    assert len(examples) >= 3
    for _, *arguments in examples:
        code, out, err = run(monkeypatch, capsys, *arguments, "--dry-run", "--json")
        assert code == 0, (arguments, err)
        assert json.loads(out)["trials"] > 0


def test_tune_and_report(folder, monkeypatch, capsys):
    arguments = ["tune", "tiny:build_model", "--data", "tiny:load_data", "--optimizers"]
    arguments += ["adamw,SGDW", "--trials", "2", "--epochs", "1", "--seeds", "1", "--out", "a[b]"]
    arguments += ["--no-keep-weights"]
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    assert "4/4" in out
    assert "No clear winner" in out
    assert "a[b]/best.json" in out.replace(os.sep, "/")
    best = kaf.get(folder / "a[b]" / "best.json")
    assert type(best).__name__ in ("AdamW", "SGDW")
    assert not (folder / "a[b]" / "weights").exists()

    page = (folder / "a[b]" / "report.html").read_text("utf-8")
    (folder / "a[b]" / "report.html").unlink()
    code, _, err = run(monkeypatch, capsys, "report", "a[b]")
    assert (code, err) == (0, "")
    assert (folder / "a[b]" / "report.html").read_text("utf-8") == page


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two folders with studies that differ in their epochs."""
    folder = tmp_path_factory.mktemp("studies")
    space = {}
    exec(TINY, space)
    for name, epochs in (("a", 1), ("b", 2)):
        tuning.tune(
            space["build_model"],
            *space["load_data"](),
            directory=folder / name,
            optimizers=("AdamW", "SGDW"),
            max_trials=4,
            epochs=epochs,
            finalist_seeds=2,
            console=Console(quiet=True),
        )
    return folder


def test_report_as_json(studies, monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "report", str(studies / "a"), "--json")
    assert (code, err) == (0, "")
    found, study = json.loads(out), tuning.Study(studies / "a")
    assert found["verdict"] == study.verdict()
    assert [row["mean"] for row in found["leaderboard"]] == [r.mean for r in study.leaderboard()]
    assert found["comparisons"][0]["p"] == leaderboard.comparisons(study.leaderboard())[0].p
    assert found["report"] == str(studies / "a" / "report.html")


def test_heatmap(studies, folder, monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "heatmap", str(studies / "a"))
    assert (code, err, out) == (0, "", f"{studies / 'a' / 'heatmap.png'}\n")
    assert (studies / "a" / "heatmap.png").read_bytes().startswith(b"\x89PNG")

    arguments = ["heatmap", str(studies / "a"), "--optimizer", "sgdw"]
    code, out, _ = run(monkeypatch, capsys, *arguments, "--out", "new/b.html")
    assert (code, out.strip().replace(os.sep, "/")) == (0, "new/b.html")
    page = (folder / "new" / "b.html").read_text("utf-8")
    assert "SGDW" in page and "AdamW" not in page.split("<body>")[1]

    before = sorted(folder.rglob("*"))
    code, out, _ = run(monkeypatch, capsys, *arguments, "--json")
    (points,) = json.loads(out).values()
    trials = tuning.Study(studies / "a").scoring.of("search", "SGDW")
    assert [point["score"] for point in points] == [trial.score for trial in trials]
    assert points[0]["learning_rate"] == trials[0].short_hyperparameters["learning_rate"]
    assert code == 0 and sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("path", ["picture", "there", "x.xyz"])
def test_heatmap_is_written_where_it_says(path, studies, folder, monkeypatch, capsys):
    (folder / "there").mkdir()
    before = sorted(folder.rglob("*"))
    code, out, err = run(monkeypatch, capsys, "heatmap", str(studies / "a"), "--out", path)
    assert (code, out) == (2, "")
    assert f"must end in .png, .svg, .pdf or .html. Received: '{path}'" in err
    assert sorted(folder.rglob("*")) == before
    code, out, _ = run(monkeypatch, capsys, "heatmap", str(studies / "a"), "--out", "a.HTML")
    assert (code, out) == (0, "a.HTML\n")
    assert (folder / "a.HTML").read_text("utf-8").startswith("<!doctype html>")


def test_compare(studies, monkeypatch, capsys):
    folders = [str(studies / "a"), str(studies / "b")]
    code, out, err = run(monkeypatch, capsys, "compare", *folders)
    assert (code, err) == (0, "")
    assert "Not a fair comparison: the epochs differ (a: 1, b: 2)" in out
    found = tuning.compare(*map(tuning.Study, folders))
    assert all(row.optimizer in out for row in found.rows)
    assert out.endswith(f"{found.verdict}\n")
    code, out, _ = run(monkeypatch, capsys, "compare", *folders, "--json")
    printed = json.loads(out)
    assert (printed["verdict"], printed["caveats"]) == (found.verdict, found.caveats)
    assert len(printed["leaderboard"]) == 4 and len(printed["comparisons"]) == 3


def test_export_names_the_file(studies, monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "export", str(studies / "a"), "--to", "csv")
    assert (code, err, out) == (0, "", f"{studies / 'a' / 'trials.csv'}\n")
    assert len((studies / "a" / "trials.csv").read_text().splitlines()) == 1 + 8


def test_export_does_not_write_over_a_database(studies, folder, monkeypatch, capsys):
    arguments = ["export", str(studies / "a"), "--to", "optuna", "--out", "tiny.py"]
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "'tiny.py' is there already" in err and err.count("\n") == 1
    assert (folder / "tiny.py").read_text() == MODULE


def test_export_does_not_write_over_the_study(studies, monkeypatch, capsys):
    text = (studies / "a" / "study.json").read_text()
    arguments = ["export", str(studies / "a"), "--to", "json", "--out"]
    code, out, err = run(monkeypatch, capsys, *arguments, str(studies / "a" / "study.json"))
    assert (code, out) == (2, "")
    assert "the study itself lies there" in err and err.count("\n") == 1
    assert (studies / "a" / "study.json").read_text() == text


@pytest.mark.parametrize("to", ["csv", "optuna"])
def test_export_where_nothing_can_be_written(to, studies, folder, monkeypatch, capsys):
    arguments = ["export", str(studies / "a"), "--to", to, "--out", "tiny.py/x"]
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert err.replace(os.sep, "/").startswith("adamfamily: error: tiny.py")
    if os.path.exists("/proc/self"):
        code, _, err = run(monkeypatch, capsys, *arguments[:-1], "/proc/x.db")
        assert code == 2
        assert re.match("adamfamily: error: /proc/x.db: [^;]*$", err)


def test_export_as_json(studies, folder, monkeypatch, capsys):
    arguments = ["export", str(studies / "a"), "--to", "csv", "--out", "new/a.csv", "--json"]
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    assert json.loads(out) == {"to": "csv", "path": str(Path("new", "a.csv"))}
    assert (folder / "new" / "a.csv").exists()


def test_export_names_the_package_that_is_missing(studies, monkeypatch, capsys):
    loaded = [name for name in sys.modules if name.startswith("tensorboard.")]
    for name in ("tensorboard", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    arguments = ["export", str(studies / "a"), "--to", "tensorboard"]
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "needs the package tensorboard" in err
    assert err.endswith("pip install 'keras-adamfamily[tensorboard]'\n")


def test_resume_gives_a_study_more_trials(folder, monkeypatch, capsys):
    arguments = [*USER, "--optimizers", "adamw,sgdw", "--trials", "2", "--epochs", "1"]
    assert run(monkeypatch, capsys, *arguments, "--seeds", "0", "--out", "study")[0] == 0
    arguments = ["resume", "study", "--data", "tiny:load_data"]
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    assert "going on: 2 trials" in out
    assert run(monkeypatch, capsys, *arguments, "--trials", "4")[0] == 0
    assert len(tuning.Study("study").trials) == 4
    code, _, err = run(monkeypatch, capsys, "resume", "study")
    assert (code, "--data MODULE:load_data" in err) == (2, True)


def test_json_is_all_of_stdout(folder, monkeypatch, capsys):
    """Whatever the user's code prints: a download of data, a summary of the model."""
    with open(folder / "tiny.py", "a") as file:
        file.write(
            "print('imported')\n"
            "def talking_model():\n    model = build_model()\n"
            "    model.summary()\n    return model\n"
            "def talking_data():\n    print('downloading')\n    return load_data()\n"
        )
    user = ["--data", "tiny:talking_data", "--json"]
    arguments = ["tune", "tiny:talking_model", *user, "--optimizers", "adamw", "--epochs", "1"]
    arguments += ["--seeds", "1", "--trials", "2", "--out", "talking"]
    resumed = ["resume", "talking", *user, "--trials", "4"]
    for command in ([*arguments, "--dry-run"], arguments, resumed):
        sys.modules.pop("tiny", None)
        code, out, err = run(monkeypatch, capsys, *command)
        assert (code, type(json.loads(out))) == (0, dict)
        assert all(text in err for text in ("imported", "downloading", "Total params"))


COMMANDS = ("list", "tune", "resume", "report", "heatmap", "compare", "export", "regret")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, command, "--help")
    text = " ".join(out.split())
    assert code == 0
    assert "Exit codes: 0 done; 1 a run failed" in text
    assert command == "list" or f"adamfamily {command} " in text.split("Usage:")[1][30:]


def test_every_command_is_in_that_list():
    named = {
        command.name or command.callback.__name__ for command in common.app.registered_commands
    }
    assert named == set(COMMANDS)


def test_search_in_which_every_trial_is_lost_is_a_failed_run(folder, monkeypatch, capsys):
    (folder / "lost.py").write_text(TINY.replace("loss=loss", "loss=lambda y, p: loss(y, p) / 0.0"))
    monkeypatch.delitem(sys.modules, "lost", raising=False)
    arguments = ["tune", "lost:build_model", "--data", "lost:load_data", "--epochs", "1"]
    code, _, err = run(monkeypatch, capsys, *arguments, "--trials", "3", "--out", "lost-study")
    assert code == 1
    assert err.startswith("adamfamily: error: every trial diverged or failed; see ")


def test_regret_prints_a_table_and_draws_it(folder, monkeypatch, capsys):
    arguments = ["regret", "--problem", "period-3", "--optimizers", "adam,SGD", "--rounds", "1000"]
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    (adam,) = (row for row in rows if row[:1] == ["Adam"])
    (sgd,) = (row for row in rows if row[:1] == ["SGD"])
    assert adam[-4:] == ["0.6748", "+0.999", "worst", "point"]
    assert sgd[1] == "0.5563" and sgd[-2:] == ["best", "point"]
    assert "R/T at 1e3" in out and "slope 3 where t mod 3 = 1" in out
    assert out.replace(os.sep, "/").endswith("runs/regret/period-3.png\n")
    assert (folder / "runs" / "regret" / "period-3.png").stat().st_size > 10_000


def test_regret_settings_and_json(folder, monkeypatch, capsys):
    """Options reach the optimizers that take them; JSON alone leaves no file behind."""
    before = sorted(folder.iterdir())
    arguments = ["regret", "--optimizers", "adam,adamnc", "--rounds", "50", "--start", "0.5"]
    arguments += ["--learning-rate", "0.01", "--schedule", "constant", "--beta-1", "0", "--json"]
    code, out, _ = run(monkeypatch, capsys, *arguments, "--beta-2", "0.5")
    adam, adamnc = json.loads(out)
    assert code == 0 and sorted(folder.iterdir()) == before
    assert (adam["optimizer"], adamnc["optimizer"]) == ("Adam", "AdamNC")
    costs = regret.PROBLEMS["period-101"].costs(0)
    for described, optimizer in (
        (adam, kaf.Adam(0.01, beta_1=0.0, beta_2=0.5)),
        (adamnc, kaf.AdamNC(0.01, beta_1=0.0)),
    ):
        assert described == regret.play(optimizer, costs, 50, start=0.5).to_dict()
    draws = [
        run(monkeypatch, capsys, *arguments, "--problem", "stochastic", "--seed", seed)[1]
        for seed in ("0", "0", "7")
    ]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sub/dir", "must end in .png, .svg or .pdf. Received: 'sub/dir'"),
        ("x.xyz", "must end in .png, .svg or .pdf. Received: 'x.xyz'"),
        ("there", "must end in .png, .svg or .pdf. Received: 'there'"),
        ("folder.png", "'folder.png' is a folder, where the picture's file would be"),
        ("tiny.py/sub/a.png", "'tiny.py' is a file, where its folder would be"),
    ],
)
def test_regret_refuses_a_picture_before_a_round_is_played(
    path, message, folder, monkeypatch, capsys
):
    """Without an ending matplotlib would write to another path than the one that is printed."""
    monkeypatch.setattr(regret.Problem, "play", lambda *args: pytest.fail("has played"))
    (folder / "there").mkdir()
    (folder / "folder.png").mkdir()
    before = sorted(folder.rglob("*"))
    code, out, err = run(monkeypatch, capsys, "regret", "--out", path)
    assert (code, out) == (2, "")
    assert message in err.replace(os.sep, "/")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_regret_refuses_a_folder_that_it_cannot_write_to(folder, monkeypatch, capsys):
    monkeypatch.setattr(regret.Problem, "play", lambda *args: pytest.fail("has played"))
    (folder / "locked").mkdir(mode=0o500)
    code, out, err = run(monkeypatch, capsys, "regret", "--out", "locked/a.png")
    assert (code, out) == (2, "")
    assert "'locked/a.png' cannot be written: choose another place" in err.replace(os.sep, "/")


USER = ["tune", "tiny:build_model", "--data", "tiny:load_data"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tune", "--optimizers", "adamm"], 2, "Unknown optimizer 'adamm'. Did you mean Adam"),
        (["tune", "--optimizers", ","], 2, "`optimizers` must be a non-empty list"),
        (["tune", "--task", "weather"], 2, "--task must be one of digits, not 'weather'"),
        (["tune", "--trials", "many"], 2, "Invalid value for '--trials'"),
        (["tune", "--trials", "0"], 2, "`max_trials` must be an integer >= 3"),
        (["tune", "--fast"], 2, "No such option: --fast"),
        (["tuna"], 2, "No such command 'tuna'"),
        (["tune", "--backend", "abacus"], 2, "--backend must be one of jax, tensorflow, torch"),
        (["tune", "tiny:build_model"], 2, "your own model needs both"),
        (["tune", "--data", "tiny:load_data"], 2, "your own model needs both"),
        ([*USER, "--task", "digits"], 2, "either --task, or MODULE:build_model"),
        (["tune", "tiny", "--data", "tiny:load_data"], 2, "must have the form MODULE:FUNCTION"),
        (["tune", "tinny:f", "--data", "tiny:load_data"], 2, "there is no module 'tinny'"),
        (["tune", "tiny:f", "--data", "tiny:load_data"], 2, "module 'tiny' has no 'f'"),
        (["tune", "tiny:number", "--data", "tiny:load_data"], 2, "has no function 'number'"),
        ([*USER, "--objective", "val_beauty"], 2, "'val_beauty:max' or 'val_beauty:min'"),
        ([*USER, "--objective", "val_beauty:max"], 2, "`objective` must be one of accuracy, loss"),
        ([*USER, "--out", "tiny.py/runs"], 2, "tiny.py/runs: Not a directory"),
        ([*USER, "--out", "."], 2, "holds files that are not a study"),
        (["report", "nowhere"], 2, "must be the folder of a study"),
        (["heatmap", "nowhere"], 2, "must be the folder of a study"),
        (["compare", "nowhere", "there"], 2, "must be the folder of a study"),
        (["compare", "nowhere"], 2, "give two or more studies"),
        (["export", "nowhere", "--to", "csv"], 2, "must be the folder of a study"),
        (["export", "nowhere", "--to", "excel"], 2, "--to must be one of csv, json, tensorboard"),
        (["export", "nowhere"], 2, "Missing option '--to'"),
        (["resume", "nowhere"], 2, "must be the folder of a study"),
        (["regret", "--problem", "7"], 2, "must be one of period-3, period-101, stochastic, not"),
        (["regret", "--optimizers", "adamm"], 2, "Unknown optimizer 'adamm'. Did you mean Adam"),
        (["regret", "--optimizers", ","], 2, "--optimizers must name at least one"),
        (["regret", "--rounds", "0"], 2, "`rounds` must be an integer >= 1"),
        (["regret", "--start", "2"], 2, "`start` must be in the box [-1.0, 1.0]"),
        (["regret", "--seed", "-1", "--problem", "stochastic"], 2, "`seed` must be an integer"),
        (["regret", "--schedule", "cosine"], 2, "`schedule` must be one of 'inverse-sqrt'"),
        (["regret", "--beta-2", "1"], 2, "`beta_2` must be a float between [0, 1)"),
        (["regret", "--rounds", "9", "--out", "tiny.py/a.png"], 2, "'tiny.py' is a file, where"),
        (["tune", "tiny:broken_model", *USER[2:]], 1, "ValueError: a layer is"),
        ([*USER[:3], "tiny:broken_data"], 1, "OSError: the disk is gone"),
        ([*USER[:3], "tiny:no_pair"], 1, "no_pair must return (x_train, y_train)"),
    ],
)
def test_errors_are_one_line(folder, monkeypatch, capsys, arguments, code, message):
    before = sorted(folder.iterdir())
    got, _, err = run(monkeypatch, capsys, *arguments)
    assert err.startswith("adamfamily: error: ")
    assert err.count("\n") == 1
    assert message in err.replace(os.sep, "/")
    assert got == code
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_module_that_does_not_import(folder, monkeypatch, capsys):
    (folder / "rotten.py").write_text("1 / 0")
    code, _, err = run(
        monkeypatch, capsys, "tune", "rotten:build_model", "--data", "tiny:load_data"
    )
    assert (code, err) == (
        1,
        "adamfamily: error: importing rotten raised ZeroDivisionError: division by zero\n",
    )


def test_module_that_says_itself_what_it_needs(folder, monkeypatch, capsys):
    (folder / "needy.py").write_text('raise ModuleNotFoundError("first run setup.sh")')
    (folder / "deep.py").write_text("import tin")
    for module, text in (("needy", "first run setup.sh"), ("deep", "No module named 'tin'")):
        arguments = ["tune", f"{module}:build_model", "--data", "tiny:load_data"]
        code, _, err = run(monkeypatch, capsys, *arguments)
        assert code == 1
        assert err.endswith(f"importing {module} raised ModuleNotFoundError: {text}\n")


@pytest.mark.parametrize("by_optuna", [True, False])
def test_cause_of_what_the_database_could_not_do(by_optuna, folder, monkeypatch, capsys):
    """Optuna's own error speaks of invalid data whatever happened."""

    def failing(*_, **__):
        try:
            sqlalchemy.create_engine("sqlite://").connect().exec_driver_sql("SELECT a FROM b")
        except sqlalchemy.exc.OperationalError as error:
            if not by_optuna:
                raise
            raise optuna.exceptions.StorageInternalError("invalid data in the commit") from error

    monkeypatch.setattr(tuning, "tune", failing)
    code, _, err = run(monkeypatch, capsys, *USER)
    assert code == 1
    assert err.startswith("adamfamily: error: the study's database failed: no such table: b. ")
    assert "the same command goes on" in err and err.count("\n") == 1


def test_debug_shows_the_traceback(folder, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "report", "nowhere", "--debug")
    assert code == 2
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("adamfamily: error: ")


def test_other_backend_starts_again_under_it(monkeypatch, capsys):
    calls = []
    other = next(name for name in common.BACKENDS if name != keras.config.backend())
    monkeypatch.setattr(os, "execv", lambda *call: calls.append(call))
    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    run(monkeypatch, capsys, "tune", "--backend", other, "--task", "none")
    assert calls[0][1][1:] == ["-m", "keras_adamfamily", *sys.argv[1:]]
    assert os.environ["KERAS_BACKEND"] == other


def test_backend_that_is_not_installed(monkeypatch, capsys):
    other = next(name for name in common.BACKENDS if name != keras.config.backend())
    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: None)
    code, _, err = run(monkeypatch, capsys, "tune", "--backend", other)
    assert code == 2
    assert err.endswith(f"pip install 'keras-adamfamily[{other}]'\n")


def test_dry_run_says_what_would_be_done_and_does_nothing(folder, monkeypatch, capsys):
    arguments = [*USER, "--trials", "12", "--epochs", "9", "--halving", "--seeds", "2"]
    arguments += ["--optimizers", "adamw,sgdw", "--batch-sizes", "16,32", "--dry-run"]
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    for text in ("learning_rate", "16, 32", "12 trials and 4 runs on fresh seeds"):
        assert text in out
    code, out, _ = run(monkeypatch, capsys, *arguments, "--json")
    plan = json.loads(out)
    # Of 6 trials each, 6 train three epochs and 2 go on to the ninth.
    assert plan["trial_epochs"] == 2 * (6 * 3 + 2 * 6) + 4 * 9
    assert plan["programs"] == 4
    assert plan["strategy"] in ("fit", "map", "vmap")
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"tiny.py"}


def test_dry_run_of_a_model_with_hyperparameters_of_its_own(folder, monkeypatch, capsys):
    with open(folder / "tiny.py", "a") as file:
        file.write(
            "def with_units(hp):\n    hp.Int('units', 2, 5)\n"
            "    hp.Float('drop', 0.0, 0.5, step=0.25)\n    return build_model()\n"
        )
    arguments = ["tune", "tiny:with_units", *USER[2:], "--optimizers", "adamw", "--trials", "40"]
    code, out, _ = run(monkeypatch, capsys, *arguments, "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan["programs"] == 4 * 3
    assert plan["of_the_model"] == {"units": [2, 5], "drop": [0.0, 0.5]}
    assert plan["seconds"] > 0.0
    arguments += ["--fix", "beta_1=0.5", "--fix", "schedule=cosine"]
    code, out, _ = run(monkeypatch, capsys, *arguments, "--dry-run")
    for text in (
        "units +2, 5",
        "drop +0.0, 0.5",
        "beta_1 +0.5",
        "schedule +cosine",
        "about .*s, and the time to",
    ):
        assert re.search(text, out), out


def test_defaults_are_those_of_python():
    """The same search by both: `trials` is `max_trials`, `seeds` is `finalist_seeds`."""
    names = {"max_trials": "trials", "finalist_seeds": "seeds", "max_minutes": "minutes"}
    of_command = inspect.signature(search.tune).parameters
    same = 0
    for name, default in tuning.tune.__kwdefaults__.items():
        option = of_command.get(names.get(name, name))
        if option is not None and name != "optimizers":
            assert option.default == default, name
            same += 1
    assert same >= 10
    default = of_command["optimizers"].default
    assert tuning.SearchSpace(default.split(",")).optimizers == DEFAULT_OPTIMIZERS


def test_ranges_fixed_values_and_starting_points(folder, monkeypatch, capsys):
    arguments = [*USER, "--optimizers", "adamw", "--trials", "2", "--epochs", "1", "--seeds", "0"]
    arguments += ["--range", "learning_rate=1e-3:2e-3", "--fix", "beta_1=0.8", "--json"]
    start = "optimizer=adamw,schedule=warm_restarts(T_0=5, T_mult=2),weight_decay=0.5"
    arguments += ["--start", start, "--sampler", "random"]
    arguments += ["--schedule", "cosine", "--schedule", "warm_restarts(T_0=5, T_mult=2)"]
    code, out, _ = run(monkeypatch, capsys, *arguments, "--out", "mine")
    assert code == 0
    assert json.loads(out)["leaderboard"][0]["trials"] == 2
    study = tuning.Study(folder / "mine")
    first = study.trials[0].short_hyperparameters
    assert first["weight_decay"] == 0.5
    assert first["schedule"] == "warm_restarts(T_0=5, T_mult=2)"
    assert all(1e-3 <= t.short_hyperparameters["learning_rate"] <= 2e-3 for t in study.trials)
    assert study.best_optimizer().beta_1 == pytest.approx(0.8)


def test_resume_of_a_model_that_was_an_object_asks_for_a_function():
    """Its class would be taken for a function that builds it."""
    name = f"{keras.Sequential.__module__}.Sequential"
    with pytest.raises(common.Usage, match="has no place: --model MODULE:build_model"):
        _subject_of(name, None, "tiny:load_data", {})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--data", "tiny:load_half"], "its dataset_size is 1437, now it is 718"),
        (["--model", "tiny:like_digits"], "its build_model is 'keras_adamfamily.tuning.tasks"),
    ],
)
def test_resume_of_a_built_in_task_does_not_take_up_another_subject(
    option, message, folder, monkeypatch, capsys
):
    arguments = ["--optimizers", "adamw", "--trials", "1", "--epochs", "1", "--seeds", "0"]
    assert run(monkeypatch, capsys, "tune", *arguments, "--out", "study")[0] == 0
    code, _, err = run(monkeypatch, capsys, "resume", "study", *option)
    assert code == 2
    assert re.search(message, err)


def test_a_study_of_a_tasks_model_with_other_data_goes_on(folder, monkeypatch, capsys):
    arguments = ["--optimizers", "adamw", "--trials", "1", "--epochs", "1", "--seeds", "0"]
    arguments += ["keras_adamfamily.tuning.tasks:digits_mlp", "--data", "tiny:load_half"]
    assert run(monkeypatch, capsys, "tune", *arguments, "--out", "study")[0] == 0
    code, _, err = run(monkeypatch, capsys, "resume", "study", "--trials", "2")
    assert code == 2 and "holds a study with other settings" in err
    resume = ["resume", "study", "--trials", "2", "--data", "tiny:load_half", "--json"]
    code, out, _ = run(monkeypatch, capsys, *resume)
    assert code == 0
    assert json.loads(out)["leaderboard"][0]["trials"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--range", "learning_rate"], "--range must have the form NAME=LOW:HIGH, not"),
        (["--range", "learning_rate=1:"], "--range must have the form NAME=LOW:HIGH, not"),
        (["--range", "learning_rate=a:b"], "--range must have numbers, not 'a'"),
        (["--start", "learning_rate=abc"], "`starting_points` must lie in the space.*'abc'"),
        (["--range", "learning_rate=2:1"], "must be \\(low, high\\) with 0 < low < high"),
        (["--fix", "beta_1"], "--fix must have the form NAME=VALUE"),
        (["--start", "learning_rate=7"], "`starting_points` must lie in the space"),
        (["--batch-sizes", "x"], "--batch-sizes must have numbers, not 'x'"),
        (["--schedule", "linear"], "`schedule` must be 'constant', 'cosine'"),
        (["--sampler", "luck"], "`sampler` must be one of 'gp'"),
        (["--strategy", "guess"], "`strategy`"),
        (["--minutes", "0"], "`max_minutes`"),
        (["--storage", "mysql://host/db"], "`storage` must be"),
    ],
)
def test_wrong_options_of_tune(arguments, message, folder, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, *USER, *arguments, "--out", "none")
    assert code == 2
    assert re.search(message, err)
    assert err.count("\n") == 1
