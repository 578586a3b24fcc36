"""One frozen record per algorithm tells the rest of the house about it.

Lookup, the command line, the test table and the tuner's search space all read `RECORDS`: a new
algorithm is one file in `optimizers/` and one record here.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import os
from typing import Any

import keras

from keras_adamfamily.base import FamilyOptimizer
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


@dataclasses.dataclass(frozen=True)
class Record:
    """What the rest of the house knows about an algorithm.

    Attributes:
        cls: The optimizer class.
        paper: Authors, year and where to read it.
        fixes: One line: what it is for.
        learning_rate: Range to search on a log scale, (low, high).
        weight_decay: Range of the *normalized* decay to search on a log scale, (low, high).
        aliases: Other names that `get` and the command line accept.
        state_per_vector: How many numbers it keeps for each weight vector, in place of as many for
            each of the vector's parameters.
    """

    cls: type[FamilyOptimizer]
    paper: str
    fixes: str
    learning_rate: tuple[float, float]
    weight_decay: tuple[float, float] = (1e-3, 1.0)
    aliases: tuple[str, ...] = ()
    state_per_vector: int = 0

    @property
    def name(self) -> str:
        return self.cls.__name__

    @property
    def title(self) -> str:
        """The first line of the class's docstring."""
        return inspect.getdoc(self.cls).partition("\n")[0]

    @property
    def state_per_parameter(self) -> int:
        """How many numbers the default configuration keeps for each parameter."""
        return len(self.cls().slots) - self.state_per_vector

    @property
    def state(self) -> str:
        """The state as tables have it: `2`, or `1 + 1 per vector`."""
        per_vector = f" + {self.state_per_vector} per vector" if self.state_per_vector else ""
        return f"{self.state_per_parameter}{per_vector}"

    @property
    def defaults(self) -> dict[str, Any]:
        """The constructor's own arguments and their defaults."""
        parameters = inspect.signature(self.cls).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}


_ADAPTIVE = (1e-4, 3e-2)

RECORDS: tuple[Record, ...] = (
    Record(
        SGD,
        "Robbins and Monro 1951; Sutskever et al. 2013",
        "the baseline; needs a tuned rate and schedule",
        (3e-3, 1.0),
        aliases=("gradientdescent",),
    ),
    Record(
        SGDW,
        "Loshchilov and Hutter 2017, arXiv:1711.05101",
        "decay and learning rate tune independently",
        (1e-3, 3e-1),
    ),
    Record(
        Adagrad,
        "Duchi, Hazan and Singer 2011, JMLR 12",
        "one rate per weight; rare features keep large steps",
        (1e-3, 1.0),
    ),
    Record(
        RMSprop,
        "Tieleman and Hinton 2012, lecture 6.5",
        "Adagrad's vanishing rate",
        _ADAPTIVE,
    ),
    Record(
        Adadelta,
        "Zeiler 2012, arXiv:1212.5701",
        "no learning rate to tune",
        (1e-1, 1e1),
    ),
    Record(
        Adam,
        "Kingma and Ba 2014, arXiv:1412.6980",
        "the default: momentum, a rate per weight, no start-up bias",
        _ADAPTIVE,
    ),
    Record(
        Adamax,
        "Kingma and Ba 2014, arXiv:1412.6980",
        "steps bounded by the largest recent gradient",
        _ADAPTIVE,
    ),
    Record(
        Nadam,
        "Dozat 2016, ICLR workshop",
        "Nesterov's look-ahead in Adam, with a warmed-up momentum",
        _ADAPTIVE,
        aliases=("nesterovadam",),
    ),
    Record(
        NAdamW,
        "Dahl et al. 2023, arXiv:2306.07179",
        "AdamW with look-ahead: the baseline of AlgoPerf",
        _ADAPTIVE,
        aliases=("nesterovadamw",),
    ),
    Record(
        AMSGrad,
        "Reddi, Kale and Kumar 2018, arXiv:1904.09237",
        "Adam's failure to converge: the effective rate never grows",
        _ADAPTIVE,
        aliases=("adamamsgrad",),
    ),
    Record(
        AdamNC,
        "Reddi, Kale and Kumar 2018, arXiv:1904.09237",
        "Adam's failure to converge: the memory grows with time",
        _ADAPTIVE,
    ),
    Record(
        ADOPT,
        "Taniguchi et al. 2024, arXiv:2411.02853",
        "Adam's failure to converge: it divides by the past alone",
        _ADAPTIVE,
    ),
    Record(
        AdamW,
        "Loshchilov and Hutter 2017, arXiv:1711.05101",
        "Adam's weak regularization: decay apart from the gradient",
        _ADAPTIVE,
    ),
    Record(
        SWATS,
        "Keskar and Socher 2017, arXiv:1712.07628",
        "Adam's start, SGD's end: switches to SGD at a rate it learns",
        _ADAPTIVE,
    ),
    Record(
        NDAdam,
        "Zhang, Ma, Li and Wu 2017, arXiv:1709.04546",
        "Adam's stray directions: unit weight vectors, turned by a set angle",
        _ADAPTIVE,
        aliases=("normalizeddirectionpreservingadam",),
        state_per_vector=1,
    ),
)

