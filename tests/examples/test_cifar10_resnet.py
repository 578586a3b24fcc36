import importlib
import runpy

import pytest

from tests.examples.conftest import FOLDER

pytestmark = pytest.mark.slow


def test_synthetic_images_are_learned(run, tmp_path):
    results = run("cifar10_resnet", out=tmp_path)
    assert results["AdamW"]["test error, %"] < 15
    assert results["SGDW"]["test error, %"] < 50


def test_it_goes_on_where_it_stopped_and_restarts(run, tmp_path):
    options = {"optimizer": ["NAdamW"], "restarts": 1, "width": 4, "out": tmp_path}
    first = run("cifar10_resnet", epochs=3, **options)["NAdamW"]
    again = run("cifar10_resnet", epochs=3, **options)["NAdamW"]
    assert again["test error, %"] == first["test error, %"]
    assert len(again["curves"][0]) == 3
    assert first["error of 3 snapshots, %"] < 90


def test_without_a_network_it_says_what_to_do(run, monkeypatch, tmp_path):
    module = importlib.import_module("cifar10_resnet")

    def load_data():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(module.keras.datasets.cifar10, "load_data", load_data)
    with pytest.raises(SystemExit, match="(?s)No CIFAR-10. Tried .*URL fetch failure.*--synthetic"):
        module.experiment(synthetic=False, out=tmp_path)


@pytest.mark.parametrize(
    ("option", "value", "few"),
    [
        ("--depth", "7", "8, 14, 20"),
        ("--depth", "2", "8, 14, 20"),
        ("--batch-size", "0", "1, 2, 3"),
        ("--restarts", "-1", "0, 1, 2"),
    ],
)
def test_numbers_out_of_range_are_refused(option, value, few, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr("sys.argv", ["cifar10_resnet.py", "--synthetic", option, value])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(FOLDER / "cifar10_resnet.py"), run_name="__main__")
    assert f"argument {option}: must be {few} or so on, not {value}" in capsys.readouterr().err
