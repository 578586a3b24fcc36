"""The algorithms of the foundation in plain numpy float64, each written as its paper prints it.

    twin = Adam(learning_rate=0.01)
    theta = twin.step(theta, gradient)

A twin optimizes one array of any shape; for one whose `whole_vector` is true that array is the
vector of all weights of a model. Its states start as the number 0 and take the shape of the first
gradient. t = 1, 2, ... counts the updates, g is the gradient at theta_{t-1}.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def divide(a, b):
    """a / b, and 0 wherever b is exactly 0."""
    return np.where(b == 0, 0.0, a / np.where(b == 0, 1.0, b))


def normalized_decay(decay, batch_size, points, epochs):
    """lambda = lambda_norm * sqrt(b / (B T)); under warm restarts T is the current cycle's T_i."""
    return decay * math.sqrt(batch_size / (points * epochs))


@dataclass(kw_only=True)
class Twin:
    """theta_t = theta_{t-1} - update(g_t) - decay(theta_{t-1}).

    `weight_decay` is one of
        None
        ("keras", wd)                                  decay = lr_t * wd * theta_{t-1}
        ("decoupled", lam)                             decay = lr_t / lr_0 * lam * theta_{t-1}
        ("normalized", lam_norm, b, B, T)              decoupled, lam = lam_norm * sqrt(b / (B T))
        ("l2", lam)                                    g_t + lam * theta_{t-1} in place of g_t
    `learning_rate` is a number or a function of the 0-based step; `initial_learning_rate` is the
    lr_0 of the decay where the rate of step 0 is not the one meant (a warmup).
    """

    learning_rate: float | Callable = 0.001
    weight_decay: tuple | None = None
    initial_learning_rate: float | None = None

    t = 0
    whole_vector = False
    name = ""  # of the array, for rules that treat arrays differently

    def step(self, theta, g, lr=None):
        """Return theta_t; a given `lr` takes the place of this step's learning rate."""
        theta, g = np.asarray(theta, np.float64), np.asarray(g, np.float64)
        lr = self.rate(self.t) if lr is None else lr
        self.t += 1
        match self.weight_decay:
            case None:
                decay = 0.0
            case ("l2", lam):
                decay, g = 0.0, g + lam * theta
            case ("keras", wd):
                decay = lr * wd * theta
            case ("decoupled", lam):
                decay = self.eta(lr) * lam * theta
            case ("normalized", *lam):
                decay = self.eta(lr) * normalized_decay(*lam) * theta
            case unknown:
                raise ValueError(f"weight_decay={unknown}")
        return theta - self.update(g, lr) - decay

    def rate(self, step):
        return self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate

    def eta(self, lr):
        """The schedule's multiplier eta_t = lr_t / lr_0."""
        first = self.initial_learning_rate
        return lr / (self.rate(0) if first is None else first)

    def update(self, g, lr):
        raise NotImplementedError


@dataclass(kw_only=True)
class SGD(Twin):
    """v = mu v + lr g;  theta -= v,  Nesterov: theta -= mu v + lr g   (Sutskever et al. 2013)."""

    learning_rate: float | Callable = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    v = 0.0

    def update(self, g, lr):
        self.v = self.momentum * self.v + lr * g
        return self.momentum * self.v + lr * g if self.nesterov else self.v


@dataclass(kw_only=True)
class SGDW(SGD):
    """SGD whose decay stays outside the momentum   (Loshchilov & Hutter 2019, Algorithm 1)."""


@dataclass(kw_only=True)
class Adagrad(Twin):
    """a += g^2;  theta -= lr g / (sqrt(a) + eps), or / sqrt(a + eps)   (Duchi et al. 2011)."""

    learning_rate: float | Callable = 0.01
    initial_accumulator_value: float = 0.0
    epsilon: float = 1e-10
    epsilon_form: str = "outside"

    a = None

    def update(self, g, lr):
        self.a = (self.initial_accumulator_value if self.a is None else self.a) + g**2
        return lr * divide(g, root(self.a, self.epsilon, self.epsilon_form))


