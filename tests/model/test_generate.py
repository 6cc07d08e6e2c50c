"""Generation: token for token as transformers' when greedy, the right distribution when not; both engines."""

from __future__ import annotations

from collections import Counter

import pytest
import tokenizers
import torch

from groundup.errors import UserError
from groundup.model import decoding
from groundup.model import generate as generation
from groundup.model.decoder import KVCache
from groundup.model.generate import PromptCache, Sampling, generate, prepare, stream, stream_text

GREEDY = Sampling(max_new_tokens=12, temperature=0)


@pytest.fixture(params=["native", "torch"])
def engine(request, monkeypatch):
    """Every test that asks for it runs on the C engine and on the torch one."""
    if request.param == "torch":
        monkeypatch.setattr(decoding, "is_native", lambda _: False)
    elif not decoding.is_native("float32"):
        from groundup.kernels.decode import why_no_decode

        pytest.skip(f"no native engine here: {why_no_decode() or 'not the instructions for it'}")
    return request.param


@pytest.fixture
def prompts(tokens):
    """Ragged: 1 to 40 tokens."""
    return [tokens[0, :40].tolist(), tokens[1, :1].tolist(), tokens[2, :17].tolist(), tokens[1, 3:14].tolist()]


@pytest.fixture
def calls(monkeypatch):
    """What engines are asked to do: `reads` the lengths of the pieces of each call, `steps` the rows of each."""

    class Watched:
        reads: list[list[int]]
        steps: list[int]

    def watching(model, dtype=None):
        real = decoding.prepare(model, dtype)
        Watched.reads, Watched.steps = [], []
        read, step = real.read, real.step
        real.read = lambda cache, slot, pieces: (
            Watched.reads.append([len(p) for p in pieces]) or read(cache, slot, pieces)
        )
        real.step = lambda cache, ids: Watched.steps.append(len(ids)) or step(cache, ids)
        return real

    monkeypatch.setattr(generation, "prepare", watching)
    return Watched


def greedy_of_transformers(model, prompt, **arguments):
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    out = model.generate(
        torch.tensor([prompt]), attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0, **arguments
    )
    return out[0, len(prompt) :].tolist()


# ---------------------------------------------------------------- as transformers


@pytest.mark.usefixtures("engine")
def test_greedy_equals_transformers_token_for_token(twins, prompts):
    ours = generate(twins.ours, prompts, GREEDY)
    assert [c.ids for c in ours] == [greedy_of_transformers(twins.theirs, prompt) for prompt in prompts]
    assert not any(c.finished for c in ours)


@pytest.mark.usefixtures("engine")
def test_stopping_equals_transformers(twins, prompts):
    """Stop at a token that really comes up; rows stop at different times and others move into their slots."""
    free = [c.ids for c in generate(twins.ours, prompts, GREEDY)]
    stop = (free[0][2], free[2][5])
    ours = generate(twins.ours, prompts, Sampling(12, 0, stop_ids=stop))
    assert [c.ids for c in ours] == [greedy_of_transformers(twins.theirs, p, eos_token_id=list(stop)) for p in prompts]
    for completion in ours:
        assert completion.finished == (completion.ids[-1] in stop)
        assert not set(completion.ids[:-1]) & set(stop)
    assert ours[0].finished


@pytest.mark.usefixtures("engine")
def test_a_repetition_penalty_equals_transformers(twins, prompts):
    ours = generate(twins.ours, prompts, Sampling(12, 0, repetition_penalty=1.4))
    expected = [greedy_of_transformers(twins.theirs, prompt, repetition_penalty=1.4) for prompt in prompts]
    assert [c.ids for c in ours] == expected
    assert expected != [c.ids for c in generate(twins.ours, prompts, GREEDY)]


@pytest.mark.usefixtures("engine")
def test_the_cache_changes_nothing(llama, prompts):
    """Greedy by reading everything again for each token."""
    for prompt, completion in zip(prompts, generate(llama, prompts, GREEDY), strict=True):
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(12):
                ids.append(int(llama.logits(llama(torch.tensor([ids]))[:, -1]).argmax()))
        assert ids[len(prompt) :] == completion.ids


def test_reading_in_pieces_through_the_models_own_cache_is_reading_whole(twins, tokens):
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


# ---------------------------------------------------------------- batches


def many_prompts(tokens, number):
    return [tokens[i % 3, i % 7 : i % 7 + 3 + 5 * (i % 4)].tolist() for i in range(number)]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(12, 1.0, top_p=0.9), Sampling(12, 1.0, repetition_penalty=1.2)])
