"""What a person can ask of an exam and of a gate. No torch here: `groundup check` reads this."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from groundup.recipe import CorpusRef, ModelRef, PairsRef, RewardRef, ScoresRef, Settings, StageSettings

ExamTask = Literal["bits_per_byte", "verifiable", "reward_accuracy", "humaneval"]
HealthVerdict = Literal["healthy", "warning", "unhealthy"]
Share = Annotated[float, Field(ge=0, le=1)]

# ---------------------------------------------------------------- the exam


class BitsPerByteSettings(Settings):
    """How text that no model has seen is scored."""

    max_bytes: Annotated[int, Field(ge=1_000)] = 100_000
    """Bytes of held-out text per source; whole documents are taken in a fixed random order until it is reached."""
    context_len: Annotated[int, Field(ge=2)] | None = None
    """Tokens the model sees at once. Without it, the longest the model was made for."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Tokens scored per window: fewer give each token more context and take longer. Without it, three quarters."""
    resamples: Annotated[int, Field(ge=100)] = 2_000
    """Bootstrap resamples behind each interval."""


class VerifiableSettings(Settings):
    """Questions with exactly one right answer, of families in `groundup.tasks`."""

    tasks: list[str] = Field(default=["addition", "subtraction", "larger", "successor"], min_length=1)
    """Task families to ask. All questions are held out: their text decides that, so none can occur in training."""
    rows: Annotated[int, Field(ge=1)] = 400
    """Questions in all, the families taken in turn. Every model answers the same ones."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 48
    """Tokens a reply may have; a reply that does not end by then counts as not ended."""
    batch_size: Annotated[int, Field(ge=1)] = 100
    """Questions answered at once. Changes speed and memory only."""


class HumanEvalSettings(Settings):
    """OpenAI's 164 programming tasks, run in a locked-down subprocess."""

    limit: Annotated[int, Field(ge=1, le=164)] | None = None
    """Only this many tasks, spread evenly over the 164. Without it, all."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Tokens a completion may have."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Tasks completed at once. Changes speed and memory only."""
    cpu_seconds: Annotated[int, Field(ge=1, le=600)] = 5
    """CPU time each program may use; wall-clock time only ends a program that sleeps (five times this)."""
    allow_no_sandbox: bool = False
    """Run model-written code even where this machine cannot lock it down. It can then do whatever you can."""


class EvaluateSettings(StageSettings):
    """Measure models on the same questions, so that they can be compared pair by pair."""

    stage: Literal["evaluate"] = "evaluate"
    models: Annotated[list[ModelRef], Field(min_length=1)]
    """The models to examine, in the order of their line. Each is compared with the one it was made from."""
    tasks: list[ExamTask] = Field(default=["bits_per_byte", "verifiable"], min_length=1)
    """What to measure. Health of training is always judged, from each model's metrics.jsonl."""
    corpus: CorpusRef | None = None
    """The corpus whose held-out documents are scored in bits per byte."""
    reward_model: RewardRef | None = None
    """The reward model whose accuracy is measured on held-out pairs."""
    pairs: PairsRef | None = None
    """Preference pairs that were held out of the reward model's training."""
    compare: list[tuple[str, str]] = Field(default=[])
    """Pairs [model, baseline] to compare besides those that follow from what each model was made from."""
    bits_per_byte: BitsPerByteSettings = BitsPerByteSettings()
    """How held-out text is scored."""
    verifiable: VerifiableSettings = VerifiableSettings()
    """Which questions with one right answer are asked."""
    humaneval: HumanEvalSettings = HumanEvalSettings()
    """How HumanEval's programs are written and run."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of every interval."""

    @model_validator(mode="after")
    def _tasks_have_what_they_read(self) -> EvaluateSettings:
        missing = []
        if "bits_per_byte" in self.tasks and self.corpus is None:
            missing.append("bits_per_byte needs `corpus:` (a corpus stage, for its held-out documents)")
        if "reward_accuracy" in self.tasks and (self.reward_model is None or self.pairs is None):
            missing.append("reward_accuracy needs `reward_model:` and `pairs:`")
        for name in {name for pair in self.compare for name in pair} - set(self.models):
            missing.append(f"compare names {name!r}, which is not under `models:`")
        if missing:
            raise ValueError("; ".join(missing))
        return self


