"""Learning rate by weight decay as a picture of its own: PNG and others by matplotlib, or HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from keras_adamfamily.regret.picture import check_path
from keras_adamfamily.tuning import figures
from keras_adamfamily.tuning.page import Page
from keras_adamfamily.tuning.study import Study
from keras_adamfamily.tuning.trial import OK


def save(study: Study, optimizers: Sequence[str], path: Path) -> None:
    """Writes the heat maps of these optimizers side by side; the suffix of `path` says as what.

    Raises:
        ValueError: If the learning rate or the weight decay was not searched, or the path has no
            suffix, or one that is not known.
        OSError: If the path cannot be written.
    """
    check_path(path, ".html")
    for argument in ("learning_rate", "weight_decay"):
        missing = [name for name in optimizers if argument not in study.space.ranges[name]]
        if missing:
            raise ValueError(f"a heat map needs a search of {argument}; {missing[0]} had it fixed")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".html":
        path.write_text(_page(study, optimizers), "utf-8")
    else:
        _drawn(study, optimizers).savefig(path, bbox_inches="tight")


def _page(study: Study, optimizers: Sequence[str]) -> str:
    page, title = Page(), _title(study)
    page.say(title, "verdict")
    page.html('<div class="grid">')
    for index, name in enumerate(optimizers):
        page.plot(figures.rate_by_decay(study, name), f"decay-{index}", f"{name}: {title}", name)
    page.html("</div>")
    return page.render(title)


def _drawn(study: Study, optimizers: Sequence[str]) -> Figure:
    columns = min(3, len(optimizers))
    rows = math.ceil(len(optimizers) / columns)
    figure = Figure(figsize=(1.2 + 3.4 * columns, 0.5 + 3.2 * rows), layout="constrained", dpi=110)
    figure.suptitle(_title(study), fontweight="bold", fontsize=11, parse_math=False)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    low, high = figures.color_range(study)
    colors = {"cmap": "viridis" if study.settings.direction == "max" else "viridis_r"}
    colors |= {"vmin": low, "vmax": high}
    limits = [
        [10**end for end in figures.log_axis(study, argument)["range"]]
        for argument in ("learning_rate", "weight_decay")
    ]
    for axes in grid.flat[len(optimizers) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, optimizers, strict=False):
        dots = _panel(axes, study, name, colors)
        axes.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("learning rate")
    for axes in grid[:, 0]:
        axes.set_ylabel("weight decay, normalized")
    figure.supxlabel("ring: best; cross: diverged or failed; small dot: stopped early", fontsize=8)
    bar = figure.colorbar(
        dots, ax=grid, extend="min" if study.settings.direction == "max" else "max"
    )
    bar.set_label(study.settings.objective.replace("_", " "), parse_math=False)
    bar.outline.set_visible(False)
    return figure


def _panel(axes: Axes, study: Study, name: str, colors: dict[str, Any]) -> PathCollection:
    """One optimizer's surface, its trials, and the best of them; returns the dots in color."""
    surface = figures.surface(study, name)
    if surface is not None:
        x, y, z = surface
        z = [[math.nan if value is None else value for value in row] for row in z]
        axes.pcolormesh(x, y, z, alpha=0.6, rasterized=True, **colors)
    trials = figures.searched(study, name, "learning_rate", "weight_decay")
    scored = [trial for trial in trials if trial.score is not None]
    lost = [trial for trial in trials if trial.score is None]
    place = figures.place
    dots = axes.scatter(
        *([place(trial)[axis] for trial in scored] for axis in (0, 1)),
        c=[trial.score for trial in scored],
        s=[42 if trial.status == OK else 14 for trial in scored],
        edgecolors="white",
        linewidths=1.0,
        zorder=3,
        **colors,
    )
    axes.scatter(
        *([place(trial)[axis] for trial in lost] for axis in (0, 1)),
        marker="x",
        c=figures.LOST,
        s=36,
        zorder=3,
    )
    best = study.scoring.best_trial(name)
    if best is not None:
        axes.scatter(*place(best), s=150, facecolors="none", edgecolors="black", zorder=4)
        rate, decay = place(best)
        name += f": {best.score:.4g} at {rate:.2g}, {decay:.2g}"
    axes.set_title(name, fontsize=10)
    return dots


def _title(study: Study) -> str:
    return f"{study.settings.objective.replace('_', ' ')} by learning rate and weight decay"
