"""The best weight decay depends on how long training is; the best normalized one does not.

Claim:    From 20 to 160 epochs the best lambda falls as T^-0.5, so that the best normalized one,
          lambda_norm = lambda / sqrt(b / (B T)), stays. Ten epochs are too few to gain by decay.
Source:   Loshchilov and Hutter (2019), arXiv:1711.05101, appendix B.1, on CIFAR-10 and ImageNet32.
          It is an observation, and depends on the set-up: here inputs are noisy, so that 1200
          digits do not overfit. Without noise, on 500, the best lambda grows with the budget; at a
          learning rate of 1e-2 it hardly depends on it.
Expected: Best lambda 4.0e-3, 4.9e-3, 2.3e-3, 1.7e-3 (20, 40, 80, 160 epochs), lambda_norm 0.11 to
          0.19. Exponents -0.48 and 0.02, with a 95 % interval of +-0.12 (10 seeds, bootstrap).
Run time: 60 seconds, JAX only.

    KERAS_BACKEND=jax python examples/normalized_decay.py
"""

import common
import keras
import numpy as np
from keras import layers

import keras_adamfamily as kaf
from keras_adamfamily.tuning import Population, use_all_cores

BUDGETS = np.array([10, 20, 40, 80, 160])
BATCH, IMAGES, RATE = 32, 1200, 1e-3
NORMS = np.geomspace(0.02, 1.0, 11)
#: lambda / lambda_norm for each budget.
FACTORS = np.sqrt(BATCH / (IMAGES * BUDGETS))


def build_model(epochs):
    """64-64-64-10 in noise, batch-normalized without a scale: decay only sets the steps' angle."""
    parts = [keras.Input((64,)), layers.GaussianNoise(0.3)]
    for width in (64, 64, 10):
        parts += [layers.Dense(width, use_bias=False), layers.BatchNormalization(scale=False)]
        parts += [layers.ReLU()] if width == 64 else [layers.Rescaling(8.0)]
    model = keras.Sequential(parts)
    schedule = kaf.WarmupCosine(RATE, total_steps=epochs * -(-IMAGES // BATCH))
    decay = kaf.Normalized(0.1, batch_size=BATCH, dataset_size=IMAGES, epochs=epochs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kaf.AdamW(schedule, weight_decay=decay), loss)
    return model


def sweep(epochs, seeds):
    """Final validation loss by seed and normalized decay."""
    train, validation = common.digits(IMAGES)
    lanes = Population(
        lambda: build_model(epochs),
        train,
        validation,
        hyperparameters={"weight_decay": np.tile(NORMS, seeds)},
        seeds=list(np.repeat(np.arange(seeds), len(NORMS))),
        batch_size=BATCH,
        validation_batch_size=len(validation[1]),
    )
    loss = lanes.train(epochs, validation_freq=epochs)["val_loss"]
    return loss.reshape(seeds, len(NORMS))


def best(loss):
    """The best lambda_norm: the least of a parabola through five points around the lowest."""
    middle = np.clip(loss.argmin(), 2, len(loss) - 3)
    norms, loss = (np.log(x[middle - 2 : middle + 3]) for x in (NORMS, loss))
    a, b, _ = np.polyfit(norms, loss, 2)
    return np.exp(np.clip(-b / (2 * a), norms[0], norms[-1]) if a > 0 else norms[loss.argmin()])


def slope(losses):
    """How the log of the best lambda_norm changes with the log of the budget, from 20 epochs on."""
    found = [best(loss) for loss in losses[1:]]
    return float(np.polyfit(np.log(BUDGETS[1:]), np.log(found), 1)[0])


def experiment(seeds=10):
    losses = np.array([sweep(int(epochs), seeds) for epochs in BUDGETS])
    random, mean = np.random.default_rng(0), losses.mean(axis=1)
    picks = random.integers(0, seeds, (1000, seeds))
    interval = np.quantile([slope(losses[:, pick].mean(axis=1)) for pick in picks], [0.025, 0.975])
    norms = np.array([best(loss) for loss in mean])
    return {
        "best lambda_norm": norms.tolist(),
        "best lambda": (norms * FACTORS).tolist(),
        "slope of lambda_norm": slope(mean),
        "slope of lambda": slope(mean) - 0.5,
        "95 % interval of lambda_norm's": interval.tolist(),
        "loss": mean,
    }


def draw(results):
    figure, axes = common.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    shades = common.plt.colormaps["viridis"](np.linspace(0.9, 0, len(BUDGETS)))
    for axis, factors, name in zip(
        axes, (FACTORS, [1] * 5), ("lambda", "lambda_norm"), strict=True
    ):
        for epochs, factor, loss, shade in zip(
            BUDGETS, factors, results["loss"], shades, strict=True
        ):
            axis.plot(NORMS * factor, loss, color=shade, label=f"{epochs} epochs")
            where = np.log(best(loss)), np.log(NORMS)
            at = np.exp(np.interp(*where, np.log(loss)))
            axis.plot(best(loss) * factor, at, "o", color=shade, ms=8, mec="black")
        axis.set(xscale="log", yscale="log", xlabel=name)
    axes[0].set_ylabel("validation loss after training")
    axes[0].set_title(f"The best lambda goes as T^{results['slope of lambda']:.2f} from T = 20")
    axes[1].set_title(f"The best lambda_norm stays: T^{results['slope of lambda_norm']:.2f}")
    axes[1].legend(loc="upper left")
    return figure


if __name__ == "__main__":
    common.need_backend("jax")
    use_all_cores()
    common.main(__name__, experiment, draw)
