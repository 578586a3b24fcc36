"""The report's pictures, as Plotly figures; each says one thing."""

from __future__ import annotations

import functools
import html
import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go

from keras_adamfamily.tuning import evidence
from keras_adamfamily.tuning.leaderboard import LeaderboardRow
from keras_adamfamily.tuning.study import Study
from keras_adamfamily.tuning.trial import OK, PRUNED, SEARCH, TrialResult

# Okabe and Ito's colors, told apart by color-blind readers, on white and on black.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "hexagon", "pentagon")
DASHES = ("solid", "dash", "dot")
LOST = "#D55E00"
CELLS = 36
GRID = "rgba(128, 128, 128, 0.25)"
_escaped = functools.partial(html.escape, quote=False)  # Plotly knows no entity of a quote


# Fresh seeds.


def forest(rows: Sequence[LeaderboardRow], objective: str, names: Sequence[str]) -> go.Figure:
    """Each optimizer's mean on fresh seeds with its interval, and the runs that it is made of.

    `names` gives the order of the colors.
    """
    rows = [row for row in rows if row.mean is not None]
    figure = _figure(objective, "", height=90 + 44 * len(rows))
    for row in rows:
        name, color = _escaped(row.optimizer), COLORS[names.index(row.optimizer) % len(COLORS)]
        runs = [score for score in row.finals.values() if score is not None]
        figure.add_scatter(
            x=runs,
            y=[name] * len(runs),
            mode="markers",
            hovertemplate="one run: %{x:.4g}<extra></extra>",
            marker={"color": color, "size": 7, "opacity": 0.35},
        )
        bars = None
        if row.low is not None:
            bars = {
                "type": "data",
                "symmetric": False,
                "array": [row.high - row.mean],
                "arrayminus": [row.mean - row.low],
                "color": color,
                "thickness": 2.5,
                "width": 7,
            }
        figure.add_scatter(
            x=[row.mean],
            y=[name],
            error_x=bars,
            mode="markers",
            hovertemplate="mean of " + str(len(runs)) + " runs: %{x:.4g}<extra></extra>",
            marker={"color": color, "size": 12, "symbol": "diamond"},
        )
    figure.update_yaxes(autorange="reversed", type="category", title_text=None, showgrid=False)
    figure.update_layout(showlegend=False)
    return figure


# Training.


def learning_curves(study: Study, metric: str) -> go.Figure:
    """A metric by epoch: the best trial of each optimizer, and behind it all others, faint."""
    figure = _figure("epoch", metric, names=study.space.optimizers)
    everything, bests = [], []
    costs = [study.scoring.cost(t.score) for t in study.trials if t.score is not None]
    worst = statistics.median(costs) if costs else None  # what explodes must not hide the rest
    for index, optimizer in enumerate(study.space.optimizers):
        trials = [t for t in study.scoring.of(SEARCH, optimizer) if metric in t.curves]
        best = study.scoring.best_trial(optimizer)
        x, y = [], []
        for trial in trials:
            curve = trial.curves[metric]
            if trial.score is not None and study.scoring.cost(trial.score) <= worst:
                everything += [value for value in curve if value is not None]
            x += [*range(1, len(curve) + 1), None]
            y += [*(v if v is None else float(f"{v:.5g}") for v in curve), None]
        style = _line(index)
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": style["color"], "width": 1},
            opacity=0.22,
            hoverinfo="skip",
            showlegend=False,
            legendgroup=str(index),
        )
        if best is not None and metric in best.curves:
            curve = best.curves[metric]
            bests += [value for value in curve if value is not None]
            figure.add_scatter(
                x=list(range(1, len(curve) + 1)),
                y=curve,
                name=_escaped(optimizer),
                legendgroup=str(index),
                mode="lines+markers",
                line=style | {"width": 2.5},
                marker={"symbol": _symbol(index), "size": 6},
                hovertemplate="epoch %{x}: %{y:.4g}<extra>" + _escaped(optimizer) + "</extra>",
            )
    if everything:
        inner = np.quantile(everything, [0.02, 0.85])  # nor what falls steeply
        figure.update_yaxes(range=_padded([*bests, *inner]))
    return figure


