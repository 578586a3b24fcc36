"""What happens around the rule: clipping before it, accumulation, the average after it."""

import math

import numpy as np


def clip_value(g, limit):
    """Move every component into [-limit, limit]."""
    return np.clip(g, -limit, limit)


def clip_norm(g, limit):
    """Scale one gradient by min(1, limit / ||g||)."""
    return clip_global_norm([g], limit)[0]


def clip_global_norm(gradients, limit):
    """Scale all gradients by the same min(1, limit / norm of all of them together)."""
    norm = math.sqrt(sum(np.sum(np.square(g)) for g in gradients))
    return [np.asarray(g) * limit / max(norm, limit) for g in gradients]


def average_weights(iterates, momentum):
    """Keras' EMA after each theta_t: a_1 = theta_1, a_t = momentum a + (1 - momentum) theta_t."""
    averages = [iterates[0]]
    for theta in iterates[1:]:
        averages.append(momentum * averages[-1] + (1 - momentum) * theta)
    return averages


def accumulate_gradients(gradients, steps):
    """Replace every `steps` gradients in a row by their mean, which one real update sees."""
    complete = len(gradients) // steps * steps
    return [sum(gradients[i : i + steps]) / steps for i in range(0, complete, steps)]
