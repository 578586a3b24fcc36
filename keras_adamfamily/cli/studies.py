"""What looks at studies that there are: report, heatmap, compare, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_adamfamily.cli.common import (
    EXIT_CODES,
    Usage,
    app,
    console_of_output,
    names_in,
    print_json,
)

REPORT_HELP = """
Make the leaderboard, best.json and the report page again from a study's folder.

    adamfamily report runs/digits

    adamfamily report runs/digits --json | jq .verdict
"""

HEATMAP_HELP = """
Draw the score by learning rate and weight decay, one picture per optimizer, side by side.

The suffix of --out says as what: .png, .svg, .pdf, or .html for a page whose points can be read.

    adamfamily heatmap runs/digits

    adamfamily heatmap runs/digits --optimizer adamw --out adamw.html
"""

COMPARE_HELP = """
Compare the optimizers of several studies of one objective by their runs on fresh seeds.

Studies that were started with the same --seed are compared run by run. Where their data, epochs or
budgets differ, the comparison is not fair, and the command says so.

    adamfamily compare runs/cosine runs/constant

    adamfamily compare runs/a runs/b runs/c --json
"""

EXPORT_HELP = """
Write a study for other programs.

csv has a line per trial; json has everything; tensorboard has a run per trial for the HPARAMS and
SCALARS tabs; optuna is an SQLite file for optuna-dashboard.

    adamfamily export runs/digits --to csv

    adamfamily export runs/digits --to tensorboard --out logs && tensorboard --logdir logs
"""

Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="The folder of a study.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command(help=REPORT_HELP, epilog=EXIT_CODES)
def report(folder: Folder, as_json: AsJson = False) -> None:
    from keras_adamfamily import tuning
    from keras_adamfamily.tuning.exports import result
    from keras_adamfamily.tuning.progress import show_leaderboard

    study = tuning.Study(folder)
    if as_json:
        print_json(result(study) | {"report": str(folder / "report.html")})
    else:
        show_leaderboard(study, console_of_output())
    study.write()
    if not as_json:
        _print_path(folder / "report.html")


@app.command(help=HEATMAP_HELP, epilog=EXIT_CODES)
def heatmap(
    folder: Folder,
    optimizer: Annotated[
        str | None, typer.Option(help="Names, separated by commas; by default all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The picture; by default heatmap.png in the study's folder.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the points; a picture only with --out.")
    ] = False,
) -> None:
    from keras_adamfamily import registry, tuning
    from keras_adamfamily.tuning import figures
    from keras_adamfamily.tuning import heatmap as picture
    from keras_adamfamily.tuning.study import columns_of

    study = tuning.Study(folder)
    names = [registry.find(name).name for name in names_in(optimizer or "")]
    for name in names:
        if name not in study.space.optimizers:
            raise Usage(f"--optimizer must be of {', '.join(study.space.optimizers)}, not {name!r}")
    names = names or list(study.space.optimizers)
    if as_json:
        fields = ("number", "status", "score", "epoch")

        def shown(trial):
            values = trial.short_hyperparameters
            named = zip(columns_of(values, fields), values.values(), strict=True)
            return {field: getattr(trial, field) for field in fields} | dict(named)

        print_json({name: list(map(shown, figures.searched(study, name))) for name in names})
    if out is not None or not as_json:
        out = out or folder / "heatmap.png"
        picture.save(study, names, out)
    if not as_json:
        _print_path(out)


@app.command(help=COMPARE_HELP, epilog=EXIT_CODES)
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="STUDY STUDY...", help="Two or more folders.")
    ],
    as_json: AsJson = False,
) -> None:
    from keras_adamfamily import tuning
    from keras_adamfamily.tuning.exports import tables
    from keras_adamfamily.tuning.progress import show_rows

    if len(folders) < 2:
        raise Usage("give two or more studies: adamfamily compare runs/a runs/b")
    found = tuning.compare(*map(tuning.Study, folders))
    if as_json:
        named = {key: getattr(found, key) for key in ("objective", "verdict", "caveats")}
        print_json(named | tables(found.rows))
        return
    console = console_of_output()
    show_rows(found.rows, found.objective, console)
    for caveat in found.caveats:
        console.print(f"Not a fair comparison: {caveat}", soft_wrap=True, markup=False)
    console.print(found.verdict, soft_wrap=True, markup=False, highlight=False)


@app.command(help=EXPORT_HELP, epilog=EXIT_CODES)
def export(
    folder: Folder,
    to: Annotated[str, typer.Option(help="csv, json, tensorboard or optuna.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to; by default a name in the study's folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the path as JSON.")] = False,
) -> None:
    from keras_adamfamily import tuning
    from keras_adamfamily.tuning.exports import EXPORTS

    if to not in EXPORTS:
        raise Usage(f"--to must be one of {', '.join(EXPORTS)}, not {to!r}")
    name, write = EXPORTS[to]
    study = tuning.Study(folder)
    out = out or folder / name
    try:
        write(study, out)
    except ModuleNotFoundError as error:
        package = error.name.partition(".")[0]
        raise Usage(
            f"--to {to} needs the package {package}: pip install 'keras-adamfamily[{to}]'"
        ) from error
    if as_json:
        print_json({"to": to, "path": str(out)})
    else:
        _print_path(out)


def _print_path(path: Path) -> None:
    console_of_output().print(str(path), soft_wrap=True, markup=False, highlight=False)