# The search.


def sensitivity(study: Study) -> go.Figure:
    """The score by learning rate, and its upper envelope: a broad top needs little care."""
    figure = _figure("learning rate", study.settings.objective, names=study.space.optimizers)
    figure.update_xaxes(**log_axis(study, "learning_rate"))
    low, high = _score_range(study)
    figure.update_yaxes(range=_padded([low, high]))
    for index, optimizer in enumerate(study.space.optimizers):
        points = [t for t in searched(study, optimizer, "learning_rate") if t.score is not None]
        shown = {"legendgroup": str(index), "name": _escaped(optimizer)}
        x, y = _envelope(study, points)
        figure.add_scatter(
            x=x,
            y=y,
            **shown,
            mode="lines",
            line=_line(index) | {"shape": "linear"},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=[t.short_hyperparameters["learning_rate"] for t in points],
            y=[min(max(t.score, low), high) for t in points],
            **shown,
            mode="markers",
            text=[_label(study, t) for t in points],
            hovertemplate="%{text}<extra></extra>",
            marker={
                "color": COLORS[index % len(COLORS)],
                "symbol": [_symbol(index) + "-open" * (t.status != OK) for t in points],
                "size": 9,
                "opacity": 0.85,
            },
        )
    return figure


def good_rates(study: Study, optimizer: str) -> tuple[float, float, float] | None:
    """The lowest and the highest learning rate at which the envelope is close to its best.

    Returns:
        The two, and how many decades of rates are good, gaps left out; `None` without a trial.
    """
    rates, scores = _envelope(study, searched(study, optimizer, "learning_rate"))
    if not rates:
        return None
    x = np.log10(rates)
    costs = np.array([study.scoring.cost(score) for score in scores])
    fine = np.linspace(x[0], x[-1], 1001)
    good = np.interp(fine, x, costs) <= costs.min() + close(study)
    width = float(good.mean() * (x[-1] - x[0]))
    return float(10 ** fine[good][0]), float(10 ** fine[good][-1]), width


def close(study: Study) -> float:
    """What counts as close: half of the way from the best of all trials to their median."""
    scores = [t.score for t in study.trials if t.role == SEARCH and t.status == OK]
    if not scores:
        return 0.0
    costs = [study.scoring.cost(score) for score in scores]
    return (statistics.median(costs) - min(costs)) / 2.0


def rate_by_decay(study: Study, optimizer: str) -> go.Figure:
    """Every trial of one optimizer, colored by score, on a surface that reaches as far as they.

    Trials on a grid become the cells of a heat map. Others are points; the surface between them is
    a weighted mean of those near by, and left out where none is near.
    """
    figure = _figure("learning rate", "weight decay, normalized", height=340)
    figure.update_xaxes(**log_axis(study, "learning_rate"))
    figure.update_yaxes(**log_axis(study, "weight_decay"))
    trials = searched(study, optimizer, "learning_rate", "weight_decay")
    low, high = color_range(study)
    colors = {
        "colorscale": "Viridis",
        "reversescale": study.settings.direction == "min",
    }
    cells = surface(study, optimizer)
    if cells is not None:
        x, y, z = cells
        figure.add_heatmap(
            x=x, y=y, z=z, zmin=low, zmax=high, **colors, opacity=0.6, showscale=False,
            hoverinfo="skip",
        )  # fmt: skip
    for scored in (True, False):
        own = [t for t in trials if (t.score is not None) == scored]
        marker = {"size": 10, "symbol": "x", "color": LOST}
        if scored:
            marker = {
                "size": 11,
                "symbol": ["circle" if t.status == OK else "circle-x" for t in own],
                "color": [t.score for t in own],
                "cmin": low,
                "cmax": high,
                **colors,
                "showscale": True,
                "colorbar": {"thickness": 10, "outlinewidth": 0},
                "line": {"width": 1.5, "color": "rgba(255, 255, 255, 0.9)"},
            }
        figure.add_scatter(
            x=[place(t)[0] for t in own],
            y=[place(t)[1] for t in own],
            mode="markers",
            text=[_label(study, t) for t in own],
            hovertemplate="%{text}<extra></extra>",
            marker=marker,
        )
    figure.update_layout(showlegend=False)
    return figure


