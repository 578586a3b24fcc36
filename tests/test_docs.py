"""The documentation says what the docstrings say, and these have what a page needs."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_adamfamily as kaf
from keras_adamfamily import registry

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import pages  # noqa: E402

each = pytest.mark.parametrize("record", registry.RECORDS, ids=lambda record: record.name)


@each
def test_a_docstring_has_what_a_page_needs(record):
    docstring = pages.documented(record.cls)
    assert docstring.equations and docstring.when.endswith(".") and docstring.elsewhere
    assert {"Args", "Raises", "Example"} <= set(docstring.sections)
    assert docstring.sections["Example"].startswith(">>> import keras_adamfamily as kaf\n>>> ")
    number = re.search(r"arXiv:[\d.]+\d", record.paper)
    authors = re.findall(r"[A-Z][a-z]+", record.paper)
    assert any(name in docstring.body for name in ([number[0]] if number else authors))


@each
def test_every_argument_is_documented_with_its_default(record):
    entries = pages.documented(record.cls).entries
    for name, default in record.defaults.items():
        text = entries[name]
        if default is None:  # which means: not at all, or otherwise decided
            continue
        said = re.search(r"(`[^`]+`|\S+) by default", text)
        assert said, f"{name} does not say its default: {text}"
        assert eval(said[1].strip("`"), vars(kaf).copy()) == default, f"{name}: {text}"


@each
def test_a_page_has_all_of_its_docstring(record):
    page, docstring = pages.algorithm(record), pages.documented(record.cls)
    assert f"# {record.name}\n" in page
    for equations in re.findall(r"^ *```\n.*?```", record.cls.__doc__, re.DOTALL | re.MULTILINE):
        assert inspect.cleandoc(equations) in page
    for part in (docstring.title, docstring.body, docstring.when, docstring.elsewhere):
        assert pages.linked(part, record.name).casefold() in page.casefold()
    for name, default in record.defaults.items():
        assert f"| `{name}` | `{pages.shown(default)}` |" in page
    for line in docstring.sections["Example"].splitlines():
        assert line in page
    assert record.fixes in page
    assert all(f"{end:g}" in page for end in (*record.learning_rate, *record.weight_decay))


def test_a_docstring_in_its_parts():
    docstring = pages.parse(
        """A title
        of two lines.

        ```
        w = 1
        ```

        A paragraph.

        When to use: always,
        everywhere.

        Elsewhere: as here.

        | a | b |

        Args:
            one: The first, a float > 0, 1 by default.
            two: The second,
                in two lines.

        Example:

        >>> 1 + 1
        2
        """
    )
    assert docstring.title == "A title of two lines."
    assert docstring.equations == ["w = 1\n"]
    assert docstring.body.endswith("A paragraph.")
    assert docstring.when == "always,\neverywhere."
    assert docstring.elsewhere == "as here.\n\n| a | b |"
    assert docstring.entries == {
        "one": "The first, a float > 0, 1 by default.",
        "two": "The second, in two lines.",
    }
    assert docstring.sections["Example"] == ">>> 1 + 1\n2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Decay of it, a float in [0, 1), 0.9 by default.", "Decay of it."),
        ("Root, a float >= 0, 1e-8 by default. With 0, so.", "Root. With 0, so."),
        ("Root, a float >= 0, 0 by default, as there.",) * 2,
        ('`"a"` or `"b"`; `"a"` by default.', '`"a"` or `"b"`.'),
        ("lr, 0.01 by default.", "lr"),
    ],
)
def test_the_meaning_of_an_argument_leaves_out_what_has_a_column(text, expected):
    assert pages.meaning(text) == expected


def test_names_files_and_papers_become_links():
    label = pages.targets()["Adam"]
    assert pages.linked("`Adam` and `kaf.Adam`") == f"[`Adam`](#{label}) and [`kaf.Adam`](#{label})"
    assert pages.linked("`Adam`", here="Adam") == "`Adam`"
    for left_alone in ("``Adam``", "[`Adam`](x)", "`Adam(1)`", "```\n`Adam`\n```"):
        assert pages.linked(left_alone) == left_alone
    assert pages.linked("arXiv:1412.6980") == "[arXiv:1412.6980](https://arxiv.org/abs/1412.6980)"
    assert pages.linked("`tests/test_docs.py::x`") == "{source}`tests/test_docs.py::x`"
    assert pages.linked("`tests/none.py`") == "`tests/none.py`"


def test_every_public_name_has_an_entry():
    made = "\n".join(pages.pages().values())
    for namespace, members in pages.namespaces().items():
        assert members, namespace
        for name in members:
            assert f"({pages.targets()[name]})=" in made
    assert set(pages.namespaces()["keras_adamfamily"]) == {
        name for name in kaf.__all__ if name[0] != "_" and not inspect.ismodule(getattr(kaf, name))
    }


def test_files_that_the_guides_name_exist():
    for guide in (ROOT / "docs").glob("*.md"):
        for path in re.findall(r"`([\w/]+\.py)\b", guide.read_text("utf-8")):
            if "/" in path and Path(path).stem not in pages.PICTURES:
                assert (ROOT / path).exists(), f"{guide.name} names {path}"


@pytest.mark.parametrize("guide", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_the_guides_examples_run(guide):
    text = guide.read_text("utf-8").replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, {}, guide.name, str(guide), 0)
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["index", "weight_decay", "tuning"])
def test_the_guides_programs_run(guide, tmp_path, monkeypatch):
    """In order, on a small model and less of it."""
    x, y = np.random.RandomState(0).normal(size=(40, 4)).astype("float32"), np.arange(40) % 2

    def build_model():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
        model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    names = {"kaf": kaf, "build_model": build_model, "model": build_model()}
    names |= {"train": (x[:30], y[:30]), "validation": (x[30:], y[30:])}
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{guide}.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(re.sub(r"(max_trials|epochs)=\d+", r"\1=3", block), names)


#: Modules that are for one backend.
NEEDS = {
    "keras_adamfamily.kernels": "torch",
    "keras_adamfamily.programs": "tensorflow",
    "keras_adamfamily.tuning.population": "jax",
}
BACKEND = keras.backend.backend()
MODULES = [
    info.name
    for info in pkgutil.walk_packages(kaf.__path__, "keras_adamfamily.")
    if not info.name.endswith(("__main__", ".cli")) and NEEDS.get(info.name, BACKEND) == BACKEND
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.FAIL_FAST).failed == 0


@pytest.mark.slow
def test_builds_without_a_warning_and_needs_no_network(tmp_path):
    pytest.importorskip("sphinx", reason="`python3 quickstart.py docs` installs it")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    done = subprocess.run([*command, "docs", str(tmp_path)], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    remote = (
        r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(?:https?:)?//|@import|url\(['\"]?http"
    )
    found = list(tmp_path.rglob("*.html")) + list(tmp_path.rglob("*.css"))
    assert len(found) > len(registry.RECORDS)
    for path in found:
        assert not re.search(remote, path.read_text("utf-8")), path.name
