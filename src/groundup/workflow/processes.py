"""The processes that a run trains with: helpers that it starts itself, or those that torchrun started.

The main process (rank 0) runs the recipe. Where a stage trains together it tells the others which one, they run the
same function of the stage, and meet in the engine (train/world.py). Between such stages they wait.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from groundup.artifacts import StageContext, read_json
from groundup.console import Console
from groundup.environment import available_memory_bytes, cores
from groundup.errors import EXIT_FAILED, Problem, UserError
from groundup.meeting import Meeting, PeerLost
from groundup.recipe import Stage, settings_data
from groundup.team import Team
from groundup.train.layout import MODEL_SIZES, layout_of
from groundup.workflow.torchrun import Group, leave_process_group

TOGETHER = ("pretrain", "sft", "reward", "dpo")  # what may train in several processes; ppo samples as it trains
# a helper costs 1.4 s of a core to start: so much work makes that little, 10 to 15 s of a core with fast bfloat16.
# It is planned work and not seconds, which are measured and would say something else on another day
WORTH_FLOPS, WORTH_SECONDS = 2e12, 20.0
MEMORY_SHARE = 0.8  # of what is free may be planned for
TOKENS_EACH = 1024  # of a step: with fewer, products become small and slow
PARAMETERS_A_TOKEN = 50_000  # with fewer tokens for them, adding up gradients costs more than processes save


# ---------------------------------------------------------------- how many


def parse_processes(text: str) -> int | None:
    """`--processes`: a number, or None for auto. UserError for anything else."""
    if text == "auto":
        return None
    if text.isdigit() and int(text) >= 1:
        return int(text)
    raise UserError(f"--processes takes a number or auto, not '{text}'", fix="--processes auto")


def processes_for(stage: Stage, wanted: int | None, plan: Mapping[str, Any]) -> int:
    """In how many processes a stage trains. `wanted` None: as many as pay; `plan` is what it would take alone.

    One process a core where rows, tokens and memory are enough for all; as many as the recipe's layout needs.
    """
    settings: Any = stage.settings
    if stage.kind.name not in TOGETHER:
        return 1
    if wanted is not None:
        return wanted
    layout = layout_of(settings)
    if layout.processes > 1 or layout.dp_shard_size is not None:
        return layout.processes
    if settings.time_limit is not None:
        most = cores() if settings.time_limit >= WORTH_SECONDS else 1
    else:
        most = min(cores(), int((plan.get("flops") or 0) // WORTH_FLOPS))
    if most < 2 or _has_gpu():
        return 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    rows = settings.micro_batch_size * settings.gradient_accumulation_steps
    each = max(TOKENS_EACH, int(plan.get("parameters") or 0) // PARAMETERS_A_TOKEN)
    most = min(most, int(rows), int(rows * settings.sequence_len) // each)
    if threads.isdigit():
        most = min(most, int(threads))
    if alone := plan.get("memory_bytes"):  # each more adds gradients: a quarter of weights, gradients and moments
        most = min(most, 1 + int(4 * (MEMORY_SHARE * available_memory_bytes() / alone - 1)))
    return max(1, most)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def plan_of(run_folder: Path, stage: str) -> dict[str, Any]:
    """What the plan of this run foretold for a stage: flops, memory_bytes."""
    try:
        return dict(read_json(run_folder / "plan.json")["stages"][stage])
    except (OSError, UserError, KeyError, TypeError, ValueError):
        return {}


def share_micro_batches(micro_batch_size: int, accumulation: int, processes: int) -> tuple[int, int]:
    """Micro-batches of the same rows of a step for so many processes: their size, and how many make a step.

    Nothing larger than `micro_batch_size` (which is what fits into memory), an even share for each where the rows can
    be divided so, and else the least that the busiest has to do.
    """
    rows = micro_batch_size * accumulation
    sizes = [size for size in range(1, micro_batch_size + 1) if rows % size == 0]
    best = min(sizes, key=lambda size: (-(-(rows // size) // processes) * size, -size))
    return best, rows // best


# ---------------------------------------------------------------- the stage's side


@dataclass
class Processes:
    """Runs each stage in as many processes as it should have. `wanted` None: as many as pay."""

    wanted: int | None = 1
    group: Group | None = None  # the processes that torchrun started
    helpers: Helpers | None = None  # those that this process started
    exit_code: int = EXIT_FAILED  # how the run ends, for the others to end likewise

    @contextmanager
    def together(self, stage: Stage, context: StageContext, size: int) -> Iterator[tuple[Any, StageContext]]:
        """The settings and the context with which the main process runs the stage, while the others run it, too."""
        if size == 1:
            yield stage.settings, context
            return
        settings = shared_settings(stage.settings, size)
        message = stage_message(stage, settings, context) | {"size": size}
        if self.group is not None:
            with self.group.called(message) as team:
                yield settings, replace(context, team=team)
            return
        if self.helpers is not None and (self.helpers.size != size or self.helpers.is_lost):
            self.close()
        context.console.info(f"  {stage.name}: {size} processes")
        self.helpers = self.helpers or Helpers(size, context.run_folder / "run.log")
        with self.helpers.called(message) as team:
            yield settings, replace(context, team=team)

    def size_for(self, stage: Stage, run_folder: Path, before: int | None = None) -> int:
        """How many train a stage. `before`: what its unfinished work was begun with, which gives the same bits."""
        if stage.kind.name not in TOGETHER:
            return 1
        if self.group is not None:
            return self.group.size
        if self.wanted is None and before is not None and before <= cores():
            layout = layout_of(stage.settings)  # which may be a new one: a checkpoint goes on in any
            if layout.fits(before):
                return before
        return processes_for(stage, self.wanted, plan_of(run_folder, stage.name))

    def problems(self, stages: Sequence[Stage]) -> list[Problem]:
        """What of these stages cannot be run in the processes that torchrun started, or that `--processes` names."""
        found = []
        size = self.group.size if self.group is not None else self.wanted
        for stage in stages:
            if self.group is not None and stage.kind.name == "ppo":
                what = f"{stage.name}: ppo trains in one process, and torchrun started {self.group.size}"
                fix = "name the stages before it to run them under torchrun, then this one without: "
                found.append(Problem(what, fix=f"{fix}`groundup run RECIPE {stage.name}`"))
            elif size is not None and stage.kind.name in TOGETHER:
                try:
                    layout_of(stage.settings).resolved(size)
                except UserError as error:
                    found += [replace(problem, what=f"{stage.name}: {problem.what}") for problem in error.problems]
        return found

    def close(self) -> None:
        if self.helpers is not None:
            self.helpers.close()
            self.helpers = None


def shared_settings(settings: Any, processes: int) -> Any:
    """The stage's settings with micro-batches that so many processes can share."""
    for name in MODEL_SIZES:
        processes //= getattr(settings, name) or 1
    micro, accumulation = share_micro_batches(
        settings.micro_batch_size, settings.gradient_accumulation_steps, max(processes, 1)
    )
    return settings.model_copy(update={"micro_batch_size": micro, "gradient_accumulation_steps": accumulation})


