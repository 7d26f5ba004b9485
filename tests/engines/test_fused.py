"""What kernels take over computes the same as before, and is given back where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaMLP

from tests.engines.test_local import close, engine_of, random_context, read_all
from toolkit.engines import fused, loading
from toolkit.engines.local import LocalEngine

NORM, MLP = "RMSNorm", "MLP"


def engines(folder: Path, monkeypatch, **options) -> tuple[LocalEngine, LocalEngine]:
    """One as it is, and one whose parts are all transformers' own."""
    engine = engine_of(folder, **{"dtype": "float32", **options})
    with monkeypatch.context() as nothing:
        nothing.setattr("toolkit.engines.fused.KINDS", {})
        return engine, engine_of(folder, **{"dtype": "float32", **options})


def taken(engine: LocalEngine) -> set[str]:
    return {type(part).__name__ for part in engine.model.modules() if "forward" in vars(part)} - {
        "Linear",
        "SiLUActivation",
    }


def alike(engine: LocalEngine, plain: LocalEngine) -> None:
    there = read_all(plain, random_context(3))
    torch.testing.assert_close(read_all(engine, random_context(3)), there, rtol=1e-5, atol=1e-5 * float(there.std()))


@pytest.mark.parametrize("least", [0, 1 << 40], ids=["packed", "plain"])
def test_kernels_compute_what_the_model_computes(tiny_llama: Path, monkeypatch, least: int) -> None:
    monkeypatch.setattr("toolkit.engines.packed.LEAST", least)
    engine, plain = engines(tiny_llama, monkeypatch)
    assert taken(engine) == {"LlamaRMSNorm", "LlamaMLP", "LlamaAttention"}
    assert taken(plain) == set()
    alike(engine, plain)
    assert engine.info.batch_invariant
    # each copy of a weight is counted once, whether laid out alone or side by side with others
    decoder = sum(w.numel() for n, w in engine.model.named_parameters() if n.endswith("proj.weight"))
    head = 0 if least else engine.model.lm_head.weight.numel()
    uncopied = sum(w.numel() for n, w in engine.model.named_parameters() if least and ("o_proj" in n or "down" in n))
    own = sum(p.nbytes for p in engine.model.parameters())
    assert engine.prepare(1, 9).weights - own == 4 * (decoder + head - uncopied)


@pytest.mark.parametrize(
    ("config", "name"), [(MistralConfig, "Mistral"), (Qwen2Config, "Qwen2"), (Qwen3Config, "Qwen3")], ids=str
)
def test_relatives_of_llama(tiny_llama: Path, tmp_path: Path, monkeypatch, config, name: str) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    AutoModelForCausalLM.from_config(
        config(**shape, vocab_size=261, num_key_value_heads=2, head_dim=8, initializer_range=0.3)
    ).save_pretrained(tmp_path)
    for file in tiny_llama.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    engine, plain = engines(tmp_path, monkeypatch)
    assert taken(engine) == {name + NORM, name + MLP}
    alike(engine, plain)


def test_a_class_that_computes_something_else_is_given_back(tiny_llama: Path, monkeypatch) -> None:
    before = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: before(self, x).clamp(-0.5, 0.5))
    engine, plain = engines(tiny_llama, monkeypatch)
    assert taken(engine) == {"LlamaRMSNorm", "LlamaAttention"}
    alike(engine, plain)


class Adapted(torch.nn.Linear):
    """A linear layer that computes a little more than its weight says, as one with an adapter does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1e-5 * x[..., :1]


@pytest.mark.parametrize(("of", "left"), [("mlp.up_proj", "LlamaMLP"), ("self_attn.k_proj", "LlamaAttention")], ids=str)
def test_layers_that_are_more_than_their_weight_are_left_alone(tiny_llama: Path, monkeypatch, of: str, left) -> None:
    load = loading.load

    def adapted(*given):
        model, tokenizer = load(*given)
        model.model.layers[2].get_submodule(of).__class__ = Adapted
        return model, tokenizer

    monkeypatch.setattr(loading, "load", adapted)
    engine, _ = engines(tiny_llama, monkeypatch)
    layers = [
        {type(part).__name__ for part in layer.modules() if "forward" in vars(part)} - {"Linear", "SiLUActivation"}
        for layer in engine.model.model.layers
    ]
    everything = {"LlamaRMSNorm", "LlamaMLP", "LlamaAttention"}
    assert layers == [everything, everything, everything - {left}, everything]


@pytest.mark.parametrize("options", [{"dtype": "float64"}, {"dtype": "bfloat16"}], ids=str)
def test_other_dtypes_are_left_to_the_model(tiny_llama: Path, options) -> None:
    assert taken(engine_of(tiny_llama, **options)) == set()


def test_a_model_too_large_for_copies_has_none(tiny_llama: Path, monkeypatch) -> None:
    monkeypatch.setattr("toolkit.engines.local.PACKED", 1)
    engine, plain = engines(tiny_llama, monkeypatch)
    assert taken(engine) == set()
    assert engine.prepare(1, 9).weights == sum(p.nbytes for p in engine.model.parameters())
    close(read_all(engine, random_context(3)), read_all(plain, random_context(3)))


def test_a_class_from_elsewhere_that_bears_the_name_is_left_alone(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    own = model.model.layers[0].mlp
    assert isinstance(own, LlamaMLP) and fused._is(own, ("LlamaMLP",))
    own.__class__ = type("LlamaMLP", (LlamaMLP,), {"__module__": "elsewhere.modeling"})
    assert not fused._is(own, ("LlamaMLP",))
