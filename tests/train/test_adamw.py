"""The optimisers do what torch's do, and import no compiler for it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import torch

from groundup.train.adamw import AdamW


def test_it_is_torchs_adamw_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in [(3, 5), (7,)]]
    grads = [[torch.randn(s.shape, generator=generator) for s in start] for _ in range(4)]
    settings = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "fused": True}

    def trained(kind: type[torch.optim.Optimizer]) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        parameters = [torch.nn.Parameter(s.clone()) for s in start]
        groups = [{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:], "weight_decay": 0.0}]
        optimizer = kind(groups, **settings)
        for step in grads:
            for parameter, grad in zip(parameters, step, strict=True):
                parameter.grad = grad.clone()
            optimizer.step()
            optimizer.zero_grad()
        return parameters, optimizer

    theirs, their_optimizer = trained(torch.optim.AdamW)
    ours, our_optimizer = trained(AdamW)
    for one, other in zip(theirs, ours, strict=True):
        assert torch.equal(one, other)
        assert other.grad is None
    our_optimizer.load_state_dict(their_optimizer.state_dict())
    assert our_optimizer.state_dict()["param_groups"] == their_optimizer.state_dict()["param_groups"]


def test_a_training_step_imports_no_compiler_and_no_other_library() -> None:
    """torch._dynamo alone costs more than the rest of the start together."""
    program = """
        import sys
        import torch
        from groundup.model.config import model_config
        from groundup.model.decoder import Decoder
        from groundup.model.init import init_weights
        from groundup.train import engine, pretrain
        from groundup.train.optim import build_optimizers, set_learning_rate
        from groundup.train.world import World

        shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = Decoder(model_config(shape, vocab_size=32))
        init_weights(model, 0)
        for optimizer in ("adamw", "muon"):
            optimizers = build_optimizers(model, optimizer=optimizer, weight_decay=0.1)
            set_learning_rate(optimizers, 1e-3)
            ids = torch.zeros(2, 8, dtype=torch.long)
            batch = {"input_ids": ids, "targets": ids, "document_ids": ids}
            World().forward_backward(model, pretrain.NextToken(None, 2), [batch], 16.0, "bfloat16")
            assert World().grad_norm(model) > 0
            World().update(model, optimizers)
        unwanted = ("torch._dynamo", "torch._inductor", "sympy", "scipy", "pandas", "transformers", "pyarrow",
                    "torch.distributed.checkpoint", "torch.distributed.fsdp")
        print([name for name in unwanted if name in sys.modules])
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"
