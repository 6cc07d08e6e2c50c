"""The shape of the cluster does not matter: the same rows give the same losses and the same gradients in any layout."""

from __future__ import annotations

from functools import cache

import pytest

from groundup.train.layout import Layout

from .processes import Processes
from .work import Case, train_alone, train_in

LAYOUTS = {
    "fsdp 2": Layout(dp_shard_size=2),
    "hsdp 2x1": Layout(dp_replicate_size=2, dp_shard_size=1),
    "tp 2": Layout(tensor_parallel_size=2),
    "cp 2": Layout(context_parallel_size=2),
    "pp 2": Layout(pipeline_parallel_size=2),
    "pp 2 interleaved": Layout(pipeline_parallel_size=2, pipeline_schedule="interleaved"),
}
OF_FOUR = {
    "hsdp 2x2": Layout(dp_replicate_size=2, dp_shard_size=2),
    "fsdp 2 x tp 2": Layout(dp_shard_size=2, tensor_parallel_size=2),
    "fsdp 2 x cp 2": Layout(dp_shard_size=2, context_parallel_size=2),
    "copies 2 x cp 2": Layout(dp_replicate_size=2, dp_shard_size=1, context_parallel_size=2),
    "copies 2 x tp 2": Layout(dp_replicate_size=2, tensor_parallel_size=2),
    "fsdp 2 x pp 2": Layout(dp_shard_size=2, pipeline_parallel_size=2),
    "copies 2 x pp 2 interleaved": Layout(
        dp_replicate_size=2, pipeline_parallel_size=2, pipeline_schedule="interleaved"
    ),
    "tp 2 x pp 2": Layout(tensor_parallel_size=2, pipeline_parallel_size=2),
    "tp 2 x pp 2 interleaved": Layout(
        tensor_parallel_size=2, pipeline_parallel_size=2, pipeline_schedule="interleaved"
    ),
    "pp 4": Layout(pipeline_parallel_size=4),
}
QWEN3 = {"model_type": "qwen3", "qk_norm": True, "tie_word_embeddings": False}

reference = cache(train_alone)


def check(processes: Processes, layout: Layout, case: Case) -> None:
    """Every process tells the same trace, and it is that of one process alone.

    Muon computes in bfloat16, which turns differences in the last bit of fp32 into some in the last bit of its own.
    """
    expected = reference(case)
    traces = processes(train_in, layout, case)
    assert all(trace == traces[0] for trace in traces)
    loss, norm = (1e-4, 5e-3) if case.dtype == "bfloat16" else (1e-5, 2e-4 if case.optimizer == "muon" else 1e-5)
    assert [one for one, _ in traces[0]] == pytest.approx([one for one, _ in expected], rel=loss)
    assert [one for _, one in traces[0]] == pytest.approx([one for _, one in expected], rel=norm)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_accumulation_trains_the_same(two: Processes, layout: str, accumulation: int) -> None:
    """With a tied embedding of 97 ids, grouped queries and masked documents."""
    check(two, LAYOUTS[layout], Case(accumulation=accumulation))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_muon_makes_the_same_update_of_sharded_matrices(two: Processes, layout: str) -> None:
    check(two, LAYOUTS[layout], Case(optimizer="muon"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_untied_heads_normed_queries_and_rows_of_odd_length(two: Processes, layout: str) -> None:
    check(two, LAYOUTS[layout], Case(model=QWEN3, row_tokens=21, document_mask=False))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_and_recomputed_activations(two: Processes, layout: str) -> None:
    """As far as bfloat16 allows: it rounds partial sums, of which there are others in every layout."""
    check(two, LAYOUTS[layout], Case(dtype="bfloat16", gradient_checkpointing="selective"))
    check(two, LAYOUTS[layout], Case(gradient_checkpointing=True))


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_muon_with_every_accumulation(two: Processes, layout: str, accumulation: int) -> None:
    check(two, LAYOUTS[layout], Case(optimizer="muon", accumulation=accumulation))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("layout", OF_FOUR)
def test_four_processes_in_layouts_of_two_kinds(four: Processes, layout: str, optimizer: str) -> None:
    check(four, OF_FOUR[layout], Case(optimizer=optimizer, accumulation=4))


@pytest.mark.slow
@pytest.mark.parametrize("layout", OF_FOUR)
def test_four_processes_with_another_model(four: Processes, layout: str) -> None:
    check(four, OF_FOUR[layout], Case(model=QWEN3, row_tokens=21, accumulation=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [Layout(dp_shard_size=4), Layout(tensor_parallel_size=4), Layout(context_parallel_size=4)],
    ids=["fsdp 4", "tp 4", "cp 4"],
)
def test_four_processes_share_what_four_does_not_divide(four: Processes, layout: Layout) -> None:
    """97 ids, rows of 21 tokens; one micro-batch a step, which leaves three of four copies nothing to count."""
    model = {"num_key_value_heads": 4, "vocab_size": 97}
    check(four, layout, Case(model=model, row_tokens=21, accumulation=1))
