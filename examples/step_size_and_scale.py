"""How large a step can be, and whether it knows the gradients' scale.

Claim:    A step of Adam is bounded whatever the gradients are, but not by the constants that the
          paper states: with the default betas it reaches 7.27 learning rates, not 3.16, when
          gradients grow by 11 % a step; Adamax reaches 1.009, not 1. Multiplying all gradients by a
          constant changes no step of the adaptive methods, up to what epsilon adds.
Source:   Kingma and Ba (2014), sections 2.1 and 7.1; the sharp bound is Cauchy's inequality.
Expected: |step| / lr of the worst gradients: 1.0014 (t = 2), 1.0431 (10), 2.2434 (100), 5.7812
          (1000), the bound at each step. A gradient after k steps without any: 0.48 (k = 10), 2.52
          (1000), 3.08 (3000). Gradients times 1024, without epsilon: the same weights to the last
          bit for all but SGD, SGDW and Adadelta (SWATS: before its switch).
Run time: 30 seconds.

    python examples/step_size_and_scale.py
"""

import contextlib

import common
import keras
import numpy as np
from keras import ops

import keras_adamfamily as kaf

BETA_1, BETA_2 = 0.9, 0.999
#: What the rows of the right panel show: factor, marker, colour, label.
FACTORS = [
    (1024.0, "D", "#009E73", "× 1024, epsilon 0"),
    (1e-6, "<", "#CC79A7", "× 1e-6, default epsilon"),
    (1e6, ">", "#E69F00", "× 1e6, default epsilon"),
]
#: Why the steps change, where the size of epsilon does not say it.
REASONS = {
    **dict.fromkeys(("SGD", "SGDW"), "the step is the gradient"),
    "RMSprop": "epsilon 1e-7 inside the root",
    "Adadelta": "epsilon sets the first steps",
    "SWATS": "Adam until it switches to SGD",
}


def path(optimizer, gradients):
    """The weights after each step, from ones, in float64: an array like `gradients`."""
    weights = keras.Variable(np.ones(gradients.shape[1:]), dtype="float64")
    visited = []
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient, "float64")], [weights])
        visited.append(np.array(ops.convert_to_numpy(weights)))
    return np.array(visited)


def steps(optimizer_class, gradients):
    """|step| / lr at each step, without epsilon."""
    visited = path(optimizer_class(1.0, beta_1=BETA_1, beta_2=BETA_2, epsilon=0.0), gradients)
    return np.abs(np.diff(visited, axis=0, prepend=1.0))


def changes(name):
    """By how much 50 steps change when gradients are multiplied, relative to the distance moved."""
    record, gradients = kaf.registry.find(name), np.random.default_rng(0).normal(size=(50, 4, 3))
    no_epsilon = {"epsilon": 0.0} if "epsilon" in record.defaults and name != "Adadelta" else {}
    no_switch = {"tolerance": 0.0} if name == "SWATS" else {}
    found = []
    for factor, *_ in FACTORS:
        arguments = no_switch | (no_epsilon if factor == 1024.0 else {})
        plain, scaled = (path(record.cls(**arguments), s * gradients) for s in (1.0, factor))
        found.append(np.max(np.abs(scaled - plain)) / np.max(np.abs(plain - 1.0)))
    return found


def experiment() -> dict:
    t, zeros = np.arange(1.0, 3002.0), (0, 1, 5, 10, 50, 100, 300, 1000, 3000)
    random = np.random.default_rng(0)
    wild = random.normal(size=(len(t), 300)) * 10.0 ** random.uniform(-4, 4, (len(t), 300))
    in_jax = keras.backend.backend() == "jax"  # which has to be asked for float64
    with __import__("jax").enable_x64() if in_jax else contextlib.nullcontext():
        adam = steps(kaf.Adam, (BETA_2 / BETA_1) ** (t - 1500))
        adamax = steps(kaf.Adamax, BETA_2**t)
        sparse = steps(kaf.Adam, t[:, None] - 1 == zeros)
        wild = steps(kaf.Adam, wild).max(axis=1)
        relative_changes = {name: changes(name) for name in kaf.names()}
    average, squares = (1 - BETA_1) / (1 - BETA_1**t), (1 - BETA_2**t) / (1 - BETA_2)
    bound = average * np.sqrt(squares * np.cumsum((BETA_1**2 / BETA_2) ** (t - 1)))
    bound_adamax = average * np.cumsum((BETA_1 / BETA_2) ** (t - 1))
    return {
        "curves": (t, bound, adam, bound_adamax, adamax, wild),
        "worst steps": {k: [adam[k - 1], adamax[k - 1]] for k in (1, 2, 5, 10, 100, 1000)},
        "off the bound, Adam": np.max(np.abs(adam / bound - 1)),
        "off the bound, Adamax": np.max(np.abs(adamax / bound_adamax - 1)),
        "after zeros": {k: sparse[k, i] for i, k in enumerate(zeros)},
        "largest of 300 random sequences": wild.max(),
        "relative change": relative_changes,
    }


