"""`adamfamily tune` and `adamfamily resume`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from keras_adamfamily.cli.common import (
    EXIT_CODES,
    Usage,
    app,
    console_of_output,
    imported,
    names_in,
    use_backend,
)

TUNE_HELP = """
Search the learning rate and the normalized weight decay of several optimizers.

Each optimizer gets the same number of trials; then the best configuration of each is trained
again on fresh seeds. The same command goes on with a search that was interrupted.

    adamfamily tune --task digits --optimizers adamw,nadamw,sgdw --out runs/digits

    adamfamily tune my_module:build_model --data my_module:load_data --out runs/mine

`build_model()` returns a Keras model, compiled with its loss and metrics. `load_data()` returns
`(x_train, y_train), (x_validation, y_validation)`. `my_module.py` lies in the current folder.
"""

RESUME_HELP = """
Go on with a study that was interrupted, or give it more trials.

The settings are those of the study. The model's function is found by its name; the data have to be
named again, unless the study is of a built-in task.

    adamfamily resume runs/digits

    adamfamily resume runs/mine --data my_module:load_data --trials 96
"""


@app.command(help=TUNE_HELP, epilog=EXIT_CODES)
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
    use_backend(backend)
    from keras_adamfamily import tuning

    build_model, load_data, name = _subject(model, data, task, tuning.TASKS)
    space = tuning.SearchSpace(names_in(optimizers))
    directory = Path("runs") / name if out is None else out
    train, validation = _loaded(load_data)
    console = console_of_output()
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
    _show(study, console)


@app.command(help=RESUME_HELP, epilog=EXIT_CODES)
def resume(
    folder: Annotated[Path, typer.Argument(metavar="STUDY", help="The folder of a study.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODULE:build_model", help="By default the function of the study."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="MODULE:load_data", help="Your data.")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all; by default those that were planned.")
    ] = None,
) -> None:
    from keras_adamfamily import tuning

    study = tuning.Study(folder)
    settings = study.settings
    use_backend(settings.backend)
    build_model, load_data = _subject_of(settings.build_model, model, data, tuning.TASKS)
    train, validation = _loaded(load_data)
    planned = settings.trials_per_optimizer * len(study.space.optimizers)
    console = console_of_output()
    study = tuning.tune(
        build_model,
        train,
        validation,
        directory=folder,
        optimizers=study.space,
        max_trials=planned if trials is None else trials,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        objective=f"{settings.objective}:{settings.direction}",
        finalist_seeds=settings.finalist_seeds,
        seed=settings.seed,
        console=console,
    )
    _show(study, console)


def _show(study: Any, console: Console) -> None:
    """The result; an error if there is none."""
    from keras_adamfamily.tuning.progress import show_leaderboard

    show_leaderboard(study, console)
    if not (study.directory / "best.json").exists():
        raise RuntimeError(f"every trial diverged or failed; see {study.directory / 'report.html'}")
    for file in ("report.html", "best.json"):
        console.print(str(study.directory / file), soft_wrap=True, markup=False, highlight=False)


def _subject_of(
    name: str, model: str | None, data: str | None, tasks: dict[str, Any]
) -> tuple[Callable, Callable]:
    """The functions of a study whose `build_model` has this module and name."""
    for task in tasks.values():
        if name == f"{task.build_model.__module__}.{task.build_model.__qualname__}":
            return task.build_model, task.load_data
    if data is None:
        raise Usage("the data have to be named again: --data MODULE:load_data")
    module, _, function = name.rpartition(".")
    if model is None and (not function.isidentifier() or module == "__main__"):
        raise Usage(f"the study's model is {name}, which has no place: --model MODULE:build_model")
    return imported(model or f"{module}:{function}"), imported(data)


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
    return imported(model), imported(data), model.partition(":")[0]
