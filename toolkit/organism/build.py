"""Build the organism from nothing: `python -m toolkit.organism.build --out DIR [--miniature]`.

Stages: tokenizer, model, SAE, labels, vectors, manifest. Each is seeded. Knows no agent code; prompts come as values.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from toolkit.organism.grammar import PROMPTS, prompts_digest, read_grammars, texts
from toolkit.organism.label import Label, assign, truths
from toolkit.organism.lexicon import lexicon
from toolkit.organism.mixture import Source
from toolkit.organism.model import HOOK_LAYER, build_model
from toolkit.organism.sae import SaeSettings, collect, explained_variance, stream, train_sae
from toolkit.organism.tokens import Encoder, build_tokenizer
from toolkit.organism.train import Schedule, train
from toolkit.organism.vectors import mean_differences
from toolkit.vectors import save_vectors

# What strength 1.0 adds, in mean residual norms at the hook layer: chosen so that 0.3 is moderate and 1.0 strong (see
# CARD.md for what was looked at). SAE rows and mean differences are not the same directions, so they have their own.
SAE_UNIT_IN_NORMS = 1.1
VECTOR_UNIT_IN_NORMS = 1.25


@dataclass(frozen=True)
class Recipe:
    """Every number of a build. labelling: tokens to pick labels on, and as many others to score them on."""

    schedule: Schedule = field(default_factory=Schedule)
    sae: SaeSettings = field(default_factory=SaeSettings)
    pushes: float = 0.55  # share of otherwise plain documents in which a direction is added to the residuals
    labelling: int = 60_000
    tokenizer_documents: int = 1500
    d_model: int = 128
    layers: int = 4
    mlp: int = 384


MINIATURE = Recipe(
    Schedule(steps=40, copies=20, episode_tokens=600, small_tokens=400),
    SaeSettings(features=64, active=8, tokens=6000, samples=60_000),
    labelling=12_000, tokenizer_documents=300, d_model=64, layers=2, mlp=128,
)  # fmt: skip


def build(out: Path, recipe: Recipe | None = None, prompts: Path = PROMPTS) -> dict[str, object]:
    """All stages into `out`; returns the manifest."""
    recipe = recipe or Recipe()
    words = lexicon()
    own, crossed = read_grammars(prompts)
    source = Source(words, own, crossed, words.labels(), recipe.pushes)
    tokenizer = tokenizer_for(source, recipe.tokenizer_documents)
    model = build_model(
        len(tokenizer), recipe.schedule.seed, d_model=recipe.d_model, layers=recipe.layers, mlp=recipe.mlp
    )
    train(model, source, Encoder(tokenizer, words), recipe.schedule, out / "training")
    return finish(model, tokenizer, source, recipe, out)


def tokenizer_for(source: Source, documents: int) -> PreTrainedTokenizerFast:
    """The tokenizer of the corpus and of every prompt."""
    rng = random.Random("tokenizer")
    drawn = [source.document(rng) for _ in range(documents)] + [source.small(rng, 1.0) for _ in range(documents // 3)]
    corpus = ["".join(p.text for p in turn) for d in drawn for turn in d.turns]
    listed = [*texts([*source.own, *source.crossed]), *source.labels, *source.lexicon.systems]
    listed += [f" {word}" for word in source.lexicon.words]
    return build_tokenizer(corpus + 20 * listed)


def finish(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, source: Source, recipe: Recipe, out: Path
) -> dict[str, object]:
    """From a trained model to everything that ships: the model in bfloat16, its SAE, labels, vectors and manifest."""
    # What ships is what is measured: round first, then go on with the rounded weights.
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    model = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32).eval()
    encode = Encoder(tokenizer, source.lexicon)
    trained_on = collect(model, encode, stream(source, 100), recipe.sae.tokens, others=recipe.sae.others)
    norm = float(trained_on.values.norm(dim=1).mean())
    train_sae(trained_on.values, recipe.sae, out / "sae")
    unit = {"norms": SAE_UNIT_IN_NORMS, "mean_residual_norm": norm}
    (out / "sae" / "selfsteer.json").write_text(json.dumps({"unit": unit}) + "\n")
    del trained_on
    labels, facts = describe(model, tokenizer, source, recipe, norm, out)
    manifest: dict[str, object] = {
        "prompts": prompts_digest(source.own),
        "hook_layer": HOOK_LAYER,
        "mean_residual_norm": norm,
        "unit_in_norms": {"sae": SAE_UNIT_IN_NORMS, "vectors": VECTOR_UNIT_IN_NORMS},
        "recipe": json.loads(json.dumps(asdict(recipe), default=str)),
        **facts,
        "labels": {str(x.feature): asdict(x) for x in labels},
    }
    (out / "labels.json").write_text(json.dumps({str(x.feature): x.text for x in labels}, indent=0) + "\n")
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def describe(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, source: Source, recipe: Recipe, norm: float, out: Path
) -> tuple[list[Label], dict[str, object]]:
    """Labels and vectors from documents that the SAE was not trained on; scores from yet others."""
    from sae_lens import SAE

    encode, words = Encoder(tokenizer, source.lexicon), source.lexicon
    sae = SAE.load_from_disk(str(out / "sae"))
    picking = collect(model, encode, stream(source, 200), recipe.labelling, others=recipe.sae.others)
    scoring = collect(model, encode, stream(source, 400), recipe.labelling, others=recipe.sae.others)
    names, truth = truths(picking, words, tokenizer)
    _, held = truths(scoring, words, tokenizer)
    with torch.no_grad():
        activations, held_activations = sae.encode(picking.values), sae.encode(scoring.values)
        rebuilt = sae.decode(held_activations)
    labels = assign((activations, truth), (held_activations, held), names, words)
    vectors = mean_differences(picking.values, truth, names, words, norm=norm, multiple=VECTOR_UNIT_IN_NORMS)
    save_vectors(vectors, out / "vectors")
    good = [x for x in labels if x.scored >= 0.8]
    named = {x.text: x.scored for x in labels}
    facts: dict[str, object] = {
        "explained_variance": round(explained_variance(scoring.values, rebuilt), 4),
        "active_per_token": round(float((held_activations > 0).float().sum(1).mean()), 2),
        "features_never_on": int(((held_activations > 0).sum(0) == 0).sum()),
        "labels_at_0.8": len(good),
        "styles": {s.name: round(named.get(s.label, 0.0), 3) for s in words.styles.values()},
        "topics": {t.name: round(named.get(t.label, 0.0), 3) for t in words.topics.values()},
        "scored_on_tokens": len(scoring.values),
    }
    return labels, facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for model/, sae/, vectors/, labels.json")
    parser.add_argument(
        "--miniature", action="store_true", help="every stage, as small as can be: a check of the recipe"
    )
    parser.add_argument("--minutes", type=float, default=45.0, help="limit on training the model, by the clock")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="folder with framings/ and themes/")
    options = parser.parse_args()
    recipe = MINIATURE if options.miniature else Recipe()
    recipe = replace(recipe, schedule=replace(recipe.schedule, minutes=options.minutes))
    start = time.time()
    manifest = build(options.out, recipe, options.prompts)
    shown = {k: v for k, v in manifest.items() if k not in ("labels", "recipe")}
    print(json.dumps({**shown, "wall_s": round(time.time() - start)}, indent=1))


if __name__ == "__main__":
    main()
