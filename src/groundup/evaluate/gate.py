"""Stage `gate`: may this model be released? Decided from evidence about this very model, on confidence bounds.

Each criterion passes, fails or stays undecided: a bound on the right side of its threshold passes, a whole interval on
the wrong side fails, and in between more evidence is needed (how much is told). Released means that all pass. Evidence
whose model has another fingerprint than the candidate is refused, as is evidence that does not hold what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from groundup.artifacts import StageContext, StageResult, fingerprint_file, read_json, write_json
from groundup.errors import EXIT_DONE, EXIT_REFUSED, Problem, UserError
from groundup.evaluate.settings import AtLeast, GainOverBaseline, GateSettings, HealthVerdict
from groundup.evaluate.stats import (
    n_to_settle_difference,
    n_to_settle_share,
    paired_difference_of_counts,
    wilson,
)

Decision = Literal["pass", "fail", "undecided"]
HEALTH_ORDER: tuple[HealthVerdict, ...] = ("healthy", "warning", "unhealthy")


@dataclass(frozen=True)
class Criterion:
    """One requirement, what was found, and what follows. `bound` is the number that the interval has to clear."""

    id: str
    what: str
    statistic: str
    value: float | str | None
    low: float | None
    high: float | None
    bound: float | str | None
    verdict: Decision
    evidence: str
    evidence_fingerprint: str
    why: str = ""


@dataclass(frozen=True)
class Evidence:
    """One exam's scores, where they lie and what they are (sha256 of scores.json)."""

    name: str
    path: Path
    fingerprint: str
    scores: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}/{self.path.name} (sha256 {self.fingerprint[:12]})"


def run(settings: GateSettings, context: StageContext) -> StageResult:
    """Judge every criterion, write `decision.json`, and return exit code 3 unless the model is released."""
    from groundup.evaluate.models import model_fingerprint

    bits = settings.require.bits_per_byte
    judged = (settings.candidate, settings.baseline, bits.model if bits else None)
    fingerprints = {name: model_fingerprint(context.model_folder(name)) for name in judged if name is not None}
    evidence = [_read_evidence(name, context) for name in settings.evidence]
    criteria, problems = decide(settings, evidence, fingerprints)
    if problems:
        raise UserError(problems, exit_code=EXIT_REFUSED)
    decision = {
        **verdict_of(criteria),
        "candidate": settings.candidate,
        "candidate_fingerprint": fingerprints[settings.candidate],
        "baseline": settings.baseline,
        "baseline_fingerprint": fingerprints.get(settings.baseline or ""),
        "confidence": settings.confidence,
        "criteria": [asdict(criterion) for criterion in criteria],
        "evidence": [{"name": one.name, "fingerprint": one.fingerprint} for one in evidence],
    }
    write_json(context.folder / "decision.json", decision)
    for criterion in criteria:
        context.console.info(
            f"  {criterion.verdict:9}  {criterion.what}{': ' + criterion.why if criterion.why else ''}"
        )
    context.console.info(f"  {settings.candidate}: {decision['verdict']}")
    passed = sum(criterion.verdict == "pass" for criterion in criteria)
    return StageResult(
        counts={"criteria": len(criteria), "passed": passed},
        metrics={"released": decision["released"], "verdict": decision["verdict"]},
        exit_code=EXIT_DONE if decision["released"] else EXIT_REFUSED,
    )


def verdict_of(criteria: list[Criterion]) -> dict[str, Any]:
    """Released only where every criterion passes; refused where one fails; undecided otherwise."""
    verdicts = {criterion.verdict for criterion in criteria}
    word = "released" if verdicts == {"pass"} else "refused" if "fail" in verdicts else "undecided"
    return {"released": word == "released", "verdict": word}


