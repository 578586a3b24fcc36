"""What all commands share: the app, the exit codes, where output goes, how a function is named."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

BACKENDS = ("jax", "tensorflow", "torch")
FAILED_RUN, WRONG_USAGE = 1, 2

HELP = """
The Adam family of optimizers for Keras 3: what there is, and which settings suit your model.

`--debug`, anywhere on the line, shows the traceback of an error.
"""

EXIT_CODES = (
    "Exit codes: 0 done; 1 a run failed, such as a search in which every trial was lost; "
    "2 wrong usage, such as an unknown option or a folder that holds no study."
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help=HELP,
    epilog=EXIT_CODES,
)


#: An option that several commands have.
Backend = Annotated[
    str | None, typer.Option(help="jax, tensorflow or torch; by default Keras's setting.")
]


class Usage(Exception):
    """The command line is wrong; the message says how."""


def use_backend(backend: str | None, asked: str = "--backend {}") -> None:
    """Starts this command again under another backend: Keras reads its choice when imported.

    `asked` says to the user where the backend was asked for.
    """
    import keras

    if backend is None or backend == keras.config.backend():
        return
    if backend not in BACKENDS:
        raise Usage(f"--backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    if importlib.util.find_spec(backend) is None:
        raise Usage(
            f"{asked.format(backend)} needs a package that is not installed: "
            f"pip install 'keras-adamfamily[{backend}]'"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.execv(sys.executable, [sys.executable, "-m", "keras_adamfamily", *sys.argv[1:]])


def names_in(text: str) -> list[str]:
    """The names in a list with commas; those within parentheses are of a name."""
    parts = re.split(r",(?![^(]*\))", text)
    return [part.strip() for part in parts if part.strip()]


def imported(reference: str) -> Callable:
    """The function that `module:function` names; modules of the current folder come first."""
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise Usage(
            f"{reference!r} must have the form MODULE:FUNCTION, such as my_module:load_data"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise Usage(f"there is no module {missing!r} here, nor is one installed") from error
        raise RuntimeError(
            f"importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        what = "no" if function is None else "no function"
        raise Usage(f"module {module_name!r} has {what} {name!r}")
    return function


def calling_the_user(as_json: bool) -> contextlib.AbstractContextManager:
    """For what runs the user's functions: with --json, what they print goes to stderr.

    Stdout is for `print_json` alone then.
    """
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def print_json(content: Any) -> None:
    """What a command prints with --json."""
    print(json.dumps(content, indent=2, allow_nan=False))


def console_of_output(stderr: bool = False) -> Console:
    """A terminal as wide as it is; a pipe or a file wide enough for a table."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(width=120, stderr=stderr)
