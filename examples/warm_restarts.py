"""Warm restarts: AdamWR and SGDWR against AdamW and SGDW with one cosine, on few digits.

An MLP with BatchNorm on 256 images; cycles of 10, 20, 40 and 80 epochs against one cosine of 150.
Normalized decay 0.05; each arm has the best of three rates, on 400 images that are not the test's.

Claim:    After 30 epochs AdamWR is as good as at the end, and better than AdamW on its way. In the
          end restarts gain and cost nothing. The average of AdamWR's last three snapshots is better
          than the last alone and than one cosine; of SGDWR's it is not.
Source:   Loshchilov and Hutter, arXiv:1711.05101, appendix B.2; Huang et al., arXiv:1704.00109.
Expected: Test error in %, 16 seeds. AdamWR at the ends 5.7, 5.1, 5.4, 5.2; AdamW 5.2; ensemble 4.9,
          -0.25 +- 0.17 against the last snapshot, -0.33 +- 0.22 against AdamW. SGDWR 6.5, 5.5,
          5.3, 5.3; SGDW 5.1; ensemble 5.2.
Run time: 140 seconds, JAX only.

    KERAS_BACKEND=jax python examples/warm_restarts.py
"""

import common
import keras
import numpy as np
from keras import layers

import keras_adamfamily as kaf

jax = common.need_backend("jax")
jnp = jax.numpy

IMAGES, BATCH, TUNING, ENDS = 256, 32, 400, (10, 30, 70, 150)  # the cycles' ends, in epochs
STEPS = IMAGES // BATCH
FAMILIES = {"AdamW": (3e-3, 1e-2, 3e-2), "SGDW": (0.03, 0.1, 0.3)}


def train(name, rate, epochs, restarts, seeds):
    """Class probabilities of the other images after each epoch, for each seed."""
    schedule, length = kaf.WarmupCosine(rate, epochs * STEPS), epochs
    if restarts:
        schedule = length = kaf.CosineWarmRestarts(rate, ENDS[0] * STEPS)
    decay = kaf.Normalized(0.05, batch_size=BATCH, dataset_size=IMAGES, epochs=length)
    optimizer = kaf.registry.find(name).cls(schedule, weight_decay=decay)
    parts = [keras.Input((64,))]
    for _ in range(2):
        norm = layers.BatchNormalization(momentum=0.9)
        parts += [layers.Dense(64, use_bias=False), norm, layers.ReLU()]
    model = keras.Sequential([*parts, layers.Dense(10)])
    optimizer.build(model.trainable_variables)
    start = [[v.value for v in x] for x in (model.non_trainable_variables, optimizer.variables)]

    def loss(weights, averages, x, y):
        logits, averages = model.stateless_call(weights, averages, x, training=True)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)
        return -chosen.mean(), averages

    def run(key, x, y, x_test):
        def step(state, batch):
            weights, averages, slots = state
            grads, averages = jax.grad(loss, has_aux=True)(weights, averages, x[batch], y[batch])
            weights, slots = optimizer.stateless_apply(slots, grads, weights)
            return (weights, averages, slots), None

        def epoch(state, key):
            order = jax.random.permutation(key, IMAGES).reshape(STEPS, BATCH)
            state, _ = jax.lax.scan(step, state, order)
            return state, jax.nn.softmax(model.stateless_call(*state[:2], x_test)[0])

        keys = jax.random.split(key, epochs + len(model.trainable_variables))
        weights = [v.value for v in model.trainable_variables]
        for i, w in enumerate(weights):
            if w.ndim == 2:
                weights[i] = jax.nn.initializers.glorot_uniform()(keys[epochs + i], w.shape)
        return jax.lax.scan(epoch, (weights, *start), keys[:epochs])[1]

    data = [common.digits(IMAGES, seed) for seed in seeds]
    data = [[*training, x_test] for training, (x_test, _) in data]
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    columns = [jnp.stack(column) for column in zip(*data, strict=True)]
    return np.asarray(jax.jit(lambda *a: jax.lax.map(lambda one: run(*one), a))(keys, *columns))


