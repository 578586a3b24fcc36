"""Where the trials are kept: an Optuna storage, which many processes may share.

A *group* is one Optuna study: the trials of one optimizer, or its runs on fresh seeds. Processes
take trials from it under a lock, so that none is taken twice and none is missing. A trial belongs
to the process that took it for as long as that process lives: each holds a lock of its own, which
the system takes back when it dies, and then the next one takes over what it left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import urllib.parse
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from keras_adamfamily.tuning.trial import DIVERGED, FAILED, OK, PRUNED

WORKER, RESULT = "worker", "result"
DIRECTIONS = {"max": "maximize", "min": "minimize"}
CURVE_POINTS = 5
#: How the names of the files of an SQLite database end, after that of the database.
SQLITE_FILES = "", "-wal", "-shm", "-journal"
STATES = {
    OK: TrialState.COMPLETE,
    PRUNED: TrialState.PRUNED,
    DIVERGED: TrialState.PRUNED,  # a sampler is to learn from it: nothing is worse
    FAILED: TrialState.FAIL,
}


class Storage:
    """The groups of one study in a database.

    Args:
        url: `"sqlite:///runs/mine/study.db"` or `"postgresql://user@host/database"`: an SQLAlchemy
            URL of one of the two.
        study_name: What the names of its groups begin with; studies of other names may share a
            PostgreSQL database.
        direction: `"max"` or `"min"`.
        is_new: Whether an SQLite file may be made. One that cannot be written is read.

    Raises:
        ValueError: If the URL is of another database, or the database cannot be opened or is not
            one of Optuna's, or an SQLite file is missing.
        ConnectionError: If the database's server does not answer, or refuses.
        ModuleNotFoundError: If the database's driver is not installed.
    """

    def __init__(self, url: str, study_name: str, direction: str, is_new: bool = True):
        self.url = _checked(url)
        file = Path(self.url.database) if self.url.get_backend_name() == "sqlite" else None
        if file and not is_new and not file.exists():
            raise ValueError(
                f"the trials of the study are not there: {str(file)!r} is missing. Put the file "
                "back, or search in a new folder"
            )
        self.study_name = study_name
        self.direction = DIRECTIONS[direction]
        self.worker = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
        try:
            if file and _is_for_reading(file):
                self._optuna, self._locks = _open(_unchanging(file)), _NoLocks(file)
            else:
                # Two processes that make Optuna's tables at once get in each other's way.
                with _locks_of(self.url, "").exclusive():
                    self._optuna = _open(self.url)
                self._locks = _locks_of(self.url, study_name)
        except ImportError as error:
            raise ModuleNotFoundError(
                f"`storage` {self.public_url!r} needs a package that is not installed ({error}): "
                "pip install 'keras-adamfamily[postgresql]'",
                name="psycopg",
            ) from error
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            if file is None and isinstance(error, sqlalchemy.exc.OperationalError):
                raise ConnectionError(
                    f"`storage` {self.public_url!r} cannot be reached: {reason}. A password that "
                    "is not in the URL is taken from PGPASSWORD or ~/.pgpass"
                ) from error
            raise ValueError(
                f"`storage` {self.public_url!r} cannot be opened as a database of "
                f"Optuna's: {reason}"
            ) from error
        self._groups: dict[str, optuna.Study] = {}

    @property
    def public_url(self) -> str:
        """The URL without its password."""
        return without_password(self.url)

    @property
    def files(self) -> list[Path]:
        """The files of an SQLite database, there or not; there are none for PostgreSQL."""
        if self.url.get_backend_name() != "sqlite":
            return []
        return [Path(f"{self.url.database}{end}") for end in SQLITE_FILES]

    # Groups.

    def names(self) -> list[str]:
        """The groups that there are, in the order in which they were made."""
        prefix = f"{self.study_name}/"
        summaries = self._optuna.get_all_studies()
        names = [study.study_name for study in summaries]
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def group(self, name: str) -> optuna.Study:
        """The Optuna study of a group, made if there is none."""
        if name not in self._groups:
            place = {"study_name": f"{self.study_name}/{name}", "storage": self._optuna}
            with quiet():
                try:  # first to read it: more may not be allowed
                    group = optuna.load_study(**place)
                except KeyError:
                    group = optuna.create_study(
                        **place, direction=self.direction, load_if_exists=True
                    )
            self._groups[name] = group
        return self._groups[name]

    def trials(self, name: str) -> list[FrozenTrial]:
        """All trials of a group, by number."""
        return self.group(name).get_trials(deepcopy=False)

    def results(self, name: str) -> list[dict[str, Any]]:
        """What `finish` has stored, by the trials' numbers."""
        trials = self.trials(name)
        return [json.loads(t.user_attrs[RESULT]) for t in trials if RESULT in t.user_attrs]

    def settings(self) -> dict[str, Any] | None:
        """The study's settings, if there is a study of this name."""
        return self.group("").user_attrs.get("settings") if "" in self.names() else None

    def agree(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Stores the study's settings where there are none yet; returns those that are there."""
        with self.lock():
            if self.settings() is None:
                self.replace(settings)
            return self.settings()

    def replace(self, settings: dict[str, Any]) -> None:
        self.group("").set_user_attr("settings", settings)

    # Trials.

    def claim(
        self,
        name: str,
        limit: int,
        propose: Callable[[list[FrozenTrial], int], Iterable[FrozenTrial]],
        trials: list[FrozenTrial] | None = None,
    ) -> list[FrozenTrial]:
        """Takes trials to run: those that a dead process left, or else new ones.

        Args:
            name: The group.
            limit: How many at most.
            propose: From all trials of the group and `limit` to the new ones to begin, see
                `running`. It is called under the lock.
            trials: The trials of the group, where they have been read under the lock.
        """
        self._locks.hold(self.worker)
        with self.lock():
            if trials is None:
                trials = self.trials(name)
            left = [trial for trial in trials if self.is_abandoned(trial)][:limit]
            for trial in left:
                self._optuna.set_trial_user_attr(trial._trial_id, WORKER, self.worker)
            if left:
                return left
            study = self.group(name)
            new = []
            for trial in propose(trials, limit):
                trial.user_attrs[WORKER] = self.worker
                trial._trial_id = self._optuna.create_new_trial(study._study_id, trial)
                trial.number = len(trials) + len(new)
                new.append(trial)
            return new

    def take_over(self, name: str, number: int) -> FrozenTrial | None:
        """Takes a trial that has not ended, whoever has begun it; `None` if it has ended."""
        self._locks.hold(self.worker)
        with self.lock():
            trial = self.trials(name)[number]
            if trial.state.is_finished():
                return None
            self._optuna.set_trial_user_attr(trial._trial_id, WORKER, self.worker)
            return trial

    def finish(
        self,
        trial: FrozenTrial,
        state: TrialState,
        value: float | None,
        result: dict[str, Any],
        curve: Sequence[float | None] = (),
    ) -> None:
        """Ends a trial; its result is on the disk when this returns.

        Args:
            trial: What `claim` gave.
            state: `COMPLETE`, `PRUNED` or `FAIL`.
            value: The score; needed if complete.
            result: What `results` is to give, as JSON.
            curve: The objective by epoch. A few of its points are stored for Optuna's dashboard,
                in as many transactions; `result` has all of it.
        """
        number = trial._trial_id
        text = json.dumps(result, allow_nan=False, separators=(",", ":"))
        values = None if value is None else [value]
        # A process whose connection was lost seems dead: another may have trained the same by now.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            for step in _few(len(curve)):
                if curve[step] is not None:
                    self._optuna.set_trial_intermediate_value(number, step + 1, curve[step])
            self._optuna.set_trial_user_attr(number, RESULT, text)
            self._optuna.set_trial_state_values(number, state, values)

    def is_abandoned(self, trial: FrozenTrial) -> bool:
        """Whether a trial was begun by a process that has died since."""
        if trial.state != TrialState.RUNNING:
            return False
        worker = trial.user_attrs.get(WORKER)
        return worker != self.worker and not (worker and self._locks.is_held(worker))

    def lock(self) -> contextlib.AbstractContextManager:
        """While it is held no other process takes trials; it can be taken again within."""
        return self._locks.exclusive()

    def close(self) -> None:
        """Lets go of the trials that this process has not finished, and of the database."""
        self._locks.release()
        self._optuna.engine.dispose()


def running(params: dict[str, Any], distributions: dict[str, Any]) -> FrozenTrial:
    """A trial that is about to run."""
    return optuna.trial.create_trial(
        state=TrialState.RUNNING, params=params, distributions=distributions
    )


def by_epoch(curve: Iterable[float | None]) -> dict[int, float]:
    """A curve as Optuna has it: the values by the epoch, counted from 1."""
    return {epoch: value for epoch, value in enumerate(curve, 1) if value is not None}


def _few(length: int) -> list[int]:
    """At most `CURVE_POINTS` indices, evenly spaced, the last one among them."""
    count = min(length, CURVE_POINTS)
    return sorted({round((k + 1) * length / count) - 1 for k in range(count)})


# The database.


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, whatever characters are in its path."""
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(False)


def without_password(url: str | sqlalchemy.URL) -> str:
    """The URL as it may be written down."""
    url = _checked(url)
    query = {name: value for name, value in url.query.items() if "password" not in name}
    address = url.username, None, url.host, url.port, url.database
    return sqlalchemy.URL.create(url.drivername, *address, query).render_as_string()


def _masked(url: Any) -> Any:
    """What was given for a URL, without what may be a user and a password."""
    if not isinstance(url, str):
        return url
    url = re.sub(r"(?<=:)(/*).*@", r"\1***@", url, flags=re.S)
    url = re.sub(r"(?<=\w):[^/@:]+(?=/|$)", ":***", url)  # a password, or a port
    return re.sub(r"(?i)(?<=password=)[^&]*", "***", url)


def _checked(url: str | sqlalchemy.URL) -> sqlalchemy.URL:
    try:
        parsed = sqlalchemy.make_url(url)
        backend = parsed.get_backend_name()
    except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError, TypeError, ValueError):
        raise ValueError(
            "`storage` must be a URL such as 'sqlite:///study.db' or 'postgresql://user@host/"
            "database', its port a number, special characters of a password percent-encoded. "
            f"Received: storage={_masked(url)!r}"
        ) from None  # the cause may quote the password
    if backend not in ("sqlite", "postgresql") or not parsed.database:
        raise ValueError(
            "`storage` must be an SQLite file or a PostgreSQL database. "
            f"Received: storage={_masked(url)!r}"
        )
    if parsed.drivername == "postgresql":  # another driver by default before SQLAlchemy 2.1
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _open(url: sqlalchemy.URL) -> optuna.storages.RDBStorage:
    arguments: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() == "sqlite":
        arguments = {"connect_args": {"timeout": 60}}
    with quiet():
        storage = optuna.storages.RDBStorage(url.render_as_string(False), engine_kwargs=arguments)
    if url.get_backend_name() == "sqlite" and "immutable" not in url.query:
        sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()  # connect again, with it
    return storage


def _write_ahead(connection, _) -> None:
    """Commits that survive the death of the process, at a tenth of the cost."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's messages, and without its warnings that something is experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


# Locks. The system takes them back when their process dies, however it dies.


def _locks_of(url: sqlalchemy.URL, study_name: str) -> _FileLocks | _AdvisoryLocks:
    """The locks of a study; of an SQLite file, which is one study's, the same for any name."""
    if url.get_backend_name() == "sqlite":
        return _FileLocks(Path(url.database))
    return _AdvisoryLocks(url, study_name)


def _is_for_reading(database: Path) -> bool:
    """Whether there is such a file, to be looked at alone."""
    paths = database, database.parent
    return database.exists() and not all(os.access(path, os.W_OK) for path in paths)


def _unchanging(database: Path) -> sqlalchemy.URL:
    """The URL of an SQLite file that is read without a lock or anything else written beside it."""
    log = database.with_name(database.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise ValueError(
            f"its latest trials are in {str(log)!r}, which can only be read where the folder can "
            "be written: copy the folder"
        )
    path = urllib.parse.quote(str(database.absolute()))
    query = {"mode": "ro", "immutable": "1", "uri": "true"}
    return sqlalchemy.URL.create("sqlite", database=f"file:{path}", query=query)


class _NoLocks:
    """For a database that cannot be written."""

    def __init__(self, database: Path):
        self.database = database

    def exclusive(self) -> contextlib.AbstractContextManager:
        raise PermissionError(
            f"the study in {str(self.database.parent)!r} can be looked at, but it cannot go on: "
            "the folder or the database in it cannot be written"
        )

    def release(self) -> None:
        pass


class _FileLocks:
    """Locked files beside an SQLite database."""

    def __init__(self, database: Path):
        self.folder = database.with_name(database.name + ".locks")
        self.folder.mkdir(exist_ok=True)
        self._study = filelock.FileLock(self.folder / "study")
        self._own: filelock.BaseFileLock | None = None

    def exclusive(self) -> contextlib.AbstractContextManager:
        return self._study.acquire()

    def hold(self, worker: str) -> None:
        if self._own is None:
            self._own = filelock.FileLock(self._path(worker))
            self._own.acquire()

    def is_held(self, worker: str) -> bool:
        path = self._path(worker)
        if not path.exists():
            return False
        try:
            with filelock.FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
                return False
        except filelock.Timeout:
            return True

    def release(self) -> None:
        if self._own is not None:
            path = Path(self._own.lock_file)
            self._own.release()
            path.unlink(missing_ok=True)
            self._own = None

    def _path(self, worker: str) -> Path:
        return self.folder / re.sub(r"[^\w.-]", "_", worker)


class _AdvisoryLocks:
    """PostgreSQL's advisory locks, held by connections of this process."""

    def __init__(self, url: sqlalchemy.URL, study_name: str):
        # Connections that are closed, not kept, when they are given back: their locks end then.
        self._engine = sqlalchemy.create_engine(
            url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
        )
        self._study = _key(f"study {study_name}")
        self._depth = 0
        self._connection: sqlalchemy.Connection | None = None
        self._own: sqlalchemy.Connection | None = None

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        if self._depth == 0:
            self._connection = self._engine.connect()
            _call(self._connection, "pg_advisory_lock", self._study)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._connection.close()

    def hold(self, worker: str) -> None:
        if self._own is None or not _is_alive(self._own):
            self._own = self._engine.connect()
            _call(self._own, "pg_try_advisory_lock", _key(worker))  # a lost one may still hold it

    def is_held(self, worker: str) -> bool:
        with self._engine.connect() as connection:
            return not _call(connection, "pg_try_advisory_lock", _key(worker))

    def release(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _is_alive(connection: sqlalchemy.Connection) -> bool:
    try:
        return connection.scalar(sqlalchemy.text("SELECT true"))
    except sqlalchemy.exc.SQLAlchemyError:
        return False


def _call(connection: sqlalchemy.Connection, function: str, key: int) -> Any:
    return connection.execute(sqlalchemy.text(f"SELECT {function}(:key)"), {"key": key}).scalar()
