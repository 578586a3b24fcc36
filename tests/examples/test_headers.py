"""Every example says what it claims, where that is from, what to expect and how long it takes."""

import ast
from pathlib import Path

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
