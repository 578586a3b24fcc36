"""Adam does not converge on costs as simple as a line; its repairs and SGD do.

Claim:    On two periodic sequences of linear costs on [-1, 1], Adam goes to the worst point, +1,
          and its average regret stays above zero. AMSGrad, AdamNC, Adagrad, ADOPT and SGD go to the
          best point, -1. A beta_2 whose memory is long for the sequence cures Adam of it. ADOPT
          needs none, but its clipping delays it, and at beta_2 = 0.9 for longer than this runs.
          What frameworks call AMSGrad corrects the bias, and is not the paper's.
Source:   Reddi, Kale and Kumar (2018), arXiv:1904.09237, theorem 1 and figure 1, which leave rate
          and start open; Taniguchi et al. (2024), arXiv:2411.02853.
Expected: Average regret R / T after 1,000,000 rounds, slopes 3, -1, -1: Adam 0.6668, AMSGrad
          0.00166, AdamNC and Adagrad 0.00094, ADOPT 0.00032, SGD 0.00050; slopes 1010, then 100
          times -10: 0.2581, 0.0685, 0.0890 and 0.1090, 0.0923, 0.0127. x is above 0.99 for Adam and
          below -0.99 for the others. With a constant rate, Adam ends at +1 for beta_2 up to 0.999
          and at -1 from 0.9997 on; ADOPT at +1 for 0.9 alone. Three AMSGrads after 10,000 rounds:
          the paper's 0.777, Keras's 0.738, Optax's 0.182, which with a constant rate is the
          slowest: after 3,000,000 rounds it is at -0.29, the others at -1.
Run time: 15 seconds on JAX, 30 on TensorFlow; PyTorch has no compiled loop and would take hours.

    python examples/adam_does_not_converge.py
"""

import common
import keras
import numpy as np

import keras_adamfamily as kaf
from keras_adamfamily import regret

NAMES = ("Adam", "AMSGrad", "AdamNC", "Adagrad", "ADOPT", "SGD")
TITLES = {"period-3": "Slope 3, then twice -1", "period-101": "Slope 1010, then 100 times -10"}
#: What being at +1 costs a round beyond -1: twice the mean slope.
WORST = {"period-3": 2 / 3, "period-101": 20 / 101}
FORGETTING = 10.0 ** -np.arange(1, 5.1, 0.5)  # 1 - beta_2
BETAS = {"beta_1": 0.9, "beta_2": 0.99}
OPTAX = {"bias_correction": True, "epsilon": 1e-8, "maximum_of": "corrected"}
AMSGRADS = {
    "the paper": lambda rate: kaf.AMSGrad(rate, **BETAS),
    "Keras": lambda rate: keras.optimizers.Adam(rate, **BETAS, amsgrad=True),
    "Optax": lambda rate: kaf.AMSGrad(rate, **BETAS, **OPTAX),
}


def experiment(rounds: int = 10**6) -> dict:
    games, sweep, forms = {}, {}, {}
    for problem in TITLES:
        chosen = regret.PROBLEMS[problem]
        games[problem] = {name: summary(chosen.play(name, rounds)) for name in NAMES}
    constant = {"learning_rate": 0.001, "schedule": "constant"}
    for name in ("Adam", "AMSGrad", "ADOPT"):
        players = [chosen.optimizer(name, beta_2=1 - f, **constant) for f in FORGETTING]
        sweep[name] = [float(chosen.play(player, 3 * rounds).means[-1]) for player in players]
    for form, make in AMSGRADS.items():
        forms[form] = summary(chosen.play(make(kaf.InverseSqrt(1.0)), rounds))
        forms[form]["x_constant_rate"] = float(chosen.play(make(0.001), 3 * rounds).means[-1])
    return {"games": games, "sweep": sweep, "forms": forms}


def summary(result: regret.Result) -> dict:
    """The curves of a game, its average regret after 10,000 rounds and at its end, and its x."""
    kept = ("rounds", "average_regret", "means", "minima", "maxima")
    curves = {name: getattr(result, name) for name in kept}
    early, late = result.at(10**4)["average_regret"], result.average_regret[-1]
    return {**curves, "regret_1e4": early, "regret": late, "x": result.means[-1]}


def draw(results):
    figure, axes = common.subplots(3, 2, figsize=(10, 11))
    title = "Adam ends at the worst point and its regret stays; its repairs end at the best point"
    figure.suptitle(title, fontweight="bold", fontsize=13)
    for row, (problem, games) in zip(axes, results["games"].items(), strict=False):
        draw_games(*row, games, WORST[problem])
        row[0].set(title=f"{TITLES[problem]}: average regret", ylabel="R / T")
        row[1].set(title=f"{TITLES[problem]}: iterates", ylabel="x: mean and range in a cycle")
    axes[0, 0].legend(*axes[0, 0].get_legend_handles_labels(), loc="lower left", frameon=False)
    draw_sweep(axes[2, 0], results["sweep"])
    draw_forms(axes[2, 1], results["forms"])
    return figure


def draw_games(left, right, games, worst):
    for name, game in games.items():
        shown = game["rounds"] >= 100
        rounds, color = game["rounds"][shown], common.COLORS[name]
        style = {"color": color, "label": name, "linewidth": 3 if name == "Adam" else 1.6}
        style["linestyle"] = "--" if name == "Adagrad" else "-"  # it may lie on AdamNC
        left.plot(rounds, game["average_regret"][shown], **style)
        right.plot(rounds, game["means"][shown], **style)
        band = game["minima"][shown], game["maxima"][shown]
        right.fill_between(rounds, *band, color=color, alpha=0.15, linewidth=0)
    left.set_yscale("log", nonpositive="mask")
    guide = {"color": "black", "linestyle": ":", "linewidth": 1}
    notes = (left, worst, f"{worst:.3f}:\nalways\nat +1"), (right, -1, "best\nfixed\npoint")
    for panel, y, note in notes:
        panel.axhline(y, **guide)
        place = {"transform": panel.get_yaxis_transform(), "va": "center", "fontsize": 9}
        panel.text(1.01, y, note, **place)
        panel.set(xscale="log", xlabel="rounds T")


def draw_sweep(panel, sweep):
    for (name, x), marker in zip(sweep.items(), "os^", strict=True):
        panel.plot(FORGETTING, x, marker + "-", color=common.COLORS[name], label=name)
    panel.set(xscale="log", xlabel="1 - beta_2", ylabel="x after 3,000,000 rounds")
    panel.set_title("1010, then -10, constant rate: the end by beta_2")
    panel.axvline(1 / 101, color="black", linestyle=":", linewidth=1)
    panel.text(0.012, 0, "memory of one cycle", rotation=90, va="center", fontsize=9)
    panel.legend(loc="center left", frameon=False)


def draw_forms(panel, forms):
    looks = (("#CC79A7", "-"), ("black", "--"), ("#56B4E9", "-"))
    for (form, game), (color, line) in zip(forms.items(), looks, strict=True):
        shown, label = game["rounds"] >= 100, f"{form}: {game['regret_1e4']:.3f} at T = 10,000"
        curve = game["rounds"][shown], game["average_regret"][shown]
        panel.loglog(*curve, color=color, linestyle=line, label=label)
    panel.set(xlabel="rounds T", ylabel="R / T")
    panel.set_title("1010, then -10: three AMSGrads, average regret")
    panel.legend(frameon=False)


if __name__ == "__main__":
    if keras.backend.backend() == "torch":
        common.need_backend("jax")
    common.main(__name__, experiment, draw)