def draw(results: dict):
    figure, (left, right) = common.subplots(1, 2, figsize=(11, 5.2), width_ratios=[1.1, 1])
    step_panel(left, results["after zeros"], *results["curves"])
    scale_panel(right, results["relative change"])
    return figure


def step_panel(axes, sparse, t, bound, adam, bound_adamax, adamax, wild):
    red, blue, purple = (common.COLORS[name] for name in ("Adam", "SGD", "Adamax"))
    marks = np.unique(np.geomspace(1, len(t), 22).astype(int)) - 1
    axes.plot(t, np.maximum.accumulate(wild), color="#999999")
    axes.plot([k + 1 for k in sparse], sparse.values(), "s--", color=blue)
    axes.plot(t, bound, color=red)
    axes.plot(t[marks], adam[marks], "o", color=red, ms=5)
    for x, y, text, color in (
        (45, 5.3, "gradients that grow\n11 % a step reach\nthe sharp bound", red),
        (560, 3.3, "one gradient\nafter t - 1 zeros", blue),
        (7, 0.15, "largest so far of 300 random sequences", "#777777"),
        (1, 3.25, "the paper's bound: 3.16", "black"),
        (1, 1.2, "its usual case: 1", "black"),
    ):
        axes.text(x, y, text, color=color)
    axes.hlines((1, 3.162), 1, len(t), color="black", ls=":", lw=1.2)
    axes.set(xscale="log", xlabel="step t", ylabel="|step| / learning rate", ylim=(0, 7.6))
    axes.set_title("A step of Adam can be 7.27 learning rates", weight="bold")
    inset = axes.inset_axes([0.13, 0.67, 0.3, 0.25], xscale="log", ylim=(0.998, 1.0115))
    inset.plot(t, bound_adamax, color=purple)
    inset.plot(t[marks], adamax[marks], "o", color=purple, ms=4)
    inset.axhline(1.0, color="black", ls=":", lw=1.2)
    inset.set_title("Adamax: 1.009, not 1", fontsize=10)


def scale_panel(axes, relative_changes):
    rows = np.arange(len(relative_changes))
    for i, (_, marker, color, label) in enumerate(FACTORS):
        found = [max(change[i], 1e-15) for change in relative_changes.values()]
        axes.plot(found, rows + 0.24 * (i - 1), marker, ms=5.5, color=color, label=label)
    for row, name in enumerate(relative_changes):
        epsilon = kaf.registry.find(name).defaults.get("epsilon")
        text = REASONS.get(name, f"epsilon {epsilon:.0e}" if epsilon else "no epsilon")
        axes.text(2e-14, row, text.replace("e-0", "e-"), va="center", size=9, color="#666666")
    axes.axvspan(1e-16, 8e-15, color="#009E73", alpha=0.12, lw=0)
    axes.hlines(rows + 0.5, 1e-16, 1e8, color="#e4e4e4", lw=0.7)
    axes.grid(axis="y", visible=False)
    axes.set(xscale="log", xlim=(1e-16, 1e8), ylim=(len(rows) - 0.4, -0.6))
    axes.set_xticks([1e-15, 1e-10, 1e-5, 1, 1e5], ["none", "1e-10", "1e-5", "1", "1e5"])
    axes.set_yticks(rows, relative_changes)
    axes.legend(loc=(-0.15, -0.19), ncols=3, frameon=False, columnspacing=1, fontsize=9)
    axes.set_xlabel("largest change in 50 steps / distance moved")
    axes.set_title("Gradients times a constant: the same steps?", weight="bold")


if __name__ == "__main__":
    common.main(__name__, experiment, draw)
