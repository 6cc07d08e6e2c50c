"""A Ray cluster, or one that is started here: each shard is a Ray task. `pip install groundup[ray]`.

All machines see the same work folder, and have groundup installed. Ray is told not to retry: a task whose worker or
node died is reported, and the runner decides.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from groundup.corpus import engines
from groundup.corpus.engines import Run
from groundup.corpus.tasks import Failure, Outcome, Task, attempt, outcome_from_json, outcome_to_json, task_to_json
from groundup.errors import EXIT_FAILED, UserError

IN_FLIGHT_PER_CPU = 2  # the next task waits on the node already; more would only make a stop slower


@contextmanager
def ray_tasks(address: str | None, workers: int | None) -> Iterator[Run]:
    """`run(tasks)` on the cluster at `address` (`auto`, `ray://...`), or on a local one with `workers` CPUs."""
    try:
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError
    except ImportError as error:
        raise UserError(
            "engine `ray` needs the package ray, which is not installed here",
            where="engine",
            fix="pip install 'groundup[ray]', or engine: local",
        ) from error

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    was_connected = ray.is_initialized()
    if not was_connected:
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if not address:
            how |= {"include_dashboard": False, "num_cpus": workers or None}
        try:
            ray.init(address=address, **how)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"no Ray cluster answers: {error}",
                where=f"address: {address}",
                fix="start one with `ray start --head`, or leave out `address` to have one started here",
                exit_code=EXIT_FAILED,
            ) from error

    # By name and JSON, so that what runs on a node is the groundup installed there and nothing that was pickled here.
    remote = ray.remote(num_cpus=1, max_retries=0, max_calls=0)(_attempt)

    def run(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = iter(enumerate(tasks))
        flying: dict[Any, int] = {}
        alone_since: float | None = None
        try:
            while True:
                while len(flying) < IN_FLIGHT_PER_CPU * limit and (following := next(waiting, None)) is not None:
                    flying[remote.remote(task_to_json(following[1]))] = following[0]
                if not flying:
                    return
                finished, _ = ray.wait(list(flying), num_returns=1, timeout=min(30.0, engines.SILENT_SECONDS / 4))
                if not finished:
                    alone_since = _alone_since(alone_since, ray.cluster_resources().get("CPU", 0), address)
                    continue
                alone_since = None
                index = flying.pop(finished[0])
                try:
                    outcome: Outcome = outcome_from_json(ray.get(finished[0]))
                except OutOfMemoryError:
                    outcome = Failure("memory", "Ray ended its worker, as the node ran out of memory")
                except (WorkerCrashedError, NodeDiedError) as error:
                    outcome = Failure("died", f"its Ray worker died ({type(error).__name__})")
                except RayError as error:
                    outcome = Failure("died", f"Ray lost it ({type(error).__name__})")
                yield index, outcome
        finally:
            for reference in flying:
                ray.cancel(reference, force=True)

    try:
        yield run
    finally:
        if not was_connected:
            ray.shutdown()


def _alone_since(before: float | None, cores: float, address: str | None) -> float | None:
    """Since when no node of the cluster has a core for tasks. UserError where that is too long ago."""
    if cores:
        return None
    since = before or time.monotonic()
    if time.monotonic() - since > engines.SILENT_SECONDS:
        raise UserError(
            f"the Ray cluster has had no node with a CPU for {engines.SILENT_SECONDS:,.0f} s",
            where=f"address: {address}" if address else "engine: ray",
            fix="when nodes are back, start the run again: finished shards are kept",
            exit_code=EXIT_FAILED,
        )
    return since


def _attempt(record: dict[str, Any]) -> dict[str, Any]:
    from groundup.corpus.tasks import task_from_json

    return outcome_to_json(attempt(task_from_json(record), is_worker=True))