def surface(study: Study, optimizer: str):
    """The cells of the heat map of an optimizer, see `heat`; a lost trial counts as the worst."""
    low, high = color_range(study)
    worst = low if study.settings.direction == "max" else high
    trials = searched(study, optimizer, "learning_rate", "weight_decay")
    return heat([(*place(t), worst if t.score is None else t.score) for t in trials], (low, high))


def heat(
    points: Sequence[tuple[float, float, float]], limits: tuple[float, float]
) -> tuple[list[float], list[float], list[list[float | None]]] | None:
    """The cells of a heat map: edges along x, edges along y, and values, `None` where no data is.

    Points on a grid fill its cells; others blend into `CELLS` along each side.

    Args:
        points: `(x, y, value)`, where x and y are positive and shown on logarithmic axes.
        limits: The range of the colors; values beyond count as its end, or one run that exploded
            would color its whole neighborhood.
    """
    if len(points) < 4:
        return None
    x, y = (np.log10([point[axis] for point in points]) for axis in (0, 1))
    value = np.clip([point[2] for point in points], *limits)
    columns, rows = np.unique(x.round(6)), np.unique(y.round(6))
    if min(len(columns), len(rows)) < 2:
        return None
    if len(columns) * len(rows) <= 1.25 * len(points):
        z = np.full((len(rows), len(columns)), np.nan)
        z[np.searchsorted(rows, y.round(6)), np.searchsorted(columns, x.round(6))] = value
        edges = [_edges(columns), _edges(rows)]
    else:
        edges = [np.linspace(axis.min(), axis.max(), CELLS + 1) for axis in (x, y)]
        middle = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
        scale = [np.ptp(axis) for axis in (x, y)]
        distance = sum(
            ((grid[..., None] - axis) / extent) ** 2
            for grid, axis, extent in zip(np.meshgrid(*middle), (x, y), scale, strict=True)
        )
        reach = 0.5 / math.sqrt(len(points))  # half the spacing of a grid of as many points
        weight = np.exp(-distance / (2 * reach**2))
        z = (weight * value).sum(-1) / np.maximum(weight.sum(-1), 1e-300)
        z[distance.min(-1) > (2.5 * reach) ** 2] = np.nan
    rounded = [[None if np.isnan(v) else float(f"{v:.5g}") for v in row] for row in z]
    return *([float(f"{10**e:.6g}") for e in edge] for edge in edges), rounded


def best_of(study: Study) -> go.Figure:
    """How good the best of n random trials is: the median over all ways to draw them, and luck."""
    figure = _figure("trials", f"best {study.settings.objective}", names=study.space.optimizers)
    for index, optimizer in enumerate(study.space.optimizers):
        trials = study.scoring.of(SEARCH, optimizer)
        costs = [study.scoring.cost(trial.score) for trial in trials]
        shown = math.ceil(len(costs) / 2)  # beyond, the draws are too much alike
        lucky, median, unlucky = (
            [_score(study, cost) for cost in evidence.best_of(costs, chance)[:shown]]
            for chance in (0.1, 0.5, 0.9)
        )
        x = list(range(1, shown + 1))
        band = [(n, a, b) for n, a, b in zip(x, lucky, unlucky, strict=True) if None not in (a, b)]
        group = {"legendgroup": str(index), "name": _escaped(optimizer)}
        if band:
            n, top, bottom = (list(part) for part in zip(*band, strict=True))
            figure.add_scatter(
                x=n + n[::-1],
                y=top + bottom[::-1],
                **group,
                mode="lines",
                line={"width": 0},
                fill="toself",
                fillcolor=COLORS[index % len(COLORS)],
                opacity=0.16,
                hoverinfo="skip",
                showlegend=False,
            )
        figure.add_scatter(
            x=x,
            y=median,
            **group,
            mode="lines",
            line=_line(index) | {"width": 2.5},
            hovertemplate="best of %{x}: %{y:.4g}<extra>" + _escaped(optimizer) + "</extra>",
        )
    figure.update_yaxes(range=_padded(_score_range(study)))
    return figure


