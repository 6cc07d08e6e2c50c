"""Choosing tokens: each cut keeps what transformers' of that name keeps, and draws follow the distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from groundup.errors import UserError
from groundup.model import sampling as sampling_module
from groundup.model.sampling import Sampling, SeenTokens, choose, chosen_logprobs, probabilities, seed_of, uniform


@pytest.fixture(scope="module")
def processors():
    return pytest.importorskip("transformers.generation.logits_process")


@pytest.fixture
def logits():
    return torch.randn(50, 1031, generator=torch.Generator().manual_seed(0)) * 3


CUTS = [
    {"top_k": 5},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.5},
    {"top_p": 0.01},
    {"temperature": 0.5, "top_k": 5000},
    {"min_p": 0.1},
    {"temperature": 1.5, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 2.0, "top_k": 300, "top_p": 0.9, "min_p": 0.2},
    {"min_p": 1.0},
]


@pytest.mark.parametrize("cuts", CUTS)
def test_each_cut_keeps_what_transformers_keeps(processors, logits, cuts):
    expected = processors.TemperatureLogitsWarper(cuts.get("temperature", 1.0))(None, logits)
    if "top_k" in cuts:
        expected = processors.TopKLogitsWarper(cuts["top_k"])(None, expected)
    if "top_p" in cuts:
        expected = processors.TopPLogitsWarper(cuts["top_p"])(None, expected)
    if "min_p" in cuts:
        expected = processors.MinPLogitsWarper(cuts["min_p"])(None, expected)
    expected = expected.softmax(-1)
    ours = probabilities(logits, Sampling(1, **cuts))
    assert torch.equal(ours > 0, expected > 0)
    assert torch.allclose(ours, expected, atol=1e-6)
    drawn = choose(logits, Sampling(1, **cuts), torch.rand(50, generator=torch.Generator().manual_seed(0)))
    assert (expected.gather(1, drawn[:, None]) > 0).all()


def test_the_nucleus_is_found_whether_or_not_all_tokens_are_sorted(logits, monkeypatch):
    whole = [probabilities(logits, Sampling(1, 1.5, top_p=top_p)) for top_p in (0.3, 0.9, 0.999)]
    monkeypatch.setattr(sampling_module, "NUCLEUS_AT_FIRST", 7)
    again = [probabilities(logits, Sampling(1, 1.5, top_p=top_p)) for top_p in (0.3, 0.9, 0.999)]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(whole, again, strict=True))


def test_repetition_is_penalised_as_in_transformers(processors, logits):
    prompts = torch.randint(1031, (50, 12), generator=torch.Generator().manual_seed(1))
    seen = SeenTokens(50, 1031, 1.3, torch.device("cpu"))
    for slot, prompt in enumerate(prompts.tolist()):
        seen.start(slot, prompt)
    expected = processors.RepetitionPenaltyLogitsProcessor(1.3)
    assert torch.equal(seen.penalise(logits), expected(prompts, logits.clone()))
    new = torch.randint(1031, (50,), generator=torch.Generator().manual_seed(2))
    seen.add(new)
    assert torch.equal(seen.penalise(logits), expected(torch.cat((prompts, new[:, None]), 1), logits.clone()))


def test_penalties_follow_their_rows(logits):
    seen = SeenTokens(3, 1031, 2.0, torch.device("cpu"))
    for slot in range(3):
        seen.start(slot, [slot])
    seen.move(2, 0)
    changed = seen.penalise(logits[:2]) != logits[:2]
    assert changed.nonzero().tolist() == [[0, 2], [1, 1]]
    seen.start(0, [9])  # the next prompt in this slot
    assert (seen.penalise(logits[:1]) != logits[:1]).nonzero().tolist() == [[0, 9]]


def test_log_probabilities_are_of_the_temperature_before_any_cut(logits):
    chosen = torch.arange(50)
    expected = (logits / 0.7).log_softmax(-1)[chosen, chosen]
    assert torch.allclose(chosen_logprobs(logits, chosen, Sampling(1, 0.7, top_k=3)), expected, atol=1e-5)
    greedy = chosen_logprobs(logits, chosen, Sampling(1, 0))
    assert torch.allclose(greedy, logits.log_softmax(-1)[chosen, chosen], atol=1e-5)


def test_samples_follow_the_distribution():
    """20,000 draws against softmax(logits / temperature): chi-square within 4 sigma of its mean."""
    rows = 20_000
    logits = torch.randn(1, 131, generator=torch.Generator().manual_seed(3))
    expected = (logits[0] / 0.8).softmax(-1)
    draws = uniform(7, np.arange(rows), np.zeros(rows))
    drawn = choose(logits.expand(rows, -1), Sampling(1, 0.8), draws)
    assert chi_square_is_plausible(torch.bincount(drawn, minlength=131), expected * rows)


def chi_square_is_plausible(counts, expected):
    often = expected >= 5
    chi_square = float(((counts - expected)[often] ** 2 / expected[often]).sum())
    freedom = int(often.sum()) - 1
    assert freedom > 50
    return abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


def test_a_certain_token_is_always_drawn():
    """Also where the random number rounds up to the whole: never a token of probability 0, never past the end."""
    logits = torch.full((1000, 131), float("-inf"))
    logits[:, 17] = 0
    for draws in (torch.rand(1000, generator=torch.Generator().manual_seed(0)), torch.ones(1000), torch.zeros(1000)):
        assert (choose(logits, Sampling(1), draws) == 17).all()


def test_greedy_takes_the_most_likely(logits):
    assert torch.equal(choose(logits, Sampling(1, 0, top_k=3)), logits.argmax(-1))


def test_random_numbers_are_uniform_and_a_function_of_seed_prompt_and_step():
    prompts, steps = np.divmod(np.arange(400_000), 1000)
    draws = uniform(11, prompts, steps)
    assert float(draws.min()) >= 0 and float(draws.max()) < 1
    counts = torch.bincount((draws * 200).long(), minlength=200)
    assert chi_square_is_plausible(counts, torch.full((200,), 2000.0))
    table = draws.view(400, 1000).double() - 0.5
    neighbours = [(table[1:] * table[:-1]).mean(), (table[:, 1:] * table[:, :-1]).mean()]
    assert all(abs(float(mean)) < 4 * (1 / 12) / 400_000**0.5 for mean in neighbours)
    some = np.array([5, 300, 77])
    assert torch.equal(uniform(11, prompts[some], steps[some]), draws[some])
    assert not torch.equal(uniform(12, prompts[some], steps[some]), draws[some])


def test_a_seed_comes_from_the_generator_or_from_torch():
    assert seed_of(torch.Generator().manual_seed(3)) == seed_of(torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    assert seed_of(generator) != seed_of(generator)
    torch.manual_seed(4)
    first = seed_of(None)
    torch.manual_seed(4)
    assert seed_of(None) == first


def test_settings_that_cannot_be_are_named_together():
    with pytest.raises(UserError) as error:
        Sampling(1, -0.5, top_k=-1, top_p=0, min_p=2, repetition_penalty=0, stop_strings=("",))
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop_strings"):
        assert f"`{name}`" in str(error.value)
