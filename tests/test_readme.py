"""The README tells the truth: its examples run in order, and its table is the registry's."""

import re
import shlex
from pathlib import Path

import pytest

from keras_adamfamily import cli, registry

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    best = names["kaf"].get(tmp_path / "runs" / "mine" / "best.json")
    assert best.get_config() == names["study"].best_optimizer().get_config()


@pytest.mark.once("torch")
def test_the_command_runs_on_the_model_of_the_examples(tmp_path, monkeypatch, capsys):
    first, *_, tuned = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    module = first.split("model = ")[0] + tuned.split("study = ")[0]
    module += "def load_data():\n    return (x[:800], y[:800]), (x[800:], y[800:])\n"
    (tmp_path / "my_module.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = re.search(r"^    adamfamily (tune my_module(?:.*\\\n)*.*)", README, re.MULTILINE)[1]
    monkeypatch.setattr("sys.argv", ["adamfamily", *shlex.split(command.replace("\\\n", " "))])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code, capsys.readouterr().err
    assert (tmp_path / "runs" / "ours" / "report.html").exists()


def test_the_table_is_the_registrys():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (\d[^|]*) \| (.*?) \|$", README, re.MULTILINE)
    assert rows == [
        (record.name, record.paper, record.state, record.fixes) for record in registry.RECORDS
    ]


def test_the_short_examples_are_short():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert all(len(block.strip().splitlines()) <= 11 for block in blocks)
