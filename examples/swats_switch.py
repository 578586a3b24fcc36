"""SWATS: start with Adam, switch to SGD at a rate that Adam's own steps suggest.

Claim:    The rate that SWATS reads off Adam's steps, (1 - beta_1) * Lambda, is within a factor of
          two of a tuned SGD with momentum's, whenever the switch is made, and training goes on
          without a setback. Where Adam generalizes as well as SGD, as here, a switch gains nothing.
Source:   Keskar and Socher (2017), arXiv:1712.07628: algorithm 1, and the switch forced early and
          late. On CIFAR-10 SGD beats Adam there, and an early switch a late one.
Expected: SGD rates of 0.003 to 0.008 against the tuned 0.0047. Error in %, mean of 8 seeds +- its
          standard error: Adam 7.5 +- 0.1, SGD 7.8 +- 0.2, switch at 5 and 20 % of training
          7.8 +- 0.1, at 70 % 7.5 +- 0.1. By its criterion, at a tolerance of 1e-4, it switches for
          6 of 8 seeds, at steps 7 to 173 of 760; at the default 1e-5 for none.
Run time: 40 seconds, JAX only.

    KERAS_BACKEND=jax python examples/swats_switch.py
"""

import functools

import common
import keras
import numpy as np
from keras.optimizers.schedules import PiecewiseConstantDecay

import keras_adamfamily as kaf
from keras_adamfamily.tuning import Population, use_all_cores

EPOCHS, BATCH, TRAINING, NOISE = 40, 32, 600, 0.2
STEPS = EPOCHS * -(-TRAINING // BATCH)
#: When to switch, as a share of training, or the criterion's tolerance.
SWITCHES = {
    "at 5 %": {"switch_at": 0.05},
    "at 20 %": {"switch_at": 0.2},
    "at 70 %": {"switch_at": 0.7},
    "by itself": {"tolerance": 1e-4},
}
TUNING_SEEDS, SEEDS = range(100, 104), range(8)
RATES = {"Adam": np.geomspace(3e-4, 3e-3, 4), "SGD": np.geomspace(2e-3, 6e-2, 5)}
MAKERS = {"Adam": kaf.Adam, "SGD": lambda *args, **kw: kaf.SGD(*args, momentum=0.9, **kw)}


def train(make, rates, seeds):
    """Trains one lane for each rate and seed; returns the population and its validation error.

    As in the paper, the rate is constant, with a drop to a tenth for the last quarter.
    """

    def build_model():
        layers = [keras.layers.Dense(128, "relu"), keras.layers.Dense(128, "relu")]
        model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        schedule = PiecewiseConstantDecay([3 * STEPS // 4], [1.0, 0.1])
        model.compile(make(schedule, initial_learning_rate=1.0), loss, metrics=["accuracy"])
        return model

    lanes = Population(
        build_model,
        *common.digits(TRAINING, noise=NOISE),
        hyperparameters={"learning_rate": np.repeat(rates, len(seeds))},
        seeds=list(seeds) * len(rates),
        batch_size=BATCH,
        validation_batch_size=1197,
    )
    accuracy = lanes.train(EPOCHS)["val_accuracy"]
    return lanes, 100 * (1 - accuracy.reshape(len(rates), len(seeds), EPOCHS))


def experiment():
    use_all_cores()
    results = {"tuned rate": {}, "error": {}, "switch step": {}, "SGD rate": {}, "curves": {}}

    def record(name, error):
        results["curves"][name] = error
        results["error"][name] = [error[:, -1].mean(), error[:, -1].std(ddof=1) / len(SEEDS) ** 0.5]

    for name, rates in RATES.items():
        _, error = train(MAKERS[name], rates, TUNING_SEEDS)
        rate = results["tuned rate"][name] = float(rates[error[:, :, -1].mean(1).argmin()])
        record(name, train(MAKERS[name], [rate], SEEDS)[1][0])
    for when, rule in SWITCHES.items():
        if "switch_at" in rule:
            rule = {"switch_at": round(rule["switch_at"] * STEPS)}
        swats = functools.partial(kaf.SWATS, **rule)
        lanes, error = train(swats, [results["tuned rate"]["Adam"]], SEEDS)
        record(f"SWATS {when}", error[0])
        facts = [lanes.model(lane).optimizer.facts() for lane in range(len(lanes))]
        switched = [list(found.values()) for found in facts if None not in found.values()]
        results["switch step"][when] = [step for step, _ in switched]
        results["SGD rate"][when] = [0.1 * rate for _, rate in switched]
    return results


def draw(results):
    figure, (left, right) = common.subplots(1, 2, figsize=(11, 4.2))
    blues = ["#08306b", "#2171b5", "#6baed6", "#000000"]
    colors = {"Adam": common.COLORS["Adam"], "SGD": common.COLORS["SGD"]}
    colors |= {f"SWATS {when}": color for when, color in zip(SWITCHES, blues, strict=True)}
    for name, error in results["curves"].items():
        left.plot(range(1, EPOCHS + 1), error.mean(0), color=colors[name], label=name)
    for when, color in zip(SWITCHES, blues, strict=True):
        for step in set(results["switch step"][when]):
            left.axvline(step * EPOCHS / STEPS, color=color, lw=0.8, ls=":")
    left.set(xlabel="epoch", ylabel="validation error, %", ylim=(6.5, 14))
    left.set_title(f"Error, mean of {len(SEEDS)} seeds (dotted: the switches)")
    left.legend(ncols=2, fontsize=9)
    for i, when in enumerate(SWITCHES):
        rates = results["SGD rate"][when]
        right.scatter([i] * len(rates), rates, color=blues[i], s=28, zorder=3)
    tuned = results["tuned rate"]["SGD"]
    right.axhline(tuned, color=common.COLORS["SGD"])
    right.axhspan(tuned / 2, tuned * 2, color=common.COLORS["SGD"], alpha=0.15, lw=0)
    right.annotate("tuned SGD, and twice and half its rate", (0.02, 0.03), xycoords="axes fraction")
    right.set(yscale="log", ylim=(tuned / 6, tuned * 6), ylabel="SGD rate, (1 - beta_1) Lambda")
    right.set_xticks(range(len(SWITCHES)), [f"switch {when}" for when in SWITCHES])
    right.set_title("The rate that SWATS reads off Adam's steps")
    return figure


if __name__ == "__main__":
    common.need_backend("jax")
    common.main(__name__, experiment, draw)
