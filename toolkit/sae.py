"""An SAE opened through sae-lens as a feature dictionary: decoder rows to steer with, its encoder to read with.

Knows no labels beyond the ones it is given, and no engine.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.dictionary import FeatureDictionary
from toolkit.errors import BadInput, Unsupported
from toolkit.labels import Labels

UNIT_FILE = "selfsteer.json"
ARCHITECTURES = ("standard", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk", "gated")
PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")


@dataclass(frozen=True)
class Unit:
    """What strength 1.0 means: `activation` units of the feature, or `norms` mean residual norms along its direction.

    Exactly one of `activation` and `norms` is set; `norms` needs `mean_residual_norm`, measured at the layer.
    """

    activation: float | None = None
    norms: float | None = None
    mean_residual_norm: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.activation, self.norms) if v is not None]
        scale = 1.0 if self.norms is None else self.mean_residual_norm or 0.0
        # what float32 takes for zero or for infinite is no unit either
        if len(given) != 1 or not all(1e-30 < v < 1e30 for v in (*given, scale, given[0] * scale)):
            raise BadInput(
                f"activation {self.activation}, norms {self.norms} is not a unit; give a positive `activation`, or"
                " `norms` with a `mean_residual_norm`, from 1e-30 to 1e30"
            )

    def __str__(self) -> str:
        if self.activation is not None:
            return f"strength 1.0 is {self.activation:g} units of feature activation"
        return f"strength 1.0 is {self.norms:g} times the mean residual norm ({self.mean_residual_norm:.4g})"


class SaeDirections:
    """Decoder rows. The SAE's weights are referenced, never copied; only the rows that are asked for are converted."""

    def __init__(self, sae: Any, layer: int, unit: Unit) -> None:
        self.sae, self._unit = sae, unit
        self.layers: tuple[int, ...] = (layer,)
        self.d_model = int(sae.cfg.d_in)
        self.unit = str(unit)
        some = b"".join(_sample(weight) for _, weight in sorted(sae.state_dict().items()))
        settings = {k: v for k, v in sae.cfg.to_dict().items() if k not in ("device", "metadata", "dtype")}
        text = f"{json.dumps(settings, sort_keys=True, default=str)}{layer}{unit!r}{sae.W_dec.shape}"
        self.digest = hashlib.sha256(text.encode() + some).hexdigest()[:16]

    def vectors(self, ids: Sequence[int]) -> Tensor:
        rows = self.sae.W_dec.detach()[list(ids)].float().cpu()
        if getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False):
            # such an SAE counts activations in units of the decoder row's length
            rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-8)
        return rows[:, None]

    def units(self, ids: Sequence[int]) -> Tensor:
        if self._unit.activation is not None:
            return torch.full((len(ids), 1), self._unit.activation)
        step = (self._unit.norms or 0.0) * (self._unit.mean_residual_norm or 0.0)
        return step / self.vectors(ids).norm(dim=-1).clamp_min(1e-8)

    def activation(self, layer: int, residuals: Tensor, ids: Sequence[int]) -> Tensor:
        """A TopK SAE decides by comparing features, so the whole encoder runs, in blocks of tokens."""
        here, count = self.sae.W_enc.device, len(residuals)
        if count > BLOCK:  # no block is left with few tokens, for which matrix kernels round differently
            residuals = torch.nn.functional.pad(residuals, (0, 0, 0, -count % BLOCK))
        parts = [self.sae.encode(block.to(here))[:, list(ids)] for block in residuals.split(BLOCK)]
        return torch.cat(parts)[:count].to(residuals)

    def input_scale(self, residuals: Tensor) -> Tensor | None:
        """What undoes the SAE's run-time normalisation of each token (sae-lens: constant_norm_rescale, layer_norm)."""
        how = self.sae.cfg.normalize_activations
        if how == "constant_norm_rescale":
            return residuals.norm(dim=-1, keepdim=True) / self.d_model**0.5
        if how == "layer_norm":
            return residuals.std(dim=-1, keepdim=True)
        return None


def _sample(weight: Tensor) -> bytes:
    """Numbers of a tensor, evenly apart, some of every row and column: SAEs that differ in one feature are told apart.

    The step is odd, or it would meet the same columns in every row of a width that is a power of two.
    """
    step = weight.numel() // max(65_536, 2 * max(weight.shape, default=1)) | 1
    return weight.detach().reshape(-1)[::step].float().cpu().numpy().tobytes()


BLOCK = 64


@dataclass(frozen=True)
class SaeReader:
    """The SAE's own encoder, with its own normalisation of the input."""

    sae: Any
    layer: int
    digest: str

    def encode(self, residuals: Tensor) -> Tensor:
        with torch.no_grad():
            encoded: Tensor = self.sae.encode(residuals.to(self.sae.W_enc.device))
        return encoded.float()

    def move(self, device: torch.device, most: int) -> None:
        if sum(weight.nbytes for weight in self.sae.state_dict().values()) <= most:
            self.sae.to(device)  # the weights that steering is taken from as well: they are held once


