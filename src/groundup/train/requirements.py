"""What a training stage needs of its settings and of this machine, said before any stage of the run has started.

A recipe may build a corpus for days before it trains: what would stop it then is told now, by `groundup check` and at
the start of `groundup run`. The engine asks the same again when the stage starts.
"""

from __future__ import annotations

from groundup.errors import Problem, UserError
from groundup.train.device import choose_device, why_no_compiler
from groundup.train.options import horizon_problems
from groundup.train.settings import PpoSettings, TrainingSettings
from groundup.train.speedups import no_compiler, why_no_float8
from groundup.train.trackers import absent_trackers


def unmet_requirements(settings: TrainingSettings) -> list[Problem]:
    """Settings that contradict each other, and what this machine lacks for them; empty where the stage can train."""
    horizons = (settings.max_steps, settings.num_epochs, settings.max_tokens)
    counts_rollouts = isinstance(settings, PpoSettings)
    problems = horizon_problems(
        has_horizon=counts_rollouts or any(one is not None for one in horizons),
        time_limit_seconds=settings.time_limit,
        budget=settings.budget,
        lr_scheduler=settings.lr_scheduler,
    )
    problems += absent_trackers(settings.report_to)
    try:
        device = choose_device(settings.device)
    except UserError as error:
        return problems + [Problem(f"device {settings.device}: {one.what}", fix=one.fix) for one in error.problems]
    if settings.float8 and (why := why_no_float8(device)) is not None:
        problems.append(Problem(why[0], fix=why[1]))
    if settings.torch_compile is True and (lacks := why_no_compiler(device)) is not None:
        problems.append(no_compiler(lacks))
    return problems
