"""The picture of games on one problem; needs matplotlib, which the extra `tuning` brings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from keras_adamfamily.regret.game import Result

# Okabe and Ito's colors, told apart by color-blind readers.
COLORS = ("#D55E00", "#CC79A7", "#E69F00", "#009E73", "#0072B2", "#56B4E9", "#999999", "#000000")


def draw(results: Sequence[Result], title: str) -> Figure:
    """Average regret and iterates of several optimizers, whose x is a scalar, by rounds."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=110)
    figure.suptitle(title, fontweight="bold")
    regret, iterate = figure.subplots(1, 2)
    for i, result in enumerate(results):
        color = COLORS[i % len(COLORS)]
        label = f"{result.optimizer}: {result.average_regret[-1]:.3g}"
        regret.plot(result.rounds, result.average_regret, color=color, label=label)
        iterate.plot(result.rounds, result.means, color=color, label=result.optimizer)
        iterate.fill_between(
            result.rounds, result.minima, result.maxima, color=color, alpha=0.2, linewidth=0
        )
    regret.set(title="Average regret, which has to go to 0", ylabel="R / T")
    regret.set_yscale("log", nonpositive="mask")
    iterate.set(title="Iterates: mean and range in a cycle", ylabel="x")
    for axes in (regret, iterate):
        axes.set(xlabel="rounds T", xscale="log")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a picture, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def check_path(path: Path, *more: str) -> None:
    """Makes sure, before the work for a picture is done, that it can be written.

    Args:
        path: Where to. Without an ending matplotlib would write to another path.
        *more: Endings beside those that matplotlib knows.

    Raises:
        ValueError: If the path does not end in one of these.
        OSError: If a folder is in its place or a file in its folder's, or nothing can be written.
    """
    known = [f".{ending}" for ending in FigureCanvasBase.get_supported_filetypes()]
    if path.suffix.lower() not in (*known, *more):
        *endings, last = ".png", ".svg", ".pdf", *more
        raise ValueError(
            f"the picture's path must end in {', '.join(endings)} or {last}. "
            f"Received: {str(path)!r}"
        )
    there = next(place for place in (path, *path.parents) if place.exists())
    if there.is_dir() == (there == path):
        what = "folder, where the picture's file" if there == path else "file, where its folder"
        raise OSError(f"{str(there)!r} is a {what} would be: choose another place")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{str(path)!r} cannot be written: choose another place")
