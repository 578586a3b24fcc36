"""A study survives the death of its process, and is shared by several: the trials stay the same."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import pytest

pytest.importorskip("typer")
pytest.importorskip("keras_tuner")

from optuna.trial import TrialState

from keras_adamfamily import tuning
from keras_adamfamily.tuning.storage import Storage, running
from tests.helpers import TINY

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sharing")
    (path / "tiny.py").write_text(TINY)
    return path


def start(folder, *arguments):
    """The command in a process of its own."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "keras_adamfamily", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": keras.config.backend()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SEARCH = [
    "tune",
    "tiny:build_model",
    "--data",
    "tiny:load_data",
    "--optimizers",
    "adamw,sgdw",
    "--trials",
    "16",
    "--epochs",
    "2",
]
SEARCH += ["--seeds", "2", "--objective", "val_loss"]


def finished(directory):
    """How many trials of a study have ended."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{directory}/study.db?mode=ro", uri=True)
        ) as db:
            query = "SELECT COUNT(*) FROM trial_user_attributes WHERE key = 'result'"
            return db.execute(query).fetchone()[0]
    except sqlite3.OperationalError:
        return 0


@pytest.fixture(scope="module")
def whole(folder):
    """A search that nothing disturbed."""
    process = start(folder, *SEARCH, "--out", "whole")
    outputs = process.communicate(timeout=300)
    assert process.returncode == 0, outputs
    return results(folder / "whole")


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize(
    "moment",
    [pytest.param(1, marks=pytest.mark.slow), 5, pytest.param(17, marks=pytest.mark.slow)],
)
def test_killed_search_goes_on_to_the_same_result(moment, folder, whole):
    directory = folder / f"killed-{moment}"
    process = start(folder, *SEARCH, "--out", directory.name)
    deadline = time.monotonic() + 120
    while finished(directory) < moment:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert moment <= finished(directory) < 20

    resumed = start(folder, *SEARCH, "--out", directory.name)
    outputs = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, outputs
    assert "going on:" in outputs[0]
    assert results(directory) == whole


def test_a_database_is_made_once_by_those_that_open_it_at_once(tmp_path):
    start_line = threading.Barrier(8)

    def open_and_close(_):
        start_line.wait()
        Storage(f"sqlite:///{tmp_path / 'study.db'}", "shared", "min").close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_and_close, range(8)))  # raises what one of them raised
    storage = Storage(f"sqlite:///{tmp_path / 'study.db'}", "shared", "min")
    assert storage.names() == []
    assert len(storage.claim("a", 2, lambda trials, limit: [running({}, {})] * limit)) == 2
    storage.close()


def test_two_processes_share_the_work(folder):
    processes = [start(folder, *SEARCH, "--out", "shared") for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    trials = tuning.Study(folder / "shared").trials
    names = [(trial.optimizer, trial.role, trial.number) for trial in trials]
    expected = [
        (optimizer, role, number)
        for optimizer in ("AdamW", "SGDW")
        for role, count in (("search", 8), ("final", 2))
        for number in range(count)
    ]
    assert names == expected  # none twice, none lost
    assert len({trial.worker for trial in trials}) == 2


def results(directory):
    """The trials without what differs between two runs, and the file made from them."""
    chance = {"seconds": 0.0, "memory": None, "finished": None, "worker": None}
    trials = [dataclasses.replace(t, **chance) for t in tuning.Study(directory).trials]
    return trials, (directory / "best.json").read_text()


@pytest.fixture
def postgres():
    """The URL of an empty PostgreSQL database on loopback."""
    pytest.importorskip("psycopg")
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    initdb = shutil.which("initdb") or (programs and programs[-1])
    if not initdb:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    temporary = tempfile.TemporaryDirectory()  # where another user may enter
    folder = Path(temporary.name)
    folder.chmod(0o777)
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses root
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    subprocess.run([*user, initdb, "-D", data, "-A", "trust", "-U", "tuner"], check=True)
    listen = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
    control = [*user, str(Path(initdb).with_name("pg_ctl")), "-D", data, "-w"]
    subprocess.run([*control, "-o", listen, "-l", folder / "log", "start"], check=True)
    yield f"postgresql://tuner@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True)
    temporary.cleanup()


MACHINE = """
import sys
import tiny
from keras_adamfamily import tuning

study = tuning.tune(
    tiny.build_model, *tiny.load_data(), directory=sys.argv[1], storage=sys.argv[2],
    optimizers=["AdamW", "SGDW"], max_trials=16, epochs=2, finalist_seeds=2, objective="val_loss",
)
"""


@pytest.mark.slow
def test_a_process_whose_connection_was_lost_goes_on(postgres):
    """Another trains its trial again, as of one that has died; the first result stays."""
    import sqlalchemy

    def one(trials, limit):
        return [running({}, {})] * limit

    first, second = (Storage(postgres, "study", "min") for _ in range(2))
    (trial,) = first.claim("a", 1, one)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    with sqlalchemy.create_engine(first.url).connect() as connection:
        connection.execute(sqlalchemy.text(cut))
    (again,) = second.claim("a", 1, one)
    assert again.number == trial.number
    for storage, score in ((second, 1.0), (first, 2.0)):
        storage.finish(trial, TrialState.COMPLETE, score, {"score": score}, [score])
    assert second.results("a") == [{"score": 1.0}]
    (later,) = first.claim("a", 1, one)
    assert later.number == 1 and not second.is_abandoned(second.trials("a")[1])
    first.close()
    second.close()


@pytest.mark.slow
def test_machines_share_a_database(folder, whole, postgres):
    (folder / "machine.py").write_text(MACHINE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": keras.config.backend()}
    (folder / "a").mkdir()
    (folder / "b").mkdir()

    def machine(name):
        return subprocess.Popen(
            [sys.executable, "machine.py", f"{name}/study", postgres],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    doomed = machine("a")
    deadline = time.monotonic() + 120
    while not (folder / "a" / "study" / "study.json").exists():
        assert doomed.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    machines = [machine(name) for name in ("a", "b")]
    outputs = [process.communicate(timeout=300) for process in machines]
    assert [process.returncode for process in machines] == [0, 0], outputs
    first, second = (tuning.Study(folder / name / "study") for name in ("a", "b"))
    assert first.trials == second.trials
    names = [(t.optimizer, t.role, t.number) for t in first.trials]
    assert len(names) == len(set(names)) == 20
    assert "tuner" in (folder / "a" / "study" / "study.json").read_text()  # the URL
    first.close()
    second.close()
