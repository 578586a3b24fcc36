"""Whatever `fit` accepts as data, as one kind of object: `Data.of(...)`.

A search has to know how many examples there are and in what batches, whether the data are those of
the study that it goes on with, and whether they can be held in memory for a population. TensorFlow
and PyTorch are never imported for that: an object of theirs can only exist where they are.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_adamfamily.validation import check_integer, optional

#: The most that `Data.arrays` reads into memory by default, in bytes.
LIMIT = 2**29
#: Batches of data that do not say how many they are, beyond which they are taken to be endless.
MOST_BATCHES = 10**6


class Data:
    """Training or validation data; make one with `Data.of`.

    Attributes:
        batch_size: Examples per batch.
        steps: Batches per epoch.
        examples: Examples per epoch. Of what comes in batches the last one is counted as a whole
            one, unless it is known to be smaller.
        shuffled: Whether `fit` brings the examples into a new order in each epoch; a population
            gets it as `shuffle`.
        is_arrays: Whether the data are arrays, whose batches can have any size.
        has_size: Whether that was given, or is the data's own.
        fingerprint: Tells data apart: a digest of the contents of arrays; else of the number of
            batches and of the first one, or of that one's shapes where it is random.
    """

    batch_size: int
    steps: int
    examples: int
    shuffled: bool
    is_arrays = False
    has_size = True

    @staticmethod
    def of(data: Any, batch_size: int | None = None, *, name: str = "data") -> Data:
        """Describes `data`.

        Args:
            data: `(x, y)` or `(x, y, sample_weight)`, arrays or nested ones of any kind that NumPy
                understands; a `tf.data.Dataset`, a `keras.utils.PyDataset` or a PyTorch
                `DataLoader` of such batches; or a `Data`.
            batch_size: Examples per batch, an integer >= 1; 32 by default. What comes in batches
                has its own.
            name: What messages call it.

        Raises:
            ValueError: If it is none of these, empty or endless, or comes in batches of another
                size than `batch_size`.

        Example:

        >>> import numpy as np
        >>> from keras_adamfamily.tuning.data import Data
        >>> data = Data.of((np.zeros((100, 4)), np.zeros(100)), batch_size=32)
        >>> data.examples, data.steps
        (100, 4)
        """
        batch_size = optional(check_integer, "batch_size", batch_size, 1, "is 32")
        if isinstance(data, Data):
            batches = data
        elif _is(data, "tensorflow", "data.Dataset"):
            batches = _TensorFlow(name, data)
        elif _is(data, "torch", "utils.data.DataLoader"):
            batches = _Torch(name, data)
        elif isinstance(data, keras.utils.PyDataset):
            batches = _PyDataset(name, data)
        else:
            return _Arrays(name, data, batch_size)
        if batch_size not in (None, batches.batch_size):
            raise ValueError(
                f"`{name}` comes in batches of {batches.batch_size}: leave out `batch_size`, or "
                f"make such batches. Received: batch_size={batch_size}"
            )
        return batches

    @staticmethod
    def of_validation(
        data: Any, batch_size: int | None = None, *, name: str = "validation"
    ) -> Data:
        """As `of`; only what comes in batches may have others than `batch_size`, as in `fit`."""
        found = Data.of(data, name=name)
        return Data.of(data, batch_size, name=name) if found.is_arrays else found

    @property
    def fingerprint(self) -> str:
        raise NotImplementedError

    def first(self) -> Data:
        """The first batch alone."""
        raise NotImplementedError

    def fit_arguments(self) -> dict[str, Any]:
        """The arguments of `model.fit` that make it train on these data."""
        raise NotImplementedError

    def validation_arguments(self) -> dict[str, Any]:
        """The arguments of `model.fit` that make it evaluate on these data."""
        raise NotImplementedError

    def arrays(self, limit: int = LIMIT) -> tuple:
        """All examples as NumPy arrays, in the order in which an unshuffled epoch takes them.

        Args:
            limit: The most that they may take, in bytes.

        Raises:
            ValueError: If they cannot be had: they are too large, or differ from one reading to the
                next, so that keeping one reading would end the augmentation or the shuffling that
                makes them differ. The message says what to do.
        """
        raise NotImplementedError


class _Arrays(Data):
    """`(x, y[, sample_weight])` in memory."""

    shuffled = is_arrays = True

    def __init__(self, name: str, data: Any, batch_size: int | None):
        self._name, self._arrays = name, _checked_arrays(name, data)
        self.examples = _examples(self._arrays)
        self.batch_size, self.has_size = batch_size or 32, batch_size is not None
        self.steps = math.ceil(self.examples / self.batch_size)

    @property
    def fingerprint(self):
        return _digest(self._arrays)

    def first(self):
        few = keras.tree.map_structure(lambda array: array[: self.batch_size], self._arrays)
        return _Arrays(self._name, few, self.batch_size)

    def fit_arguments(self):
        names = ("x", "y", "sample_weight")
        given = dict(zip(names, self._arrays, strict=False))
        return {**given, "batch_size": self.batch_size}

    def validation_arguments(self):
        return {"validation_data": self._arrays, "validation_batch_size": self.batch_size}

    def arrays(self, limit=LIMIT):
        _check_size(self._name, _size(self._arrays), limit)
        return self._arrays


class _Batches(Data):
    """What comes in batches of its own."""

    shuffled = False

    def __init__(self, name: str, data: Any):
        self._name, self._data = name, data
        self.steps = self._count()
        if not self.steps:
            raise ValueError(f"`{name}` must have a batch at least")
        two, again = (list(itertools.islice(self._read(), 2)) for _ in range(2))
        self._first = max(two, key=_examples)  # the first may be the smaller last one
        self.batch_size = _examples(self._first)
        self.examples = self.steps * self.batch_size
        self._is_fixed = list(map(_digest, two)) == list(map(_digest, again))

    def _count(self) -> int:
        """The number of batches."""
        raise NotImplementedError

    def _read(self) -> Iterator[tuple]:
        """An epoch's batches, in the order of an unshuffled one."""
        raise NotImplementedError

    def _why_random(self) -> str | None:
        """Why the batches differ from epoch to epoch, where the object itself tells."""
        return None

    @property
    def fingerprint(self):
        first = self._first
        if not self._is_fixed:
            first = keras.tree.map_structure(lambda a: np.zeros((0,) * a.ndim, a.dtype), first)
        return _digest((*first, np.asarray(self.steps)))

    def first(self):
        batch = next(self._read())
        return _Arrays(self._name, batch, _examples(batch))

    def fit_arguments(self):
        return {"x": self._data}

    def validation_arguments(self):
        return {"validation_data": self._data}

    def arrays(self, limit=LIMIT):
        if not _is_numeric(self._first):
            raise ValueError(f"`{self._name}` is not of numbers alone, as a population needs")
        why = self._why_random()
        if why is None and not self._is_fixed:
            why = "it gives another first batch each time that it is read"
        if why is None:
            _check_size(self._name, self.steps * _size(self._first), limit)
            batches = list(self._read())
            sizes = list(map(_examples, batches))
            if set(sizes[:-1]) - {self.batch_size} or sizes[-1] > self.batch_size:
                raise ValueError(
                    f"`{self._name}` has batches of different sizes, and a population has one size"
                )
            again = map(_digest, self._read())
            if any(_digest(one) != other for one, other in zip(batches, again, strict=True)):
                why = "it gives other batches when it is read again"
        if why is not None:
            raise ValueError(
                f"`{self._name}` is random ({why}), and a population would train on one reading of "
                "it for ever. For a population give the plain arrays, which it shuffles itself, "
                "and put augmentation into layers of the model"
            )
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


