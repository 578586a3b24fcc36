"""Every example says what it claims, where that is from, what to expect and how long it takes."""

import ast
import re
import runpy
from pathlib import Path

import keras
import pytest

EXAMPLES = sorted(
    path
    for path in (Path(__file__).parent.parent.parent / "examples").glob("*.py")
    if path.name != "common.py"
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_header(path):
    text = path.read_text("utf-8")
    header = ast.get_docstring(ast.parse(text))
    for field in ("Claim:", "Source:", "Expected:", "Run time:", f"python examples/{path.name}"):
        assert field in header, f"{path.name} has no {field!r} in its docstring"
    assert len(text.splitlines()) < 150


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="they run there")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_is_for_jax_only_says_so(path, monkeypatch):
    if "JAX only" not in path.read_text("utf-8"):
        pytest.skip("runs on every backend")
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr("sys.argv", [str(path), "--help"])
    with pytest.raises(SystemExit, match="This example needs KERAS_BACKEND=jax, not "):
        runpy.run_path(str(path), run_name="__main__")


def test_no_example_takes_longer_than_the_readme_says():
    readme = (EXAMPLES[0].parent.parent / "README.md").read_text("utf-8")
    assert "in at most four minutes" in readme
    times = [re.search(r"Run time: (\d+) seconds", path.read_text("utf-8"))[1] for path in EXAMPLES]
    assert max(map(int, times)) <= 4 * 60
