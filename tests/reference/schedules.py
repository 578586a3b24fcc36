"""Learning rates as functions of the 0-based step.

Bind the constants with `functools.partial` to get what a twin takes as its `learning_rate`:
`partial(inverse_sqrt, alpha=0.1)`.
"""

import math


def inverse_sqrt(step, alpha):
    """alpha_t = alpha / sqrt(t), t = step + 1."""
    return alpha / math.sqrt(step + 1)


def cosine(position, peak, minimum):
    """Half a cosine wave from `peak` at position 0 down to `minimum` at position 1."""
    return minimum + 0.5 * (peak - minimum) * (1 + math.cos(math.pi * position))


def warmup_cosine(step, peak, warmup_steps, total_steps, minimum=0.0):
    """A line that reaches `peak` after `warmup_steps`, a cosine down to `total_steps`, a floor."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if step >= total_steps:
        return minimum
    return cosine((step - warmup_steps) / (total_steps - warmup_steps), peak, minimum)


def cosine_restarts(step, peak, cycle_steps, cycle_mult=1, peak_mult=1.0, minimum=0.0):
    """SGDR: cycle i lasts T_i = round(T_0 * cycle_mult^i) steps, from peak * peak_mult^i."""
    cycle, length = 0, cycle_steps
    while step >= length:
        step -= length
        cycle += 1
        length = round(cycle_steps * cycle_mult**cycle)
        if length < 1:
            raise ValueError(f"cycle {cycle} has no steps: cycle_mult={cycle_mult}")
    return cosine(step / length, peak * peak_mult**cycle, minimum)
