"""One card per algorithm: the steps it takes under four sequences of gradients, beside Adam's; of
one that turns vectors, the path of a vector.

    python docs/cards.py [FOLDER]

Each card comes twice, `<name>-light.svg` and `<name>-dark.svg`. The steps are those of the real
optimizers in their default configuration, on whatever backend Keras runs.
"""

import functools
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
#: Where the steady gradient of a weight vector leads.
DIRECTION = np.array((-0.4, 0.92))


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


@functools.cache
def responses(name: str) -> list[np.ndarray]:
    """An algorithm's steps under each of the sequences."""
    record = registry.find(name)
    weight = DECAYING_WEIGHT if decays(record) else 0.0
    return [steps(record.cls(), gradients, weight) for gradients in SEQUENCES.values()]


@functools.cache
def path_of_a_vector(name: str, rate: float) -> np.ndarray:
    """Where a unit's weight vector goes from (1, 0) under a gradient that never changes."""
    layer = keras.layers.Dense(1, use_bias=False)
    layer.build((None, 2))
    layer.kernel.assign([[1.0], [0.0]])
    optimizer = registry.find(name).cls(rate)
    path = [(1.0, 0.0)]
    for _ in range(STEPS):
        optimizer.apply([ops.convert_to_tensor(-DIRECTION[:, None], "float32")], [layer.kernel])
        path.append(ops.convert_to_numpy(layer.kernel)[:, 0])
    return np.array(path)


def draw(record: registry.Record, theme: str):
    """The card of an algorithm in one theme."""
    ink, grey = INK[theme], GREY[theme]
    color = COLORS.get(record.name, "#882255")
    if len(set(to_rgb(color))) == 1:  # a grey, which is the other's colour here
        color = ink
    style = {
        "svg.hashsalt": record.name,
        "font.size": 11,
        "text.color": ink,
        "axes.edgecolor": grey,
        "axes.labelcolor": ink,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        if hasattr(record.cls, "vectors"):  # a single weight would not show what it does
            return _directions(record.name, color, grey)
        return _steps(record, color, grey)


def _legend(figure, label, color, other, grey):
    handles = [plt.Line2D([], [], color=c, linewidth=w) for c, w in ((color, 2.5), (grey, 4.0))]
    figure.legend(handles, (label, other), loc="outside upper center", ncols=2, frameon=False)


def _steps(record, color, grey):
    other = "SGD" if record.name == "Adam" else "Adam"
    own, plain = responses(record.name), responses(other)
    factor = _factor(own[0])
    figure = plt.figure(figsize=(7.2, 6.0), layout="constrained")
    grid = figure.add_gridspec(5, 2, height_ratios=(1, 3, 0.2, 1, 3))
    for i, (title, gradients) in enumerate(SEQUENCES.items()):
        row, column = 3 * (i // 2), i % 2
        above = figure.add_subplot(grid[row, column])
        below = figure.add_subplot(grid[row + 1, column], sharex=above)
        above.set_title(title)
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
                arrowprops={"arrowstyle": "->", "color": plt.rcParams["text.color"], "shrinkB": 4},
            )
        if column == 0:
            above.set_ylabel("gradient", rotation=0, ha="right", va="center")
            below.set_ylabel("step / learning rate")
        if row:
            below.set_xlabel("step")
    label = record.name if factor == 1 else f"{record.name} ({factor}x enlarged)"
    _legend(figure, label, color, other, grey)
    return figure


def _directions(name, color, grey):
    """The path of a weight vector in the plane, and its length."""
    ink, rate = plt.rcParams["text.color"], registry.find(name).defaults["learning_rate"]
    own = path_of_a_vector(name, rate)
    plain = path_of_a_vector("Adam", np.linalg.norm(own[1] - own[0]).item())
    figure, (plane, length) = plt.subplots(1, 2, figsize=(7.2, 3.9), layout="constrained")
    angles = np.linspace(0.0, 2 * np.pi, 200)
    plane.plot(np.cos(angles), np.sin(angles), color=grey, linewidth=0.8, linestyle="--")
    for path, shade, width in ((plain, grey, 4.0), (own, color, 2.5)):
        plane.plot(*path.T, color=shade, linewidth=width)
        length.plot(np.linalg.norm(path, axis=1), color=shade, linewidth=width)
        arrow = {"arrowstyle": "-|>", "color": shade, "linewidth": width / 2}
        plane.annotate("", path[-1], path[-3], arrowprops=arrow)
    plane.annotate("", 0.9 * DIRECTION, (0.0, 0.0), arrowprops={"arrowstyle": "->", "color": ink})
    plane.annotate("downhill", 0.45 * DIRECTION, (-8, 0), textcoords="offset points", ha="right")
    plane.plot(1.0, 0.0, "o", color=ink)
    plane.annotate("start", (1.0, 0.0), (8, -4), textcoords="offset points")
    plane.set(title="path of a weight vector", aspect="equal")
    plane.set(xlabel="first weight", ylabel="second weight", xlim=(-1.6, 1.6))
    length.set(title="its length", xlabel="step", ylim=(0.0, None))
    _legend(figure, name, color, "Adam", grey)
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
    for record in registry.RECORDS:
        for theme in INK:
            figure = draw(record, theme)
            figure.savefig(_path(folder, record, theme), transparent=True, metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/cards"))
