"""The report's pictures, as Plotly figures; each says one thing."""

from __future__ import annotations

import html
import math
import statistics

import plotly.graph_objects as go

from keras_adamfamily.tuning.study import Study
from keras_adamfamily.tuning.trial import OK, SEARCH, TrialResult

# Okabe and Ito's colors, told apart by color-blind readers, on white and on black.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "hexagon", "pentagon")
GRID = "rgba(128, 128, 128, 0.25)"


def learning_curves(study: Study, metric: str) -> go.Figure:
    """A metric by epoch, for the best trial of each optimizer."""
    figure = _figure("epoch", metric)
    for index, optimizer in enumerate(study.space.optimizers):
        best = study.scoring.best_trial(optimizer)
        if best is not None and metric in best.curves:
            curve = best.curves[metric]
            figure.add_scatter(
                x=list(range(1, len(curve) + 1)),
                y=curve,
                name=html.escape(optimizer),
                mode="lines+markers",
                line={"color": COLORS[index % len(COLORS)]},
                marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 6},
            )
    return figure


def sensitivity(study: Study) -> go.Figure:
    """The score by learning rate: a broad top means that the rate needs little care."""
    figure = _figure("learning rate", study.settings.objective)
    figure.update_xaxes(**_log_axis(study, "learning_rate"))
    for index, optimizer in enumerate(study.space.optimizers):
        points = [t for t in _points(study, optimizer, "learning_rate") if t.status == OK]
        figure.add_scatter(
            x=[t.short_hyperparameters["learning_rate"] for t in points],
            y=[t.score for t in points],
            name=html.escape(optimizer),
            mode="markers",
            marker={
                "color": COLORS[index % len(COLORS)],
                "symbol": SYMBOLS[index % len(SYMBOLS)],
                "size": 9,
                "opacity": 0.85,
            },
        )
    return figure


def rate_by_decay(study: Study, optimizer: str) -> go.Figure:
    """Every trial of one optimizer, colored by score; a cross is a trial without a score."""
    figure = _figure("learning rate", "weight decay, normalized", height=340)
    figure.update_xaxes(**_log_axis(study, "learning_rate"))
    figure.update_yaxes(**_log_axis(study, "weight_decay"))
    trials = _points(study, optimizer, "learning_rate", "weight_decay")
    scored = [trial for trial in trials if trial.status == OK]
    lost = [trial for trial in trials if trial.status != OK]
    low, high = _color_range(study)
    figure.add_scatter(
        **_at(scored),
        mode="markers",
        text=[f"{study.settings.objective} {trial.score:.4f}" for trial in scored],
        hovertemplate="%{text}<br>rate %{x:.3g}, decay %{y:.3g}<extra></extra>",
        marker={
            "size": 14,
            "color": [trial.score for trial in scored],
            "cmin": low,
            "cmax": high,
            "colorscale": "Viridis",
            "reversescale": study.settings.direction == "min",
            "showscale": True,
            "colorbar": {"thickness": 10, "outlinewidth": 0},
            "line": {"width": 1, "color": "rgba(128, 128, 128, 0.8)"},
        },
    )
    figure.add_scatter(
        **_at(lost),
        mode="markers",
        text=[trial.status for trial in lost],
        hovertemplate="%{text}<br>rate %{x:.3g}, decay %{y:.3g}<extra></extra>",
        marker={"size": 10, "symbol": "x", "color": "#D55E00"},
    )
    figure.update_layout(showlegend=False)
    return figure


def is_searched(study: Study, argument: str) -> bool:
    """Whether the argument is searched for every optimizer."""
    return all(argument in ranges for ranges in study.space.ranges.values())


def _points(study: Study, optimizer: str, *arguments: str) -> list[TrialResult]:
    """The trials of the search that have these hyperparameters."""
    trials = study.scoring.of(SEARCH, optimizer)
    return [t for t in trials if all(name in t.short_hyperparameters for name in arguments)]


def _at(trials: list[TrialResult]) -> dict[str, list[float]]:
    return {
        "x": [trial.short_hyperparameters["learning_rate"] for trial in trials],
        "y": [trial.short_hyperparameters["weight_decay"] for trial in trials],
    }


def _color_range(study: Study) -> tuple[float, float]:
    """From the median of all scores to the best: color is for telling good trials apart."""
    scores = [t.score for t in study.trials if t.role == SEARCH and t.status == OK]
    if not scores:
        return 0.0, 1.0
    best = min(scores, key=study.scoring.cost)
    return tuple(sorted((statistics.median(scores), best)))


def _log_axis(study: Study, argument: str) -> dict:
    """A logarithmic axis over the union of all optimizers' ranges, so that pictures compare."""
    limits = [end for own in study.space.ranges.values() for end in own.get(argument, ())]
    axis = {"type": "log", "exponentformat": "power", "dtick": 1}
    if limits:
        axis.update(range=_decades(min(limits), max(limits)))
    return axis


def _decades(low: float, high: float) -> list[float]:
    """The range in decades that a logarithmic axis wants, with a margin."""
    return [math.log10(low) - 0.15, math.log10(high) + 0.15]


def _figure(x: str, y: str, height: int = 380) -> go.Figure:
    """An empty figure that is legible on light and on dark pages; the page colors the text."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 16, "b": 48},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"font": {"family": "system-ui, sans-serif"}},
    )
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True}
    figure.update_xaxes(title_text=html.escape(x), **axis)
    figure.update_yaxes(title_text=html.escape(y.replace("_", " ")), **axis)
    return figure