@dataclass(kw_only=True)
class RMSprop(Twin):
    """Divide by a running root mean square   (Hinton, lecture 6.5; centered: Graves 2013).

    v = rho v + (1 - rho) g^2;  centered: minus the square of c = rho c + (1 - rho) g
    b = mu b + lr g / (sqrt(v) + eps), or / sqrt(v + eps);  theta -= b
    """

    learning_rate: float | Callable = 0.001
    rho: float = 0.9
    momentum: float = 0.0
    centered: bool = False
    epsilon: float = 1e-7
    epsilon_form: str = "inside"

    v = c = b = 0.0

    def update(self, g, lr):
        self.v = self.rho * self.v + (1 - self.rho) * g**2
        self.c = self.rho * self.c + (1 - self.rho) * g
        variance = np.maximum(self.v - self.c**2, 0.0) if self.centered else self.v
        scaled = divide(g, root(variance, self.epsilon, self.epsilon_form))
        self.b = self.momentum * self.b + lr * scaled
        return self.b


def root(v, epsilon, form):
    return {"outside": np.sqrt(v) + epsilon, "inside": np.sqrt(v + epsilon)}[form]


@dataclass(kw_only=True)
class Adadelta(Twin):
    """Two running mean squares, of the gradients and of the changes   (Zeiler 2012).

    E = rho E + (1 - rho) g^2;  dx = sqrt(D + eps) / sqrt(E + eps) g
    D = rho D + (1 - rho) dx^2;  theta -= lr dx
    """

    learning_rate: float | Callable = 1.0
    rho: float = 0.95
    epsilon: float = 1e-6

    E = D = 0.0

    def update(self, g, lr):
        self.E = self.rho * self.E + (1 - self.rho) * g**2
        dx = divide(np.sqrt(self.D + self.epsilon) * g, np.sqrt(self.E + self.epsilon))
        self.D = self.rho * self.D + (1 - self.rho) * dx**2
        return lr * dx


