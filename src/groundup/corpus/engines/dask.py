"""A Dask cluster, or one that is started here: each shard is a future. `pip install groundup[dask]`.

Start workers with one thread each (`dask worker --nthreads 1`): HTML parsers crash under threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

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
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
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
            try:
                for future in as_completed(list(futures)):
                    error = future.exception()
                    if error is None:
                        outcome: Outcome = outcome_from_json(future.result())
                    elif isinstance(error, KilledWorker):
                        outcome = Failure("died", "its Dask worker died")
                    else:
                        outcome = Failure("died", f"Dask lost it ({type(error).__name__}: {error})"[:300])
                    index = futures.pop(future)
                    yield index, outcome
            finally:
                if futures:  # only what is under way: to cancel what is finished would wait for ever
                    client.cancel(list(futures))

        yield run


def _attempt(record: dict[str, Any]) -> dict[str, Any]:
    from groundup.corpus.tasks import task_from_json

    return outcome_to_json(attempt(task_from_json(record)))
