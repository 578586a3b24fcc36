"""The README tells the truth: its examples run in order, and its table is the registry's."""

import re
from pathlib import Path

from keras_adamfamily import registry

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, names)
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    best = names["kaf"].get(tmp_path / "runs" / "mine" / "best.json")
    assert best.get_config() == names["study"].best_optimizer().get_config()


def test_the_table_is_the_registrys():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (\d[^|]*) \| (.*?) \|$", README, re.MULTILINE)
    assert rows == [
        (record.name, record.paper, record.state, record.fixes) for record in registry.RECORDS
    ]


def test_the_short_examples_are_short():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert all(len(block.strip().splitlines()) <= 11 for block in blocks)