@dataclass(kw_only=True)
class Adam(Twin):
    """Kingma & Ba 2015, Algorithm 1.

    m = b1 m + (1 - b1) g;  m_hat = m / (1 - b1^t)
    v = b2 v + (1 - b2) g^2;  v_hat = v / (1 - b2^t)
    theta -= lr m_hat / (sqrt(v_hat) + eps)

    `epsilon_form="hat"` is the paper's efficient order lr_t m / (sqrt(v) + eps_hat), that is
    eps = eps_hat / sqrt(1 - b2^t). `beta_1_decay` is the proof's lambda: m uses b1 lambda^(t-1).
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    epsilon_form: str = "outer"
    bias_correction: bool = True
    beta_1_decay: float = 1.0

    m = v = 0.0

    def update(self, g, lr):
        self.moments(g)
        correction_1, correction_2 = self.corrections()
        m_hat, v_hat = self.m / correction_1, self.v / correction_2
        return lr * divide(m_hat, np.sqrt(v_hat) + self.outer_epsilon())

    def moments(self, g):
        b1 = self.beta_1 * self.beta_1_decay ** (self.t - 1)
        b2 = self.beta_2
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g**2

    def corrections(self):
        if not self.bias_correction:
            return 1.0, 1.0
        return 1 - self.beta_1**self.t, 1 - self.beta_2**self.t

    def outer_epsilon(self):
        _, correction_2 = self.corrections()
        return {"outer": self.epsilon, "hat": self.epsilon / math.sqrt(correction_2)}[
            self.epsilon_form
        ]


@dataclass(kw_only=True)
class AdamW(Adam):
    """Adam whose decay stays outside the moments   (Loshchilov & Hutter 2019, Algorithm 2)."""


@dataclass(kw_only=True)
class NDAdam(Adam):
    """Adam on unit vectors, one v for each of them   (Zhang, Ma, Li & Wu 2017, Algorithm 1).

    w = w / ||w|| at first;  g = g - (g.w) w;  v = b2 v + (1 - b2) ||g||^2
    w -= mult * lr m_hat / (sqrt(v_hat) + eps);  w = w / ||w||
    `vectors` maps names of arrays to the axis that their vectors run along; others have plain Adam.
    """

    vector_multiplier: float = 50.0
    vectors: dict | None = None
    normalize_on_build: bool = True

    def step(self, theta, g, lr=None):
        axis = (self.vectors or {}).get(self.name)
        if axis is None:
            return super().step(theta, g, lr)
        w = np.asarray(theta, np.float64)
        if self.t == 0 and self.normalize_on_build:
            w = w / np.linalg.norm(w, axis=axis, keepdims=True)
        alpha = self.vector_multiplier * (self.rate(self.t) if lr is None else lr)
        self.t += 1
        b1 = self.beta_1 * self.beta_1_decay ** (self.t - 1)
        b2 = self.beta_2
        g = g - (g * w).sum(axis, keepdims=True) * w
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * np.linalg.norm(g, axis=axis, keepdims=True) ** 2
        correction_1, correction_2 = self.corrections()
        root = np.sqrt(self.v / correction_2) + self.outer_epsilon()
        w = w - alpha * divide(self.m / correction_1, root)
        return w / np.linalg.norm(w, axis=axis, keepdims=True)


@dataclass(kw_only=True)
class AMSGrad(Adam):
    """Never forget the largest v: vmax = max(vmax, v)   (Reddi, Kale & Kumar 2018).

    The paper: theta -= lr m / sqrt(vmax). With `bias_correction` both moments are corrected, and
    the maximum is taken of v before it is ("raw", Keras and torch) or after ("corrected", optax).
    """

    epsilon: float = 0.0
    bias_correction: bool = False
    maximum_of: str = "raw"

    v_max = 0.0

    def update(self, g, lr):
        self.moments(g)
        correction_1, correction_2 = self.corrections()
        if self.maximum_of == "raw":
            self.v_max = np.maximum(self.v_max, self.v)
            v_hat = self.v_max / correction_2
        else:
            self.v_max = np.maximum(self.v_max, self.v / correction_2)
            v_hat = self.v_max
        return lr * divide(self.m / correction_1, np.sqrt(v_hat) + self.outer_epsilon())


@dataclass(kw_only=True)
class AdamNC(Twin):
    """v is the plain mean of all g^2: b2_t = 1 - 1/t   (Reddi, Kale & Kumar 2018).

    theta -= lr m / (sqrt(v) + eps), no bias correction; the paper's lr is alpha / sqrt(t).
    """

    beta_1: float = 0.9
    beta_1_decay: float = 1.0
    epsilon: float = 0.0

    m = v = 0.0

    def update(self, g, lr):
        b1 = self.beta_1 * self.beta_1_decay ** (self.t - 1)
        b2 = 1 - 1 / self.t
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g**2
        return lr * divide(self.m, np.sqrt(self.v) + self.epsilon)


@dataclass(kw_only=True)
class ADOPT(Twin):
    """Scale by the v of before, clip, then average   (Taniguchi et al. 2024).

    The first call only sets v = g^2. Then, for k = 1, 2, ...:
    n = clip(g / max(sqrt(v), eps), +-k^(1/4));  m = b1 m + (1 - b1) n;  theta -= lr m
    v = b2 v + (1 - b2) g^2
    """

    beta_1: float = 0.9
    beta_2: float = 0.9999
    epsilon: float = 1e-6

    m = v = 0.0

    def update(self, g, lr):
        k = self.t - 1
        if k == 0:
            self.v = g**2
            return np.zeros_like(g)
        n = np.clip(divide(g, np.maximum(np.sqrt(self.v), self.epsilon)), -(k**0.25), k**0.25)
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * n
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * g**2
        return lr * self.m


@dataclass(kw_only=True)
class Adamax(Twin):
    """Adam in the infinity norm   (Kingma & Ba 2015, Algorithm 2, which has no epsilon).

    u = max(b2 u, |g|);  theta -= lr / (1 - b1^t) m / (u + eps)
    `epsilon_form="inside_max"`: u = max(b2 u, |g| + eps);  theta -= lr / (1 - b1^t) m / u
    """

    learning_rate: float | Callable = 0.002
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 0.0
    epsilon_form: str = "added"

    m = u = 0.0

    def update(self, g, lr):
        inside, added = {"inside_max": (self.epsilon, 0.0), "added": (0.0, self.epsilon)}[
            self.epsilon_form
        ]
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * g
        self.u = np.maximum(self.beta_2 * self.u, np.abs(g) + inside)
        return lr / (1 - self.beta_1**self.t) * divide(self.m, self.u + added)


@dataclass(kw_only=True)
class Nadam(Twin):
    """Adam with Nesterov's look-ahead   (Dozat 2016), in the five readings in use.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  v_hat = v / (1 - b2^t)
    theta -= lr m_bar / (sqrt(v_hat) + eps)

    mu_t = b1 (1 - 0.96^(t/250) / 2),  P_t = mu_1 ... mu_t
    "dozat"      m_bar = (1 - mu_t) g / (1 - P_t) + mu_{t+1} m / (1 - P_{t+1}), and m uses mu_t
    "const_ema"  the same m_bar, m uses the constant b1   (Keras 2, torch)
    "keras3"     "const_ema" with 0.96^t in mu_t
    "simple"     m_bar = (1 - b1) g / (1 - b1^t) + b1 m / (1 - b1^(t+1))   (optax)
    "algoperf"   m_bar = ((1 - b1) g + b1 m) / (1 - b1^t)   (Choi et al. 2019)
    `nu_factor`: v_hat = b2 v / (1 - b2^t), as Dozat's Algorithm 2 prints it.
    """

    learning_rate: float | Callable = 0.002
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    schedule: str = "dozat"
    nu_factor: bool = False

    m = v = 0.0
    P = 1.0

    def update(self, g, lr):
        t, b2 = self.t, self.beta_2
        b1 = self.mu(t) if self.schedule == "dozat" else self.beta_1
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g**2
        v_hat = (b2 if self.nu_factor else 1.0) * self.v / (1 - b2**t)
        return lr * divide(self.look_ahead(g), np.sqrt(v_hat) + self.epsilon)

    def look_ahead(self, g):
        t, b1 = self.t, self.beta_1
        if self.schedule == "simple":
            return (1 - b1) * g / (1 - b1**t) + b1 * self.m / (1 - b1 ** (t + 1))
        if self.schedule == "algoperf":
            return ((1 - b1) * g + b1 * self.m) / (1 - b1**t)
        mu, mu_next = self.mu(t), self.mu(t + 1)
        self.P *= mu
        return (1 - mu) * g / (1 - self.P) + mu_next * self.m / (1 - self.P * mu_next)

    def mu(self, t):
        exponent = {"dozat": t / 250, "const_ema": t / 250, "keras3": t}[self.schedule]
        return self.beta_1 * (1 - 0.5 * 0.96**exponent)


@dataclass(kw_only=True)
class NAdamW(Nadam):
    """Nadam as AlgoPerf reads it, its decay outside the moments."""

    schedule: str = "algoperf"


@dataclass(kw_only=True)
class SWATS(Twin):
    """Adam, then SGD at the rate measured on Adam's steps   (Keskar & Socher 2017, Algorithm 1).

    Adam: p = -lr sqrt(1 - b2^k) / (1 - b1^k) m / (sqrt(a) + eps);  w += p
          if p.g != 0: gamma = p.p / -p.g;  lam = b2 lam + (1 - b2) gamma
                       if k > 1 and |lam / (1 - b2^k) - gamma| < tolerance: Lambda, and SGD
    SGD:  v = b1 v + g;  w -= (1 - b1) Lambda v
    Not in the paper: Lambda > 0 is asked for, and scaled by lr_k / lr at the switch.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-9
    tolerance: float = 1e-5
    min_steps: int = 2
    switch_at: int | None = None
    scope: str = "global"

    phase = "Adam"
    m = a = v = lam = 0.0
    gamma = Lambda = switch_lr = switch_step = None

    @property
    def whole_vector(self):
        return self.scope == "global"

    def update(self, g, lr):
        b1, b2, k = self.beta_1, self.beta_2, self.t
        if self.phase == "SGD":
            self.v = b1 * self.v + g
            return (1 - b1) * self.Lambda * lr / self.switch_lr * self.v
        self.m = b1 * self.m + (1 - b1) * g
        self.a = b2 * self.a + (1 - b2) * g**2
        alpha = lr * math.sqrt(1 - b2**k) / (1 - b1**k)
        p = -alpha * divide(self.m, np.sqrt(self.a) + self.epsilon)
        if np.vdot(p, g) != 0:
            self.gamma = np.vdot(p, p) / -np.vdot(p, g)
            self.lam = b2 * self.lam + (1 - b2) * self.gamma
            if self.is_time(k) and self.estimate() > 0:
                self.phase, self.switch_step, self.switch_lr = "SGD", k, lr
                self.Lambda = self.estimate()
        return -p

    def estimate(self):
        return self.lam / (1 - self.beta_2**self.t)

    def is_time(self, k):
        if self.switch_at is not None:
            return k >= self.switch_at
        return k >= self.min_steps and abs(self.estimate() - self.gamma) < self.tolerance
