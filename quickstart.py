"""From a fresh clone to a finished search, or to passed tests, in one command.

    python3 quickstart.py           search learning rate and weight decay, for several
                                    optimizers, on scikit-learn's digits
    python3 quickstart.py test      run the tests
    python3 quickstart.py docs      build the documentation in docs/_build/html
    python3 quickstart.py setup     set up for development, and say how to activate

Each first brings the virtual environment `.venv/<backend>` of this checkout up to date, which
takes a few minutes once and nothing after that. No other Python installation is touched.
`--backend jax|tensorflow|torch` chooses the backend, and whatever follows `--` is passed on:

    python3 quickstart.py -- --trials 128
    python3 quickstart.py test --backend torch -- -k adamw

To start over, delete `.venv`. Needs Python 3.11 or later and nothing else.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - this file is what meets the older Pythons
    sys.exit(
        f"quickstart: needs Python 3.11 or later, but {sys.executable or 'this one'} is "
        f"{platform.python_version()}; run it with a newer one: python3.12 quickstart.py"
    )

ROOT = Path(__file__).resolve().parent
SOURCES = ("setup.cfg", "pyproject.toml", "constraints.txt", "keras_adamfamily/_version.py")
DOCS = "-m sphinx -W --keep-going -q docs docs/_build/html"
SEARCH = "tune --task digits --optimizers adamw,nadamw,sgdw --out runs/digits"
OFFLINE = re.compile(
    "NameResolutionError|NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Max retries"
    "|name resolution|Network is unreachable|getaddrinfo failed"
)


# What to install.


def extra_of(backend: str) -> str:
    """The extra that installs a backend: for TensorFlow on x86-64, the smaller CPU build."""
    small = platform.system() == "Linux" and platform.machine() == "x86_64"
    return "tensorflow-cpu" if backend == "tensorflow" and small else backend


def extras_for(command: str, backend: str) -> set[str]:
    """The extras that a command needs. Optax comes where it does not bring another backend."""
    extras = {extra_of(backend), "tuning"}
    if command == "docs":
        extras.add("docs")
    elif command != "tune":
        extras.add("dev")
        if backend == "jax":
            extras.add("oracles")
    return extras


# The environment. Its stamp says what was installed in it, and is there only while that is whole.


class Environment:
    """The virtual environment of one backend."""

    def __init__(self, backend: str, root: Path = ROOT) -> None:
        self.root = root
        self.home = root / ".venv" / backend
        self.scripts = self.home / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.scripts / ("python.exe" if os.name == "nt" else "python")
        self.stamp = self.home / "quickstart.json"

    def recorded(self) -> dict:
        """The stamp; empty where set-up never finished."""
        try:
            return json.loads(self.stamp.read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def wanted(self, extras: set[str]) -> dict:
        """The stamp of an environment that is up to date."""
        sources = b"\0".join((self.root / name).read_bytes() for name in SOURCES)
        return {
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "home": str(self.home),
            "sources": hashlib.sha256(sources).hexdigest(),
            "extras": sorted(extras.union(self.recorded().get("extras", ()))),
        }

    def is_whole(self) -> bool:
        """Whether set-up once finished, for this Python, and the folder was not moved since."""
        recorded, wanted = self.recorded(), self.wanted(set())
        same = all(recorded.get(key) == wanted[key] for key in ("python", "home"))
        return same and self.python.exists()

    def prepare(self, extras: set[str]) -> None:
        """Make or repair the environment and install the project in it, unless that is done."""
        wanted = self.wanted(extras)
        whole = self.is_whole()
        if whole and self.recorded() == wanted:
            return
        self.stamp.unlink(missing_ok=True)
        if not whole:
            stage(
                f"making {self.home.relative_to(self.root)} with Python {wanted['python']}",
                [sys.executable, "-m", "venv", "--clear", str(self.home)],
                self.root,
            )
        stage(
            f"installing keras-adamfamily[{','.join(wanted['extras'])}], minutes the first time",
            [str(self.python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
            + ["--disable-pip-version-check", "--constraint", "constraints.txt"]
            + ["--editable", f".[{','.join(wanted['extras'])}]"],
            self.root,
        )
        self.stamp.write_text(json.dumps(wanted, indent=2) + "\n", "utf-8")


def stage(title: str, command: list[str], root: Path) -> None:
    """Run one step of the set-up quietly; where it fails, show its last lines and end."""
    print(f"quickstart: {title} ... ", end="", flush=True)
    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=root,
        env=environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode == 0:
        print(f"{time.monotonic() - start:.0f} s", flush=True)
        return
    print("failed", flush=True)
    lines = [line for line in done.stdout.splitlines() if line.strip() and "WARNING" not in line]
    print(*lines[-12:], sep="\n", file=sys.stderr)
    if OFFLINE.search(done.stdout):
        fail("the package index was not reached; check the network, then run this again")
    fail("set-up failed, for the reason above; the next run starts it anew")


def environ(**more: str) -> dict[str, str]:
    """This process's variables, less those that lead a Python to packages of another one."""
    leaks = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    return {key: value for key, value in os.environ.items() if key not in leaks} | more


def fail(message: str) -> None:
    sys.exit(f"quickstart: {message}")


# The commands.


def run(command: list[str], env: dict[str, str]) -> int:
    """Hand over to the command, signals and all."""
    print("quickstart:", Path(command[0]).name, *command[1:], flush=True)
    os.chdir(ROOT)
    if os.name == "nt":
        return subprocess.run(command, env=env).returncode
    os.execve(command[0], command, env)


def hint(environment: Environment, backend: str) -> str:
    """How to activate an environment."""
    if os.name == "nt":
        lines = [f'& "{environment.scripts / "Activate.ps1"}"', f'$env:KERAS_BACKEND = "{backend}"']
    else:
        lines = [f'. "{environment.scripts / "activate"}"', f"export KERAS_BACKEND={backend}"]
    return "\n".join(["Ready. To activate:", *(f"    {line}" for line in lines)])


def main(arguments: list[str]) -> int:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    passed_on = arguments[split + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = ("tune", "test", "docs", "setup")
    parser.add_argument("command", nargs="?", default="tune", choices=commands)
    parser.add_argument("--backend", default="jax", choices=("jax", "tensorflow", "torch"))
    options = parser.parse_args(arguments[:split])

    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        fail(
            f"Python at {sys.executable} came without its venv module; "
            f"on Debian and Ubuntu: sudo apt install python{version}-venv"
        )
    environment = Environment(options.backend)
    try:
        environment.prepare(extras_for(options.command, options.backend))
    except KeyboardInterrupt:
        print(flush=True)
        fail("interrupted; the next run starts the set-up anew")

    env = environ(KERAS_BACKEND=options.backend)
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if options.command == "setup":
        print(hint(environment, options.backend))
        return 0
    if options.command == "test":
        env.setdefault("OMP_NUM_THREADS", "1")  # two workers share the cores
        return run([str(environment.python), "-m", "pytest", "-n", "2", *passed_on], env)
    if options.command == "docs":
        return run([str(environment.python), *DOCS.split(), *passed_on], env)
    name = "adamfamily.exe" if os.name == "nt" else "adamfamily"
    return run([str(environment.scripts / name), *SEARCH.split(), *passed_on], env)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
