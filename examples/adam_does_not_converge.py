"""Adam does not converge; AMSGrad, AdamNC, Adagrad, SGD and ADOPT do.

Claim:    On two sequences of linear costs Adam ends at +1, the worst point of [-1, 1], and its
          average regret does not go to zero. AMSGrad, AdamNC, Adagrad, SGD and ADOPT end at -1, the
          best point, and theirs does. Keras's `amsgrad=True` also ends there.
Source:   Reddi, Kale and Kumar (2018), arXiv:1904.09237: theorem 1 (period 3) and figure 1 (period
          101, beta_1 = 0.9, beta_2 = 0.99). The paper states neither rates nor starts; ours are
          0.1 / sqrt(t) from +1 and 1 / sqrt(t) from 0, and 0.001 / sqrt(t) for SGD on the second.
Expected: R_T / T after a million rounds, period 3: Adam 0.66676, others below 0.0017. Period 101:
          Adam 0.258, with a floor of 20 / 101 = 0.198; AMSGrad 0.068, AdamNC 0.089, Adagrad 0.109,
          ADOPT 0.092, SGD 0.013. ADOPT, too, stays near +1 for the first ten thousand rounds.
Run time: 15 seconds on JAX or TensorFlow; hours on PyTorch, which has no compiled loop.

    KERAS_BACKEND=jax python examples/adam_does_not_converge.py
"""

import common
import keras
import numpy as np

import keras_adamfamily as kaf
from keras_adamfamily import regret

ROUNDS = 1_000_000
NAMES = ("Adam", "AMSGrad", "AdamNC", "Adagrad", "SGD", "ADOPT")
#: The average regret of playing +1 for ever.
WORST = {"period-3": 2 / 3, "period-101": 20 / 101}
TITLES = {
    "period-3": "Slope 3 once in 3 rounds, else -1",
    "period-101": "Slope 1010 once in 101 rounds, else -10",
}


def experiment():
    results = {}
    for name, problem in regret.PROBLEMS.items():
        if name not in WORST:
            continue
        games = {player: problem.play(player, rounds=ROUNDS) for player in NAMES}
        rate = kaf.InverseSqrt(problem.learning_rate)
        keras_form = keras.optimizers.Adam(rate, **problem.settings, amsgrad=True)
        games["Keras amsgrad=True"] = problem.play(keras_form, rounds=ROUNDS)
        results[name] = {
            player: {
                "R_T / T": float(game.average_regret[-1]),
                "x": float(game.iterates[-1]),
                "rounds": game.rounds,
                "average regret": game.average_regret,
                "mean iterate": game.means,
            }
            for player, game in games.items()
        }
    return results


def draw(results):
    figure, axes = common.subplots(2, 2, figsize=(11, 7), sharex=True)
    colors = common.COLORS | {"ADOPT": "#66A61E", "Keras amsgrad=True": common.COLORS["AMSGrad"]}
    for (name, games), (top, bottom) in zip(results.items(), axes.T, strict=True):
        for player, game in games.items():
            line = {"color": colors[player], "lw": 3 if player == "Adam" else 1.6}
            line["ls"] = ":" if player.startswith("Keras") else "-"
            positive = np.where(game["average regret"] > 0, game["average regret"], np.nan)
            top.plot(game["rounds"], positive, label=player, **line)
            bottom.plot(game["rounds"], game["mean iterate"], **line)
        top.axhline(WORST[name], color="0.5", lw=1, ls="--")
        top.annotate("always the worst point", (12, 0.9 * WORST[name]), color="0.4", va="top")
        top.set(xscale="log", yscale="log", ylim=(2e-4, 20 if name == "period-101" else 3))
        top.set_title(TITLES[name])
        bottom.set(xlabel="round T", ylim=(-1.15, 1.15))
        bottom.annotate("best point", (9e5, -1.02), color="0.4", ha="right", va="top")
        bottom.annotate("worst point", (9e5, 1.02), color="0.4", ha="right", va="bottom")
    axes[0, 0].set_ylabel("average regret, R_T / T")
    axes[1, 0].set_ylabel("iterate, mean since the point before")
    axes[0, 0].legend(loc="lower left", ncols=2)
    axes[0, 0].set_xlim(10, ROUNDS)
    figure.suptitle("Adam's average regret stays where that of its cures goes to zero")
    return figure


if __name__ == "__main__":
    common.main(__name__, experiment, draw)
