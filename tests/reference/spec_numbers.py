"""The papers' check numbers for the core algorithms, as data.

The weight starts at `theta_0`, the gradients are given (not computed from a loss), and `expected`
lists theta_1, theta_2, ... in float64, printed to ten digits.
"""

from dataclasses import dataclass
from functools import partial

from .schedules import inverse_sqrt


@dataclass(frozen=True)
class Case:
    label: str
    algorithm: str
    arguments: dict
    expected: tuple
    gradients: tuple = (0.1, -0.2, 0.3)
    theta_0: float = 1.0


# A large gradient, then small ones: what the maximum of AMSGrad remembers.
FALLING = (1.0, 0.1, 0.1, 0.1)

CASES = [
    Case("SGD lr=.1", "SGD", dict(learning_rate=0.1), (0.9900000000, 1.0100000000, 0.9800000000)),
    Case(
        "SGD mom .9 (sutskever = torch at const lr)",
        "SGD",
        dict(learning_rate=0.1, momentum=0.9),
        (0.9900000000, 1.0010000000, 0.9809000000),
    ),
    Case(
        "SGD Nesterov .9",
        "SGD",
        dict(learning_rate=0.1, momentum=0.9, nesterov=True),
        (0.9810000000, 1.0109000000, 0.9628100000),
    ),
    Case(
        "Adagrad lr=.1 init0 eps1e-10 outside (torch)",
        "Adagrad",
        dict(
            learning_rate=0.1, epsilon=1e-10, epsilon_form="outside", initial_accumulator_value=0.0
        ),
        (0.9000000001, 0.9894427192, 0.9092643466),
    ),
    Case(
        "Adagrad lr=.1 init.1 eps1e-7 inside (keras/optax)",
        "Adagrad",
        dict(learning_rate=0.1, epsilon=1e-7, epsilon_form="inside", initial_accumulator_value=0.1),
        (0.9698488792, 1.0214886400, 0.9602514092),
    ),
    Case(
        "RMSprop lr=.01 rho.9 eps1e-8 outside",
        "RMSprop",
        dict(learning_rate=0.01, rho=0.9, epsilon=1e-8, epsilon_form="outside"),
        (0.9683772334, 0.9969486579, 0.9710422721),
    ),
    Case(
        "RMSprop lr=.01 rho.9 eps1e-7 inside (keras)",
        "RMSprop",
        dict(learning_rate=0.01, rho=0.9, epsilon=1e-7, epsilon_form="inside"),
        (0.9683788044, 0.9969499414, 0.9710436500),
    ),
    Case(
        "RMSprop centered+mom.9 eps1e-7 inside (keras)",
        "RMSprop",
        dict(
            learning_rate=0.01,
            rho=0.9,
            epsilon=1e-7,
            epsilon_form="inside",
            centered=True,
            momentum=0.9,
        ),
        (0.9666685184, 0.9656007513, 0.9383341812),
    ),
    Case(
        "Adadelta rho.95 eps1e-6 lr1 (paper)",
        "Adadelta",
        dict(learning_rate=1.0, rho=0.95, epsilon=1e-6),
        (0.9955323295, 1.0012136966, 0.9943737669),
    ),
    Case(
        "Adam lr=.01 eps1e-8 Alg.1",
        "Adam",
        dict(learning_rate=0.01, epsilon=1e-8, epsilon_form="outer"),
        (0.9900000010, 0.9936610360, 0.9902286254),
    ),
    Case(
        "Adam lr=.01 eps-hat 1e-7 (keras)",
        "Adam",
        dict(learning_rate=0.01, epsilon=1e-7, epsilon_form="hat"),
        (0.9900003162, 0.9936612997, 0.9902289179),
    ),
    Case(
        "Adam beta1_t=.9*(1-1e-8)^(t-1), alpha/sqrt t (proof)",
        "Adam",
        dict(
            learning_rate=partial(inverse_sqrt, alpha=0.01),
            beta_1_decay=1 - 1e-8,
            epsilon=1e-8,
            epsilon_form="outer",
        ),
        (0.9900000010, 0.9925887441, 0.9906070406),
    ),
    Case(
        "AMSGrad paper (no bc, eps0) lr=.01",
        "AMSGrad",
        dict(learning_rate=0.01, bias_correction=False, epsilon=0.0),
        (0.9683772234, 0.9839351285, 0.9669438872),
    ),
    Case(
        "AMSGrad keras (max raw v, eps-hat 1e-7)",
        "AMSGrad",
        dict(
            learning_rate=0.01,
            bias_correction=True,
            maximum_of="raw",
            epsilon=1e-7,
            epsilon_form="hat",
        ),
        (0.9900003162, 0.9936612997, 0.9902289179),
    ),
    Case(
        "AMSGrad torch (max raw v, eps 1e-8 on v_hat)",
        "AMSGrad",
        dict(
            learning_rate=0.01,
            bias_correction=True,
            maximum_of="raw",
            epsilon=1e-8,
            epsilon_form="outer",
        ),
        (0.9900000010, 0.9936610360, 0.9902286254),
    ),
    Case(
        "AMSGrad optax default (max v_hat)",
        "AMSGrad",
        dict(
            learning_rate=0.01,
            bias_correction=True,
            maximum_of="corrected",
            epsilon=1e-8,
            epsilon_form="outer",
        ),
        (0.9900000010, 0.9936610360, 0.9902286254),
    ),
    Case(
        "Adam+L2 lam=.1",
        "Adam",
        dict(learning_rate=0.01, epsilon=1e-8, epsilon_form="outer", weight_decay=("l2", 0.1)),
        (0.9900000005, 0.9873751972, 0.9808115947),
    ),
    Case(
        "AdamW paper lam=.1 eta=1 (decay not x lr)",
        "AdamW",
        dict(
            learning_rate=0.01, epsilon=1e-8, epsilon_form="outer", weight_decay=("decoupled", 0.1)
        ),
        (0.8900000010, 0.8046610359, 0.7207625217),
    ),
    Case(
        "AdamW keras/torch wd=.1 (decay x lr)",
        "AdamW",
        dict(learning_rate=0.01, epsilon=1e-8, epsilon_form="outer", weight_decay=("keras", 0.1)),
        (0.9890000010, 0.9916720360, 0.9872479534),
    ),
    Case(
        "Adamax lr=.002 paper (no eps)",
        "Adamax",
        dict(learning_rate=0.002, epsilon=0.0),
        (0.9980000000, 0.9985789474, 0.9980844824),
    ),
    Case(
        "Adamax lr=.002 keras eps1e-7",
        "Adamax",
        dict(learning_rate=0.002, epsilon=1e-7, epsilon_form="added"),
        (0.9980000020, 0.9985789491, 0.9980844843),
    ),
    Case(
        "Adamax lr=.002 torch eps1e-8",
        "Adamax",
        dict(learning_rate=0.002, epsilon=1e-8, epsilon_form="inside_max"),
        (0.9980000002, 0.9985789475, 0.9980844826),
    ),
    Case(
        "Nadam lr=.002 Dozat (m uses mu_t)",
        "Nadam",
        dict(learning_rate=0.002, schedule="dozat", epsilon=1e-8),
        (0.9973791137, 0.9996572308, 0.9974273628),
    ),
    Case(
        "Nadam lr=.002 Dozat + nu*v_hat (printed in Alg.2)",
        "Nadam",
        dict(learning_rate=0.002, schedule="dozat", epsilon=1e-8, nu_factor=True),
        (0.9973778022, 0.9996570593, 0.9974260755),
    ),
    Case(
        "Nadam lr=.002 keras2/torch (beta1 EMA, 0.004)",
        "Nadam",
        dict(learning_rate=0.002, schedule="const_ema", epsilon=1e-8),
        (0.9978870967, 0.9997002115, 0.9979330782),
    ),
    Case(
        "Nadam lr=.002 keras3.15 (exponent t, eps1e-7)",
        "Nadam",
        dict(learning_rate=0.002, schedule="keras3", epsilon=1e-7),
        (0.9978744265, 0.9996377569, 0.9979743117),
    ),
    Case(
        "Nadam lr=.002 simple (optax nadam)",
        "Nadam",
        dict(learning_rate=0.002, schedule="simple", epsilon=1e-8),
        (0.9970526319, 0.9988459373, 0.9973344717),
    ),
    Case(
        "Nadam lr=.002 algoperf/Choi",
        "Nadam",
        dict(learning_rate=0.002, schedule="algoperf", epsilon=1e-8),
        (0.9962000004, 0.9981902722, 0.9965478380),
    ),
    Case(
        "NAdamW without decay = Nadam algoperf/Choi",
        "NAdamW",
        dict(learning_rate=0.002, epsilon=1e-8),
        (0.9962000004, 0.9981902722, 0.9965478380),
    ),
    Case(
        "ADOPT lr=.001",
        "ADOPT",
        dict(learning_rate=0.001),
        (1.0000000000, 1.0001000000, 1.0000710793),
    ),
    Case(
        "AMSGrad falling gradient, paper",
        "AMSGrad",
        dict(learning_rate=0.01, beta_2=0.5, bias_correction=False, epsilon=0.0),
        (0.9985857864, 0.9971715729, 0.9957573593, 0.9943431458),
        gradients=FALLING,
    ),
    Case(
        "AMSGrad falling gradient, Keras",
        "AMSGrad",
        dict(
            learning_rate=0.01,
            beta_2=0.5,
            bias_correction=True,
            maximum_of="raw",
            epsilon=1e-7,
            epsilon_form="hat",
        ),
        (0.9900000014, 0.9835539767, 0.9786725174, 0.9746908186),
        gradients=FALLING,
    ),
    Case(
        "AMSGrad falling gradient, torch",
        "AMSGrad",
        dict(
            learning_rate=0.01,
            beta_2=0.5,
            bias_correction=True,
            maximum_of="raw",
            epsilon=1e-8,
            epsilon_form="outer",
        ),
        (0.9900000001, 0.9835539745, 0.9786725146, 0.9746908154),
        gradients=FALLING,
    ),
    Case(
        "AMSGrad falling gradient, optax",
        "AMSGrad",
        dict(
            learning_rate=0.01,
            beta_2=0.5,
            bias_correction=True,
            maximum_of="corrected",
            epsilon=1e-8,
            epsilon_form="outer",
        ),
        (0.9900000001, 0.9847368423, 0.9810468054, 0.9781389834),
        gradients=FALLING,
    ),
    Case(
        "SWATS adam phase lr=.01 eps1e-9",
        "SWATS",
        dict(learning_rate=0.01, epsilon=1e-9),
        (0.9900000032, 0.9936610379, 0.9902286274),
    ),
]