def error(probabilities, labels, part):
    """In %, for each seed (and epoch): of the images that choose the rate, or of the others."""
    labels = labels.reshape(len(labels), *[1] * (probabilities.ndim - 3), -1)
    return 100 * (probabilities.argmax(-1) != labels)[..., part].mean(-1)


def best(name, epochs, restarts, seeds, labels):
    """The arm's rate, and its class probabilities."""
    runs = {rate: train(name, rate, epochs, restarts, seeds) for rate in FAMILIES[name]}
    final = {rate: error(p[:, -1], labels, slice(TUNING)).mean() for rate, p in runs.items()}
    rate = min(final, key=final.get)
    return rate, runs[rate]


def compare(one, other):
    """Mean difference over the seeds, and half of its 95 % interval."""
    difference = one - other
    return [float(difference.mean()), float(2.13 * difference.std(ddof=1) / len(one) ** 0.5)]


def experiment(seeds=16):
    seeds, results = list(range(seeds)), {}
    labels = np.stack([common.digits(IMAGES, seed)[1][1] for seed in seeds])
    for name in FAMILIES:
        rate_r, p = best(name, ENDS[-1], True, seeds, labels)
        arms = {epochs: best(name, epochs, False, seeds, labels) for epochs in ENDS}
        test, ends = slice(TUNING, None), np.array(ENDS) - 1
        restarts, single = error(p, labels, test), error(arms[ENDS[-1]][1], labels, test)
        ensemble = error(p[:, ends[1:]].mean(1), labels, test)
        lengths = [float(error(q[:, -1], labels, test).mean()) for _, q in arms.values()]
        results[name] = {
            "rates": {"restarts": rate_r, **{e: rate for e, (rate, _) in arms.items()}},
            "error at the ends": restarts[:, ends].mean(0).tolist(),
            "cosines of these lengths": lengths,
            "ensemble": float(ensemble.mean()),
            "ensemble - last snapshot": compare(ensemble, restarts[:, -1]),
            "ensemble - one cosine": compare(ensemble, single[:, -1]),
            "last snapshot - one cosine": compare(restarts[:, -1], single[:, -1]),
            "at 30 epochs": compare(restarts[:, 29], single[:, 29]),
            "curves": (single, restarts),
        }
    return results


def draw(results):
    figure, axes = common.subplots(2, 2, figsize=(11, 6.4), height_ratios=[4, 1], sharex=True)
    epochs, grey = np.arange(1, ENDS[-1] + 1), "#999999"
    for name, (top, bottom) in zip(FAMILIES, axes.T, strict=True):
        found, color = results[name], common.COLORS[name]
        labels = (f"{name}, one cosine", f"{name}R, warm restarts")
        for curves, shade, label in zip(found["curves"], (grey, color), labels, strict=True):
            mean, width = curves.mean(0), 2.13 * curves.std(0, ddof=1) / np.sqrt(len(curves))
            top.plot(epochs, mean, color=shade, label=label)
            top.fill_between(epochs, mean - width, mean + width, color=shade, alpha=0.25, lw=0)
        top.plot(ENDS, found["error at the ends"], "o", color=color, mec="black")
        shorter = found["cosines of these lengths"]
        top.plot(ENDS, shorter, "wD", mec="black", label="a cosine that ends here")
        top.plot(ENDS[-1], found["ensemble"], "*", color="#CC0000", ms=14, label="3 snapshots")
        top.set(ylim=(4, 12), ylabel="test error, %")
        top.legend()
        schedules = kaf.WarmupCosine(1.0, ENDS[-1] * STEPS), kaf.CosineWarmRestarts(1.0, 80)
        for schedule, shade in zip(schedules, (grey, color), strict=True):
            bottom.plot([float(schedule(int(s))) for s in (epochs - 1) * STEPS], color=shade)
        bottom.set(xlabel="epoch", ylabel="rate / peak")
    axes[0, 0].set_title("AdamWR is ready early; its snapshots together are best")
    axes[0, 1].set_title("SGDWR: no gain, no cost")
    return figure


if __name__ == "__main__":
    common.main(__name__, experiment, draw)
