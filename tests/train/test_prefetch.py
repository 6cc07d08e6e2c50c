"""Batches ahead: the same ones, each asked for once and by one thread at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from groundup.train import prefetch
from groundup.train.engine import train
from groundup.train.prefetch import Ahead

from .engine_parts import context_in, equal_weights, next_token, options, tiny_decoder, write_shards
from .test_health import Line


class Asked:
    is_function_of_step = True

    def __init__(self) -> None:
        self.by: list[tuple[int, str]] = []
        self.busy = threading.Lock()

    def micro_batches(self, number: int, model: Any) -> list[Any]:  # noqa: ARG002
        assert self.busy.acquire(blocking=False), "asked by two threads at once"
        self.by.append((number, threading.current_thread().name))
        self.busy.release()
        if number == 9:
            raise ValueError("batch 9 cannot be read")
        return [number]


def test_the_next_batch_is_prepared_by_the_thread_once_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "WORTH_SHARE", 0.0)
    objective = Asked()
    ahead = Ahead(objective, None)  # type: ignore[arg-type]
    given = [ahead(number, number + 1) for number in (0, 1, 2, 3)]
    given += [ahead(6, 7), ahead(7, 8)]  # 4 was prepared, and is not wanted: the run went another way
    ahead.close()
    assert given == [[0], [1], [2], [3], [6], [7]]
    assert [number for number, _ in objective.by][:7] == [0, 1, 2, 3, 4, 6, 7]
    main = threading.current_thread().name
    assert [name == main for _, name in objective.by[:7]] == [True, True, False, False, False, True, False]


def test_where_data_costs_nothing_or_is_sampled_there_is_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "WORTH_SHARE", float("inf"))
    cheap = Ahead(Asked(), None)  # type: ignore[arg-type]
    monkeypatch.setattr(Asked, "is_function_of_step", False)
    sampled = Ahead(Asked(), None, device="cuda")  # type: ignore[arg-type]
    for ahead in (cheap, sampled):
        assert [ahead(number, number + 1) for number in range(4)] == [[0], [1], [2], [3]]
        assert not ahead.is_on and ahead._thread is None
    monkeypatch.setattr(Asked, "is_function_of_step", True)
    assert Ahead(Asked(), None, device="cuda").is_on  # type: ignore[arg-type]


def test_an_error_of_the_thread_comes_when_its_batch_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "WORTH_SHARE", 0.0)
    ahead = Ahead(Asked(), None)  # type: ignore[arg-type]
    for number in (6, 7, 8):
        ahead(number, number + 1)
    with pytest.raises(ValueError, match="batch 9 cannot be read"):
        ahead(9, 10)
    ahead.close()


@pytest.mark.parametrize("share", [0.0, float("inf")])
def test_training_is_the_same_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    shards = write_shards(tmp_path / "shards")
    plain, ahead = tiny_decoder(), tiny_decoder()
    sampled = next_token(shards)
    sampled.is_function_of_step = False
    train(plain, sampled, options(skip_steps=((3, 4),)), context_in(tmp_path / "plain"))
    monkeypatch.setattr(prefetch, "WORTH_SHARE", share)
    train(ahead, next_token(shards), options(skip_steps=((3, 4),)), context_in(tmp_path / "ahead"))
    assert equal_weights(plain, ahead)


def test_batches_that_are_left_out_are_not_even_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "WORTH_SHARE", 0.0)
    torch.manual_seed(0)
    objective = Line()
    train(nn.Linear(4, 1), objective, options(max_steps=6, skip_steps=((2, 3), (6, 6))), context_in(tmp_path))
    assert objective.asked == [1, 4, 5, 7, 8, 9, 10]