def decide(
    settings: GateSettings, evidence: list[Evidence], fingerprints: Mapping[str, str]
) -> tuple[list[Criterion], list[Problem]]:
    """All criteria of `require`, and every reason why evidence cannot be used. Pure: no model is read."""
    court = _Court(settings, evidence, dict(fingerprints))
    require = settings.require
    criteria: list[Criterion] = []
    shares: tuple[tuple[str, AtLeast | None, Callable[[AtLeast], Criterion | None]], ...] = (
        ("accuracy", require.accuracy, court.accuracy),
        ("reply_stops", require.reply_stops, court.reply_stops),
        ("reward_accuracy", require.reward_accuracy, court.reward_accuracy),
        ("humaneval", require.humaneval, court.humaneval),
    )
    for _, asked, judge in shares:
        if asked is not None and (criterion := judge(asked)) is not None:
            criteria.append(criterion)
    if require.accuracy_gain_over_baseline is not None:
        criteria += court.gain(require.accuracy_gain_over_baseline)
    if require.bits_per_byte is not None:
        criteria += court.bits_per_byte()
    if require.health is not None:
        criteria += court.health()
    return criteria, court.problems


class _Court:
    """What the criteria share: the evidence, the candidate, and the problems found on the way."""

    def __init__(self, settings: GateSettings, evidence: list[Evidence], fingerprints: dict[str, str]) -> None:
        self.settings, self.evidence, self.fingerprints = settings, evidence, fingerprints
        self.problems: list[Problem] = []

    # ------------------------------------------------------------ finding evidence

    def find(self, *keys: str) -> tuple[Evidence, Any] | None:
        """The last exam that holds `scores[key][key]...`; a Problem where none does."""
        for one in reversed(self.evidence):
            value: Any = one.scores
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                return one, value
        exams = ", ".join(one.name for one in self.evidence)
        fix = "add the task (or the stage) to the exam, or take the criterion out of `require:`"
        self.problems.append(Problem(f"no evidence for {' / '.join(keys)}", f"evidence: {exams}", fix))
        return None

    def find_of_candidate(self, *keys: str) -> tuple[Evidence, Any] | None:
        """The same, from an exam that examined this very candidate."""
        return self.find_of(self.settings.candidate, *keys)

    def find_of(self, model: str, *keys: str) -> tuple[Evidence, Any] | None:
        """The same, from an exam that examined this very model."""
        found = self.find(*keys)
        return found if found is not None and self.is_about(found[0], model) else None

    def is_about(self, one: Evidence, name: str) -> bool:
        examined = one.scores.get("models", {}).get(name, {}).get("fingerprint")
        if examined == self.fingerprints[name]:
            return True
        problem = Problem(
            f"the evidence is about another {name}: the exam saw a model with fingerprint "
            f"{str(examined)[:12]}, this one has {self.fingerprints[name][:12]}",
            str(one.path),
            "run the exam again on this model",
        )
        if problem not in self.problems:
            self.problems.append(problem)
        return False

    # ------------------------------------------------------------ shares

    def accuracy(self, asked: AtLeast) -> Criterion | None:
        part = ("by_task", asked.task) if asked.task else ("overall",)
        found = self.find_of_candidate("accuracy", self.settings.candidate, *part)
        of = f" on {asked.task}" if asked.task else ""
        return found and self.share("accuracy", f"exact accuracy of {self.settings.candidate}{of}", asked, *found)

    def reply_stops(self, asked: AtLeast) -> Criterion | None:
        found = self.find_of_candidate("reply_stops", self.settings.candidate)
        return found and self.share(
            "reply_stops", f"share of {self.settings.candidate}'s replies that end", asked, *found
        )

    def humaneval(self, asked: AtLeast) -> Criterion | None:
        found = self.find_of_candidate("humaneval", self.settings.candidate)
        return found and self.share("humaneval", f"HumanEval pass@1 of {self.settings.candidate}", asked, *found)

    def reward_accuracy(self, asked: AtLeast) -> Criterion | None:
        found = self.find_of_candidate("reward_accuracy")
        return found and self.share(
            "reward_accuracy", "held-out pairs that the reward model ranks right", asked, *found
        )

    def share(self, id: str, what: str, asked: AtLeast, one: Evidence, score: Mapping[str, Any]) -> Criterion:
        """Decided anew from the counts, at the gate's own confidence."""
        n, threshold = int(score["n"]), asked.at_least
        interval = wilson(float(score["correct"]), n, self.settings.confidence)
        verdict: Decision = (
            "pass" if interval.low >= threshold else "fail" if interval.high < threshold else "undecided"
        )
        why = ""
        if verdict == "undecided":
            enough = n_to_settle_share(interval.value, n, threshold, self.settings.confidence)
            why = _more(enough, n, f"the interval holds {threshold:g}")
        return Criterion(
            id=id if asked.task is None else f"{id}/{asked.task}",
            what=f"{what} is at least {threshold:g}",
            statistic=f"share of {n:,}, Wilson {self.settings.confidence:.0%}",
            value=interval.value,
            low=interval.low,
            high=interval.high,
            bound=threshold,
            verdict=verdict,
            evidence=str(one),
            evidence_fingerprint=one.fingerprint,
            why=why,
        )

    # ------------------------------------------------------------ against the baseline

    def gain(self, asked: GainOverBaseline) -> Iterator[Criterion]:
        candidate, baseline = self.settings.candidate, self.settings.baseline
        assert baseline is not None
        found = self._paired(candidate, baseline)
        if found is None:
            return
        one, only_a, only_b, n = found
        result = paired_difference_of_counts(only_a, only_b, n, self.settings.confidence)
        base = Criterion(
            id="accuracy_gain_over_baseline",
            what="",
            statistic=f"paired difference on {n:,} questions, Tango {self.settings.confidence:.0%}",
            value=result.difference,
            low=result.low,
            high=result.high,
            bound=0.0,
            verdict="undecided",
            evidence=str(one),
            evidence_fingerprint=one.fingerprint,
        )
        if asked.superior:
            p = result.p_value  # the one hypothesis that this gate tests; named before anything was measured
            strict = paired_difference_of_counts(only_a, only_b, n, 1 - asked.p_below)
            is_better = result.difference > 0 and p < asked.p_below
            verdict: Decision = "pass" if is_better else "fail" if strict.high <= 0 else "undecided"
            why = f"exact McNemar p = {p:.2g}; right alone: {candidate} {only_a}, {baseline} {only_b}"
            if verdict == "undecided":
                enough = n_to_settle_difference(result, asked.p_below) if result.difference > 0 else None
                why = _more(enough, n, why)
            what = f"{candidate} is more often right than {baseline} (p < {asked.p_below:g})"
            yield replace(base, what=what, verdict=verdict, why=why)
        if asked.at_least is not None:
            threshold = asked.at_least
            verdict = "pass" if result.low >= threshold else "fail" if result.high < threshold else "undecided"
            what = f"{candidate}'s gain in accuracy over {baseline} is at least {threshold:g}"
            why = f"the interval holds {threshold:g}" if verdict == "undecided" else ""
            yield replace(base, id=f"{base.id}/at_least", what=what, bound=threshold, verdict=verdict, why=why)

    def _paired(self, candidate: str, baseline: str) -> tuple[Evidence, int, int, int] | None:
        for one in reversed(self.evidence):
            for row in one.scores.get("paired") or []:
                if {row["a"], row["b"]} == {candidate, baseline} and row.get("of", "accuracy") == "accuracy":
                    if not (self.is_about(one, candidate) & self.is_about(one, baseline)):
                        return None
                    only = (row["only_a"], row["only_b"])
                    only_a, only_b = only if row["a"] == candidate else only[::-1]
                    return one, int(only_a), int(only_b), int(row["n"])
        fix = f"add `compare: [[{candidate}, {baseline}]]` to the exam"
        self.problems.append(Problem(f"no exam compared {candidate} with {baseline}", fix=fix))
        return None

    # ------------------------------------------------------------ bits per byte

    def bits_per_byte(self) -> Iterator[Criterion]:
        asked = self.settings.require.bits_per_byte
        assert asked is not None
        model = asked.model or self.settings.candidate
        for source in asked.below_xz_on:
            what = f"{model} needs fewer bits per byte than xz -9 on {source}"
            if missing := self.left_out(source, f"bits_per_byte/{source}/xz", what, "xz -9"):
                yield missing
            elif found := self.find_of(model, "bits_per_byte", model, source):
                xz = float(found[1]["xz"])
                yield self._bits(f"bits_per_byte/{source}/xz", what, xz, *found)
        for source, bound in asked.at_most.items():
            what = f"{model} needs at most {bound:g} bits per byte on {source}"
            if missing := self.left_out(source, f"bits_per_byte/{source}", what, bound):
                yield missing
            elif found := self.find_of(model, "bits_per_byte", model, source):
                yield self._bits(f"bits_per_byte/{source}", what, bound, *found)

    def left_out(self, source: str, id: str, what: str, bound: float | str) -> Criterion | None:
        """Undecided where the corpus could not have this source: nothing is known, which is no mistake of anybody."""
        for one in reversed(self.evidence):
            if (reason := one.scores.get("sources_left_out", {}).get(source)) is not None:
                why = f"there is no held-out text of {source}: {reason}"
                return Criterion(
                    id, what, "not measured", None, None, None, bound, "undecided", str(one), one.fingerprint, why
                )
        return None

    def _bits(self, id: str, what: str, bound: float, one: Evidence, score: Mapping[str, Any]) -> Criterion:
        low, high = score["low"], score["high"]  # None: too little text to say anything about spread
        is_known = low is not None and high is not None
        verdict: Decision = "pass" if is_known and high < bound else "fail" if is_known and low > bound else "undecided"
        return Criterion(
            id=id,
            what=what,
            statistic=f"bootstrap over {score.get('resampled', 'documents')}, {score['documents']:,} documents",
            value=float(score["value"]),
            low=low,
            high=high,
            bound=bound,
            verdict=verdict,
            evidence=str(one),
            evidence_fingerprint=one.fingerprint,
            why="more held-out text would settle it" if verdict == "undecided" else "",
        )

    # ------------------------------------------------------------ training

    def health(self) -> Iterator[Criterion]:
        asked = self.settings.require.health
        assert asked is not None
        stages = asked.stages or list(
            dict.fromkeys(name for one in self.evidence for name in one.scores.get("health", {}))
        )
        if not stages:
            self.find("health")
        for stage in stages:
            if (found := self.find_of_candidate("health", stage)) is None:
                continue
            one, health = found
            is_good = HEALTH_ORDER.index(health["verdict"]) <= HEALTH_ORDER.index(asked.no_worse_than)
            serious = [finding for finding in health["findings"] if finding["severity"] != "note"]
            is_unknown = bool(serious) and all(finding.get("kind") == "too_short" for finding in serious)
            yield Criterion(
                id=f"health/{stage}",
                what=f"training of {stage} went no worse than {asked.no_worse_than!r}",
                statistic="verdict on the loss curve",
                value=health["verdict"],
                low=None,
                high=None,
                bound=asked.no_worse_than,
                verdict="pass" if is_good else "undecided" if is_unknown else "fail",
                evidence=str(one),
                evidence_fingerprint=one.fingerprint,
                why=serious[0]["what"] if serious and (is_unknown or not is_good) else "",
            )


def _more(enough: int | None, n: int, why: str) -> str:
    if enough is None:
        return f"{why}; more questions would not settle it"
    return f"{why}; about {max(enough - n, 1):,} more questions would settle it, if the shares stay as they are"


def _read_evidence(name: str, context: StageContext) -> Evidence:
    path = context.input_folder(name) / "scores.json"
    if not path.is_file():
        raise UserError(
            "no evidence here: scores.json is missing", where=str(path.parent), fix="name an evaluate stage"
        )
    return Evidence(name, path, fingerprint_file(path), read_json(path))
