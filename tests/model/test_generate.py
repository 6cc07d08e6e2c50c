"""Generation: token for token as transformers' when greedy, the right distribution when not."""

from __future__ import annotations

import pytest
import torch

from groundup.errors import UserError
from groundup.model import generate as generation
from groundup.model.decoder import KVCache
from groundup.model.generate import Sampling, generate, probabilities, stream

GREEDY = Sampling(max_new_tokens=12, temperature=0)


@pytest.fixture
def prompts(tokens):
    """Ragged: 1 to 40 tokens."""
    return [tokens[0, :40].tolist(), tokens[1, :1].tolist(), tokens[2, :17].tolist(), tokens[1, 3:14].tolist()]


def greedy_of_transformers(model, prompt, **arguments):
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    out = model.generate(
        torch.tensor([prompt]), attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0, **arguments
    )
    return out[0, len(prompt) :].tolist()


def test_greedy_equals_transformers_token_for_token(twins, prompts):
    ours = generate(twins.ours, prompts, GREEDY)
    assert [c.ids for c in ours] == [greedy_of_transformers(twins.theirs, prompt) for prompt in prompts]
    assert not any(c.finished for c in ours)


def test_stopping_equals_transformers(twins, prompts):
    """Stop at a token that really comes up; rows stop at different times, so the batch is compacted on the way."""
    free = [c.ids for c in generate(twins.ours, prompts, GREEDY)]
    stop = (free[0][2], free[2][5])
    ours = generate(twins.ours, prompts, Sampling(12, 0, stop_ids=stop))
    assert [c.ids for c in ours] == [greedy_of_transformers(twins.theirs, p, eos_token_id=list(stop)) for p in prompts]
    for completion in ours:
        assert completion.finished == (completion.ids[-1] in stop)
        assert not set(completion.ids[:-1]) & set(stop)
    assert ours[0].finished


def test_a_batch_gives_what_each_prompt_gives_alone(twins, prompts):
    together = generate(twins.ours, prompts, GREEDY)
    assert together == [generate(twins.ours, [prompt], GREEDY)[0] for prompt in prompts]
    assert together == generate(twins.ours, prompts, GREEDY, max_batch=3)


def test_the_cache_changes_nothing(llama, prompts):
    """Greedy by reading everything again for each token."""
    for prompt, completion in zip(prompts, generate(llama, prompts, GREEDY), strict=True):
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(12):
                ids.append(int(llama.logits(llama(torch.tensor([ids]))[:, -1]).argmax()))
        assert ids[len(prompt) :] == completion.ids


def test_a_repeated_prompt_is_read_once(llama, prompts, monkeypatch):
    read = []
    forward = llama.model.forward
    monkeypatch.setattr(llama.model, "forward", lambda ids, **more: read.append(ids.shape) or forward(ids, **more))
    repeated = [prompts[i] for i in (2, 0, 2, 3, 0, 2)]
    out = generate(llama, repeated, GREEDY)
    assert read[0] == (3, 40) and read[1] == (6, 1)
    single = generate(llama, prompts, GREEDY)
    assert out == [single[i] for i in (2, 0, 2, 3, 0, 2)]
    sampled = generate(llama, repeated, Sampling(12, 1.0), torch.Generator().manual_seed(0))
    assert sampled[0] != sampled[2]  # read together, drawn apart


def test_reading_in_pieces_through_a_cache_is_reading_whole(twins, tokens):
    """Positions, documents and windows go on from piece to piece, also in the middle of a document."""
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor([11, 20, 9])).expand(3, -1)
    for given in (None, documents):
        with torch.no_grad():
            whole = twins.ours(tokens, document_ids=given)
            cache = KVCache(twins.config, 3, 40, torch.float32, torch.device("cpu"))
            pieces = [
                twins.ours(tokens[:, a:b], document_ids=None if given is None else given[:, a:b], cache=cache)
                for a, b in ((0, 7), (7, 8), (8, 25), (25, 40))
            ]
        assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-5


def test_done_rows_leave_the_batch(llama, tokens, monkeypatch):
    sizes = []
    original = generation.choose
    monkeypatch.setattr(
        generation, "choose", lambda logits, *rest: sizes.append(len(logits)) or original(logits, *rest)
    )
    prompts = [tokens[i % 3, i : i + 5].tolist() for i in range(20)]
    free = generate(llama, prompts, GREEDY)
    common = max({t for c in free for t in c.ids[:6]}, key=lambda t: sum(t in c.ids[:6] for c in free))
    sizes.clear()
    stopped = generate(llama, prompts, Sampling(12, 0, stop_ids=(common,)))
    assert sizes[-1] < sizes[0] == 20
    for a, b in zip(stopped, free, strict=True):
        cut = b.ids.index(common) + 1 if common in b.ids else 12
        assert a.ids == b.ids[:cut]


