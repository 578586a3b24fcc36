"""What is shipped and how it installs: the metadata's truth, and the set-up of `quickstart.py`."""

import ast
import configparser
import importlib.util
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import keras
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import keras_adamfamily as kaf

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "keras_adamfamily"
BACKENDS = ("jax", "tensorflow", "torch")
MODULES = {"keras-tuner": "keras_tuner", "scikit-learn": "sklearn"}  # where the names differ


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", "utf-8")
    return parser


def requirements(text: str) -> dict[str, Requirement]:
    """Requirements by canonical name, of lines like those of setup.cfg or constraints.txt."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


def modules(names) -> set[str]:
    return {MODULES.get(name, name) for name in names}


# Metadata.


def test_the_base_install_needs_keras_and_numpy_alone(setup_cfg):
    assert set(requirements(setup_cfg["options"]["install_requires"])) == {"keras", "numpy"}


def test_extras(setup_cfg):
    extras = {k: set(requirements(v)) for k, v in setup_cfg["options.extras_require"].items()}
    assert {*BACKENDS, "tuning", "dev"} <= set(extras)
    assert {"keras-tuner", "six"} <= extras["tuning"]
    assert extras["tensorflow"] == {"tensorflow", "tensorboard"}
    assert extras["tensorflow-cpu"] == {"tensorflow-cpu", "tensorboard"}
    assert not extras["tuning"] & {"jax", "torch", "tensorflow"}


def test_every_import_is_declared(setup_cfg):
    """Below the tuner only the base install; what shows results also the tuner's extra."""
    extras = setup_cfg["options.extras_require"]
    base = {"keras", "numpy", "keras_adamfamily", *BACKENDS, *sys.stdlib_module_names}
    tuner = base | modules(requirements(extras["tuning"]))
    undeclared = []
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).parts
        is_above = where[0] in ("tuning", "cli") or where == ("regret", "picture.py")
        allowed = tuner if is_above else base
        if where == ("tuning", "exports.py"):
            allowed = allowed | modules(requirements(extras["tensorboard"]))
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            undeclared += [("/".join(where), n) for n in names if n.split(".")[0] not in allowed]
    assert not undeclared


def test_constraints_lie_within_the_declared_ranges(setup_cfg):
    """Everything declared is pinned, at a version that setup.cfg allows."""
    pins = requirements((ROOT / "constraints.txt").read_text("utf-8"))
    declared = setup_cfg["options"]["install_requires"]
    declared += "".join(setup_cfg["options.extras_require"].values())
    for name, requirement in requirements(declared).items():
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert Version(pin.version.removesuffix(".*")) in requirement.specifier, name


def test_one_version():
    literal = re.search(r'__version__ = "(.+)"', (PACKAGE / "_version.py").read_text("utf-8"))
    changelog = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert kaf.__version__ == literal[1] == changelog[1]


def test_types_and_data_files_are_shipped(setup_cfg):
    assert (PACKAGE / "py.typed").exists()
    patterns = {
        package: patterns.split() for package, patterns in setup_cfg["options.package_data"].items()
    }
    for path in PACKAGE.rglob("*"):
        if path.suffix == ".py":
            assert (path.parent / "__init__.py").exists(), f"{path.parent} is not a package"
        if path.is_dir() or path.suffix in (".py", ".pyc") or ".ruff_cache" in path.parts:
            continue
        package = ".".join(path.parent.relative_to(ROOT).parts)
        assert any(fnmatch(path.name, p) for p in patterns.get(package, ())), path


# What an import brings along.


def run_without(absent, program: str) -> subprocess.CompletedProcess:
    """Run a program under this backend, in a Python where some modules cannot be imported."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({sorted(absent)}))\n"
    return subprocess.run(
        [sys.executable, "-c", blocked + program], cwd=ROOT, capture_output=True, text=True
    )


def test_imports_under_one_backend_without_the_others_and_the_extras(setup_cfg):
    absent = set(BACKENDS) - {keras.backend.backend()}
    absent |= modules(requirements(setup_cfg["options.extras_require"]["tuning"])) - {
        *("rich", "scipy", "six"),  # Keras, JAX and TensorFlow need these
    }
    done = run_without(absent, "import keras_adamfamily as kaf; print(len(kaf.names()))")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(kaf.names())


def test_the_command_without_its_extra_says_what_to_install():
    program = "from keras_adamfamily.cli import main; sys.exit(main())"
    done = run_without({"typer", "keras_tuner", "sklearn", "plotly"}, program)
    assert done.returncode != 0
    assert "pip install keras-adamfamily[tuning]" in done.stderr.replace('"', "").replace("'", "")
    assert "Traceback" not in done.stderr


# quickstart.py.


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path, quickstart, monkeypatch):
    """A function that prepares an environment in a make-believe checkout and returns what ran."""
    for name in quickstart.SOURCES:
        (tmp_path / "a clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a clone" / name).write_text(name)

    def prepare(*extras, root=tmp_path / "a clone", interrupt=False):
        environment = quickstart.Environment("jax", root)
        ran = []

        def stage(title, command, root):
            if interrupt and "pip" in command:
                raise KeyboardInterrupt
            ran.append("venv" if "venv" in command else command[-1])
            environment.python.parent.mkdir(parents=True, exist_ok=True)
            environment.python.touch()

        monkeypatch.setattr(quickstart, "stage", stage)
        environment.prepare(set(extras))
        return ran

    prepare.root = tmp_path / "a clone"
    return prepare


def test_set_up_runs_once(checkout):
    assert checkout("jax", "tuning") == ["venv", ".[jax,tuning]"]
    assert checkout("jax", "tuning") == []


def test_set_up_adds_extras_and_keeps_the_old_ones(checkout):
    checkout("jax", "tuning")
    assert checkout("jax", "dev") == [".[dev,jax,tuning]"]
    assert checkout("jax", "tuning") == []


def test_set_up_follows_the_files_it_is_made_from(checkout, quickstart):
    checkout("jax")
    for name in quickstart.SOURCES:
        (checkout.root / name).write_text("changed")
        assert checkout("jax") == [".[jax]"], name
        assert checkout("jax") == []


def test_an_interrupted_set_up_starts_anew(checkout):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            checkout("jax", interrupt=True)
    assert checkout("jax") == ["venv", ".[jax]"]
    with pytest.raises(KeyboardInterrupt):  # also where it was whole before
        checkout("jax", "dev", interrupt=True)
    assert checkout("jax") == ["venv", ".[jax]"]


def test_a_moved_or_damaged_environment_is_made_anew(checkout, quickstart):
    checkout("jax")
    moved = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout("jax", root=moved) == ["venv", ".[jax]"]

    environment = quickstart.Environment("jax", moved)
    environment.stamp.write_text("{")
    assert checkout("jax", root=moved) == ["venv", ".[jax]"]
    environment.python.unlink()
    assert checkout("jax", root=moved) == ["venv", ".[jax]"]
    environment.stamp.write_text(json.dumps(environment.recorded() | {"python": "3.10"}))
    assert checkout("jax", root=moved) == ["venv", ".[jax]"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_environment_has_its_own_backend_alone(quickstart, setup_cfg, backend):
    for command in ("tune", "test", "docs", "setup"):
        extras = quickstart.extras_for(command, backend)
        assert extras <= set(setup_cfg["options.extras_require"])
        for other in set(BACKENDS) - {backend}:
            assert not any(other in extra for extra in extras)


def test_an_older_python_reads_quickstart_far_enough_to_be_told():
    ast.parse((ROOT / "quickstart.py").read_text("utf-8"), feature_version=(3, 7))
