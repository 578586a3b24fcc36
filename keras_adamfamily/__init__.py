"""The Adam family of optimizers for Keras 3, faithful to the papers, with auto-tuning.

>>> import keras_adamfamily as kaf
>>> optimizer = kaf.AdamW(1e-3, weight_decay=kaf.Decoupled(1e-4))
"""

from keras_adamfamily._backend import choose_installed_backend

choose_installed_backend()

# ruff: noqa: E402 - Keras reads its choice of backend when it is imported
from keras_adamfamily import callbacks
from keras_adamfamily._version import __version__
from keras_adamfamily.base import FamilyOptimizer
from keras_adamfamily.logits import BatchNormalizedLogits, LogitRegularizer
from keras_adamfamily.optimizers.adadelta import Adadelta
from keras_adamfamily.optimizers.adagrad import Adagrad
from keras_adamfamily.optimizers.adam import Adam
from keras_adamfamily.optimizers.adamax import Adamax
from keras_adamfamily.optimizers.adamw import AdamW
from keras_adamfamily.optimizers.adopt import ADOPT
from keras_adamfamily.optimizers.amsgrad import AdamNC, AMSGrad
from keras_adamfamily.optimizers.nadam import Nadam, NAdamW
from keras_adamfamily.optimizers.ndadam import NDAdam
from keras_adamfamily.optimizers.rmsprop import RMSprop
from keras_adamfamily.optimizers.sgd import SGD, SGDW
from keras_adamfamily.optimizers.swats import SWATS
from keras_adamfamily.registry import get, names
from keras_adamfamily.schedules import CosineWarmRestarts, InverseSqrt, WarmupCosine
from keras_adamfamily.vectors import weight_vectors
from keras_adamfamily.weight_decay import L2, Decoupled, Normalized

__all__ = [
    "SGD",
    "SGDW",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Adam",
    "Adamax",
    "Nadam",
    "NAdamW",
    "AMSGrad",
    "AdamNC",
    "ADOPT",
    "AdamW",
    "SWATS",
    "NDAdam",
    "FamilyOptimizer",
    "Decoupled",
    "Normalized",
    "L2",
    "CosineWarmRestarts",
    "WarmupCosine",
    "InverseSqrt",
    "callbacks",
    "BatchNormalizedLogits",
    "LogitRegularizer",
    "weight_vectors",
    "get",
    "names",
    "__version__",
]