def stage_message(stage: Stage, settings: Any, context: StageContext) -> dict[str, Any]:
    """What another process has to know to run the same stage: JSON."""
    return {
        "kind": stage.kind.name,
        "settings": settings_data(settings),
        "name": stage.name,
        "seed": context.seed,
        "inputs": {value: str(path.absolute()) for value, path in context.inputs.items()},
        "cache": str(context.cache.absolute()),
        "run_folder": str(context.run_folder.absolute()),
        "folder": str(context.folder.absolute()),
    }


# ---------------------------------------------------------------- helpers on this machine


class Helpers:
    """`size` - 1 processes that this one started. They die with it, and it hears of it when one of them dies."""

    def __init__(self, size: int, log: Path) -> None:
        self.size, self.threads = size, max(1, cores() // size)
        self._lock = threading.Lock()
        self._meeting: Meeting | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="groundup-")
        self._lost: str | None = None
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with open(log, "a") as said:
            self._processes = [
                subprocess.Popen(
                    [sys.executable, "-m", "groundup.workflow.worker", str(rank), str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env=environment,
                    text=True,
                )
                for rank in range(1, size)
            ]
        for rank, process in enumerate(self._processes, start=1):
            threading.Thread(target=self._listen, args=(rank, process), daemon=True).start()

    @property
    def is_lost(self) -> bool:
        """Whether one of them has ended or failed."""
        return self._lost is not None

    def _listen(self, rank: int, process: subprocess.Popen[str]) -> None:
        """Pass on what goes wrong in a helper to whoever waits in the meeting."""
        assert process.stdout is not None
        for line in process.stdout:
            if (why := json.loads(line).get("failed")) is not None:
                self._fail(rank, why)
        code = process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._fail(rank, f"it has ended ({name}); if memory was short, use fewer: --processes 1")

    def _fail(self, rank: int, why: str) -> None:
        with self._lock:
            self._lost = self._lost or f"process {rank} of {self.size} failed: {why}"
            if self._meeting is not None:
                self._meeting.fail(rank, why)

    @contextmanager
    def called(self, message: Mapping[str, Any]) -> Iterator[Team]:
        """Let the helpers run a stage; whatever ends it here ends it there."""
        meeting = Meeting.open(self.size)
        # one for all stages: torch's process group stays, and meets there whenever it makes another group
        rendezvous = str(Path(self._folder.name) / "rendezvous")
        whole = {**message, "threads": self.threads, "meeting": meeting.path, "rendezvous": rendezvous}
        whole["scratch"] = self._folder.name  # which this process removes when it has ended them
        with self._lock:
            self._meeting = meeting
        try:
            if self._lost is not None:
                raise PeerLost(self._lost, exit_code=EXIT_FAILED)
            for process in self._processes:
                assert process.stdin is not None
                _send(process.stdin, whole)
            yield Team(0, self.size, self.threads, meeting, rendezvous)
        except BaseException:
            self.close()
            raise
        finally:
            with self._lock:
                self._meeting = None
            meeting.close()

    def close(self) -> None:
        """End them at once: they hold nothing that is worth keeping."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        leave_process_group()
        self._folder.cleanup()


def _send(stream: IO[str], message: Mapping[str, Any]) -> None:
    with suppress(BrokenPipeError):  # who listens to it tells why
        stream.write(json.dumps(message) + "\n")
        stream.flush()


# ---------------------------------------------------------------- opening


@contextmanager
def processes_of_this_run(wanted: int | None, console: Console) -> Iterator[Processes]:
    """The processes that a run of this process may use, closed when it ends, however it ends."""
    if wanted is not None and Group.is_there():
        raise UserError("torchrun has started the processes already", fix="leave --processes out")
    group = Group.from_environment(console) if Group.is_there() else None
    processes = Processes(wanted, group)
    try:
        yield processes
    except UserError as error:
        processes.exit_code = error.exit_code
        raise
    finally:
        processes.close()
        if group is not None:
            group.end(processes.exit_code)
