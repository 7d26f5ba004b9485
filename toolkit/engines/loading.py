"""A Hugging Face causal language model, opened from a hub name or a folder, and the facts an engine needs of it.

Knows no steering and no requests.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolkit.engines.chat import ChatTokenizer
from toolkit.errors import BadInput, Unsupported, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}

EXACT_ROWS = 16  # residuals that are scored together, zeros among them if they are fewer


def pick_device(name: str = "auto") -> torch.device:
    """cuda, else mps, else cpu for "auto"; any torch device name otherwise."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load(
    name: str, device: torch.device, dtype: torch.dtype, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, ChatTokenizer]:
    """Open model and tokenizer. Raises BadInput, with the way out, for what cannot be opened."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    if (Path(name).is_absolute() or name.startswith(".")) and not Path(name).is_dir():
        raise BadInput(
            f"there is no model folder {name}; give a folder with config.json or a hub name such as org/model"
        )
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise BadInput(f"folder {name} holds no model: it has no config.json; give a folder with one, or a hub name")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(
            f"model {name} could not be opened: {first_line(error)} Give a folder with config.json and safetensors, or"
            " a hub name that this machine can reach"
        ) from error
    model.to(device)  # type: ignore[arg-type]  # transformers' stub of .to lacks the device
    model.eval().requires_grad_(False)
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    return model, ChatTokenizer(tokenizer, eos)


def text_config(model: PreTrainedModel) -> Any:
    """The language part of the configuration (the whole of it for text-only models)."""
    return model.config.get_text_config()


def window(model: PreTrainedModel) -> int:
    """Tokens of a context and its response together, at most. Raises Unsupported if the configuration is silent.

    Where positions turn otherwise in longer contexts (longrope, as in Phi 3), at most as many as turn alike: beyond
    them the keys of all earlier tokens would be other ones, which no kept KV holds, and neighbours in a pass tell.
    """
    config = text_config(model)
    ropes = getattr(config, "rope_parameters", None) or {}
    nested = [one for one in ropes.values() if isinstance(one, dict)] or [ropes]
    alike = [one["original_max_position_embeddings"] for one in nested if one.get("rope_type") == "longrope"]
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(size := getattr(config, name, None), int):
            return min([size, *alike])
    raise Unsupported(
        f"the configuration of {type(model).__name__} does not say how many tokens it takes; add"
        " max_position_embeddings to its config.json"
    )


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The model's decoder blocks in order. Raises Unsupported if they cannot be told."""
    n = text_config(model).num_hidden_layers
    decoder = model.get_decoder()  # not the model: a tower for images may have as many blocks
    for module in (model if decoder is None else decoder).modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            return module
    raise Unsupported(f"no list of {n} decoder blocks found in {type(model).__name__}; no engine here can steer it")


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The norm between the last block and the unembedding. Raises Unsupported if it has no name that is known."""
    decoder = model.get_decoder()
    for name in ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f"):
        module = getattr(decoder, name, None)
        if isinstance(module, nn.Module):
            return module
    raise Unsupported(f"no final norm found in {type(model).__name__}; no engine here can score with it")


def logits_to_draw_from(model: PreTrainedModel, normed: Tensor) -> Tensor:
    """Logits [T, V] float32 from normed residuals [T, D], unembedded in the model's own precision."""
    return _finished(model, model.get_output_embeddings()(normed).float())


def exact_logits(model: PreTrainedModel, residuals: Tensor) -> Tensor:
    """Logits [T, V] from the last block's residuals [T, D], in at least float32 from the final norm on.

    A bfloat16 head quantises log-odds to about 1/8 nat, which scores of options cannot bear. The vocabulary is
    taken in blocks, so that a low-precision head is never held a second time as a whole.
    """
    wide = torch.float64 if residuals.dtype == torch.float64 else torch.float32
    normed = copy.deepcopy(final_norm(model)).to(wide)(residuals.to(wide))
    # in blocks of rows, all of one size: kernels for few rows round differently, and a score must not tell how many
    # tokens were computed together
    padded = torch.nn.functional.pad(normed, (0, 0, 0, -len(normed) % EXACT_ROWS)).split(EXACT_ROWS)
    head = model.get_output_embeddings()
    blocks = [torch.cat([rows @ weight.to(wide).T for rows in padded]) for weight in head.weight.split(16_384)]
    logits = torch.cat(blocks, -1)[: len(normed)]
    bias = getattr(head, "bias", None)
    return _finished(model, logits if bias is None else logits + bias.to(wide))


def _finished(model: PreTrainedModel, logits: Tensor) -> Tensor:
    scale, cap = logit_scale_and_cap(model)
    logits = logits * scale if scale != 1.0 else logits
    return cap * torch.tanh(logits / cap) if cap else logits


def logit_scale_and_cap(model: PreTrainedModel) -> tuple[float, float | None]:
    """What logits are multiplied by and, after that, the soft cap that tanh squashes them to: where the configuration
    has them (Cohere, Granite; Gemma 2), else 1 and None."""
    config = text_config(model)
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return scale, getattr(config, "final_logit_softcapping", None)


def digest(model: PreTrainedModel) -> str:
    """Hash of configuration and weights, wherever they lie: names, shapes, up to 4,096 evenly spaced values a tensor.

    Sampled because hashing every byte of a large model takes longer than opening it.
    """
    known = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    sha = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.state_dict().items()):
        flat = parameter.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy()
        sha.update(f"{name}{tuple(parameter.shape)}".encode())
        sha.update(some.tobytes())
    return sha.hexdigest()[:16]
