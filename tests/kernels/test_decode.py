"""kernels/decode.c: every way of computing agrees with torch, and a row's result depends on nothing but the row."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest
import torch

from groundup.kernels import build, decode
from groundup.kernels.decode import decode_library, pack, quantise_rows, uses_tiles
from groundup.model.config import model_config
from groundup.model.decoder import Decoder
from groundup.model.init import init_weights

KINDS = ("float32", "bfloat16", "int8")
# widths that fill no block: heads of 6 and of 40, 5 heads to a kv head, a window that ends within a block
ODD = [
    {"hidden_size": 30, "intermediate_size": 37, "num_attention_heads": 5, "num_key_value_heads": 1, "vocab_size": 33},
    {"hidden_size": 80, "intermediate_size": 70, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 40},
    {"hidden_size": 144, "intermediate_size": 200, "num_attention_heads": 9, "num_key_value_heads": 3,
     "model_type": "mistral", "sliding_window": 21},
]  # fmt: skip


@pytest.fixture(autouse=True)
def needs_the_library():
    if decode_library() is None:
        pytest.skip(f"no native decoding here: {decode.why_no_decode()}")


def model_of(shape):
    model = Decoder(model_config({"vocab_size": 97, "num_hidden_layers": 2, "initializer_range": 0.1, **shape}))
    init_weights(model, 0)
    return model.eval()


def native(model, kind):
    from groundup.model.native_decode import NativeDecoder

    return NativeDecoder(model, kind)


def prompts_of(model, lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(model.config.vocab_size, (n,), generator=generator).tolist() for n in lengths]


def expected_of(model, prompts):
    with torch.no_grad():
        return torch.stack([model.logits(model(torch.tensor([prompt]))[0, -1]) for prompt in prompts])


def read(engine, prompts):
    return engine.read(engine.new_cache(len(prompts), max(map(len, prompts))), 0, prompts).clone()


@pytest.mark.parametrize("shape", ODD)
def test_shapes_that_fill_no_block(shape):
    model = model_of(shape)
    prompts = prompts_of(model, [1, 2, 15, 16, 17, 31, 32, 33, 50])
    expected = expected_of(model, prompts)
    scale = float(expected.square().mean().sqrt())
    for kind, allowed in zip(KINDS, (3e-6, 0.015, 0.03), strict=True):
        error = float((read(native(model, kind), prompts) - expected).square().mean().sqrt()) / scale
        assert error < allowed, kind


def test_more_tokens_than_are_worked_on_together():
    """600 tokens of two prompts in one call: in parts of 256, some of them across the border of a prompt."""
    model = model_of(ODD[0])
    prompts = prompts_of(model, [310, 290])
    assert torch.allclose(read(native(model, "float32"), prompts), expected_of(model, prompts), atol=1e-5)


@pytest.mark.parametrize("uses_tiles", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_alone_and_in_a_batch_bit_for_bit(kind, uses_tiles):
    model = model_of(ODD[2])
    engine = native(model, kind)
    engine.shape.uses_tiles &= uses_tiles
    prompts = prompts_of(model, [1, 40, 3, 17, 22, 9, 30])
    together = read(engine, prompts)
    for number, prompt in enumerate(prompts):
        assert torch.equal(read(engine, [prompt])[0], together[number])
        cache = engine.new_cache(1, 40)
        for token in prompt:
            alone = engine.step(cache, torch.tensor([token]).numpy())
        assert torch.equal(alone[0], together[number])


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_nothing(kind):
    model = model_of(ODD[2])
    engine, prompts = native(model, kind), prompts_of(model, [1, 40, 3, 17])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(read(engine, prompts))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_tiles_and_vectors_agree():
    if not uses_tiles():
        pytest.skip("no AMX tiles on this machine")
    model = model_of(ODD[2])
    prompts = prompts_of(model, [1, 40, 3])
    for kind, apart in (("int8", 0), ("bfloat16", 0.02)):  # sums of int8 products are exact
        engine = native(model, kind)
        with_tiles = read(engine, prompts)
        engine.shape.uses_tiles = 0
        assert torch.allclose(read(engine, prompts), with_tiles, rtol=0, atol=apart), kind


def test_the_same_without_any_special_instruction(tmp_path):
    """Built for any processor of this family: what machines without AVX512 would compute."""
    compiler = next((name for name in build.COMPILERS if shutil.which(name)), None)
    if compiler is None:
        pytest.skip("no C compiler")
    made = tmp_path / "plain.so"
    command = [compiler, "-O2", "-std=gnu11", "-shared", "-fPIC", "-w", str(build.SOURCES / "decode.c"), "-lm"]
    subprocess.run([*command, "-o", str(made)], check=True, timeout=120)
    plain = ctypes.CDLL(str(made))
    assert plain.decode_instructions() == 0 and plain.decode_allow_tiles() == 0
    plain.decode_workspace.argtypes = [ctypes.c_void_p, *[ctypes.c_int] * 4]
    plain.decode_workspace.restype = ctypes.c_size_t
    model = model_of(ODD[2])
    prompts = prompts_of(model, [1, 40, 3])
    for kind, apart in zip(KINDS, (2e-5, 0.02, 1e-3), strict=True):
        engine = native(model, kind)
        usual = read(engine, prompts)
        engine.library, engine.shape.uses_tiles = plain, 0
        assert torch.allclose(read(engine, prompts), usual, atol=apart), kind


def test_tiles_leave_torchs_own_products_alone():
    """oneDNN shapes the same tiles for itself; both take turns in one process."""
    engine = native(model_of(ODD[2]), "bfloat16")
    prompts = prompts_of(engine, [5, 9, 20])
    a, b = (torch.randn(n, 256, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (37, 300))
    product, logits = a @ b.T, read(engine, prompts)
    for _ in range(3):
        assert torch.equal(a @ b.T, product)
        assert torch.equal(read(engine, prompts), logits)


def test_rows_are_rounded_symmetrically():
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    rounded, scale = quantise_rows(weight)
    assert rounded.dtype == torch.int8 and int(rounded.abs().max()) == 127
    assert ((rounded * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()
    assert (rounded[2] == 0).all() and scale[2] == 0


def test_panels_hold_16_outputs_side_by_side():
    weight = torch.arange(18 * 3, dtype=torch.float32).view(18, 3)
    matrix, kept = pack(weight, "float32")
    assert (matrix.outputs, matrix.inputs) == (18, 3)
    panels = kept[0].view(torch.float32)
    assert panels.shape == (2, 64, 16)
    assert torch.equal(panels[0, :3], weight[:16].T) and torch.equal(panels[1, :3, :2], weight[16:].T)
    assert not panels[0, 3:].any() and not panels[1, :, 2:].any()


def test_ids_outside_the_vocabulary_are_refused():
    engine = native(model_of(ODD[0]), "float32")
    for wrong in (-1, 33):
        with pytest.raises(IndexError):
            engine.read(engine.new_cache(1, 8), 0, [[1, wrong]])
