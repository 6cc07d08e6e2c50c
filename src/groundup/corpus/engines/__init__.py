"""Who runs the tasks. Each engine is an existing executor and a small adaptor: tasks in, (index, outcome) out.

An engine does not retry, order, resume or know what a task does: that is runner.py's, the same for all of them. It says
which task's process died, where it can tell; and it keeps its workers from phase to phase until it is closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from groundup.corpus.settings import CorpusSettings
from groundup.corpus.tasks import Outcome, Task, in_this_process

# A cluster without a worker, or a controller that does not answer, may be starting anew; after so long it is not.
SILENT_SECONDS = 900.0
Run = Callable[[Sequence[Task]], Iterator[tuple[int, Outcome]]]


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_engine(settings: CorpusSettings) -> AbstractContextManager[Run]:
    """The engine that the settings name, ready for `run(tasks)`. UserError where its package is absent."""
    if settings.workers == 0:
        return nullcontext(in_this_process)
    if settings.engine == "ray":
        from groundup.corpus.engines.ray import ray_tasks

        return ray_tasks(settings.address, settings.workers)
    if settings.engine == "dask":
        from groundup.corpus.engines.dask import dask_tasks

        return dask_tasks(settings.address, settings.workers)
    if settings.engine == "slurm":
        from groundup.corpus.engines.slurm import slurm_tasks

        return slurm_tasks(settings.address, settings.workers)
    from groundup.corpus.engines.local import local

    return local(settings.workers or default_workers())