def history(study: Study, clock: bool = False) -> go.Figure:
    """The best so far, by trial of each optimizer or by the clock."""
    ends = [t.finished for t in study.trials if t.role == SEARCH and t.finished is not None]
    start = min(
        (t.finished - t.seconds for t in study.trials if t.finished is not None), default=0.0
    )
    unit, length = "seconds", 1.0
    if clock and max(ends, default=0.0) - start > 180.0:
        unit, length = "minutes", 60.0
    figure = _figure(
        f"{unit} since the start" if clock else "trials",
        f"best {study.settings.objective} so far",
        names=study.space.optimizers,
    )
    for index, optimizer in enumerate(study.space.optimizers):
        trials = study.scoring.of(SEARCH, optimizer)
        if clock:
            trials = [t for t in trials if t.finished is not None]
            trials = sorted(trials, key=lambda t: t.finished)
        best, x, y = math.inf, [], []
        for count, trial in enumerate(trials, 1):
            if trial.status == OK:
                best = min(best, study.scoring.cost(trial.score))
            x.append((trial.finished - start) / length if clock else count)
            y.append(_score(study, best))
        figure.add_scatter(
            x=x,
            y=y,
            name=_escaped(optimizer),
            mode="lines+markers",
            marker={"size": 4},
            line=_line(index) | {"shape": "hv"},
            hovertemplate="%{x:.3g}: %{y:.4g}<extra>" + _escaped(optimizer) + "</extra>",
        )
    figure.update_yaxes(range=_padded(_score_range(study)))
    return figure


def has_clock(study: Study) -> bool:
    return any(t.finished is not None for t in study.trials if t.role == SEARCH)


def importance(found: dict[str, dict[str, float]]) -> go.Figure:
    """How much of the score each hyperparameter explains, per optimizer."""
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    labels = [textwrap.wrap(name.replace("_", " "), 20) for name in names]
    height = 110 + sum(max(24 + 16 * len(label), 8 + 9 * len(found)) for label in labels)
    figure = _figure("share of variance", "", height, list(found))
    for index, (optimizer, own) in enumerate(found.items()):
        figure.add_bar(
            x=[own.get(name) for name in names],
            y=["<br>".join(map(_escaped, label)) for label in labels],
            name=_escaped(optimizer),
            orientation="h",
            marker={"color": COLORS[index % len(COLORS)]},
            hovertemplate="%{x:.0%}<extra>" + _escaped(optimizer) + "</extra>",
        )
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(title_text=None, autorange="reversed", type="category", showgrid=False)
    figure.update_layout(barmode="group")
    return figure


def is_searched(study: Study, argument: str) -> bool:
    """Whether the argument is searched for every optimizer."""
    return all(argument in ranges for ranges in study.space.ranges.values())


# What they share.


def searched(study: Study, optimizer: str, *arguments: str) -> list[TrialResult]:
    """The trials of the search that have these hyperparameters."""
    trials = study.scoring.of(SEARCH, optimizer)
    return [t for t in trials if all(name in t.short_hyperparameters for name in arguments)]


def place(trial: TrialResult) -> tuple[float, float]:
    values = trial.short_hyperparameters
    return values["learning_rate"], values["weight_decay"]


