"""The training of `benchmarks.tuning`'s population written by hand in JAX, without Keras.

What is left between this and the tuner is the tuner's own cost; the rest is JAX's and XLA's.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec


def logits(weights, x):
    for kernel, bias in weights[:-1]:
        x = jax.nn.relu(x @ kernel + bias)
    kernel, bias = weights[-1]
    return x @ kernel + bias


def sums(weights, x, y):
    """The cross-entropies and the right answers of a batch, summed up."""
    found = logits(weights, x)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(found), y[:, None], 1)
    return -chosen.sum(), jnp.sum(found.argmax(1) == y)


def adamw(state, batch, values):
    weights, m, v, step, totals = state

    def mean_loss(weights):
        loss, right = sums(weights, *batch)
        return loss / len(batch[1]), (loss, right)

    gradients, found = jax.grad(mean_loss, has_aux=True)(weights)
    step, beta_1, beta_2 = step + 1, values["beta_1"], 0.999
    alpha = values["learning_rate"] / (1 - beta_1**step)
    correction = jnp.sqrt(1 - beta_2**step)
    kept = 1 - values["weight_decay"]
    m = jax.tree.map(lambda m, g: m + (g - m) * (1 - beta_1), m, gradients)
    v = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - beta_2), v, gradients)
    weights = jax.tree.map(
        lambda w, m, v: w * kept - alpha * m / (jnp.sqrt(v) / correction + 1e-8), weights, m, v
    )
    totals = jax.tree.map(jnp.add, totals, found)
    return (weights, m, v, step, totals), None


def batched(data, size):
    """Whole batches, and the smaller one that is left."""
    whole = len(data[1]) // size * size
    return (
        jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), data),
        jax.tree.map(lambda a: a[whole:], data),
    )


def epoch(state, order, values, train, validation, batch_size):
    def step(state, batch):
        return adamw(state, batch, values)

    def evaluate(totals, batch):
        return jax.tree.map(jnp.add, totals, sums(state[0], *batch)), None

    def over(function, carry, data):
        whole, rest = batched(data, batch_size)
        carry, _ = jax.lax.scan(function, carry, whole)
        return function(carry, rest)[0] if len(rest[1]) else carry

    zero = jnp.float32(0), jnp.int32(0)
    state = over(step, (*state[:-1], zero), jax.tree.map(lambda a: a[order], train))
    return state, (state[-1], over(evaluate, zero, validation))


def trainer(weights, values, orders, train, validation, batch_size):
    """A function that trains all lanes, spread over the devices, and returns their curves.

    Args:
        weights: The initial ones of every lane, as Keras lists them: a kernel, its bias, and so on.
        values: The hyperparameters, `{name: array of shape (lanes,)}`.
        orders: The examples of each epoch, of shape (epochs, examples).
    """
    mesh = Mesh(np.array(jax.devices()), ("lanes",))
    lanes, every = NamedSharding(mesh, Spec("lanes")), NamedSharding(mesh, Spec())
    weights = list(zip(weights[::2], weights[1::2], strict=True))
    values = jax.tree.map(np.float32, values)
    data = jax.tree.map(
        lambda a: a.astype("float32" if a.ndim > 1 else "int32"), (train, validation)
    )
    zeros = jax.tree.map(np.zeros_like, weights)
    zero = np.float32(0), np.int32(0)
    initial = jax.tree.map(
        lambda leaf: np.stack([leaf] * len(values["beta_1"])),
        (weights, zeros, zeros, np.float32(0), zero),
    )
    data, values = jax.device_put(data, every), jax.device_put(values, lanes)

    @partial(jax.jit, donate_argnums=0)
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(Spec("lanes"), Spec("lanes"), Spec(), Spec()),
        out_specs=Spec("lanes"),
        check_vma=False,
    )
    def run(states, values, order, data):
        def lane(both):
            state, values = both
            return epoch(state, order, values, *data, batch_size)

        return jax.lax.map(lane, (states, values))

    def train_all():
        states, curves = jax.device_put(initial, lanes), []
        for order in orders:
            states, found = run(states, values, order, data)
            curves.append(jax.tree.map(np.asarray, found))
        return curves

    return train_all
