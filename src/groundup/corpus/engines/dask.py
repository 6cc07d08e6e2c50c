"""A Dask cluster, or one that is started here: each shard is a future. `pip install groundup[dask]`.

Start workers with one thread each (`dask worker --nthreads 1`): HTML parsers crash under threads.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from typing import Any

from groundup.corpus import engines
from groundup.corpus.engines import Run, default_workers
from groundup.corpus.tasks import Failure, Outcome, Task, attempt, outcome_from_json, outcome_to_json, task_to_json
from groundup.errors import EXIT_FAILED, UserError


@contextmanager
def dask_tasks(address: str | None, workers: int | None) -> Iterator[Run]:
    """`run(tasks)` on the scheduler at `address` (`tcp://...`), or on a local cluster of `workers` processes."""
    try:
        import dask

        from distributed import Client, KilledWorker, LocalCluster, as_completed
    except ImportError as error:
        raise UserError(
            "engine `dask` needs the package distributed, which is not installed here",
            where="engine",
            fix="pip install 'groundup[dask]', or engine: local",
        ) from error

    with ExitStack() as stack:
        # A task whose worker died once is told of, and the runner decides: Dask would try it three times more.
        # And a local worker that takes long to come back, on a busy machine, is not to be given up: after the last one
        # tasks would wait for ever.
        ours = {"distributed.scheduler.allowed-failures": 0, "distributed.deploy.lost-worker-timeout": "1 day"}
        stack.enter_context(dask.config.set(ours))
        if address:
            try:
                client = stack.enter_context(Client(address, timeout="30s"))
            except OSError as error:
                raise UserError(
                    f"no Dask scheduler answers: {error}",
                    where=f"address: {address}",
                    fix="start one with `dask scheduler`, or leave out `address` to have one started here",
                    exit_code=EXIT_FAILED,
                ) from error
        else:
            count = workers or default_workers()
            cluster = LocalCluster(n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None)
            client = stack.enter_context(Client(stack.enter_context(cluster)))

        def run(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
            futures = {client.submit(_attempt, task_to_json(task), pure=False): i for i, task in enumerate(tasks)}
            ended = threading.Event()
            watch = threading.Thread(target=_give_up_without_workers, args=(client, futures, ended), daemon=True)
            watch.start()
            try:
                for future in as_completed(list(futures)):
                    index = futures.pop(future)
                    try:
                        # What a worker gave back lies with it until this very call, and may be lost with it.
                        outcome: Outcome = outcome_from_json(future.result())
                    except KilledWorker:
                        outcome = Failure("died", "its Dask worker died")
                    except (CancelledError, asyncio.CancelledError) as error:
                        raise UserError(
                            f"the Dask scheduler is gone, or has no worker any more: {error}",
                            where=f"address: {address}" if address else "engine: dask",
                            fix="when it is back, start the run again: finished shards are kept",
                            exit_code=EXIT_FAILED,
                        ) from error
                    except Exception as error:  # whatever the task itself raises is in its outcome
                        outcome = Failure("died", f"Dask lost it ({type(error).__name__}: {error})"[:300])
                    yield index, outcome
            finally:
                ended.set()
                if futures:  # only what is under way: to cancel what is finished would wait for ever
                    client.cancel(list(futures))

        yield run


def _give_up_without_workers(client: Any, futures: dict[Any, int], ended: threading.Event) -> None:
    """Cancels what is under way where for long there has been nobody to do it."""
    alone_since: float | None = None
    while not ended.wait(min(30.0, engines.SILENT_SECONDS / 4)):
        try:
            is_alone = not client.scheduler_info()["workers"]
        except Exception:  # the scheduler is gone: the client itself notices
            return
        now = time.monotonic()
        alone_since = (alone_since or now) if is_alone else None
        if alone_since is not None and now - alone_since > engines.SILENT_SECONDS:
            client.cancel(list(futures))
            return


def _attempt(record: dict[str, Any]) -> dict[str, Any]:
    from groundup.corpus.tasks import task_from_json

    return outcome_to_json(attempt(task_from_json(record)))
