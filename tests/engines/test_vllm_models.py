"""The vLLM engine on models that are built otherwise than the organism: tiny ones with random weights, for real."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engines import contract
from tests.engines.contract import steer, style
from tests.engines.real_vllm import SETTINGS, real
from toolkit.context import Context
from toolkit.engines.base import Read, Score, check_steered, run
from toolkit.engines.vllm import in_process
from toolkit.errors import SteeringError
from toolkit.organism import MODEL

SMALL = {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
SMALL |= {"vocab_size": 1792, "max_position_embeddings": 512}
GROUPED = {"num_key_value_heads": 2, "head_dim": 32}


def made(folder: Path, kind: str, **settings: object) -> str:
    """A model of a kind of transformers, large enough in its weights that blocks matter."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)
    return str(folder)


@real
@pytest.mark.parametrize(
    ("kind", "settings"), [("gemma2", GROUPED), ("gpt_neox", {})], ids=["head is the embedding", "other names"]
)
def test_it_is_exact(tmp_path: Path, kind: str, settings: dict[str, object]) -> None:
    from transformers import AutoModelForCausalLM

    folder = made(tmp_path / kind, kind, **settings)
    engine = in_process(folder, **{**SETTINGS, "name": kind, "max_model_len": 256})
    engine.attach(style())
    reference = contract.Reference(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), (style(),))
    context = Context().append(range(300, 330)).append(range(400, 410), steer(3, 1.0))
    expected, logits = reference.run(context)
    got = run(engine, Read(context, tuple(range(len(context))), (0, 3)))
    check_steered(context, got)
    error = (got.values - expected[:, [0, 3]]).norm(dim=-1) / expected[:, [0, 3]].norm(dim=-1).mean()
    assert float(error.max()) < 2e-5
    scores = run(engine, Score(context, tuple(((t,),) for t in range(engine.info.vocabulary))))
    torch.testing.assert_close(
        torch.tensor(scores.logprobs).double(), torch.log_softmax(logits[-1].double(), -1), rtol=0, atol=1e-4
    )


@real
def test_a_residual_stream_that_is_not_what_it_is_taken_for_is_found_out(tmp_path: Path) -> None:
    """Cohere's blocks hand on their sum beside their input: the two added up, as elsewhere, would be no residual."""
    engine = in_process(made(tmp_path, "cohere", num_key_value_heads=2), **{**SETTINGS, "max_model_len": 256})
    with pytest.raises(SteeringError, match="nats from vLLM's own"):
        engine.attach(style())
