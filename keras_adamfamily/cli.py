"""The command `adamfamily`: list the algorithms, search, report, and measure regret."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich import box
    from rich.console import Console
    from rich.table import Table
except ImportError as error:
    sys.exit(
        f"adamfamily: error: the command needs {error.name}: pip install 'keras-adamfamily[tuning]'"
    )

BACKENDS = ("jax", "tensorflow", "torch")
FAILED_RUN, WRONG_USAGE = 1, 2

HELP = """
The Adam family of optimizers for Keras 3: what there is, and which settings suit your model.

`--debug`, anywhere on the line, shows the traceback of an error.
"""

TUNE_HELP = """
Search the learning rate and the normalized weight decay of several optimizers.

Each optimizer gets the same number of trials; then the best configuration of each is trained
again on fresh seeds. The same command goes on with a search that was interrupted.

    adamfamily tune --task digits --optimizers adamw,nadamw,sgdw --out runs/digits

    adamfamily tune my_module:build_model --data my_module:load_data --out runs/mine

`build_model()` returns a Keras model, compiled with its loss and metrics. `load_data()` returns
`(x_train, y_train), (x_validation, y_validation)`. `my_module.py` lies in the current folder.
"""

REGRET_HELP = r"""
Measure the regret of optimizers on the cost sequences where Adam does not converge.

In each round an optimizer plays a point of [-1, 1], pays, and sees the slope. What it paid a round
beyond the best fixed point, its average regret, has to go to 0. The problems are those of Reddi,
Kale and Kumar (arXiv:1904.09237); so are the settings, where the paper gives them.

    adamfamily regret --problem period-101 --optimizers adam,amsgrad,adopt

    adamfamily regret --optimizers adam --beta-2 0.9999 --schedule constant --learning-rate 0.001
