"""`adamfamily tune` and `adamfamily resume`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from keras_adamfamily.cli.common import (
    EXIT_CODES,
    Backend,
    Usage,
    app,
    calling_the_user,
    console_of_output,
    imported,
    names_in,
    print_json,
    use_backend,
)

TUNE_HELP = """
Search the learning rate and the normalized weight decay of several optimizers.

Each optimizer gets the same number of trials; then the best configuration of each is trained
again on fresh seeds. The same command goes on with a search that was interrupted, and the same
command in a second process shares the work.

    adamfamily tune --task digits --optimizers adamw,nadamw,sgdw --out runs/digits

    adamfamily tune my_module:build_model --data my_module:load_data --out runs/mine

    adamfamily tune my_module:build_model --data my_module:load_data --dry-run

    adamfamily tune --optimizers adamw,nadamw --halving --range beta_1=0.8:0.95 --fix beta_2=0.99

    adamfamily tune --schedule cosine --schedule "warm_restarts(T_0=5, T_mult=2)"

`build_model()` returns a Keras model, compiled with its loss and metrics; `build_model(hp)`, as for
KerasTuner, adds hyperparameters of its own. `load_data()` returns the training and the validation
data: `(x_train, y_train), (x_validation, y_validation)`, or two of whatever `fit` takes.
`my_module.py` lies in the current folder.
"""

RESUME_HELP = """
Go on with a study that was interrupted, or give it more trials.

The settings are those of the study. The model's function is found by its name; the data have to be
named again, unless the study is of a built-in task.

    adamfamily resume runs/digits

    adamfamily resume runs/mine --data my_module:load_data --trials 96