def _counted(name: str, batches: Iterable) -> int:
    """The number of batches, where only reading them tells."""
    count = sum(1 for _ in itertools.islice(batches, MOST_BATCHES + 1))
    if count > MOST_BATCHES:
        raise ValueError(
            f"`{name}` does not say how many batches it has, and has more than {MOST_BATCHES} or "
            "no end. Give it an end, such as `.take(batches)` of a `tf.data.Dataset`"
        )
    return count


class _TensorFlow(_Batches):
    """A batched `tf.data.Dataset`."""

    def first(self):
        return _TensorFlow(self._name, self._data.take(1))

    def _count(self):
        count = int(self._data.cardinality())
        if count == -1:
            raise ValueError(f"`{self._name}` is endless: end an epoch with `.take(batches)`")
        return count if count >= 0 else _counted(self._name, self._data)

    def _read(self):
        return (_checked_batch(self._name, batch, numeric=False) for batch in self._data)


class _PyDataset(_Batches):
    """A `keras.utils.PyDataset`; `fit` takes its batches in a new order in each epoch.

    A population shuffles the examples instead.
    """

    shuffled = True

    def _count(self):
        count = self._data.num_batches
        if count is None:
            raise ValueError(f"`{self._name}` is endless: give it a `num_batches`")
        return count

    def _read(self):
        return (_checked_batch(self._name, self._data[i]) for i in range(self.steps))

    def _why_random(self):
        for hook in ("on_epoch_begin", "on_epoch_end"):
            if getattr(type(self._data), hook) is not getattr(keras.utils.PyDataset, hook):
                return f"its `{hook}` changes it"
        return None