def test_streaming_gives_the_same_tokens(llama, prompts):
    sampling = Sampling(12, 0.9, top_k=20)
    for prompt in prompts:
        whole = generate(llama, [prompt], sampling, torch.Generator().manual_seed(3))[0]
        streamed = stream(llama, prompt, sampling, torch.Generator().manual_seed(3))
        first = next(streamed)
        assert torch.is_grad_enabled()  # a half-used stream leaves nothing switched off
        assert [first, *streamed] == whole.ids


def test_a_stream_ends_with_its_stop_id(llama, prompts):
    free = generate(llama, [prompts[0]], GREEDY)[0].ids
    stop = free[3]
    assert list(stream(llama, prompts[0], Sampling(12, 0, stop_ids=(stop,)))) == free[: free.index(stop) + 1]


def test_sampling_is_repeatable_and_depends_on_the_generator_only(llama, prompts):
    def draw(seed):
        return generate(llama, prompts, Sampling(12, 1.0), torch.Generator().manual_seed(seed))

    torch.manual_seed(0)
    first = draw(5)
    torch.manual_seed(1)
    assert draw(5) == first
    assert draw(6) != first
    state = torch.get_rng_state()
    draw(7)
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_follow_the_models_distribution(llama, tokens):
    """20,000 first tokens against softmax(logits / temperature): chi-square within 4 sigma of its mean."""
    prompt, rows = tokens[0, :5].tolist(), 20_000
    with torch.no_grad():
        expected = (llama.logits(llama(torch.tensor([prompt]))[0, -1]) / 0.8).softmax(-1)
    drawn = generation.choose(
        llama.logits(llama(torch.tensor([prompt]))[:, -1]).detach().expand(rows, -1),
        Sampling(1, 0.8),
        torch.Generator().manual_seed(0),
    )
    counts = torch.bincount(drawn, minlength=131)
    often = expected * rows >= 5
    chi_square = float(((counts - expected * rows)[often] ** 2 / (expected * rows)[often]).sum())
    freedom = int(often.sum()) - 1
    assert freedom > 50
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


def test_top_k_and_top_p_keep_what_transformers_keeps():
    logits_process = pytest.importorskip("transformers.generation.logits_process")
    logits = torch.randn(50, 131, generator=torch.Generator().manual_seed(0)) * 3
    for temperature, top_k, top_p in [(1.0, 5, 1.0), (0.7, 0, 0.9), (1.3, 20, 0.5), (1.0, 0, 0.01), (0.5, 1000, 1.0)]:
        expected = logits_process.TemperatureLogitsWarper(temperature)(None, logits)
        if top_k:
            expected = logits_process.TopKLogitsWarper(top_k)(None, expected)
        if top_p < 1:
            expected = logits_process.TopPLogitsWarper(top_p)(None, expected)
        ours = probabilities(logits, Sampling(1, temperature, top_k, top_p))
        assert torch.allclose(ours, expected.softmax(-1), atol=1e-6)
        drawn = generation.choose(logits, Sampling(1, temperature, top_k, top_p), torch.Generator().manual_seed(0))
        assert (ours.gather(1, drawn[:, None]) > 0).all()


def test_a_certain_token_is_always_drawn(monkeypatch):
    """Also where the random number rounds up to the whole: never a token of probability 0, never past the end."""
    logits = torch.full((1000, 131), float("-inf"))
    logits[:, 17] = 0
    assert (generation.choose(logits, Sampling(1), torch.Generator().manual_seed(0)) == 17).all()
    for edge in (torch.ones, torch.zeros):
        monkeypatch.setattr(torch, "rand", lambda shape, edge=edge, **_: edge(shape))
        assert (generation.choose(logits, Sampling(1), None) == 17).all()


def test_generation_in_bf16_leaves_the_model_alone(llama, prompts):
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    out = generate(llama, prompts, GREEDY, dtype=torch.bfloat16)
    assert [len(c.ids) for c in out] == [12] * 4
    assert all(torch.equal(before[name], value) for name, value in llama.state_dict().items())
    assert llama.head_weight.dtype == torch.float32
    llama.logits(llama(torch.tensor([prompts[0]]))).sum().backward()  # and training goes on


def test_training_after_generation_on_the_same_model(llama, prompts):
    generate(llama, prompts, GREEDY)
    llama.logits(llama(torch.tensor([prompts[0]]))).sum().backward()
    assert llama.head_weight.grad is not None


def test_no_prompts_is_no_completions(llama):
    assert generate(llama, [], GREEDY) == []


def test_errors_name_the_numbers(llama):
    with pytest.raises(UserError, match="no tokens"):
        generate(llama, [[1], []], GREEDY)
    with pytest.raises(UserError, match=r"120 tokens and 12 new ones pass the model's context of 128 tokens") as error:
        generate(llama, [[1] * 120], GREEDY)
    assert "at most 8 new tokens" in str(error.value)
