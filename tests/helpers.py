"""What several test files share besides `steps`: exact cycles, and hypothesis's settings."""

from fractions import Fraction

import hypothesis

#: The same examples at every run.
quick = hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)


def cycles(first, multiplier, count):
    """(start, length) of the first cycles of SGDR, T_i = round(T_0 * multiplier^i), exactly."""
    start, found = 0, []
    for i in range(count):
        length = round(Fraction(first) * Fraction(multiplier) ** i)
        found.append((start, length))
        start += length
    return found
