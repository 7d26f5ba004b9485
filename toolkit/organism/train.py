"""Training the organism: language modelling, with a weak auxiliary head that reads style and topic at the hook layer.

Knows no SAE. The auxiliary head makes style and topic readable as directions; it is dropped afterwards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM

from toolkit.organism.hook import Heads, Pusher
from toolkit.organism.mixture import Batch, Source, batches, copy_batches, small_batches
from toolkit.organism.model import HOOK_LAYER
from toolkit.organism.tokens import Encoder


@dataclass(frozen=True)
class Schedule:
    """How long and how to train.

    steps: the length, so that a seed says what comes out. minutes: a limit by the clock; the learning rate falls by
    whichever of the two is further on, so that a slow machine ends with a finished, if shorter, training.
    """

    steps: int = 5000
    minutes: float = float("inf")
    copies: int = 120  # the first steps see bare look-ups alone
    episode_tokens: int = 2000
    small_tokens: int = 1200
    drills: tuple[float, float] = (0.6, 0.3)  # their share of the small documents, at first and at last
    early: float = 0.15  # the share of the steps that still see bare look-ups and many drills
    learning_rate: float = 3e-3
    decay_from: float = 0.5
    auxiliary: float = 0.4
    long: float = 0.04
    seed: int = 1


def forward(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """[R, T, D] final hidden states of the rows; the shared prefix is computed once and its gradient flows."""
    cache = None
    if len(batch.prefix):
        cache = DynamicCache(config=model.config)
        model.model(batch.prefix[None], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(batch.ids))
    return model.model(batch.ids, past_key_values=cache, use_cache=cache is not None).last_hidden_state


def token_losses(model: LlamaForCausalLM, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, weight, prediction, target) of every weighted token, each [n]; logits are computed for these alone."""
    hidden = forward(model, batch)[:, :-1]
    weights, targets = batch.weights[:, 1:], batch.ids[:, 1:]
    keep = weights > 0
    logits = model.lm_head(hidden[keep]).float()
    return F.cross_entropy(logits, targets[keep], reduction="none"), weights[keep], logits.argmax(-1), targets[keep]


def train(
    model: LlamaForCausalLM,
    source: Source,
    encode: Encoder,
    schedule: Schedule,
    out: Path,
    *,
    heads: Heads | None = None,
) -> Heads:
    """Train in place, writing a log line every 50 steps and a checkpoint every 250 to `out`. Returns the heads."""
    torch.manual_seed(schedule.seed)
    heads = heads or Heads(model.config.hidden_size, len(source.lexicon.styles), len(source.lexicon.topics))
    optimizers = _optimizers(model, heads, schedule.learning_rate)
    pusher = Pusher(len(source.lexicon.styles) + 1, model.config.hidden_size, schedule.seed)
    hook = model.model.layers[HOOK_LAYER].register_forward_hook(pusher)
    out.mkdir(parents=True, exist_ok=True)
    (out / "schedule.json").write_text(json.dumps(asdict(schedule), default=str))
    held = {
        "held": list(islice(batches(replace(source, pushes=0.0), encode, 10_000 + schedule.seed, 4000), 6)),
        "copy": list(islice(copy_batches(encode, source.lexicon.words, 10_000 + schedule.seed), 1)),
        "drill": list(islice(small_batches(source, encode, 10_000 + schedule.seed, 4000, 1.0), 1)),
    }
    start, tokens = time.time(), 0
    recent: list[float] = []
    reading: list[float] = []
    model.train()
    for step, group in enumerate(_steps(source, encode, schedule)):
        done = max(step / schedule.steps, (time.time() - start) / 60 / schedule.minutes)
        if done >= 1:
            break
        rate = _rate(schedule, step, done)
        for optimizer in optimizers:
            for settings in optimizer.param_groups:
                settings["lr"] = rate
        weight = sum(b.weights[:, 1:].sum() for b in group)
        for batch in group:
            pusher.prepare(batch)
            with torch.autocast("cpu", torch.bfloat16):
                losses, weights, _, _ = token_losses(model, batch)
            pusher.observe(batch)
            loss = (losses * weights).sum() / weight
            recent.append(float(loss.detach()) / float(batch.weights[:, 1:].sum() / weight))
            read = heads.loss(pusher.residual, batch)
            reading.append(float(read.detach()))
            loss = loss + schedule.auxiliary * read / len(group)
            loss.backward()
            tokens += batch.ids.numel() + len(batch.prefix)
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0 and recent:
            line = {
                "step": step + 1,
                "loss": round(sum(recent) / len(recent), 4),
                "minutes": round((time.time() - start) / 60, 2),
                "auxiliary": round(sum(reading) / len(reading), 4),
                "tokens": tokens,
                "rate": round(rate, 5),
            }
            if (step + 1) % 250 == 0 or step < 300:
                pusher.delta = None
                for name, some in held.items():
                    line[f"{name}_loss"], line[f"{name}_index"] = evaluate(model, some, encode)
            recent, reading = [], []
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if (step + 1) % 250 == 0:
            _save(model, heads, out)
    _save(model, heads, out)
    hook.remove()
    model.eval()
    return heads


def _save(model: LlamaForCausalLM, heads: Heads, out: Path) -> None:
    model.save_pretrained(out / "checkpoint")
    torch.save(heads.state_dict(), out / "heads.pt")


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, held: Iterable[Batch], encode: Encoder) -> tuple[float, float]:
    """(loss per token, how often the likeliest index is the right one, the truth being given before it)."""
    model.eval()
    total = count = right = indexes = 0.0
    table = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    table[list(encode.index_ids)] = True
    for batch in held:
        with torch.autocast("cpu", torch.bfloat16):
            losses, weights, predicted, target = token_losses(model, batch)
        total, count = total + float(losses[weights >= 1].sum()), count + float((weights >= 1).sum())
        # Only indexes: the leading digit of a strength is a token of the same kind, but is no copy.
        index = table[target] & (target != encode.text("0")[0]) & (target != encode.text("1")[0])
        right, indexes = right + float((predicted == target)[index].sum()), indexes + float(index.sum())
    model.train()
    return round(total / max(count, 1), 4), round(right / max(indexes, 1), 4)


def _steps(source: Source, encode: Encoder, schedule: Schedule) -> Iterator[list[Batch]]:
    """The batches of each step: bare look-ups at first, then episodes, chats and drills, with a few bare look-ups."""
    seed, small = schedule.seed, schedule.small_tokens
    for batch in islice(copy_batches(encode, source.lexicon.words, seed), schedule.copies):
        yield [batch]
    agents = batches(source, encode, seed, schedule.episode_tokens, long=schedule.long)
    many, few = (copy_batches(encode, source.lexicon.words, seed + n, rows=n) for n in (3, 1))
    early, late = (small_batches(source, encode, seed, small, share) for share in schedule.drills)
    for step in range(schedule.copies, schedule.steps):
        if step < schedule.steps * schedule.early:
            yield [next(agents), next(early), next(many)]
        else:  # without a few bare look-ups the skill fades
            yield [next(agents), next(late), next(few)]


def _rate(schedule: Schedule, step: int, done: float) -> float:
    """Warm-up over 100 steps, then constant, then falling to 2% from `decay_from` of the way on."""
    fall = min(1.0, max(0.02, (1 - done) / (1 - schedule.decay_from)))
    return schedule.learning_rate * min(1.0, (step + 1) / 100) * fall


def _optimizers(model: LlamaForCausalLM, heads: Heads, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    known = {id(p) for p in matrices}
    others = [p for p in [*model.parameters(), *heads.parameters()] if id(p) not in known]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