class _Torch(_Batches):
    """A PyTorch `DataLoader`. One that only shuffles is read in order, and shuffled again."""

    def __init__(self, name, data):
        sampler = getattr(data, "batch_sampler", None)
        order = getattr(sampler, "sampler", None)
        self.shuffled = _is(order, "torch", "utils.data.RandomSampler")
        self._in_order = type(sampler).__name__ == "BatchSampler" and (
            self.shuffled or _is(order, "torch", "utils.data.SequentialSampler")
        )
        super().__init__(name, data)
        if self._in_order:
            self.examples = min(self.examples, len(data.dataset))

    def _count(self):
        try:
            return len(self._data)
        except TypeError:  # an iterable dataset without a length
            return _counted(self._name, self._data)

    def _read(self):
        if not self._in_order:
            return (_checked_batch(self._name, batch) for batch in self._data)
        return map(self._batch, range(self.steps))

    def _batch(self, number):
        dataset, size = self._data.dataset, self._data.batch_size
        rows = range(number * size, min((number + 1) * size, len(dataset)))
        batch = self._data.collate_fn([dataset[row] for row in rows])
        return _checked_batch(self._name, batch)

    def _why_random(self):
        sampler = self._data.batch_sampler if self._in_order else None
        if self.shuffled and self._in_order:
            if sampler.sampler.replacement or sampler.sampler.num_samples != len(
                self._data.dataset
            ):
                return "it draws with replacement, or some of the examples"
            if sampler.drop_last and len(self._data.dataset) % self._data.batch_size:
                return "it leaves out other examples in each epoch, with `drop_last`"
        return None


def _is(data: Any, module: str, path: str) -> bool:
    """Whether `data` is of a class of a module that may not be installed."""
    kind = sys.modules.get(module)
    for part in path.split("."):
        kind = getattr(kind, part, None)
    return kind is not None and isinstance(data, kind)


def _checked_batch(name: str, batch: Any, numeric: bool = True) -> tuple:
    """A batch of theirs as a tuple of NumPy arrays."""
    return _checked_arrays(f"a batch of `{name}`", batch, quoted=False, numeric=numeric)


def _checked_arrays(name: str, data: Any, quoted: bool = True, numeric: bool = True) -> tuple:
    """`(x, y)` or `(x, y, sample_weight)` as NumPy arrays of equally many examples."""
    name = f"`{name}`" if quoted else name
    accepted = (
        f"{name} must be a pair (x, y) or (x, y, sample_weight) of arrays, which may be nested"
    )
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        given = type(data).__name__
        given += f" of length {len(data)}" if isinstance(data, (tuple, list)) else ""
        others = ", a tf.data.Dataset, a keras.utils.PyDataset or a torch DataLoader" * quoted
        raise ValueError(f"{accepted}{others}. Received: {given}")
    if len(data) == 3 and data[2] is None:
        data = data[:2]
    try:
        arrays = tuple(_as_arrays(part) for part in data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{accepted}: {error}") from error
    leaves = keras.tree.flatten(arrays)
    is_text = not numeric and all(leaf.ndim for leaf in leaves)  # or ragged; a sparse one has none
    if not (is_text or _is_numeric(arrays)):
        found = ", ".join(dict.fromkeys(str(leaf.dtype) for leaf in leaves))
        raise ValueError(
            f"{accepted}, of numbers. Text may come in a tf.data.Dataset; make ragged and sparse "
            f"arrays dense. Received the dtypes {found}"
        )
    sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(sizes) != 1 or not min(sizes):
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(
            f"{accepted}, with the same number of examples, at least one. "
            f"Received the shapes {shapes}"
        )
    return arrays


def _as_arrays(part: Any) -> Any:
    """An array; or what is nested, as it is nested. Lists of plain numbers are arrays.

    Of a pandas `Series` Keras makes a column.
    """
    if isinstance(part, dict):
        return {key: _as_arrays(value) for key, value in part.items()}
    is_nested = isinstance(part, (tuple, list)) and any(
        hasattr(leaf, "shape") for leaf in keras.tree.flatten(part)
    )
    if is_nested:
        arrays = [_as_arrays(value) for value in part]
        return type(part)(*arrays) if hasattr(part, "_fields") else type(part)(arrays)
    if hasattr(part, "detach"):  # PyTorch
        part = part.detach().cpu()
    if hasattr(part, "row_splits"):  # a RaggedTensor
        part = part.numpy()
    is_series = hasattr(part, "to_frame") and part.ndim == 1
    return np.asarray(part.to_frame() if is_series else part)


def _is_numeric(arrays: Any) -> bool:
    return all(leaf.dtype.kind in "biufV" for leaf in keras.tree.flatten(arrays))  # V: bfloat16


def _examples(arrays: Any) -> int:
    return len(keras.tree.flatten(arrays)[0])


def _size(arrays: Any) -> int:
    return sum(leaf.nbytes for leaf in keras.tree.flatten(arrays))


def _check_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(
            f"`{name}` takes {size / 1e6:.0f} MB in memory, more than the limit of "
            f"{limit / 1e6:.0f} MB for a population"
        )


def _digest(arrays: Any) -> str:
    """A digest of the arrays' shapes, types and contents."""
    digest = hashlib.sha256()
    for leaf in keras.tree.flatten(arrays):
        digest.update(f"{leaf.shape} {leaf.dtype}".encode())
        if leaf.dtype.kind == "O":  # text, or rows of several lengths
            for row in leaf:
                is_row = isinstance(row, np.ndarray)
                digest.update((_digest(row) if is_row else repr(row)).encode())
        else:
            digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
    return digest.hexdigest()[:16]
