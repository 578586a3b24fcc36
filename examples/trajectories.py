"""Where optimizers go on four surfaces, each at its own best learning rate.

Claim:    No rule is the best on all surfaces. Momentum helps in valleys and ravines, though not in
          every rule; a flat saddle wants it, or steps that the gradient does not shrink.
Source:   Functions of Rosenbrock (1960) and Rastrigin (1974); a saddle; a ravine across the axes. A
          rate is the best of 169, by the mean logarithm of the worst value in the last 30 of 300
          steps, over 16 starts, of which one is drawn; a path that leaves the picture is out.
Expected: Starts from which Rosenbrock's function ends below 0.01: all 16 for SGDW (momentum 0.9),
          14 or 15 for Adam, AMSGrad and AdamNC, none for SGD, RMSprop, Adadelta and Nadam. SGD
          alone stays at the saddle. In the ravine Adam ends below 1e-10, SGD at 3e-5, RMSprop at
          7e-3. Rastrigin's optimum is found from one start at most: SGD, RMSprop and AdamNC stay
          in the first basin (12.9), Adam gets down to 2.0.
Run time: 20 seconds, JAX only.

    KERAS_BACKEND=jax python examples/trajectories.py
"""

import math

import common
import keras
import numpy as np
from keras import ops
from matplotlib import colormaps
from matplotlib.collections import LineCollection

import keras_adamfamily as kaf

STEPS, REACHED = 300, 0.01
SHADES = colormaps["bone"](np.linspace(0.62, 0.98, 8))
BOX = {"color": "white", "alpha": 0.75, "pad": 1, "lw": 0}
RATES = np.logspace(-5, 2, 169)
#: One start is drawn; the rate is the best on average over this one and fifteen around it.
AROUND = np.concatenate([np.ones((1, 2)), np.random.default_rng(0).normal(1, 0.1, (15, 2))])
#: Rules that mean nothing for a single point in the plane.
SKIPPED = {"NDAdam": "it keeps weight vectors at unit length, and a point is none"}


def rosenbrock(x, y):
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rastrigin(x, y):
    return 20 + x**2 + y**2 - 10 * ops.cos(2 * np.pi * x) - 10 * ops.cos(2 * np.pi * y)


def saddle(x, y):
    """Steep along x, and flat along y, where the two minima are at +-1."""
    return 50 * x**2 + (y**2 - 1) ** 2 / 4


def ravine(x, y):
    """A quadratic of condition number 100, across the axes."""
    return (x + y) ** 2 / 4 + 25 * (y - x) ** 2


#: Function, start, the window that is drawn (x, then y), the minima.
SURFACES = {
    "Rosenbrock": (rosenbrock, (-1.2, 1.0), (-2.2, 2.2, -1.2, 3.2), [(1, 1)]),
    "Rastrigin": (rastrigin, (-2.3, 3.2), (-5.12, 5.12, -5.12, 5.12), [(0, 0)]),
    "Saddle": (saddle, (-0.8, 1e-6), (-1.2, 1.2, -1.5, 1.5), [(0, 1), (0, -1)]),
    "Ravine": (ravine, (-2.5, -1.5), (-3.2, 3.2, -2.9, 2.9), [(0, 0)]),
}


def walk(optimizer_class):
    """Paths and values by surface, start, rate and step, in one program; weight decay is off."""
    import jax

    functions = [function for function, *_ in SURFACES.values()]
    optimizer = optimizer_class(1e-3, weight_decay=0.0)
    optimizer.build([keras.Variable(np.zeros(2), dtype="float32")])

    def train(surface, start, rate):
        def value(point):
            return jax.lax.switch(surface, functions, *point)

        def step(carry, _):
            point, state = carry
            (new,), state = optimizer.stateless_apply(state, [jax.grad(value)(point)], [point])
            return (new, state), (new, value(new))

        state = [rate if v.name == "learning_rate" else v.value for v in optimizer.variables]
        return jax.lax.scan(step, (start, state), length=STEPS)[1]

    starts = np.array([start for _, start, *_ in SURFACES.values()])[:, None] * AROUND
    for axes in ((None, None, 0), (None, 0, None), (0, 0, None)):
        train = jax.vmap(train, axes)
    lanes = np.arange(len(SURFACES)), starts.astype("float32"), RATES.astype("float32")
    return [np.asarray(found) for found in jax.jit(train)(*lanes)]


