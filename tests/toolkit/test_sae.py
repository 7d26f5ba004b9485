"""SAEs of every architecture and normalisation against sae-lens itself, in float64."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import torch

from toolkit.context import Context
from toolkit.engines.base import Read, run
from toolkit.engines.local import LocalEngine
from toolkit.errors import BadInput, Unsupported
from toolkit.labels import Labels
from toolkit.opening import open_dictionary
from toolkit.sae import SaeDirections, Unit, _sample, decoder_block, open_sae
from toolkit.steering import Intervention, Steering
from toolkit.views import viewed

D, F, LAYER = 32, 48, 1
NORMS = ("none", "layer_norm", "constant_norm_rescale")


def make_sae(architecture: str, normalize: str = "none", hook: str = f"blocks.{LAYER}.hook_resid_post", **settings):
    from sae_lens.registry import get_sae_class

    sae_class, config_class = get_sae_class(architecture)
    extra = {"k": 6} if architecture == "topk" else {}
    config = config_class(d_in=D, d_sae=F, dtype="float64", normalize_activations=normalize, **extra, **settings)
    config.metadata.hook_name = hook
    torch.manual_seed(3)
    sae = sae_class(config)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            # numbers that float32 holds exactly, so that nothing is lost where rows are handed over in float32
            scale = 0.3 if "threshold" in name else 1.0
            parameter.copy_((torch.rand_like(parameter) - (0 if "threshold" in name else 0.5)).float().double() * scale)
    return sae


def saved(sae, folder: Path, unit: dict | None = None) -> Path:
    sae.save_model(folder)
    if unit is not None:
        (folder / "selfsteer.json").write_text(json.dumps({"unit": unit}))
    return folder


CASES = [
    ("standard", {}),
    ("topk", {}),
    ("topk", {"rescale_acts_by_decoder_norm": False}),
    ("jumprelu", {}),
    ("gated", {}),
]


@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize(("architecture", "settings"), CASES)
def test_add_is_encode_edit_decode_with_error(
    tmp_path: Path, tiny_llama: Path, architecture, settings, normalize
) -> None:
    sae = make_sae(architecture, normalize, **settings)
    dictionary = open_sae(saved(sae, tmp_path), unit=2.5, dtype="float64")
    engine = LocalEngine(str(tiny_llama), dtype="float64", device="cpu")
    engine.attach(dictionary)
    context = Context().append([0, 9, 80, 41, 7, 66, 12])
    every = tuple(range(len(context)))
    before = run(engine, Read(context, every, (LAYER,))).values[:, 0]
    steering = Steering.of(
        Intervention(dictionary.key, 5, 0.8), Intervention(dictionary.key, 11, -0.3, source="external")
    )
    after = run(engine, Read(context.under(steering), every, (LAYER,))).values[:, 0]
    with torch.no_grad():
        active = sae.encode(before)
        error = before - sae.decode(active)
        edited = sae.encode(before)
        edited[:, 5] += 0.8 * 2.5
        edited[:, 11] -= 0.3 * 2.5
        expected = sae.decode(edited) + error
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalize", NORMS)
def test_clamp_sets_the_latent_that_sae_lens_decodes(tmp_path: Path, tiny_llama: Path, normalize: str) -> None:
    sae = make_sae("standard", normalize)
    dictionary = open_sae(saved(sae, tmp_path), unit=2.0, dtype="float64")
    engine = LocalEngine(str(tiny_llama), dtype="float64", device="cpu")
    engine.attach(dictionary)
    context = Context().append([0, 9, 80, 41, 7, 66, 12])
    every = tuple(range(len(context)))
    before = run(engine, Read(context, every, (LAYER,))).values[:, 0]
    steering = Steering.of(Intervention(dictionary.key, 5, 0.7, "clamp"))
    after = run(engine, Read(context.under(steering), every, (LAYER,))).values[:, 0]
    with torch.no_grad():
        error = before - sae.decode(sae.encode(before))
        edited = sae.encode(before)
        edited[:, 5] = 0.7 * 2.0
        expected = sae.decode(edited) + error
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalize", NORMS)
def test_the_reader_is_sae_lens_encode(tmp_path: Path, normalize: str) -> None:
    sae = make_sae("topk", normalize)
    dictionary = open_sae(saved(sae, tmp_path), unit=1.0, dtype="float64")
    residuals = torch.randn(9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = sae.encode(residuals)
    torch.testing.assert_close(dictionary.reader.encode(residuals), expected.float())
    torch.testing.assert_close(dictionary.directions.activation(LAYER, residuals, [3, 7]), expected[:, [3, 7]])


def test_batchtopk_saved_by_its_trainer_opens_as_jumprelu(tmp_path: Path) -> None:
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    config = BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=5)
    config.metadata.hook_name = f"blocks.{LAYER}.hook_resid_post"
    sae = BatchTopKTrainingSAE(config)
    sae.save_inference_model(tmp_path)
    dictionary = open_sae(tmp_path, unit=1.0)
    assert len(dictionary) == F and dictionary.directions.layers == (LAYER,)


def test_a_folded_input_factor_scales_delta_and_activations(tmp_path: Path) -> None:
    folder = saved(make_sae("standard", "expected_average_only_in"), tmp_path)
    with pytest.raises(BadInput, match="norm_factor"):
        open_sae(folder, unit=1.0)
    plain = open_sae(saved(make_sae("standard"), tmp_path / "plain"), unit=1.0, dtype="float64")
    scaled = open_sae(folder, unit=1.0, norm_factor=4.0, dtype="float64")
    torch.testing.assert_close(scaled.directions.vectors([3]) * 4.0, plain.directions.vectors([3]))
    residuals = torch.randn(4, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bias = scaled.reader.sae.b_dec.detach()
    torch.testing.assert_close(
        scaled.reader.encode(residuals + bias), plain.reader.encode(4.0 * residuals + plain.reader.sae.b_dec.detach())
    )


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.3.hook_resid_post", 3),
        ("blocks.3.hook_resid_pre", 2),
        ("model.layers.7", 7),
        ("model.layers.17.output", 17),  # as Gemma Scope 2 names it
        ("transformer.h.2", 2),
        ("blocks.0.hook_resid_post", 0),
    ],
)
def test_hook_points_map_to_decoder_blocks(hook: str, layer: int) -> None:
    assert decoder_block(hook) == layer


@pytest.mark.parametrize(
    "hook", ["blocks.0.hook_resid_pre", "blocks.3.hook_mlp_out", "blocks.3.attn.hook_z", "", "hook_embed"]
)
def test_other_hook_points_are_refused(hook: str) -> None:
    with pytest.raises(Unsupported, match="block"):
        decoder_block(hook)


def test_resid_pre_steers_the_block_before(tmp_path: Path) -> None:
    assert open_sae(
        saved(make_sae("standard", hook="blocks.2.hook_resid_pre"), tmp_path), unit=1.0
    ).directions.layers == (1,)


def test_units_in_norms_give_steps_of_equal_length(tmp_path: Path) -> None:
    folder = saved(make_sae("standard"), tmp_path, {"norms": 1.5, "mean_residual_norm": 8.0})
    directions = open_dictionary(folder).directions
    steps = directions.units([0, 7, 9])[..., None] * directions.vectors([0, 7, 9])
    torch.testing.assert_close(steps.norm(dim=-1), torch.full((3, 1), 12.0))
    assert "1.5 times the mean residual norm" in directions.unit


def test_an_unknown_unit_is_refused_and_says_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--unit"):
        open_dictionary(saved(make_sae("standard"), tmp_path))
    with pytest.raises(BadInput, match="not a unit"):
        Unit()
    with pytest.raises(BadInput, match="holds no unit"):
        open_dictionary(saved(make_sae("standard"), tmp_path / "b", {"activations": 3}))


def test_the_embedder_is_a_choice(tmp_path: Path) -> None:
    folder = saved(make_sae("standard"), tmp_path)
    assert open_dictionary(folder, unit=1.0, embedder="./mine").labels.embedder == "./mine"
    (tmp_path / "labels.json").write_text('{"0": "warm tea"}')
    assert open_dictionary(folder, unit=1.0, embedder="./mine").labels.embedder == "./mine"
    with pytest.raises(BadInput, match="could not be opened"):
        open_dictionary(folder, unit=1.0, embedder=str(tmp_path / "none")).search("tea", 1)


def test_an_sae_of_processed_weights_says_so(tmp_path: Path) -> None:
    sae = make_sae("standard")
    sae.cfg.metadata.model_from_pretrained_kwargs = {"fold_ln": True, "center_writing_weights": True}
    assert (
        "TransformerLens processed (fold_ln, center_writing_weights)" in open_sae(saved(sae, tmp_path), unit=1).notes[0]
    )
    assert open_sae(saved(make_sae("standard"), tmp_path / "b"), unit=1).notes == ()


def test_what_cannot_be_opened_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="release/id"):
        open_sae(tmp_path / "nowhere", unit=1.0)
    with pytest.raises(BadInput, match="release/id"):
        open_sae("no-such-release/no-such-id", unit=1.0)
    with pytest.raises(BadInput, match="pickle"):
        open_dictionary("vectors.pt")


def of_the_weights_size() -> list[torch.Tensor]:
    gc.collect()
    found = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]  # isinstance would ask dead proxies
    return [o for o in found if o.shape in ((F, D), (D, F))]


def test_weights_are_held_once(tmp_path: Path) -> None:
    folder = saved(make_sae("standard"), tmp_path)
    others = of_the_weights_size()  # kept to the end, so that none of their addresses is given out again
    dictionary = open_sae(folder, unit=1.0)
    assert len((dictionary.directions.vectors(range(F)), dictionary.reader.encode(torch.zeros(3, D)))) == 2
    apart = {o.untyped_storage().data_ptr() for o in others}
    held = {o.untyped_storage().data_ptr() for o in of_the_weights_size()} - apart
    assert dictionary.directions.sae is dictionary.reader.sae
    weights = dictionary.reader.sae.W_enc, dictionary.reader.sae.W_dec
    assert held == {weight.untyped_storage().data_ptr() for weight in weights} and len(held) == 2


def test_the_key_tells_weights_and_units_apart(tmp_path: Path) -> None:
    folder = saved(make_sae("standard"), tmp_path)
    assert open_sae(folder, unit=1.0).key == open_sae(folder, unit=1.0).key != open_sae(folder, unit=2.0).key
    assert open_sae(folder, unit=1.0).key != open_sae(folder, unit=1.0001).key  # which look alike where they are shown
    assert open_sae(saved(make_sae("jumprelu"), tmp_path / "b"), unit=1.0).key != open_sae(folder, unit=1.0).key


@pytest.mark.parametrize("weight", ["W_enc", "b_enc", "threshold", "b_dec", "W_dec"])
def test_the_key_tells_weights_apart_that_only_reading_or_a_clamp_needs(tmp_path: Path, weight: str) -> None:
    sae = make_sae("jumprelu")
    before = open_sae(saved(sae, tmp_path / "a"), unit=1.0).key
    with torch.no_grad():
        sae.get_parameter(weight)[-1] += 1
    assert open_sae(saved(sae, tmp_path / "b"), unit=1.0).key != before


def test_weights_move_together_if_there_is_room_and_are_read_where_they_are(tmp_path: Path) -> None:
    """ "meta" stands for a GPU: a device whose tensors meet no others."""
    dictionary = viewed(open_sae(saved(make_sae("standard"), tmp_path), unit=1.0), "random")
    size = 8 * (2 * F * D + F + D)
    for most, where in ((size - 1, "cpu"), (size, "meta"), (0, "meta")):
        dictionary.reader.move(torch.device("meta"), most)
        assert dictionary.reader.encode(torch.zeros(3, D)).device.type == where
        assert dictionary.directions.sae.W_dec.device.type == where


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_a_token_has_the_same_activation_in_any_block(architecture: str) -> None:
    """Its last bits too: matrix kernels for few rows round differently, so no block may be left with few."""
    sae = make_sae(architecture).to(dtype=torch.float32)
    directions = SaeDirections(sae, LAYER, Unit(activation=1.0))
    residuals = torch.randn(200, D, generator=torch.Generator().manual_seed(0))
    whole = directions.activation(LAYER, residuals, range(F))
    for start, stop in ((0, 65), (0, 130), (40, 65), (100, 200), (130, 195)):
        assert torch.equal(directions.activation(LAYER, residuals[start:stop], range(F)), whole[start:stop])


@pytest.mark.parametrize("normalize", NORMS)
def test_a_unit_in_norms_is_what_it_says_or_refused(tmp_path: Path, tiny_llama: Path, normalize: str) -> None:
    folder, unit = saved(make_sae("standard", normalize), tmp_path), Unit(norms=0.5, mean_residual_norm=3.0)
    if normalize != "none":
        with pytest.raises(BadInput, match="normalises its input"):
            open_sae(folder, unit=unit)
        return
    dictionary = open_sae(folder, unit=unit, dtype="float64")
    engine = LocalEngine(str(tiny_llama), dtype="float64", device="cpu")
    engine.attach(dictionary)
    context = Context().append([0, 9, 80, 41])
    steered = context.under(Steering.of(Intervention(dictionary.key, 5, 2.0)))
    before, after = (run(engine, Read(one, (0, 1, 2, 3), (LAYER,))).values[:, 0] for one in (context, steered))
    torch.testing.assert_close((after - before).norm(dim=-1), torch.full((4,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "unit",
    [
        {"activation": float("inf")},
        {"activation": float("nan")},
        {"activation": 1e-50},
        {"norms": 1e-20, "mean_residual_norm": 1e-20},
        {"norms": 1.0, "mean_residual_norm": float("inf")},
        {"norms": float("inf"), "mean_residual_norm": 1.0},
        {"norms": 1.0, "mean_residual_norm": float("nan")},
    ],
)
def test_a_unit_is_a_finite_number(unit: dict) -> None:
    with pytest.raises(BadInput, match="is not a unit"):
        Unit(**unit)


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = saved(make_sae("standard"), tmp_path)
    for size in (F - 1, F + 1):
        with pytest.raises(BadInput, match=f"{size} labels are given for the {F} features"):
            open_sae(folder, Labels.of({}, size), unit=1.0)


def test_labels_beside_two_saes_are_taken_for_neither(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"0": "warm tea"}')
    one = saved(make_sae("standard"), tmp_path / "layer-1", {"activation": 1.0})
    assert open_dictionary(one).label(0) == "warm tea"
    two = saved(make_sae("standard"), tmp_path / "layer-2", {"activation": 1.0})
    with pytest.raises(BadInput, match="layer-1 or of layer-2"):
        open_dictionary(one)
    (two / "labels.json").write_text('{"0": "cold tea"}')
    assert open_dictionary(two).label(0) == "cold tea"
    assert open_dictionary(one, labels=tmp_path / "labels.json").label(0) == "warm tea"


@pytest.mark.parametrize("shape", [(131_072, 16), (16, 131_072), (70_000, 24), (131_072,), ()])
def test_a_key_sees_every_feature_of_a_large_sae(shape: tuple[int, ...]) -> None:
    weight = torch.zeros(shape)
    plain = _sample(weight)
    for axis, size in enumerate(shape):
        for place in (0, 1, 2, size // 2 + 1, size - 2, size - 1):
            other = weight.clone()
            other.select(axis, place).fill_(1.0)
            assert _sample(other) != plain
