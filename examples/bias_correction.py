"""Adam with and without bias correction, as beta_2 approaches 1.

Claim:    Without bias correction the first steps are up to 1 / sqrt(1 - beta_2) times too long: as
          beta_2 approaches 1 training diverges at ever smaller learning rates, among them the one
          that is best with it. With correction, beta_2 makes next to no difference up to there.
Source:   Kingma and Ba (2014), section 6.4 and figure 4: a variational autoencoder with one hidden
          layer of softplus units, loss after 10 and 100 epochs. Theirs is on MNIST with 500 units
          and 50 latent variables; ours on scikit-learn's 8 x 8 digits with 64 and 8.
Expected: After 10 epochs at rate 1e-2, beta_1 = 0: 26.6 nats with correction, whatever beta_2 is;
          without it 27.1 (0.99), 28.3 (0.999), divergence (0.9999). The best rate is 1e-2 with it,
          and falls from 3e-3 to 3e-4 without. But below 1e-3 the longer steps help early: 27.2
          against 43.3 at 1e-4. Each at its own best rate, the two end within 2 % of each other:
          correction makes the rate easy to find, more than the optimum better.
Run time: 60 seconds, 108 trainings in two programs, JAX only.

    KERAS_BACKEND=jax python examples/bias_correction.py
"""

import itertools

import common
import keras
import numpy as np
from keras import ops

import keras_adamfamily as kaf

BETA_1, BETA_2 = (0.0, 0.9), (0.99, 0.999, 0.9999)
RATES = tuple(float(f"{rate:.2g}") for rate in np.logspace(-5, -1, 9))
HOW = ("with", "without")
SHADES = ("#F2A65A", "#D55E00", "#7A2E00")
UNITS, LATENT, BATCH = 64, 8, 100


def autoencoder():
    """Image and noise to the logits of its reconstruction, and the code's mean and log variance."""
    image, noise = keras.Input((64,)), keras.Input((LATENT,))
    hidden = keras.layers.Dense(UNITS, "softplus")(image)
    mean, log_variance = keras.layers.Dense(LATENT)(hidden), keras.layers.Dense(LATENT)(hidden)
    code = mean + ops.exp(log_variance / 2) * noise
    logits = keras.layers.Dense(64)(keras.layers.Dense(UNITS, "softplus")(code))
    return keras.Model([image, noise], [logits, mean, log_variance])


def bound(images, logits, mean, log_variance):
    """The negative evidence lower bound, in nats per image."""
    reconstruction = ops.sum(ops.softplus(logits) - images * logits, axis=-1)
    divergence = ops.sum(mean**2 + ops.exp(log_variance) - 1 - log_variance, axis=-1) / 2
    return ops.mean(reconstruction + divergence)


def sweep(images, bias_correction: bool, lanes, epochs: int, seed: int):
    """The mean loss in each epoch of one training per lane (beta_1, beta_2, rate), in one program.

    The hyperparameters are in variables, so their values are inputs of the compiled program.
    """
    import jax

    keras.utils.set_random_seed(seed)
    model = autoencoder()
    optimizer = kaf.Adam(1e-3, bias_correction=bias_correction).make_tunable("beta_1", "beta_2")
    optimizer.build(model.trainable_variables)
    weights = [variable.value for variable in model.trainable_variables]
    steps = len(images) // BATCH

    def loss(weights, batch, noise):
        outputs, _ = model.stateless_call(weights, [], [batch, noise])
        return bound(batch, *outputs)

    def step(carry, inputs):
        (weights, state), (batch, noise) = carry, inputs
        value, gradients = jax.value_and_grad(loss)(weights, batch, noise)
        return optimizer.stateless_apply(state, gradients, weights), value

    def epoch(carry, key):
        order, noise = jax.random.split(key)
        batches = jax.random.permutation(order, images)[: steps * BATCH].reshape(steps, BATCH, -1)
        noise = jax.random.normal(noise, (steps, BATCH, LATENT))
        carry, losses = jax.lax.scan(step, carry, (batches, noise))
        return carry, losses.mean()

    def train(beta_1, beta_2, rate):
        given = {"beta_1": beta_1, "beta_2": beta_2, "learning_rate": rate}
        state = [given.get(variable.name, variable.value) for variable in optimizer.variables]
        keys = jax.random.split(jax.random.key(seed), epochs)
        return jax.lax.scan(epoch, (weights, state), keys)[1]

    return np.asarray(jax.jit(jax.vmap(train))(*lanes))


def experiment(epochs: tuple = (10, 100), rates: tuple = RATES, seed: int = 0) -> dict:
    images = np.concatenate([x for x, _ in common.digits()])
    grid = np.meshgrid(BETA_1, BETA_2, rates, indexing="ij")
    lanes = [values.astype("float32").ravel() for values in grid]
    results = {"rates": np.array(rates), "losses": {}, "best rate": {}, "best loss": {}}
    for how in HOW:
        losses = sweep(images, how == "with", lanes, max(epochs), seed)
        for beta_1, beta_2, epoch in itertools.product(BETA_1, BETA_2, epochs):
            chosen = (lanes[0] == np.float32(beta_1)) & (lanes[1] == np.float32(beta_2))
            found = losses[chosen, epoch - 1]
            case = (how, beta_1, beta_2, epoch)
            results["losses"][case] = found
            results["best rate"][case] = rates[np.nanargmin(found)]
            results["best loss"][case] = np.nanmin(found)
    return results


def draw(results: dict):
    epochs, top = sorted({case[-1] for case in results["losses"]}), 62.0
    figure, axes = common.subplots(
        len(epochs), 2, figsize=(10, 7), sharex=True, sharey=True, squeeze=False
    )
    for (row, epoch), (column, beta_1) in itertools.product(enumerate(epochs), enumerate(BETA_1)):
        panel = axes[row][column]
        for how, (i, beta_2) in itertools.product(HOW, enumerate(BETA_2)):
            losses = results["losses"][how, beta_1, beta_2, epoch]
            color = SHADES[i] if how == "without" else "#0072B2"
            (line,) = panel.plot(results["rates"], losses, ".-", color=color)
            if how == "without":
                line.set_label(rf"without, $\beta_2$ = {beta_2}")
            elif not i:
                line.set_label(r"with correction, the three $\beta_2$")
            lost = ~(losses < top)
            height = top * (0.97 - 0.04 * i if how == "without" else 0.85)
            panel.plot(results["rates"][lost], np.full(lost.sum(), height), "x", color=color)
            if i == 2 and how == "without" and lost.any():
                first = results["rates"][lost][0] * 0.82
                panel.text(first, height, "diverged", ha="right", va="center", color=color)
        panel.set(xscale="log", yscale="log", ylim=(23.5, top))
        panel.set_yticks([25, 30, 40, 50], ["25", "30", "40", "50"])
        panel.minorticks_off()
        panel.set_title(rf"$\beta_1$ = {beta_1:g}, after {epoch} epochs")
    figure.suptitle(
        r"Without bias correction, the learning rates that train shrink as $\beta_2$ nears 1",
        weight="bold",
    )
    figure.supylabel("training loss (nats per image)", size=10)
    figure.supxlabel("learning rate", size=10)
    axes[0][0].legend(loc=(0.42, 0.38), frameon=False)
    return figure


if __name__ == "__main__":
    common.need_backend("jax")
    common.main(__name__, experiment, draw)
