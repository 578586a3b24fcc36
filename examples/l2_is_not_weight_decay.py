"""L2 is not weight decay, and decay times the learning rate is not decoupled from it.

Claim:    Under Adam an L2 penalty decays a weight by the scale of its gradients, decoupled decay
          does not. Under normalization the best decay in the paper's form is so at other rates too;
          in Keras's form (rate * decay) and for L2 it moves along a diagonal. Without, on noisy
          labels, it grows with the rate in all (slopes 0.8 to 1.3); the paper's form loses most.
Source:   Loshchilov and Hutter (2019), arXiv:1711.05101, figures 1 and 2, on CIFAR-10. Ours: 500
          digits, 8 seeds. Regret: a decay that is best at one rate, kept at another: how much the
          loss grows, median over pairs. Slope of the best decay over the rate: -1 is the diagonal.
Expected: Weights of five noise scales: L2 .023 .174 .758 .912 .929, decoupled .758 for all. Regret
          and slope, normalized: SGD + L2 48 %, -1, SGDW (Keras) 44, -1, SGDW (paper) 0, 0,
          Adam + L2 28, -1.7, AdamW (Keras) 67, -1.1, AdamW (paper) 8, -.3; regret, plain: 4, 5,
          20, 5, 5 and 32 %. Only rates count whose best loss is at most 1.5 times the best of all.
Run time: 220 seconds, JAX only.

    KERAS_BACKEND=jax python examples/l2_is_not_weight_decay.py
"""

import common
import keras
import numpy as np
from keras import layers
from matplotlib.colors import LogNorm

import keras_adamfamily as kaf
from keras_adamfamily.tuning import Population, use_all_cores

jax = common.need_backend("jax")

SCALES = np.array([0.01, 0.1, 1.0, 10.0, 100.0])
RULES = {"SGD": lambda *a, **k: kaf.SGD(*a, momentum=0.9, **k), "Adam": kaf.Adam}
FORMS = {" + L2": kaf.L2, "W as in Keras": float, "W as in the paper": kaf.Decoupled}
SETUPS = {
    "normalized": "Batch normalization: the paper's decay is tuned apart from the rate",
    "plain": "No normalization, noisy labels: the paper's form loses the most at other rates",
}
GOOD = 1.5  # rates whose best loss is at most so many times the best of all
#: Where the learning rate's two decades begin, and those of the decay by form.
STARTS = {
    ("normalized", "SGD"): (-3.0, (-2.0, -1.0, -3.0)),
    ("normalized", "Adam"): (-3.5, (-2.5, -0.5, -3.0)),
    ("plain", "SGD"): (-2.75, (-3.25, -2.25, -3.5)),
    ("plain", "Adam"): (-3.5, (-3.5, -1.5, -3.75)),
}
EPOCHS = {"normalized": 60, "plain": 40}


def weights_without_signal(decay, noise):
    """Where a weight of 1 ends, by the scale of gradients that are nothing but noise."""
    optimizer = kaf.Adam(1e-3, weight_decay=decay, epsilon=0.0)
    weight = keras.Variable(np.ones(SCALES.shape), dtype="float64")
    optimizer.build([weight])

    def step(carry, z):
        weights, state = carry
        return optimizer.stateless_apply(state, [SCALES * z], weights), None

    start = [weight.value], [variable.value for variable in optimizer.variables]
    return np.asarray(jax.lax.scan(step, start, noise)[0][0][0])


def build_model(setup, rule, form):
    """64-64-64-10; the logits, if normalized, times 10, or the loss could not fall below 0.3."""
    parts, normalized = [keras.Input((64,))], setup == "normalized"
    for width in (64, 64, 64, 10):
        parts += [layers.Dense(width, use_bias=not normalized)]
        parts += [layers.BatchNormalization(scale=False)] * normalized
        parts += [layers.ReLU()] if width == 64 else [layers.Rescaling(10.0)] * normalized
    model = keras.Sequential(parts)
    schedule = kaf.WarmupCosine(1.0, total_steps=16 * EPOCHS[setup])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(RULES[rule](schedule, weight_decay=FORMS[form](0.01)), loss)
    return model