@pytest.mark.usefixtures("engine")
def test_the_size_of_a_batch_changes_no_token(llama, tokens, sampling):
    """Also where slots are refilled while others go on: draws belong to prompts, not to batches."""
    prompts = many_prompts(tokens, 21)
    free = generate(llama, prompts, sampling, torch.Generator().manual_seed(2))
    often = Counter(token for c in free for token in c.ids[:8]).most_common(3)
    stopping = Sampling(**{**vars(sampling), "stop_ids": tuple(token for token, _ in often)})
    whole = generate(llama, prompts, stopping, torch.Generator().manual_seed(2))
    assert len({len(c.ids) for c in whole}) > 3
    for size in (1, 4, 9):
        assert generate(llama, prompts, stopping, torch.Generator().manual_seed(2), max_batch=size) == whole


@pytest.mark.usefixtures("engine")
def test_rows_that_are_done_leave_and_waiting_prompts_take_their_slots(llama, tokens, calls):
    prompts = many_prompts(tokens, 24)
    free = generate(llama, prompts, GREEDY)
    stop_ids = tuple(token for token, _ in Counter(token for c in free for token in c.ids[:6]).most_common(4))
    stopped = generate(llama, prompts, Sampling(12, 0, stop_ids=stop_ids), max_batch=8)
    for a, b in zip(stopped, free, strict=True):
        cut = next((at + 1 for at, token in enumerate(b.ids) if token in stop_ids), 12)
        assert a.ids == b.ids[:cut]
    # every token but a prompt's last is one row of one step: nobody stays after its end
    assert sum(calls.steps) == sum(len(c.ids) - 1 for c in stopped)
    assert max(calls.steps) == 8 and len(calls.reads) > 3
    order = sorted(range(24), key=lambda i: (len(prompts[i]), prompts[i]), reverse=True)
    one_after_the_other = [max(len(stopped[i].ids) - 1 for i in order[at : at + 8]) for at in (0, 8, 16)]
    assert len(calls.steps) < sum(one_after_the_other) - 3


@pytest.mark.usefixtures("engine")
def test_a_repeated_prompt_is_read_once(llama, prompts, calls):
    repeated = [prompts[i] for i in (2, 0, 2, 3, 0, 2)]
    out = generate(llama, repeated, GREEDY)
    assert calls.reads == [[40, 17, 11]] and calls.steps == [6] * 11
    single = generate(llama, prompts, GREEDY)
    assert out == [single[i] for i in (2, 0, 2, 3, 0, 2)]
    sampled = generate(llama, repeated, Sampling(12, 1.0), torch.Generator().manual_seed(0))
    assert sampled[0] != sampled[2]  # read together, drawn apart


@pytest.mark.usefixtures("engine")
def test_a_common_beginning_is_read_once(llama, tokens, calls):
    head = tokens[0, :20].tolist()
    prompts = [head + tail for tail in ([5], [6, 7, 8], tokens[1, :9].tolist(), [5], [6])]
    out = generate(llama, prompts, GREEDY)
    assert calls.reads == [[20], [9, 3, 1, 1]]
    assert out == [generate(llama, [prompt], GREEDY)[0] for prompt in prompts]
    short = [[*head[:4], 1], [*head[:4], 2]]  # not worth a call of its own
    generate(llama, short, GREEDY)
    assert calls.reads == [[5, 5]]
    generate(llama, [head, [*head, 3]], GREEDY)  # one is the beginning of the other
    assert sorted(calls.reads) == [[2, 1], [19]]


@pytest.mark.usefixtures("engine")
def test_long_prompts_are_read_in_several_calls(llama, prompts, calls, monkeypatch):
    monkeypatch.setattr(generation, "READ_TOKENS", 60)
    out = generate(llama, prompts, GREEDY)
    assert calls.reads == [[40], [17, 11, 1]]
    assert out == [generate(llama, [prompt], GREEDY)[0] for prompt in prompts]


@pytest.mark.usefixtures("engine")
def test_a_batch_is_no_larger_than_its_cache_may_be(llama, tokens, calls, monkeypatch):
    prompts = many_prompts(tokens, 12)
    whole = generate(llama, prompts, GREEDY)
    longest = max(map(len, prompts)) + 12
    monkeypatch.setattr(generation, "CACHE_BYTES", 3 * decoding.cache_bytes(llama.config, "float32", longest))
    assert generate(llama, prompts, GREEDY) == whole
    assert max(calls.steps) == 3