# ---------------------------------------------------------------- the gate


class AtLeast(Settings):
    """A share whose lower confidence bound has to reach a threshold."""

    at_least: Share
    """Passes when the lower bound is at or above this, fails when the upper bound is below it, else undecided."""
    task: str | None = None
    """Only the questions of this task family. Without it, all of them."""


class GainOverBaseline(Settings):
    """The candidate against the baseline on the same questions: the one comparison that this gate tests.

    It is named before anything is measured, so its p-value is taken as it is (no Holm adjustment, whatever else the
    exam compares).
    """

    superior: bool = True
    """The candidate has to be significantly better, by the exact McNemar test on questions that only one got right."""
    p_below: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Two-sided p-value of that test, not adjusted, that counts as significant."""
    at_least: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Besides, the lower bound of the gain has to reach this (0.1 is ten points; -0.02 tolerates two points less)."""


class BitsPerByteBounds(Settings):
    """How well the candidate, or the base model it was made from, predicts text that it has not seen."""

    model: ModelRef | None = None
    """Whose predictions are bounded. Without it, the candidate's; chat training trades some of them for its purpose."""
    below_xz_on: list[str] = Field(default=[])
    """Sources on which the upper bound has to be below what `xz -9` needs for the same bytes."""
    at_most: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Source -> bits per byte that the upper bound may not pass."""

    @model_validator(mode="after")
    def _asks_something(self) -> BitsPerByteBounds:
        if not self.below_xz_on and not self.at_most:
            raise ValueError("name sources under below_xz_on, or bounds under at_most")
        return self


class HealthBound(Settings):
    """How well training has to have gone."""

    stages: list[str] = Field(default=[])
    """Stages whose loss curves are judged. Without it, every stage that the evidence holds."""
    no_worse_than: HealthVerdict = "warning"
    """The worst verdict that passes: healthy, warning or unhealthy. A curve too short to judge counts as a warning."""


class Requirements(Settings):
    """What a release has to show. Every criterion decides on a confidence bound, never on a point estimate."""

    accuracy: AtLeast | None = None
    """Exact accuracy of the candidate on held-out questions."""
    accuracy_gain_over_baseline: GainOverBaseline | None = None
    """The candidate's exact accuracy against the baseline's, question by question."""
    reply_stops: AtLeast | None = None
    """Share of the candidate's greedy replies that end by themselves."""
    bits_per_byte: BitsPerByteBounds | None = None
    """Bits per byte on held-out text, of the candidate or another model of its line."""
    reward_accuracy: AtLeast | None = None
    """How often the reward model prefers the better reply of held-out pairs."""
    humaneval: AtLeast | None = None
    """pass@1 of the candidate on HumanEval."""
    health: HealthBound | None = None
    """Verdicts on the loss curves."""

    @model_validator(mode="after")
    def _asks_something(self) -> Requirements:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(f"name at least one criterion: {', '.join(type(self).model_fields)}")
        return self


class GateSettings(StageSettings):
    """Decide whether a model may be released, from evidence about this very model."""

    stage: Literal["gate"] = "gate"
    candidate: ModelRef
    """The model that asks to be released."""
    baseline: ModelRef | None = None
    """The model it has to be compared with."""
    evidence: Annotated[list[ScoresRef], Field(min_length=1)]
    """Exams that examined the candidate."""
    require: Requirements
    """The criteria; all have to pass."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the bounds that decide."""

    @model_validator(mode="after")
    def _has_a_baseline(self) -> GateSettings:
        if self.require.accuracy_gain_over_baseline is not None and self.baseline is None:
            raise ValueError("require.accuracy_gain_over_baseline needs `baseline:` (the model to compare with)")
        return self
