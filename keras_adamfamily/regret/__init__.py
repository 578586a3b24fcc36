"""Online convex optimization: does an optimizer do as well as the best fixed point in hindsight?

In round t = 1, 2, ... the optimizer plays a point x_t of a box, pays f_t(x_t), sees the gradient
there, updates, and is projected back onto the box. Its regret after T rounds is what it paid beyond
the best fixed point:

```
R_T = sum_t f_t(x_t) - min_x sum_t f_t(x)
```

An optimizer learns if R_T / T goes to 0. Adam does not on `PROBLEMS`, three cost sequences of
Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond" (arXiv:1904.09237).

>>> import keras_adamfamily as kaf
>>> from keras_adamfamily import regret
>>> costs = regret.periodic(3.0, -1.0, period=3)
>>> adam = kaf.Adam(kaf.InverseSqrt(0.1), beta_1=0.0, beta_2=0.1, epsilon=0.0)
>>> result = regret.play(adam, costs, rounds=999, start=1.0)
>>> bool(result.average_regret[-1] > 2 / 3)
True
"""

from keras_adamfamily.regret.costs import Convex, Linear, Stochastic, periodic
from keras_adamfamily.regret.game import Box, Result, play
from keras_adamfamily.regret.problems import PROBLEMS, Problem

__all__ = [
    "play",
    "Result",
    "Box",
    "Linear",
    "periodic",
    "Stochastic",
    "Convex",
    "Problem",
    "PROBLEMS",
]