for _record in RECORDS:
    keras.saving.register_keras_serializable("keras_adamfamily")(_record.cls)

_BY_NAME = {alias.lower(): record for record in RECORDS for alias in (record.name, *record.aliases)}


def names() -> list[str]:
    """The names of all algorithms, in the registry's order.

    Example:

    >>> import keras_adamfamily as kaf
    >>> "AdamW" in kaf.names()
    True
    """
    return [record.name for record in RECORDS]


def find(name: str) -> Record:
    """The record of an algorithm by its name or an alias, in any case.

    Raises:
        ValueError: If there is none; the message lists the names and suggests close ones.
    """
    if not isinstance(name, str):
        raise ValueError(f"An optimizer's name must be a string. Received: {name!r}")
    key = name.rpartition(">")[2].strip().lower().replace("-", "").replace("_", "")
    if key in _BY_NAME:
        return _BY_NAME[key]
    close = [_BY_NAME[match].name for match in difflib.get_close_matches(key, _BY_NAME, n=2)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"Unknown optimizer {name!r}.{hint} Known: {', '.join(names())}")


def get(identifier: Any) -> keras.optimizers.Optimizer:
    """An optimizer from a name, a configuration, a `best.json`, or an optimizer.

    Args:
        identifier: A name in any case (`"adamw"`); a dictionary with `class_name` and `config`, as
            `keras.saving.serialize_keras_object` makes it; the path of a JSON file that holds such
            a dictionary, itself or under the key `"optimizer"`, as the tuner's `best.json` does; or
            an optimizer, which is returned as it is.

    Returns:
        An unbuilt optimizer (unless one was passed in).

    Raises:
        ValueError: If nothing of that name is known, or the file or dictionary is not of that form.

    Example:

    >>> import keras_adamfamily as kaf
    >>> kaf.get("adamw").name
    'adam_w'
    >>> kaf.get({"class_name": "SGD", "config": {"learning_rate": 0.5}}).get_config()["momentum"]
    0.0
    """
    if isinstance(identifier, keras.optimizers.Optimizer):
        return identifier
    if isinstance(identifier, os.PathLike) or str(identifier).endswith(".json"):
        identifier = _read(os.fspath(identifier))
    if isinstance(identifier, dict):
        if not isinstance(identifier.get("config", {}), dict) or "class_name" not in identifier:
            raise ValueError(
                "An optimizer's dictionary must have the keys 'class_name' and 'config'. "
                f"Received: {identifier!r}"
            )
        return find(identifier["class_name"]).cls.from_config(identifier.get("config", {}))
    if not isinstance(identifier, str):
        raise ValueError(
            "`get` takes a dictionary of an optimizer's 'class_name' and 'config', the path of a "
            "JSON file with one, an optimizer, or its name. An optimizer's name must be a string. "
            f"Received: {identifier!r}"
        )
    return find(identifier).cls()


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot read an optimizer from {path!r}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path!r} must hold a JSON object. It holds: {content!r:.80}")
    return content.get("optimizer", content)