"""


Data = Annotated[str | None, typer.Option(metavar="MODULE:load_data", help="Your data.")]
Minutes = Annotated[
    float | None, typer.Option(help="Begin no trials after this time, fresh seeds apart.")
]
KeepWeights = Annotated[
    bool,
    typer.Option(
        "--keep-weights/--no-keep-weights",
        help="Keep the weights of each optimizer's best run in the folder.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; what goes on goes to stderr.")]


@app.command(help=TUNE_HELP, epilog=EXIT_CODES)
def tune(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:build_model", help="Your model; needs --data."),
    ] = None,
    data: Data = None,
    task: Annotated[str | None, typer.Option(help="A built-in task: digits.")] = None,
    optimizers: Annotated[
        str, typer.Option(help="Names, separated by commas; see `adamfamily list`.")
    ] = "adamw,nadamw,sgdw",
    trials: Annotated[int, typer.Option(help="Trials in all, shared equally.")] = 24,
    epochs: Annotated[int, typer.Option(help="Epochs of each trial.")] = 15,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples per batch of arrays; by default 32.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What to optimize; `name:max` or `name:min` for a metric of yours.")
    ] = "val_accuracy",
    seeds: Annotated[
        int, typer.Option(help="Fresh seeds on which each best configuration is trained again.")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Same seed, same trials.")] = 0,
    minutes: Minutes = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="NAME=LOW:HIGH", help="Search this; may be repeated."),
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Set, do not search, this; may be repeated."),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,...", help="Known good settings, tried first; may be repeated."
        ),
    ] = None,
    schedule: Annotated[
        list[str] | None,
        typer.Option(
            help="constant, cosine, warm_restarts or `warm_restarts(T_0=5, T_mult=2)`; repeated, "
            "it is searched."
        ),
    ] = None,
    batch_sizes: Annotated[
        str, typer.Option(help="Batch sizes to search, separated by commas.")
    ] = "",
    sampler: Annotated[str, typer.Option(help="gp, tpe, qmc or random.")] = "gp",
    halving: Annotated[
        bool, typer.Option("--halving", help="Give up the worse two thirds, again and again.")
    ] = False,
    strategy: Annotated[
        str, typer.Option(help="fit, map, vmap, or auto: the fastest of them here.")
    ] = "auto",
    lanes: Annotated[int, typer.Option(help="Trials that are trained together at most.")] = 128,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A PostgreSQL database that several machines share."),
    ] = None,
    keep_weights: KeepWeights = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; by default runs/TASK or runs/MODULE.")
    ] = None,
    backend: Backend = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and how long it would take.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    use_backend(backend)
    _use_all_cores()
    from keras_adamfamily import tuning

    space = tuning.SearchSpace(
        names_in(optimizers),
        ranges=dict(_as_range(text) for text in ranges or ()),
        fix=dict(_as_setting("--fix", text) for text in fix or ()),
        starting_points=[
            dict(_as_setting("--start", part) for part in names_in(text)) for text in start or ()
        ],
        schedule=schedule or "constant",
        batch_size=[_as_number("--batch-sizes", part) for part in names_in(batch_sizes)],
    )
    settings = {
        "optimizers": space,
        "max_trials": trials,
        "epochs": epochs,
        "batch_size": batch_size,
        "objective": objective,
        "finalist_seeds": seeds,
        "seed": seed,
        "sampler": sampler,
        "pruner": "halving" if halving else None,
        "strategy": strategy,
        "lanes": lanes,
    }
    console = console_of_output(stderr=as_json)
    with calling_the_user(as_json):
        build_model, load_data, name = _subject(model, data, task, tuning.TASKS)
        train, validation = _loaded(load_data)
        if dry_run:
            plan = tuning.plan(build_model, train, validation, **settings)
        else:
            study = tuning.tune(
                build_model,
                train,
                validation,
                directory=Path("runs") / name if out is None else out,
                storage=storage,
                max_minutes=minutes,
                keep_weights=keep_weights,
                console=console,
                **settings,
            )
    if dry_run:
        _show_plan(plan, as_json)
    else:
        _show(study, console, as_json)


@app.command(help=RESUME_HELP, epilog=EXIT_CODES)
def resume(
    folder: Annotated[Path, typer.Argument(metavar="STUDY", help="The folder of a study.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODULE:build_model", help="By default the function of the study."),
    ] = None,
    data: Data = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all; by default those that were planned.")
    ] = None,
    minutes: Minutes = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="The database, if its URL has a password.")
    ] = None,
    keep_weights: KeepWeights = True,
    as_json: AsJson = False,
) -> None:
    from keras_adamfamily import tuning

    study = tuning.Study(folder, storage)
    use_backend(study.settings.backend, "a study made with {}")
    _use_all_cores()
    console = console_of_output(stderr=as_json)
    with calling_the_user(as_json):
        build_model, load_data = _subject_of(study.settings.build_model, model, data, tuning.TASKS)
        study = tuning.resume(
            study,
            build_model,
            *_loaded(load_data),
            max_trials=trials,
            max_minutes=minutes,
            keep_weights=keep_weights,
            storage=storage,
            console=console,
        )
    _show(study, console, as_json)


def _use_all_cores() -> None:
    """A JAX device for each core, before JAX starts."""
    import keras

    if keras.config.backend() == "jax":
        from keras_adamfamily.tuning.xla import use_all_cores

        use_all_cores()


def _show(study: Any, console: Console, as_json: bool) -> None:
    """The result; an error if there is none."""
    from keras_adamfamily.tuning.exports import result
    from keras_adamfamily.tuning.progress import show_leaderboard

    page = study.directory / "report.html"
    if as_json:
        print_json(result(study) | {"report": str(page)})
    else:
        show_leaderboard(study, console)
    if not (study.directory / "best.json").exists():
        raise RuntimeError(f"every trial diverged or failed; see {page}")
    for file in () if as_json else (page, study.directory / "best.json"):
        console.print(str(file), soft_wrap=True, markup=False, highlight=False)


def _show_plan(plan: Any, as_json: bool) -> None:
    """What a search would do."""
    from keras_adamfamily.tuning.progress import duration

    if as_json:
        print_json({**vars(plan), "space": plan.space.get_config()})
        return
    console = console_of_output()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("optimizer", "argument", "from", "to"):
        table.add_column(header)
    for name, own in plan.space.ranges.items():
        for argument, (low, high) in own.items():
            table.add_row(name, argument, f"{low:g}", f"{high:g}")
    for name, fixed in plan.space.fixed.items():
        for argument, value in fixed.items():
            table.add_row(name, argument, f"{value}")
    for name, choices in (("schedule", plan.space.schedules), ("batch", plan.space.batch_sizes)):
        if choices:
            table.add_row("all", name, ", ".join(map(str, choices)))
    for name, values in plan.of_the_model.items():
        table.add_row("the model", name, ", ".join(map(str, values)))
    console.print(table)
    lines = [
        f"{plan.trials} trials and {plan.finals} runs on fresh seeds, {plan.epochs} epochs each",
        f"{plan.trial_epochs} epochs of training in all, {plan.programs} different programs",
        plan.reason,
    ]
    if plan.seconds is None:
        lines.append("how long it would take was not measured: see without --strategy")
    else:
        lines.append(f"about {duration(plan.seconds)}, and the time to compile")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _as_range(text: str) -> tuple[str, tuple[float, float]]:
    """`learning_rate=1e-4:1e-1`"""
    name, _, limits = text.partition("=")
    low, _, high = limits.partition(":")
    if not (low.strip() and high.strip()):
        raise Usage(f"--range must have the form NAME=LOW:HIGH, not {text!r}")
    return name.strip(), (_as_number("--range", low), _as_number("--range", high))


def _as_setting(option: str, text: str) -> tuple[str, Any]:
    """`beta_1=0.9`; the value is a number, true or false, or a text."""
    name, separator, value = text.partition("=")
    if not separator:
        raise Usage(f"{option} must have the form NAME=VALUE, not {text!r}")
    try:
        return name.strip(), json.loads(value.lower())
    except ValueError:
        return name.strip(), value.strip()


def _as_number(option: str, text: str) -> int | float:
    try:
        return int(text) if text.strip().isdigit() else float(text)
    except ValueError:
        raise Usage(f"{option} must have numbers, not {text!r}") from None


def _subject_of(
    name: str, model: str | None, data: str | None, tasks: dict[str, Any]
) -> tuple[Callable, Callable]:
    """The functions of a study whose `build_model` has this module and name."""
    from keras_adamfamily.tuning.search import name_of

    of_tasks = {name_of(task.build_model): task for task in tasks.values()}
    if data is None and name not in of_tasks:
        raise Usage("the data have to be named again: --data MODULE:load_data")
    module, _, function = name.rpartition(".")
    has_place = function.isidentifier() and module != "__main__" and not module.startswith("keras.")
    if model is None and not has_place:
        raise Usage(f"the study's model is {name}, which has no place: --model MODULE:build_model")
    load_data = imported(data) if data else of_tasks[name].load_data
    return imported(model or f"{module}:{function}"), load_data


def _loaded(load_data: Callable) -> tuple[Any, Any]:
    name = getattr(load_data, "__name__", "load_data")
    try:
        loaded = load_data()
    except Exception as error:
        raise RuntimeError(f"{name} raised {type(error).__name__}: {error}") from error
    try:
        train, validation = loaded
    except Exception as error:
        raise RuntimeError(
            f"{name} must return (x_train, y_train), (x_validation, y_validation): {error}"
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
