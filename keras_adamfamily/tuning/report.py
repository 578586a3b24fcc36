"""The report: one HTML page, made from the study's folder alone, that needs no network."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from keras_adamfamily import registry
from keras_adamfamily.tuning import figures
from keras_adamfamily.tuning.leaderboard import SIGNIFICANCE
from keras_adamfamily.tuning.progress import count, fresh, number, seconds
from keras_adamfamily.tuning.study import Study
from keras_adamfamily.tuning.trial import OK

STYLE = """
:root { color-scheme: light dark; --text: #1d2430; --soft: #5b6472; --line: #d8dce3;
        --back: #fff; --card: #f5f7fa; --best: #0a6b47; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ee; --soft: #9aa4b2; --line: #343b47; --back: #14171c;
          --card: #1d222a; --best: #5fd3a3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 1.5rem 1rem 4rem; color: var(--text);
       background: var(--back); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: .5rem 0 0; }
p { max-width: 46rem; margin: .5rem 0; }
.soft, caption { color: var(--soft); }
.verdict { font-size: 1.1rem; background: var(--card); border-left: 4px solid var(--best);
           padding: .7rem 1rem; margin: 1rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td.wide { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
tr.best td { color: var(--best); font-weight: 600; }
pre { background: var(--card); padding: 1rem; overflow-x: auto; border-radius: 6px;
      font-size: .9rem; }
.grid { display: grid; gap: 1rem;
        grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
.grid > * { min-width: 0; }
.js-plotly-plot .plotly text { fill: var(--text) !important; }
.js-plotly-plot .plotly .hoverlayer text { fill: #fff !important; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<script>{script}</script>
</head>
<body>
{body}
</body>
</html>
"""


def render(study: Study) -> str:
    """The page as a string; equal folders give equal pages."""
    settings = study.settings
    title = f"{settings.objective} of {', '.join(study.space.optimizers)}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_subtitle(study))}</p>',
        f'<p class="verdict">{escape(study.verdict())}</p>',
        *_leaderboard(study),
        *_best(study),
        *_curves(study),
        *_sensitivity(study),
        *_rate_by_decay(study),
        *_facts(study),
        *_failures(study),
        *_method(study),
        *_environment(study),
    ]
    return PAGE.format(
        title=escape(title), style=STYLE, script=get_plotlyjs(), body="\n".join(body)
    )


def _subtitle(study: Study) -> str:
    settings = study.settings
    planned = settings.trials_per_optimizer * len(study.space.optimizers)
    done = sum(row.trials for row in study.leaderboard())
    return (
        f"{settings.build_model}, {settings.parameters:,} parameters, {settings.dataset_size:,} "
        f"training examples, batch {settings.batch_size}, {settings.epochs} epochs; "
        + (f"{done} trials" if done == planned else f"{done} of {planned} trials so far")
    )


def _leaderboard(study: Study) -> Iterable[str]:
    rows = study.leaderboard()
    names = list(dict.fromkeys(name for row in rows for name in row.hyperparameters))
    headers = ["", "Optimizer", "On fresh seeds", "n", "In the search"]
    headers += [name.replace("_", " ") for name in names] + ["Trials", "Seconds a trial", "State"]
    cells = [
        [str(row.rank), row.optimizer, fresh(row), str(row.n), number(row.search_score)]
        + [number(row.hyperparameters.get(name)) for name in names]
        + [count(row), seconds(row), _state(row.optimizer)]
        for row in rows
    ]
    yield "<h2>Leaderboard</h2>"
    yield _table(headers, cells, best=rows[0].search_score is not None)
    yield (
        "<p class='soft'>On fresh seeds: the best configuration of each optimizer, trained again; "
        "mean ± standard deviation of n runs. This makes the order. In the search: the score of "
        "its best trial, which was picked for being the best and therefore flatters. Weight decay "
        "is the normalized rate. State: numbers kept per parameter.</p>"
    )


def _best(study: Study) -> Iterable[str]:
    if study.leaderboard()[0].search_score is not None:
        yield "<h2>The best configuration</h2>"
        code = f"import keras_adamfamily as kaf\n\noptimizer = {study.best_code()}"
        yield f"<pre>{escape(code)}</pre>"
        yield "<p class='soft'>The same from the file: <code>kaf.get('best.json')</code>.</p>"


def _curves(study: Study) -> Iterable[str]:
    objective = study.settings.objective
    metrics = [objective] + [m for m in ("loss", "val_loss") if m != objective]
    yield "<h2>Learning curves</h2>"
    yield "<p class='soft'>The best trial of each optimizer in the search.</p>"
    yield '<div class="grid">'
    for index, metric in enumerate(metrics):
        yield _plot(figures.learning_curves(study, metric), f"curve-{index}")
    yield "</div>"


def _sensitivity(study: Study) -> Iterable[str]:
    if figures.is_searched(study, "learning_rate"):
        yield "<h2>Sensitivity to the learning rate</h2>"
        yield (
            "<p class='soft'>Every trial of the search. A broad top means that the learning rate "
            "needs little care.</p>"
        )
        yield _plot(figures.sensitivity(study), "sensitivity")


def _rate_by_decay(study: Study) -> Iterable[str]:
    searched = all(figures.is_searched(study, name) for name in ("learning_rate", "weight_decay"))
    if searched:
        yield "<h2>Learning rate by weight decay</h2>"
        yield (
            f"<p class='soft'>Every trial of the search, colored by {escape(_objective(study))}; "
            "the scale starts at the median of all trials, and what is worse has its first color. "
            "A cross is a trial that diverged or failed.</p>"
        )
        yield '<div class="grid">'
        for index, optimizer in enumerate(study.space.optimizers):
            plot = _plot(figures.rate_by_decay(study, optimizer), f"decay-{index}")
            yield f"<div><h3>{escape(optimizer)}</h3>{plot}</div>"
        yield "</div>"


def _facts(study: Study) -> Iterable[str]:
    trials = [trial for trial in study.trials if trial.facts]
    if trials:
        names = list(dict.fromkeys(name for trial in trials for name in trial.facts))
        cells = [
            [trial.optimizer, f"{trial.role} {trial.number}", number(trial.score)]
            + [number(trial.facts.get(name)) for name in names]
            for trial in trials
        ]
        yield "<h2>What the optimizers found</h2>"
        yield _table(["Optimizer", "Trial", study.settings.objective, *names], cells)


def _failures(study: Study) -> Iterable[str]:
    lost = [trial for trial in study.trials if trial.status != OK]
    yield "<h2>Trials without a score</h2>"
    if not lost:
        yield "<p>None: every trial ended well.</p>"
        return
    cells = [
        [
            trial.optimizer,
            f"{trial.role} {trial.number}",
            trial.status,
            "-" if trial.epoch is None else str(trial.epoch),
            ", ".join(f"{k} {number(v)}" for k, v in trial.short_hyperparameters.items()),
            trial.cause,
        ]
        for trial in lost
    ]
    yield _table(["Optimizer", "Trial", "Status", "Epoch", "Hyperparameters", "Cause"], cells)


def _method(study: Study) -> Iterable[str]:
    settings = study.settings
    ranges = [
        [optimizer, argument.replace("_", " "), f"{low:g} to {high:g}"]
        for optimizer, own in study.space.ranges.items()
        for argument, (low, high) in own.items()
    ]
    fixed = [
        [optimizer, argument.replace("_", " "), f"{number(value)} (fixed)"]
        for optimizer, own in study.space.fixed.items()
        for argument, value in own.items()
    ]
    yield "<h2>How it was measured</h2>"
    yield (
        f"<p>The score of a trial is {escape(_objective(study))} after its last epoch, not the "
        "best epoch of a noisy curve. Every optimizer had the same number of trials, of epochs and "
        "of searched values, and its i-th trial lay at the same place of its ranges, with the same "
        "random seed. Points are random, uniform in the logarithm "
        f"(KerasTuner's RandomSearch, seed {settings.seed}). The validation data chose the "
        "configurations, so measure the winner on data that it has not seen. Two optimizers are "
        f"told apart if Welch's t-test on the runs with fresh seeds gives p < {SIGNIFICANCE:g}.</p>"
    )
    yield _table(["Optimizer", "Argument", "Range"], ranges + fixed)


def _environment(study: Study) -> Iterable[str]:
    yield "<h2>Environment</h2>"
    for environment in study.environments:
        yield _table(["Part", "Version"], [[k, str(v)] for k, v in environment.items()])


def _objective(study: Study) -> str:
    better = {"max": "higher", "min": "lower"}[study.settings.direction]
    return f"{study.settings.objective} ({better} is better)"


def _state(optimizer: str) -> str:
    return str(registry.find(optimizer).state_per_parameter)


def _table(headers: list[str], rows: list[list[str]], best: bool = False) -> str:
    """A table; the last column may wrap, the first row is marked if it is the `best`."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    lines = []
    for index, row in enumerate(rows):
        mark = ' class="best"' if best and index == 0 else ""
        cells = [escape(str(cell)) for cell in row]
        wide = ' class="wide"' if len(cells[-1]) > 40 else ""
        *first, last = cells
        lines.append(
            f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in first)}<td{wide}>{last}</td></tr>"
        )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _plot(figure: go.Figure, name: str) -> str:
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"responsive": True, "displayModeBar": False},
    )