def open_sae(
    source: str | Path,
    labels: Labels | None = None,
    unit: Unit | float | None = None,
    *,
    norm_factor: float | None = None,
    device: str = "cpu",
    dtype: str | None = None,
) -> FeatureDictionary:
    """A dictionary from an SAE on disk (a folder with cfg.json) or from a release, as "release/id".

    unit: feature-activation units of strength 1.0, or a Unit; default: what selfsteer.json beside cfg.json says.
    norm_factor: for SAEs trained with expected_average_only_in whose factor is not folded into the weights.
    Raises BadInput if it cannot be opened or no unit is known, Unsupported for hook points and architectures that
    steering by adding a row to a block's output does not cover.
    """
    sae = _load(source, device, dtype)
    if sae.cfg.architecture() not in ARCHITECTURES:
        raise Unsupported(f"SAE architecture {sae.cfg.architecture()} is not supported; use {', '.join(ARCHITECTURES)}")
    if sae.cfg.normalize_activations == "expected_average_only_in":
        if norm_factor is None:
            raise BadInput(
                f"SAE {source} expects inputs scaled by a factor that it does not carry (expected_average_only_in);"
                " give norm_factor, or fold it with sae-lens (fold_activation_norm_scaling_factor) and save again"
            )
        sae.fold_activation_norm_scaling_factor(norm_factor)
    elif sae.cfg.normalize_activations == "covariance_whitening":
        raise Unsupported(f"SAE {source} whitens its input; fold the whitening with sae-lens and save it again")
    layer = decoder_block(str(sae.cfg.metadata.hf_hook_name or sae.cfg.metadata.hook_name or ""))
    meant = _unit(source, unit)
    if meant.norms is not None and sae.cfg.normalize_activations != "none":
        # what is added is scaled by the token's own norm, so it is no multiple of the mean one
        raise BadInput(f"SAE {source} normalises its input; give the unit in feature activations, not in norms")
    directions = SaeDirections(sae, layer, meant)
    size = int(sae.cfg.d_sae)
    if labels is not None and len(labels) != size:
        raise BadInput(f"{len(labels)} labels are given for the {size} features of SAE {source}; give one each")
    return FeatureDictionary(
        name=str(source),
        labels=labels if labels is not None else Labels.of({}, size),
        directions=directions,
        reader=SaeReader(sae, layer, directions.digest),
        notes=_notes(sae.cfg.metadata),
    )


def decoder_block(hook: str) -> int:
    """The decoder block whose output a hook point names: what enters block l is what block l - 1 put out."""
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(post|pre)", hook)
    if found:
        layer = int(found[1]) - (found[2] == "pre")
        if layer < 0:
            raise Unsupported(f"hook point {hook} is the embedding, before any block; use an SAE of a block's output")
        return layer
    found = re.fullmatch(r"(?:model\.|transformer\.|gpt_neox\.)?(?:model\.)?(?:layers|h)\.(\d+)(?:\.output)?", hook)
    if found:
        return int(found[1])
    raise Unsupported(
        f"hook point {hook or '(none)'} is not the residual stream after a block; use an SAE of"
        " blocks.N.hook_resid_post or hook_resid_pre"
    )


def _load(source: str | Path, device: str, dtype: str | None) -> Any:
    from sae_lens import SAE

    folder = Path(source)
    with warnings.catch_warnings():
        # sae-lens warns that the model wants special loading; that is what `notes` says, once and in place
        warnings.simplefilter("ignore")
        try:
            if folder.is_dir():
                return SAE.load_from_disk(folder, device=device, dtype=dtype)
            release, _, sae_id = str(source).partition("/")
            if not sae_id:
                raise BadInput(f"there is no SAE folder {source}; give a folder with cfg.json, or a release/id")
            sae = SAE.from_pretrained(release, sae_id, device=device)
            return sae if dtype is None else sae.to(dtype=getattr(torch, dtype))
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInput(
                f"SAE {source} could not be opened: {why}. Give a folder that sae-lens wrote (cfg.json and"
                " sae_weights.safetensors), or release/id"
            ) from error


def _unit(source: str | Path, unit: Unit | float | None) -> Unit:
    if isinstance(unit, Unit):
        return unit
    if unit is not None:
        return Unit(activation=float(unit))
    path = Path(source) / UNIT_FILE
    if not path.is_file():
        raise BadInput(
            f"what strength 1.0 means is not known for SAE {source}; give a unit in feature-activation units"
            " (--unit 15, say; `selfsteer calibrate` or a dose curve tells a good one)"
        )
    try:
        return Unit(**json.loads(path.read_text())["unit"])
    except (ValueError, KeyError, TypeError) as error:
        example = '{"unit": {"activation": 15}}'
        raise BadInput(f"{path} holds no unit ({error}); it should hold, say, {example}") from error


def _notes(metadata: Any) -> tuple[str, ...]:
    """What a user should know before trusting numbers from this SAE."""
    how = metadata.model_from_pretrained_kwargs or {}
    processed = [k for k in PROCESSING if how.get(k)]
    if not processed:
        return ()
    return (
        f"trained on weights that TransformerLens processed ({', '.join(processed)}); on the plain weights its"
        " activations and directions may differ, so check what INSPECT shows on known text first",
    )