def experiment() -> dict:
    results = {"paths": {}, "rate": {}, "value": {}, "starts that reach a minimum": {}}
    windows = np.array([window for *_, window, _ in SURFACES.values()])[:, None, None, None]
    for name in (name for name in kaf.names() if name not in SKIPPED):
        paths, values = walk(kaf.registry.find(name).cls)
        inside = (paths >= windows[..., ::2]) & (paths <= windows[..., 1::2])
        settled = np.where(inside.all(axis=(3, 4)), values[..., -STEPS // 10 :].max(axis=-1), 1e9)
        best = np.log10(np.maximum(settled, 1e-12)).mean(axis=1).argmin(axis=1)
        for i, (surface, (_, start, *_)) in enumerate(SURFACES.items()):
            case, ends = f"{name}, {surface}", values[i, :, best[i], -1]
            results["paths"][case] = np.concatenate([[start], paths[i, 0, best[i]]])
            results["rate"][case], results["value"][case] = RATES[best[i]], float(ends[0])
            results["starts that reach a minimum"][case] = int(np.sum(ends < REACHED))
    return results


def draw(results):
    same = {}
    for name in dict.fromkeys(case.split(", ")[0] for case in results["paths"]):
        walked = [results["paths"][f"{name}, {surface}"] for surface in SURFACES]
        same.setdefault(np.array(walked).tobytes(), []).append(name)
    figure, axes = common.subplots(len(same), len(SURFACES), figsize=(9.4, 1.5 * len(same) + 1))
    for row, names in enumerate(same.values()):
        for column, surface in enumerate(SURFACES):
            lines = panel(axes[row, column], surface, f"{names[0]}, {surface}", results)
            axes[0, column].set_title(surface, weight="bold")
        axes[row, 0].set_ylabel("\n".join(names), size=11, weight="bold")
    title = f"{STEPS} steps of each, at its own best learning rate: no rule wins everywhere"
    figure.suptitle(title + "\ngold star: the minimum is reached", size=11, weight="bold")
    bar = figure.colorbar(lines, ax=axes, location="bottom", aspect=60, pad=0.01, label="step")
    bar.set_ticks(np.sqrt([1, 10, 50, 100, 200, 300]), labels=[1, 10, 50, 100, 200, 300])
    return figure


def panel(axes, surface, case, results):
    function, start, window, minima = SURFACES[surface]
    path, value = results["paths"][case], results["value"][case]
    grid = np.meshgrid(np.linspace(*window[:2], 240), np.linspace(*window[2:], 240))
    height = np.log10(np.asarray(function(*grid)) + 0.05)
    axes.contourf(*grid, height, colors=SHADES, levels=np.linspace(height.min(), height.max(), 9))
    pieces = np.stack([path[:-1], path[1:]], axis=1)
    lines = LineCollection(pieces, array=np.sqrt(np.arange(STEPS) + 1), cmap="plasma", lw=1.4)
    axes.add_collection(lines)
    axes.plot(*path[0], "o", color="white", mec="black", ms=4.5)
    axes.plot(*path[-1], "o", color="black", ms=4.5)
    for minimum in minima:
        color = "#FFC400" if value < REACHED and math.dist(path[-1], minimum) < 0.5 else "white"
        axes.plot(*minimum, "*", color=color, mec="black", mew=0.7, ms=10)
    text = f"{value:.1e}, rate {results['rate'][case]:.2g}"
    axes.text(0.02, 0.03, text, size=8, bbox=BOX, transform=axes.transAxes)
    axes.set(xlim=window[:2], ylim=window[2:], xticks=[], yticks=[])
    return lines


if __name__ == "__main__":
    common.need_backend("jax")
    common.main(__name__, experiment, draw)
