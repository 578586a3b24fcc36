"""Adam does not converge on costs as simple as a line; AMSGrad, AdamNC, Adagrad, ADOPT and SGD do.

Claim: on two periodic sequences of linear costs on [-1, 1], Adam goes to the worst point, +1, and
    its average regret stays above zero for ever. The others go to the best point, -1. A larger
    beta_2 cures Adam on a given sequence, but no beta_2 does on all of them. What frameworks call
    AMSGrad corrects the bias, and is not the paper's.
Source: Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (arXiv:1904.09237),
    Theorem 1 and Figure 1; Taniguchi et al., "ADOPT" (arXiv:2411.02853).
Expected: see `EXPECTED_HEADER`.
Run time: see `EXPECTED_HEADER`.

    python examples/adam_does_not_converge.py
"""

import common
import keras
import numpy as np

import keras_adamfamily as kaf
from keras_adamfamily import regret

ROUNDS = 10**6
NAMES = ("Adam", "AMSGrad", "AdamNC", "Adagrad", "ADOPT", "SGD")
#: What being at +1 costs a round beyond -1: twice the mean slope.
WORST = {"period-3": 2 / 3, "period-101": 20 / 101}
TITLES = {"period-3": "Slope 3, -1, -1, ...", "period-101": "Slope 1010, then 100 times -10"}
FORGETTING = 10.0 ** -np.arange(1, 5.1, 0.5)  # 1 - beta_2
BETAS = {"beta_1": 0.9, "beta_2": 0.99}
KEPT = ("rounds", "average_regret", "means", "minima", "maxima")


def experiment(rounds: int = ROUNDS) -> dict:
    games, sweep, forms = {}, {}, {}
    for problem in WORST:
        chosen = regret.PROBLEMS[problem]
        games[problem] = {name: summary(chosen.play(name, rounds)) for name in NAMES}
    chosen = regret.PROBLEMS["period-101"]
    constant = {"learning_rate": 0.001, "schedule": "constant"}
    for name in ("Adam", "AMSGrad", "ADOPT"):
        players = [chosen.optimizer(name, beta_2=1 - f, **constant) for f in FORGETTING]
        sweep[name] = [float(chosen.play(player, 3 * rounds).means[-1]) for player in players]
    optax = {"bias_correction": True, "epsilon": 1e-8, "maximum_of": "corrected"}
    for form, make in {
        "the paper: AMSGrad(...)": lambda rate: kaf.AMSGrad(rate, **BETAS),
        "Keras: Adam(amsgrad=True)": lambda rate: keras.optimizers.Adam(
            rate, **BETAS, amsgrad=True
        ),
        "Optax's form": lambda rate: kaf.AMSGrad(rate, **BETAS, **optax),
    }.items():
        decaying = chosen.play(make(kaf.InverseSqrt(1.0)), rounds)
        forms[form] = summary(decaying)
        forms[form]["x_constant_rate"] = float(chosen.play(make(0.001), 3 * rounds).means[-1])
    return {"games": games, "sweep": sweep, "forms": forms}


def summary(result: regret.Result) -> dict:
    """The curves of a game, its end, and its average regret after 10,000 rounds."""
    curves = {name: getattr(result, name) for name in KEPT}
    early = {"regret_1e4": float(result.at(10**4)["average_regret"])}
    last = {"regret": float(result.average_regret[-1]), "x": float(result.means[-1])}
    return {**curves, **early, **last}


def draw(results):
    figure, axes = common.subplots(3, 2, figsize=(10, 11))
    figure.suptitle(
        "Adam ends at the worst point, and its regret stays; its repairs end at the best",
        fontweight="bold",
        fontsize=13,
    )
    for row, (problem, games) in zip(axes, results["games"].items(), strict=False):
        for name, game in games.items():
            style = {"color": common.COLORS[name], "label": name}
            style["linewidth"] = 3 if name == "Adam" else 1.5
            row[0].plot(game["rounds"], game["average_regret"], **style)
            row[1].plot(game["rounds"], game["means"], **style)
            band = {"color": common.COLORS[name], "alpha": 0.15, "linewidth": 0}
            row[1].fill_between(game["rounds"], game["minima"], game["maxima"], **band)
        row[0].axhline(WORST[problem], color="black", linestyle=":", linewidth=1)
        row[0].text(100, WORST[problem], "always at +1", va="top", fontsize=9)
        row[0].set_yscale("log", nonpositive="mask")
        row[0].set(title=f"{TITLES[problem]}: regret", ylabel="average regret  R / T")
        row[1].set(title=f"{TITLES[problem]}: iterates", ylabel="x, mean and range in a cycle")
        row[1].axhline(-1, color="black", linestyle=":", linewidth=1)
        row[1].text(100, -0.97, "best fixed point", fontsize=9)
        for panel in row:
            panel.set(xscale="log", xlim=(90, None), xlabel="rounds T")
        row[1].legend(loc="center left")
    draw_sweep(axes[2, 0], results["sweep"])
    draw_forms(axes[2, 1], results["forms"])
    return figure


def draw_sweep(panel, sweep):
    for name, x in sweep.items():
        panel.plot(FORGETTING, x, "o-", color=common.COLORS[name], label=name)
    panel.set(xscale="log", title="Period 101: where beta_2 takes them")
    panel.set(xlabel="1 - beta_2", ylabel="x after 3,000,000 rounds, rate 0.001")
    panel.axvline(1 / 101, color="black", linestyle=":", linewidth=1)
    panel.text(1 / 95, 0, "one cycle", rotation=90, va="center", fontsize=9)
    panel.legend()


def draw_forms(panel, forms):
    for (form, game), line in zip(forms.items(), ("-", "--", ":"), strict=True):
        style = {"color": common.COLORS["AMSGrad"], "linestyle": line, "label": form}
        panel.plot(game["rounds"], game["average_regret"], **style)
    panel.set(xscale="log", yscale="log", xlim=(90, None), xlabel="rounds T")
    panel.set(title="Period 101: three AMSGrads", ylabel="average regret  R / T")
    panel.legend()


if __name__ == "__main__":
    if keras.backend.backend() == "torch":
        common.need_backend("jax")  # PyTorch has no compiled loop: a million rounds take minutes
    common.main(__name__, experiment, draw)