def _envelope(study: Study, points: Iterable[TrialResult]) -> tuple[list[float], list[float]]:
    """The best of about every three trials, neighbors in the learning rate."""
    ordered = sorted(
        (t for t in points if t.status == OK),
        key=lambda t: t.short_hyperparameters["learning_rate"],
    )
    groups = [ordered[i : i + 3] for i in range(0, len(ordered), 3)]
    best = [min(group, key=lambda t: study.scoring.cost(t.score)) for group in groups]
    return [t.short_hyperparameters["learning_rate"] for t in best], [t.score for t in best]


def _label(study: Study, trial: TrialResult) -> str:
    """What is shown when the pointer rests on a trial."""
    score = "" if trial.score is None else f"{study.settings.objective} {trial.score:.4g}"
    status = "" if trial.status == OK else f"{trial.status} in epoch {trial.epoch}"
    values = (
        f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.short_hyperparameters.items()
    )
    title = f"{trial.optimizer}, trial {trial.number}"
    return "<br>".join(_escaped(part) for part in (title, status, score, *values) if part)


def _score(study: Study, cost: float) -> float | None:
    return study.scoring.sign * cost if math.isfinite(cost) else None


def _score_range(study: Study) -> tuple[float, float]:
    """The scores worth seeing: from the best to three times as far as the median, or the worst."""
    costs = [study.scoring.cost(t.score) for t in study.trials if t.score is not None]
    if not costs:
        return 0.0, 1.0
    best, worst = min(costs), max(costs)
    gap = statistics.median(costs) - best
    worst = min(worst, best + 3 * gap) if gap else worst
    return tuple(sorted(study.scoring.sign * cost for cost in (best, worst)))


def color_range(study: Study) -> tuple[float, float]:
    """From the median of all scores to the best: color is for telling good trials apart."""
    scores = [t.score for t in study.trials if t.role == SEARCH and t.status in (OK, PRUNED)]
    scores = [score for score in scores if score is not None]
    if not scores:
        return 0.0, 1.0
    best = min(scores, key=study.scoring.cost)
    return tuple(sorted((statistics.median(scores), best)))


def _symbol(index: int) -> str:
    """Another one, too, where the colors come round again."""
    return SYMBOLS[(index + index // len(COLORS)) % len(SYMBOLS)]


def _line(index: int) -> dict:
    return {
        "color": COLORS[index % len(COLORS)],
        "dash": DASHES[index // len(COLORS) % len(DASHES)],
    }


def log_axis(study: Study, argument: str) -> dict:
    """A logarithmic axis over the union of all optimizers' ranges, so that pictures compare."""
    limits = [end for own in study.space.ranges.values() for end in own.get(argument, ())]
    axis = {"type": "log", "exponentformat": "power", "dtick": 1}
    if limits:
        axis.update(range=[math.log10(min(limits)) - 0.15, math.log10(max(limits)) + 0.15])
    return axis


def _edges(centers: np.ndarray) -> np.ndarray:
    """The borders of cells with these centers."""
    inner = (centers[1:] + centers[:-1]) / 2
    return np.concatenate([[2 * centers[0] - inner[0]], inner, [2 * centers[-1] - inner[-1]]])


def _padded(values: Iterable[float]) -> list[float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return [low - margin, high + margin]


def _figure(x: str, y: str, height: int = 380, names: Sequence[str] = ()) -> go.Figure:
    """An empty figure that is legible on light and on dark pages; the page colors the text.

    It grows with the names in the legend, of which two fit in a row of a narrow one.
    """
    height += 28 * max(0, math.ceil(len(names) / 2) - 2)
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 12, "t": 16, "b": 48},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"font": {"family": "system-ui, sans-serif"}},
    )
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True}
    figure.update_xaxes(title_text=_escaped(x.replace("_", " ")), **axis)
    figure.update_yaxes(title_text=_escaped(y.replace("_", " ")), **axis)
    return figure