# ---------------------------------------------------------------- settings


@pytest.mark.usefixtures("engine")
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
    generator = torch.Generator().manual_seed(5)
    again = [generate(llama, prompts, Sampling(12, 1.0), generator) for _ in range(2)]
    assert again[0] == first and again[1] != first  # a generator goes on


def test_first_tokens_follow_the_models_distribution(llama, tokens):
    prompt, rows = tokens[0, :5].tolist(), 10_000
    with torch.no_grad():
        expected = (llama.logits(llama(torch.tensor([prompt]))[0, -1]) / 0.8).softmax(-1) * rows
    out = generate(llama, [prompt] * rows, Sampling(1, 0.8), torch.Generator().manual_seed(0), max_batch=rows)
    counts = torch.bincount(torch.tensor([c.ids[0] for c in out]), minlength=131)
    often = expected >= 5
    chi_square = float(((counts - expected)[often] ** 2 / expected[often]).sum())
    freedom = int(often.sum()) - 1
    assert freedom > 50
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.usefixtures("engine")
def test_log_probabilities_are_those_of_a_training_forward_pass(llama, prompts):
    from groundup.model.logprobs import token_logprobs

    out = generate(llama, prompts, Sampling(12, 0.7, top_k=20), torch.Generator().manual_seed(0), return_logprobs=True)
    for prompt, completion in zip(prompts, out, strict=True):
        ids = torch.tensor([prompt + completion.ids])
        with torch.no_grad():
            expected = token_logprobs(llama(ids[:, :-1]), llama, ids[:, 1:], 0.7)[0, len(prompt) - 1 :]
        assert completion.logprobs is not None and len(completion.logprobs) == len(completion.ids)
        assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=2e-5)
    assert generate(llama, prompts, GREEDY)[0].logprobs is None


