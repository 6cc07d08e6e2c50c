"""What a run does about what it sees: batches that are left out, spikes, and the way back to before one.

All that is remembered lies in the checkpoint (`TrainState.guards`), so that a run which was killed decides again as it
decided before:

    watch       the memory of `spikes.observe`
    skip_steps  the recipe's, as it was at this checkpoint
    left_out    batches that a rewind has left out; `rewinds`: how many there were
    skipped     updates that were not applied
    told        what has been said once and need not be said again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from groundup.artifacts import write_json
from groundup.errors import UserError
from groundup.tokens.skips import Ranges, batch_of, joined, steps_text, up_to
from groundup.train.checkpoint import Checkpoints, TrainState
from groundup.train.curves import Finding
from groundup.train.options import TrainOptions
from groundup.train.spikes import observe

MOST_REWINDS = 3
MARGIN = 4  # batches before and after a spike that are left out with it: what moved the weights there, and its like

Tell = Callable[[Finding], None]


def left_out(options: TrainOptions, guards: Mapping[str, Any]) -> Ranges:
    """Batches (from 1) that are not trained: the recipe's and those that a rewind has found."""
    found = [(int(first), int(last)) for first, last in guards.get("left_out", ())]
    return joined(options.skip_steps, found) if found else options.skip_steps


def accept_skips(options: TrainOptions, state: TrainState, where: str) -> None:
    """Take the recipe's skip_steps into the state. UserError where they would change what is trained already.

    Batches that are still to come may be named, and named no longer, at any time.
    """
    before = joined([(int(first), int(last)) for first, last in state.guards.get("skip_steps", ())])
    found = [(int(first), int(last)) for first, last in state.guards.get("left_out", ())]
    trained = batch_of(state.step, joined(before, found))
    then, now = (up_to(trained, joined(ranges, found)) for ranges in (before, options.skip_steps))
    if then != now:
        changed = steps_text(now) or "none", steps_text(then) or "none"
        raise UserError(
            f"skip_steps would leave out {changed[0]} of the first {trained:,} batches, which are trained already "
            f"(left out of them: {changed[1]})",
            where=where,
            fix=f"name batches after {trained:,} only; or go back: remove the checkpoints after the step you mean",
        )
    state.guards["skip_steps"] = [list(pair) for pair in options.skip_steps]


def keep_left_out(folder: Path, state: TrainState) -> None:
    """Batches that rewinds have left out, beside the model: the checkpoints that say so do not stay."""
    if state.guards.get("left_out"):
        write_json(folder / "left_out.json", {"batches": state.guards["left_out"]})


class Guard:
    """Judges every step before its update. `lasting_since` is set while a spike lasts that a rewind could undo."""

    def __init__(self, options: TrainOptions, tell: Tell, *, is_loss_judged: bool) -> None:
        self.options, self.tell, self.is_loss_judged = options, tell, is_loss_judged
        self.lasting_since: int | None = None

    def is_wanted(self, state: TrainState, loss: float, grad_norm: float) -> bool:
        """Whether the update is to be applied. Told is what is new."""
        step = state.step + 1
        seen = observe(state.guards.setdefault("watch", {}), step, loss if self.is_loss_judged else None, grad_norm)
        for finding in seen.findings:
            self.tell(finding)
        self.lasting_since = seen.lasting_since
        if not seen.is_high or self.options.on_spike != "skip":
            return True
        state.guards["skipped"] = state.guards.get("skipped", 0) + 1
        return False

    def counts(self, state: TrainState) -> dict[str, int]:
        """What a line of metrics.jsonl says of it, where there is something to say."""
        guards = state.guards
        counts = {
            "spikes": guards.get("watch", {}).get("spikes", 0),
            "updates_skipped": guards.get("skipped", 0),
            "rewinds": guards.get("rewinds", 0),
        }
        return {name: count for name, count in counts.items() if count}

    # ------------------------------------------------------------ going back

    def wants_rewind(self, state: TrainState) -> bool:
        """Whether to go back now. Where it may not any more, that is told once."""
        if self.options.on_spike != "rewind" or self.lasting_since is None:
            return False
        if state.guards.get("rewinds", 0) < MOST_REWINDS:
            return True
        self._tell_once(state, f"the run has gone back {MOST_REWINDS} times already and does so no more")
        return False

    def rewind(self, state: TrainState, checkpoints: Checkpoints) -> tuple[TrainState, Any] | None:
        """Load the last regular checkpoint before the spike, and leave out the batches from there to here.

        Which checkpoint it is depends on steps alone, so a run that was stopped and saved in between goes back just as
        far. None where none is kept from so long ago; that is told, and the run goes on.
        """
        since = self.lasting_since
        assert since is not None
        regular = (since - 1) // self.options.save_steps * self.options.save_steps
        target = regular or (1 if since > 1 else 0)
        gone = left_out(self.options, state.guards)
        found = checkpoints.rewind(target) if target else None
        if found is None:
            self._tell_once(state, f"no checkpoint is kept from before step {since}: raise save_total_limit")
            return None
        earlier, objective_state = found
        batches = batch_of(max(since - MARGIN, earlier.step + 1), gone), batch_of(state.step + MARGIN, gone)
        before = [(int(first), int(last)) for first, last in state.guards.get("left_out", ())]
        earlier.guards["left_out"] = [list(pair) for pair in joined(before, [batches])]
        earlier.guards["rewinds"] = state.guards.get("rewinds", 0) + 1
        earlier.guards["skip_steps"] = state.guards.get("skip_steps", [])
        earlier.total_steps = state.total_steps  # a horizon that was found since then stays
        why = f"gone back from step {state.step} to {earlier.step}; batches {steps_text((batches,))} are left out"
        self.tell(Finding("rewind", "alarm", state.step, float(state.step - earlier.step), why))
        self.lasting_since = None
        return earlier, objective_state

    def _tell_once(self, state: TrainState, why: str) -> None:
        if "no_rewind" not in (told := state.guards.setdefault("told", {})):
            told["no_rewind"] = "alarm"
            self.tell(Finding("no_rewind", "alarm", state.step, 0.0, why))
