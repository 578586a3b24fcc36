"""`adamfamily regret`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from keras_adamfamily.cli.common import (
    EXIT_CODES,
    Backend,
    Usage,
    app,
    console_of_output,
    names_in,
    use_backend,
)

REGRET_HELP = r"""
Measure the regret of optimizers on the cost sequences where Adam does not converge.

In each round an optimizer plays a point of [-1, 1], pays, and sees the slope. What it paid a round
beyond the best fixed point, its average regret, has to go to 0. The problems are those of Reddi,
Kale and Kumar (arXiv:1904.09237); so are the settings, where the paper gives them.

    adamfamily regret --problem period-101 --optimizers adam,amsgrad,adopt

    adamfamily regret --optimizers adam --beta-2 0.9999 --schedule constant --learning-rate 0.001
"""


@app.command(help=REGRET_HELP, epilog=EXIT_CODES)
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
    backend: Backend = None,
) -> None:
    use_backend(backend)
    import keras

    from keras_adamfamily.regret import PROBLEMS, picture

    if problem not in PROBLEMS:
        raise Usage(f"--problem must be one of {', '.join(PROBLEMS)}, not {problem!r}")
    chosen = PROBLEMS[problem]
    options = {"learning_rate": learning_rate, "schedule": schedule}
    options |= {"beta_1": beta_1, "beta_2": beta_2}
    options = {name: value for name, value in options.items() if value is not None}
    names = names_in(optimizers)
    players = [chosen.optimizer(name, **options) for name in names]
    if not players:
        raise Usage("--optimizers must name at least one; see `adamfamily list`")
    if out is None and not as_json:
        out = Path("runs") / "regret" / f"{problem}.png"
    if out is not None:
        picture.check_path(out)
    if rounds is None:
        rounds = 10_000 if keras.config.backend() == "torch" else chosen.rounds
    where = {} if start is None else {"start": start}
    console, results = console_of_output(), []
    for player in players:
        with console.status(f"{type(player).__name__} plays {rounds:,} rounds"):
            results.append(chosen.play(player, rounds, seed, **where))
    title = f"{problem}: {chosen.title}"
    if as_json:
        print(json.dumps([result.to_dict() for result in results]))
    else:
        console.print(title, highlight=False)
        console.print(_regret_table(results))
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