@pytest.fixture(scope="module")
def letters():
    """Ids 0 to 130 as text: mostly one letter each, some two, some half a character."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:100]
    pairs = [(a, b) for a in "abcdef" for b in "uvwxyz"][:31]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({c: i for i, c in enumerate([*alphabet, *(a + b for a, b in pairs)])}, pairs)
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


@pytest.mark.usefixtures("engine")
def test_a_stop_string_ends_a_completion_across_tokens(llama, prompts, letters):
    free = generate(llama, prompts, GREEDY, decode=letters.decode)
    assert [c.text for c in free] == [letters.decode(c.ids) for c in free]
    text = free[0].text
    stop = text[3:6]
    assert all(stop not in letters.decode([token]) for token in free[0].ids)
    sampling = Sampling(12, 0, stop_strings=(stop, "never comes"))
    out = generate(llama, prompts, sampling, decode=letters.decode)
    for completion, whole in zip(out, free, strict=True):
        assert completion.finished == (stop in whole.text)
        assert completion.text == whole.text.partition(stop)[0]
        assert completion.ids == whole.ids[: len(completion.ids)]
        if completion.finished:  # the last token is the one that completes the stop string
            assert stop in letters.decode(completion.ids) and stop not in letters.decode(completion.ids[:-1])
        else:
            assert len(completion.ids) == 12
    assert out[0].finished and any(not c.finished for c in out)


def test_a_stop_id_is_no_part_of_the_text(llama, prompts, letters):
    free = generate(llama, prompts, GREEDY)
    stop = free[0].ids[3]
    assert stop not in free[0].ids[:3]
    out = generate(llama, prompts, Sampling(12, 0, stop_ids=(stop,)), decode=letters.decode)
    assert out[0].ids == free[0].ids[:4] and out[0].text == letters.decode(free[0].ids[:3])


# ---------------------------------------------------------------- one prompt


@pytest.mark.usefixtures("engine")
def test_streaming_gives_the_same_tokens(llama, prompts):
    for sampling in (Sampling(12, 0.9, top_k=20), Sampling(12, 0.9, repetition_penalty=1.3), GREEDY):
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


def test_streamed_text_is_the_completions_text(llama, prompts, letters):
    free = generate(llama, [prompts[0]], GREEDY, decode=letters.decode)[0].text
    for sampling in (GREEDY, Sampling(12, 0, stop_strings=(free[3:6],))):
        pieces = list(stream_text(llama, prompts[0], sampling, letters.decode))
        whole = generate(llama, [prompts[0]], sampling, decode=letters.decode)[0]
        assert "".join(pieces) == whole.text
    assert len(pieces) > 1


@pytest.mark.usefixtures("engine")
def test_the_next_turn_of_a_conversation_reads_only_what_is_new(llama, tokens):
    packed = prepare(llama)
    cache = PromptCache(packed)
    first = tokens[0, :20].tolist()
    said = list(stream(packed, first, GREEDY, cache=cache))
    assert said == generate(llama, [first], GREEDY)[0].ids
    second = [*first, *said, 7, 8, 9]
    again = list(stream(packed, second, GREEDY, cache=cache))
    assert again == generate(llama, [second], GREEDY)[0].ids
    assert cache.tokens_read == 20 + 4  # the last token said was never read
    other = [*first[:10], 3]  # a new conversation with the same opening
    assert list(stream(packed, other, GREEDY, cache=cache)) == generate(llama, [other], GREEDY)[0].ids
    assert cache.tokens_read == 20 + 4 + 1
    assert list(stream(packed, other, GREEDY, cache=cache)) == generate(llama, [other], GREEDY)[0].ids
    assert cache.tokens_read == 20 + 4 + 1 + 1  # at least one token has to be read, for its logits


def test_a_reply_that_is_broken_off_leaves_a_cache_that_holds_what_was_read(llama, tokens):
    packed = prepare(llama)
    cache = PromptCache(packed)
    prompt = tokens[0, :20].tolist()
    half = stream(packed, prompt, GREEDY, cache=cache)
    said = [next(half), next(half), next(half)]
    half.close()
    going_on = [*prompt, *said, 5]
    assert list(stream(packed, going_on, GREEDY, cache=cache)) == generate(llama, [going_on], GREEDY)[0].ids
    assert cache.tokens_read == 20 + 2


# ---------------------------------------------------------------- the model is left alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, "int8"])
@pytest.mark.usefixtures("engine")
def test_generation_in_fewer_bits_leaves_the_model_alone(llama, prompts, dtype):
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    out = generate(llama, prompts, GREEDY, dtype=dtype)
    assert [len(c.ids) for c in out] == [12] * 4
    assert all(torch.equal(before[name], value) for name, value in llama.state_dict().items())
    assert llama.head_weight.dtype == torch.float32
    llama.logits(llama(torch.tensor([prompts[0]]))).sum().backward()  # and training goes on
    assert llama.head_weight.grad is not None


@pytest.mark.usefixtures("engine")
def test_training_after_generation_on_the_same_model(llama, prompts):
    generate(llama, prompts, GREEDY)
    llama.logits(llama(torch.tensor([prompts[0]]))).sum().backward()
    assert llama.head_weight.grad is not None


@pytest.mark.usefixtures("engine")
def test_generation_sees_weights_as_they_are_now(llama, prompts):
    before = generate(llama, prompts, GREEDY)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    assert generate(llama, prompts, GREEDY) != before


# ---------------------------------------------------------------- edges


def test_no_prompts_and_no_tokens(llama, prompts):
    assert generate(llama, [], GREEDY) == []
    out = generate(llama, prompts, Sampling(0, 0), return_logprobs=True)
    assert [(c.ids, c.finished, c.logprobs) for c in out] == [([], False, [])] * 4


@pytest.mark.usefixtures("engine")
def test_a_prompt_may_fill_the_context_to_its_last_token(llama, tokens):
    prompt = (tokens[0].tolist() * 4)[:116]
    assert len(generate(llama, [prompt, [3]], GREEDY)[0].ids) == 12


def test_errors_name_the_numbers(llama):
    with pytest.raises(UserError, match="no tokens"):
        generate(llama, [[1], []], GREEDY)
    with pytest.raises(UserError, match=r"120 tokens and 12 new ones pass the model's context of 128 tokens") as error:
        generate(llama, [[1] * 120], GREEDY)
    assert "at most 8 new tokens" in str(error.value)
    with pytest.raises(UserError, match="token id 131, and the model knows 0 to 130"):
        generate(llama, [[1, 131]], GREEDY)
    with pytest.raises(UserError, match="stop strings need a tokenizer"):
        generate(llama, [[1]], Sampling(12, 0, stop_strings=("x",)))
    with pytest.raises(UserError, match="do not generate in float16") as error:
        generate(llama, [[1]], GREEDY, dtype="float16")
    assert "int8" in str(error.value)
