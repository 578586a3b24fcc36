"""Every study of `tuning/` runs, on little data and few trials, and its header says what to expect.

Figures that the headers show are of one run; only what a study is for is tested.
"""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import keras
import pytest

pytest.importorskip("keras_tuner")

from rich.console import Console

import keras_adamfamily as kaf
from keras_adamfamily import tuning

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "tuning").glob("*.py"))
ONE_EACH = {"max_trials": 2, "optimizers": ("AdamW", "SGDW"), "epochs": 1, "finalist_seeds": 1}
QUIET = {"console": Console(quiet=True)}


@pytest.fixture
def script(monkeypatch):
    """`script(name)` is the module tuning/<name>.py."""
    monkeypatch.syspath_prepend(str(ROOT / "tuning"))
    return importlib.import_module


def check(result, optimizers=("AdamW", "SGDW"), trials=1, finals=1):
    """A study with a leaderboard of its optimizers, and a winner that can be had again."""
    rows = result.leaderboard()
    assert {row.optimizer for row in rows} == set(optimizers)
    assert [(row.trials, row.n) for row in rows] == [(trials, finals)] * len(rows)
    assert all(row.mean is not None and row.failed == 0 for row in rows)
    assert type(kaf.get(str(result.directory / "best.json"))).__name__ == rows[0].optimizer


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_header(path):
    text = path.read_text("utf-8")
    header = ast.get_docstring(ast.parse(text))
    for field in ("Shows:", "Run time:", "Expected:", f"python tuning/{path.name}"):
        assert field in header, f"{path.name} has no {field!r} in its docstring"
    assert len(text.splitlines()) < 100
    table = (ROOT / "tuning" / "README.md").read_text("utf-8")
    assert f"`{path.name}`" in table


@pytest.mark.slow
def test_digits_mlp(script, tmp_path):
    check(script("digits_mlp").study(tmp_path, **ONE_EACH, **QUIET))


@pytest.mark.slow
def test_digits_cnn_halves(script, tmp_path):
    changes = {"max_trials": 3, "optimizers": ("AdamW",), "epochs": 6, "finalist_seeds": 1}
    together = keras.config.backend() == "jax"
    changes["strategy"] = "map" if together else "fit"
    result = script("digits_cnn").study(tmp_path, **changes, **QUIET)
    check(result, ("AdamW",), trials=3)
    pruned = result.leaderboard()[0].pruned
    assert pruned == 2 if together else pruned <= 2  # one by one, each knows those before it


@pytest.mark.slow
def test_tabular_searches_layers_and_counts_costs(script, tmp_path):
    tabular = script("tabular")
    result = tabular.study(tmp_path, **{**ONE_EACH, "max_trials": 4}, **QUIET)
    check(result, trials=2)
    assert all(trial.hyperparameters["layers"] in (0, 1, 2) for trial in result.trials)
    assert result.settings.training["class_weight"] == {"0": 1.0, "1": 5.0}
    assert tabular.mistakes_of_winner(result, epochs=5).endswith(" false alarms")


def test_tabular_keeps_its_test_set_apart(script):
    tabular = script("tabular")
    parts = tabular.TRAIN, tabular.VALIDATION, tabular.TEST
    rows = [{tuple(row) for row in x} for x, _ in parts]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 569
    assert all(0.36 < y.mean() < 0.39 for _, y in parts)  # malignant, alike in each


@pytest.mark.slow
def test_transformer_searches_the_schedule(script, tmp_path):
    transformer = script("transformer_text")
    space = tuning.SearchSpace(["AdamW"], schedule=["cosine", "warm_restarts"])
    changes = {"max_trials": 2, "optimizers": space, "epochs": 2, "finalist_seeds": 1}
    result = transformer.study(tmp_path, **changes, **QUIET)
    check(result, ("AdamW",), trials=2)
    assert "schedule" in result.leaderboard()[0].hyperparameters


def test_sentences_agree_where_they_are_right(script):
    transformer = script("transformer_text")
    (x, y), (_, y_validation) = transformer.load_data(600)
    assert len(y_validation) == 200 and 0.4 < y.mean() < 0.6
    for row, is_right in zip(x, y, strict=True):
        words = [transformer.WORDS[number] for number in row if number]
        count = words.count("the")
        nouns, verbs = words[1 : 3 * count : 3], words[3 * count - 1 :]
        assert [word.rstrip("s") in transformer.NOUNS for word in nouns] == [True] * count
        # A noun with an s is many, a verb with one is of one; the last verb is the first noun's.
        agree = [
            n.endswith("s") != v.endswith("s") for n, v in zip(nouns, verbs[::-1], strict=True)
        ]
        assert all(agree) == bool(is_right)


@pytest.mark.slow
def test_cifar10_trial_run(script, tmp_path, monkeypatch):
    cifar10 = script("cifar10_resnet")
    stripes = cifar10.stripes
    monkeypatch.setattr(cifar10, "stripes", lambda examples, seed: stripes(examples // 10, seed))
    space = tuning.SearchSpace(["AdamW"], schedule="cosine")
    changes = {"optimizers": space, "max_trials": 3, "finalist_seeds": 1}
    result, accuracy = cifar10.study(tmp_path, True, **changes, **QUIET)
    check(result, ("AdamW",), trials=3)
    assert 0.0 <= accuracy <= 1.0


def test_cifar10_without_a_network_says_what_to_do(script, monkeypatch):
    def load_data():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
    with pytest.raises(SystemExit, match="URL fetch failure\n.*\n?.*--synthetic"):
        script("cifar10_resnet").load_data(synthetic=False)


@pytest.mark.once("torch")
def test_cifar10_has_the_published_shape(script):
    model = script("cifar10_resnet").build_model()
    assert model.output_shape == (None, 10)
    assert 0.26e6 < model.count_params() < 0.28e6  # 0.27 M for ResNet-20: arXiv:1512.03385, table 6


@pytest.mark.slow
def test_many_processes_share_the_trials(script, tmp_path):
    many = script("many_processes")
    changes = {**ONE_EACH, "max_trials": 8}
    result = many.study(tmp_path, 2, **changes)
    check(result, trials=4)
    assert many.shares(result).count("process") == 2


@pytest.mark.slow
def test_many_machines_without_a_url_says_how(script, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    result = script("many_machines").study(url, tmp_path / "study", **ONE_EACH, **QUIET)
    check(result)
    assert json.loads((tmp_path / "study" / "study.json").read_text())["storage"] == url


@pytest.mark.slow
@pytest.mark.skipif(keras.config.backend() != "jax", reason="vmap needs JAX")
def test_gpu_trains_all_trials_at_once(script, tmp_path):
    changes = {**ONE_EACH, "max_trials": 8, "pruner": None}
    result = script("gpu").study(tmp_path, **changes, **QUIET)
    check(result, trials=4)
    assert {trial.strategy for trial in result.trials} == {"vmap"}
