"""Every example is run once for all the tests of its claims."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run("name")` runs examples/name.py and returns its results, its picture drawn and checked.

    Options of the example's `experiment` may be given, to run a smaller one.
    """
    sys.path.insert(0, str(FOLDER))
    try:

        def run(name, **options):
            import common

            module = importlib.import_module(name)
            results = module.experiment(**options)
            path = common.save(module.draw(results), tmp_path_factory.mktemp(name) / "picture.png")
            assert path.stat().st_size > 10_000
            return results

        yield run
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def results(run, request):
    """The results of the example that a file is named after: test_<name>.py."""
    return run(request.path.stem.removeprefix("test_"))