"""

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", help=HELP
)


class Usage(Exception):
    """The command line is wrong; the message says how."""


def main() -> None:
    """Runs the command; an error is one line on stderr and an exit code, not a traceback."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(arguments or ["--help"], standalone_mode=False, prog_name="adamfamily")
    except Exception as error:
        if len(arguments) < len(sys.argv) - 1:
            traceback.print_exc()
        code, message = _explain(error)
        print(f"adamfamily: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the message that an exception stands for."""
    if hasattr(error, "format_message"):  # an option that Typer does not accept
        return WRONG_USAGE, error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return WRONG_USAGE, f"{error.filename}: {error.strerror}"
    if isinstance(error, (Usage, ValueError, TypeError, OSError)):
        return WRONG_USAGE, str(error)
    if isinstance(error, (RuntimeError, ImportError)):
        return FAILED_RUN, str(error)
    return FAILED_RUN, f"{type(error).__name__}: {error}; --debug shows where"


@app.command("list")
def list_algorithms(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the algorithms: name, paper, state per parameter, what each fixes."""
    from keras_adamfamily import registry

    if as_json:
        print(json.dumps([_described(record) for record in registry.RECORDS], indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("name", "state", "paper", "what it is for"):
        table.add_column(header, no_wrap=header == "name")
    for record in registry.RECORDS:
        table.add_row(record.name, str(record.state_per_parameter), record.paper, record.fixes)
    console = _console()
    console.print(table)
    console.print("state: numbers kept for each parameter, in the default configuration")


@app.command(help=TUNE_HELP)
def tune(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:build_model", help="Your model; needs --data."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="MODULE:load_data", help="Your data.")] = None,
    task: Annotated[str | None, typer.Option(help="A built-in task: digits.")] = None,
    optimizers: Annotated[
        str, typer.Option(help="Names, separated by commas; see `adamfamily list`.")
    ] = "adamw,nadamw,sgdw",
    trials: Annotated[int, typer.Option(help="Trials in all, shared equally.")] = 24,
    epochs: Annotated[int, typer.Option(help="Epochs of each trial.")] = 15,
    batch_size: Annotated[int, typer.Option(help="Examples per batch.")] = 32,
    objective: Annotated[
        str, typer.Option(help="What to optimize; `name:max` or `name:min` for a metric of yours.")
    ] = "val_accuracy",
    seeds: Annotated[
        int, typer.Option(help="Fresh seeds on which each best configuration is trained again.")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Same seed, same trials.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; by default runs/TASK or runs/MODULE.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="jax, tensorflow or torch; by default Keras's setting.")
    ] = None,
) -> None:
    _use_backend(backend)
    from keras_adamfamily import tuning
    from keras_adamfamily.tuning.progress import show_leaderboard

    build_model, load_data, name = _subject(model, data, task, tuning.TASKS)
    space = tuning.SearchSpace([part.strip() for part in optimizers.split(",") if part.strip()])
    directory = Path("runs") / name if out is None else out
    train, validation = _loaded(load_data)
    console = _console()
    study = tuning.tune(
        build_model,
        train,
        validation,
        directory=directory,
        optimizers=space,
        max_trials=trials,
        epochs=epochs,
        batch_size=batch_size,
        objective=objective,
        finalist_seeds=seeds,
        seed=seed,
        console=console,
    )
    show_leaderboard(study, console)
    if not (directory / "best.json").exists():
        raise RuntimeError(f"every trial diverged or failed; see {directory / 'report.html'}")
    for file in ("report.html", "best.json"):
        console.print(str(directory / file), soft_wrap=True, markup=False, highlight=False)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a study.")],
) -> None:
    """Make the leaderboard, best.json and the report page again from a study's folder."""
    from keras_adamfamily import tuning
    from keras_adamfamily.tuning.progress import show_leaderboard

    study = tuning.Study(folder)
    study.write()
    console = _console()
    show_leaderboard(study, console)
    console.print(str(folder / "report.html"), soft_wrap=True, markup=False, highlight=False)


@app.command(help=REGRET_HELP)
def regret(
    problem: Annotated[
        str, typer.Option(help="period-3, period-101 or stochastic.")
    ] = "period-101",
    optimizers: Annotated[
        str, typer.Option(help="Names, separated by commas; see `adamfamily list`.")
    ] = "adam,amsgrad,adamnc,adopt,sgd",
    rounds: Annotated[
        int | None,
        typer.Option(help="Rounds to play; by default the problem's, on PyTorch 10,000."),
    ] = None,
    start: Annotated[
        float | None, typer.Option(help="First point, in [-1, 1]; by default the problem's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the stochastic problem.")] = 0,
    learning_rate: Annotated[
        float | None, typer.Option(help="alpha; by default the problem's, smaller for SGD.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="constant, or inverse-sqrt: alpha / sqrt(t).")
    ] = None,
    beta_1: Annotated[float | None, typer.Option(help="Where an optimizer takes it.")] = None,
    beta_2: Annotated[float | None, typer.Option(help="Where an optimizer takes it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The picture; by default runs/regret/PROBLEM.png.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; a picture only with --out.")
    ] = False,
    backend: Annotated[
        str | None, typer.Option(help="jax, tensorflow or torch; by default Keras's setting.")
    ] = None,
) -> None:
    _use_backend(backend)
    import keras

    from keras_adamfamily.regret import PROBLEMS, picture

    if problem not in PROBLEMS:
        raise Usage(f"--problem must be one of {', '.join(PROBLEMS)}, not {problem!r}")
    chosen = PROBLEMS[problem]
    options = {"learning_rate": learning_rate, "schedule": schedule}
    options |= {"beta_1": beta_1, "beta_2": beta_2}
    options = {name: value for name, value in options.items() if value is not None}
    names = [part.strip() for part in optimizers.split(",") if part.strip()]
    players = [chosen.optimizer(name, **options) for name in names]
    if not players:
        raise Usage("--optimizers must name at least one; see `adamfamily list`")
    if rounds is None:
        rounds = 10_000 if keras.config.backend() == "torch" else chosen.rounds
    where = {} if start is None else {"start": start}
    console, results = _console(), []
    for player in players:
        with console.status(f"{type(player).__name__} plays {rounds:,} rounds"):
            results.append(chosen.play(player, rounds, seed, **where))
    title = f"{problem}: {chosen.title}"
    if as_json:
        print(json.dumps([result.to_dict() for result in results]))
    else:
        console.print(title, highlight=False)
        console.print(_regret_table(results))
        out = out or Path("runs") / "regret" / f"{problem}.png"
    if out is not None:
        picture.save(picture.draw(results, title), out)
    if not as_json:
        console.print(str(out), soft_wrap=True, markup=False, highlight=False)


def _regret_table(results) -> Table:
    """Average regret at the last decades and at the end, and where the iterates are then."""
    last = int(results[0].rounds[-1])
    stops = [*[10**k for k in range(2, 10) if 10**k < last][-4:], last]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("optimizer")
    for stop in stops:
        label = f"1e{len(str(stop)) - 1}" if str(stop).strip("0") == "1" else f"{stop:,}"
        table.add_column(f"R/T at {label}", justify="right")
    table.add_column("x", justify="right")
    table.add_column("ends at the", no_wrap=True)
    for result in results:
        regrets = [f"{result.at(stop)['average_regret']:.4f}" for stop in stops]
        distance = result.distance[-1]
        verdict = "worst point" if distance > 0.9 else "middle"
        verdict = "best point" if distance < 0.1 else verdict
        table.add_row(result.optimizer, *regrets, f"{result.means[-1]:+.3f}", verdict)
    return table


def _use_backend(backend: str | None) -> None:
    """Starts this command again under another backend: Keras reads its choice when imported."""
    import keras

    if backend is None or backend == keras.config.backend():
        return
    if backend not in BACKENDS:
        raise Usage(f"--backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    if importlib.util.find_spec(backend) is None:
        raise Usage(
            f"--backend {backend} needs a package that is not installed: "
            f"pip install 'keras-adamfamily[{backend}]'"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.execv(sys.executable, [sys.executable, "-m", "keras_adamfamily", *sys.argv[1:]])


def _loaded(load_data: Callable) -> tuple[Any, Any]:
    try:
        train, validation = load_data()
    except Exception as error:
        raise RuntimeError(
            "load_data must return (x_train, y_train), (x_validation, y_validation): "
            f"{type(error).__name__}: {error}"
        ) from error
    return train, validation


def _subject(
    model: str | None, data: str | None, task: str | None, tasks: dict[str, Any]
) -> tuple[Callable, Callable, str]:
    """What to tune: the model's function, the data's function, and a name for the folder."""
    if model is None and data is None:
        task = "digits" if task is None else task
        if task not in tasks:
            raise Usage(f"--task must be one of {', '.join(tasks)}, not {task!r}")
        return tasks[task].build_model, tasks[task].load_data, task
    if task is not None:
        raise Usage("give either --task, or MODULE:build_model with --data, not both")
    if model is None or data is None:
        raise Usage(
            "your own model needs both: "
            "adamfamily tune my_module:build_model --data my_module:load_data"
        )
    return _imported(model), _imported(data), model.partition(":")[0]


def _imported(reference: str) -> Callable:
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
        if isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name):
            raise Usage(f"there is no module {error.name!r} here, nor is one installed") from error
        raise RuntimeError(
            f"importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        what = "no" if function is None else "no function"
        raise Usage(f"module {module_name!r} has {what} {name!r}")
    return function


def _described(record) -> dict[str, Any]:
    names = ("name", "title", "paper", "fixes", "state_per_parameter", "aliases")
    ranges = ("learning_rate", "weight_decay")
    return {name: getattr(record, name) for name in names} | {
        f"{name}_range": list(getattr(record, name)) for name in ranges
    }


def _console() -> Console:
    """A terminal as wide as it is; a pipe or a file wide enough for a table."""
    console = Console()
    return console if console.is_terminal else Console(width=120)
