"""Processes with a gloo group that stay for a whole test session: each call runs one function in all of them.

    two(train_in, layout, case)      # -> what it returned, by rank

Starting torch takes longer than most tests here, so processes are started once and again only after a failure.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]  # what the packages of tests are found from

PATIENCE_SECONDS = 3.0  # after one has failed


class Failed(Exception):  # noqa: N818
    """The traceback of the process that failed first."""


class Processes:
    def __init__(self, size: int) -> None:
        self.size = size
        self.processes: list[subprocess.Popen[bytes]] = []
        self.connections: list[Connection] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any, timeout: float = 120) -> list[Any]:
        """A module's function called with the arguments in every process; results by rank. Raises Failed, TimeoutError.

        Arguments and results are pickled; of tensors, give and return numpy arrays.
        """
        if not self.connections:
            self._start()
        for connection in self.connections:
            connection.send((function, arguments))
        results: dict[int, Any] = {}
        failure: str | None = None
        answered: set[int] = set()
        while len(answered) < self.size:
            waiting = [c for rank, c in enumerate(self.connections) if rank not in answered]
            ready = wait(waiting, timeout if failure is None else PATIENCE_SECONDS)
            if not ready:
                self.stop()  # the others may wait for the one that failed for ever
                if failure is None:
                    raise TimeoutError(f"{function.__name__}: no answer in {timeout} s")
                raise Failed(failure)
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = self.connections.index(connection)
                answered.add(rank)
                try:
                    is_good, results[rank] = connection.recv()
                except (EOFError, ConnectionError):
                    self.stop()
                    raise Failed(failure or f"process {rank} ended") from None
                if not is_good:
                    failure = failure or results[rank]
        if failure is not None:  # all of them came to an end together, and may go on
            raise Failed(failure)
        return [results[rank] for rank in range(self.size)]

    def _start(self) -> None:
        key = secrets.token_bytes(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with tempfile.TemporaryDirectory() as folder, Listener(f"{folder}/s", "AF_UNIX", authkey=key) as listener:
            for rank in range(self.size):
                environment = os.environ | {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(self.size),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
                }
                command = [sys.executable, __file__, f"{folder}/s", key.hex()]
                self.processes.append(subprocess.Popen(command, env=environment))
            found = {}
            for _ in range(self.size):
                connection = listener.accept()
                found[connection.recv()] = connection
        self.connections = [found[rank] for rank in range(self.size)]

    def stop(self) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes, self.connections = [], []


def serve(address: str, key: str) -> None:
    """The loop of one process."""
    with Client(address, authkey=bytes.fromhex(key)) as connection:
        connection.send(int(os.environ["RANK"]))
        with contextlib.suppress(EOFError):
            while True:
                function, arguments = connection.recv()
                try:
                    connection.send((True, function(*arguments)))
                except Exception:
                    connection.send((False, traceback.format_exc()))


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
    os._exit(0)  # the parent is gone or done: nothing here is worth an orderly end