def heat_map(setup, rule, form, points, seeds):
    """Final validation loss, mean over seeds, by learning rate and decay, and what it says."""
    first_rate, first_decays = STARTS[setup, rule]
    first_decay = first_decays[list(FORMS).index(form)]
    rates, decays = (np.logspace(start, start + 2, points) for start in (first_rate, first_decay))
    lanes = [axis.ravel() for axis in np.meshgrid(rates, decays, range(seeds), indexing="ij")]
    train, validation = common.digits(500, noise=0.2 * (setup == "plain"))
    population = Population(
        lambda: build_model(setup, rule, form),
        *(train, validation),
        hyperparameters={"learning_rate": lanes[0], "weight_decay": lanes[1]},
        seeds=lanes[2],
        validation_batch_size=len(validation[1]),
    )
    curves = population.train(EPOCHS[setup], validation_freq=EPOCHS[setup])
    loss = curves["val_loss"].reshape(points, points, seeds).mean(axis=-1)
    loss = np.where(np.isfinite(loss), loss, np.inf)
    best, choice = loss.min(axis=1), loss.argmin(axis=1)
    good = np.flatnonzero(best <= GOOD * best.min())
    regret = [loss[i, choice[j]] / best[i] - 1 for i in good for j in good if i != j]
    slope = np.polyfit(np.log(rates[good]), np.log(decays[choice[good]]), 1)[0]
    found = {"best loss": best.min(), "regret": np.median(regret), "slope": slope}
    return found | {"loss": loss, "rates": rates, "decays": decays}


def experiment(points=9, seeds=8):
    noise, size = np.random.RandomState(1).normal(size=2000), (points, seeds)
    forms = {"no decay": None, "L2": kaf.L2(0.1), "decoupled": kaf.Decoupled(0.1 * 1e-3)}
    with jax.enable_x64(True):
        rows = {name: list(weights_without_signal(form, noise)) for name, form in forms.items()}
    maps = {s: {r + f: heat_map(s, r, f, *size) for r in RULES for f in FORMS} for s in SETUPS}
    return {"final weight": rows, "maps": maps}


@common.plt.rc_context(common.STYLE)
def draw(results):
    figure = common.plt.figure(figsize=(8.2, 13), layout="constrained")
    top, *strips = figure.subfigures(3, 1, height_ratios=[1, 2.4, 2.4])
    top.suptitle("Adam without a signal: L2 decays a weight by the scale of its gradients")
    axis = top.subplots()
    for name, color in (("no decay", "#777777"), ("decoupled", "#009E73"), ("L2", "#D55E00")):
        weights = results["final weight"][name]
        axis.semilogx(SCALES, weights, "o-", color=color)
        axis.annotate(name, (SCALES[0], weights[0] + 0.05), color=color)
    axis.set(xlabel="scale of the gradients, pure noise", ylabel="weight after 2000 steps")
    axis.set_ylim(-0.05, 1.1)
    for strip, (setup, title) in zip(strips, SETUPS.items(), strict=True):
        strip.suptitle(f"\n{title}")
        axes, maps = strip.subplots(2, 3), results["maps"][setup]
        low = min(found["best loss"] for found in maps.values())
        for (name, found), axis in zip(maps.items(), axes.ravel(), strict=True):
            image = draw_map(axis, name, found, LogNorm(low, 4 * low))
        strip.colorbar(image, ax=axes, label="final validation loss", extend="max")
    return figure


def draw_map(axis, name, found, norm):
    """The best decay of each good rate in white, the best of all in red."""
    loss, rates, decays = (found[key] for key in ("loss", "rates", "decays"))
    image = axis.pcolormesh(decays, rates, loss.clip(max=9.0), norm=norm, cmap="viridis_r")
    good = loss.min(axis=1) <= GOOD * loss.min()
    axis.plot(decays[loss.argmin(axis=1)][good], rates[good], "o-", color="white", ms=4, lw=1.2)
    i, j = np.unravel_index(loss.argmin(), loss.shape)
    axis.plot(decays[j], rates[i], "*", color="#CC0000", ms=13, mec="white")
    axis.set(xscale="log", yscale="log", xlabel="decay", ylabel="learning rate")
    axis.grid(False)
    numbers = f"regret {100 * found['regret']:.0f} %, slope {found['slope']:.1f}"
    axis.set_title(f"{name}\n{numbers}", fontsize=9.5)
    return image


if __name__ == "__main__":
    use_all_cores()
    common.main(__name__, experiment, draw)
