"""One card per algorithm: the steps it takes under four sequences of gradients, beside Adam's.

    python docs/cards.py [FOLDER]

Each card comes twice, `<name>-light.svg` and `<name>-dark.svg`. The steps are those of the real
optimizers in their default configuration, on whatever backend Keras runs.
"""

import sys
from pathlib import Path

import keras
import matplotlib
import numpy as np
from keras import ops

from keras_adamfamily import registry

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

sys.path.append(str(Path(__file__).parent.parent / "examples"))

from common import COLORS  # noqa: E402

STEPS = 48
INK = {"light": "#1a1a1a", "dark": "#e6e6e6"}
GREY = {"light": "#a6a6a6", "dark": "#7d7d7d"}

_t = np.arange(STEPS)
#: What is shown to every optimizer: title, gradients.
SEQUENCES = {
    "a steady gradient": np.ones(STEPS),
    "a gradient that stops": np.where(_t < 20, 1.0, 0.0),
    "one gradient 100 times larger": np.where(_t == 20, 100.0, 1.0),
    "noise around a small mean": 0.1 + np.where(_t % 2 == 0, 1.0, -1.0),
}
#: A weight that decays is large, so that the decay of the defaults can be seen.
DECAYING_WEIGHT = 100.0


def steps(optimizer, gradients, weight: float = 0.0) -> np.ndarray:
    """What each step subtracts from a single weight, in units of the learning rate."""
    variable = keras.Variable(np.full((1,), weight), dtype="float32")
    path = [weight]
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor([gradient], "float32")], [variable])
        path.append(float(ops.convert_to_numpy(variable)[0]))
    return -np.diff(path) / float(optimizer.learning_rate)


def decays(record: registry.Record) -> bool:
    return record.cls().get_config()["weight_decay"] is not None


def responses(record: registry.Record) -> list[np.ndarray]:
    """The algorithm's steps under each of the sequences."""
    weight = DECAYING_WEIGHT if decays(record) else 0.0
    return [steps(record.cls(), gradients, weight) for gradients in SEQUENCES.values()]


def draw(record: registry.Record, other: registry.Record, theme: str, own, plain):
    """The card in one theme: `own`, the responses of the algorithm, beside those of another."""
    ink, grey = INK[theme], GREY[theme]
    name, factor = record.name, _factor(own[0])
    label = name if factor == 1 else f"{name} ({factor}x enlarged)"
    color = COLORS.get(name, "#882255")
    if len(set(to_rgb(color))) == 1:  # a grey, which is the other's colour here
        color = ink
    style = {
        "svg.hashsalt": name,
        "font.size": 11,
        "text.color": ink,
        "axes.edgecolor": grey,
        "axes.labelcolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        figure = plt.figure(figsize=(7.2, 6.0), layout="constrained")
        grid = figure.add_gridspec(5, 2, height_ratios=(1, 3, 0.2, 1, 3))
        for i, (title, gradients) in enumerate(SEQUENCES.items()):
            row, column = 3 * (i // 2), i % 2
            above = figure.add_subplot(grid[row, column])
            below = figure.add_subplot(grid[row + 1, column], sharex=above)
            above.set_title(title, fontsize=12, fontweight="bold", loc="left")
            above.bar(_t, np.clip(gradients, -1.3, 3.0), color=grey, width=1.0)
            above.set(ylim=(-1.3, 3.2) if gradients.max() > 3 else (-1.3, 1.3), yticks=[])
            above.tick_params(labelbottom=False, bottom=False)
            above.spines["left"].set_visible(False)
            above.spines["bottom"].set_position("zero")
            _lines(below, plain[i], grey, own[i], color, factor)
            if decays(record) and i == 1:
                below.annotate(
                    "weight decay",
                    (STEPS - 3, own[i][-3]),
                    (0.98, 0.85),
                    textcoords="axes fraction",
                    ha="right",
                    arrowprops={"arrowstyle": "->", "color": ink, "shrinkB": 4},
                )
            if column == 0:
                above.set_ylabel("gradient", rotation=0, ha="right", va="center")
                below.set_ylabel("step / learning rate")
            if row:
                below.set_xlabel("step")
        handles = [plt.Line2D([], [], color=c, linewidth=3) for c in (color, grey)]
        figure.legend(
            handles, (label, other.name), loc="outside upper center", ncols=2, frameon=False
        )
    return figure


def _factor(steady) -> int:
    """A power of ten that makes the steps of a slow starter comparable with Adam's."""
    return 10 ** max(0, int(np.ceil(-0.5 - np.log10(np.abs(steady).max()))))


def _lines(axes, plain, grey, own, color, factor):
    """Draws the steps; a single peak far above the rest is cut off, and its height told."""
    both = np.stack([plain, factor * own])
    low, high = min(0.0, both.min()), both.max()
    typical = np.sort(np.abs(both))[:, -3].max()
    if high > 4 * typical:
        high = 1.6 * typical
        for steps, scale, ink in ((plain, 1, grey), (own, factor, color)):
            if scale * steps.max() > high:
                place = (np.argmax(steps) + 1.5, 0.95 * high)
                axes.annotate(f"{steps.max():.3g}", place, color=ink, va="top")
    # The algorithm on top, unless its zigzag would hide the other; where they agree, both show.
    hides = np.abs(np.diff(both[1])).sum() > 3 * np.abs(np.diff(both[0])).sum()
    axes.plot(_t, both[0], color=grey, linewidth=4.0, zorder=3 if hides else 2)
    axes.plot(_t, both[1], color=color, linewidth=2.0, zorder=2.5)
    axes.axhline(0.0, color="#808080", linewidth=0.8, zorder=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
    axes.set_ylim(1.08 * low - 0.04 * high, 1.08 * high)


def are_current(folder: Path) -> bool:
    """Whether the folder has every card, and none is older than the code that it shows."""
    package = Path(registry.__file__).parent
    newest = max(path.stat().st_mtime for path in (*package.rglob("*.py"), Path(__file__)))
    paths = [_path(folder, record, theme) for record in registry.RECORDS for theme in INK]
    return all(path.exists() and path.stat().st_mtime > newest for path in paths)


def _path(folder: Path, record: registry.Record, theme: str) -> Path:
    return folder / f"{record.name.lower()}-{theme}.svg"


def main(folder: Path) -> None:
    """Draws the cards of all algorithms into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {record.name: responses(record) for record in registry.RECORDS}
    for record in registry.RECORDS:
        other = registry.find("SGD" if record.name == "Adam" else "Adam")
        for theme in INK:
            figure = draw(record, other, theme, found[record.name], found[other.name])
            path = _path(folder, record, theme)
            figure.savefig(path, transparent=True, metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/cards"))
