"""llama.cpp as a peer: a model folder as GGUF, and greedy answers of it through the xllamacpp wheel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def write_gguf(folder: Path, path: Path, quantisation: str) -> None:
    """A Llama folder of fp32 weights as GGUF; matrices in `quantisation` (F32, Q4_1, Q8_0), with a tokenizer of ids."""
    import gguf
    from safetensors.numpy import load_file

    from groundup.model.files import load_config

    config = load_config(folder)
    kind = gguf.GGMLQuantizationType[quantisation]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<{token}>" for token in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["<0> <1>"])  # one has to be there; prompts are given as ids
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in load_file(folder / "model.safetensors").items():
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part in heads:  # llama.cpp turns neighbours against each other, Hugging Face's layout the halves
            rows = weight.reshape(heads[part], 2, -1, weight.shape[1])
            weight = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(weight.shape))
        target = OUTSIDE.get(name) or _name_in_layer(name)
        if weight.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(target, weight)
        else:
            writer.add_tensor(target, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name_in_layer(name: str) -> str:
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


class LlamaCpp:
    """Greedy answers of one prompt at a time."""

    def __init__(self, folder: str, quantisation: str, threads: int) -> None:
        import xllamacpp

        path = Path(folder) / f"{quantisation}.gguf"
        write_gguf(Path(folder), path, quantisation)
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = 512
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.n_parallel = 1
        parameters.verbosity = -1
        self.server = xllamacpp.Server(parameters)

    def answer(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        return [self._one(prompt, new_tokens) for prompt in prompts]

    def _one(self, prompt: list[int], new_tokens: int) -> list[int]:
        request: dict[str, Any] = {
            "prompt": prompt, "max_tokens": new_tokens, "temperature": 0, "cache_prompt": False, "ignore_eos": True,
        }  # fmt: skip
        text = self.server.handle_completions(request)["choices"][0]["text"]
        return [int(token) for token in re.findall(r"<(\d+)>", text)]
