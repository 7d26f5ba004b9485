"""How much memory a run will take, from the model's configuration, and how much there is.

Knows no engine and no request; a Forecast is a value that prints as one plain line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toolkit.errors import OutOfMemory, first_line

PLACES = 256  # a lane has room for a multiple of this many tokens


def places(tokens: int) -> int:
    """Tokens that a lane has room for if it must hold `tokens`."""
    return max(1, -(-tokens // PLACES)) * PLACES


def lanes(rollouts: int) -> int:
    """Contexts that are kept for so many rollouts: a quarter more, for those that branch off."""
    return rollouts + -(-rollouts // 4)


def token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one token: 2 x layers x key-value heads x head width x bytes of a number.

    config: a transformers text configuration. Heads that differ by layer are not known from here; the engine
    corrects the figure by what it measured, once anything was computed.
    """
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kept * width * dtype.itemsize)


def step_bytes(config: Any, dtype: torch.dtype, rows: int, chunk: int) -> int:
    """Bytes of one step's activations, an upper estimate: `chunk` tokens on their way through a block, the logits of
    `rows`, and what sampling makes of them. config: as for token_bytes."""
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return int(5 * rows * config.vocab_size * 4 + chunk * (4 * wide + 8 * config.hidden_size) * dtype.itemsize)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had on a device, the allocator's own reserve included; None where nobody tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return host_free_bytes() if device.type == "cpu" else None


def for_an_encoder(device: torch.device) -> int:
    """Bytes that an SAE may take of a GPU, where INSPECT is then hardly any work: a quarter of what is free; none of
    other devices, since a host has it already."""
    return (free_bytes(device) or 0) // 4 if device.type == "cuda" else 0


def host_free_bytes(root: Path = Path("/")) -> int | None:
    """What Linux calls available: free, or in use for what can be read again; no more than what is left of the limit
    that a container or a job was given (control groups, of either version). root: of the file system, for tests."""
    table = root / "proc/meminfo"
    if not table.exists():
        return None
    known = [int(line.split()[1]) * 1024 for line in _lines(table) if line.startswith("MemAvailable:")]
    for line in _lines(root / "proc/self/cgroup"):
        _, kind, own = line.split(":", 2)
        if kind == "":
            known += _left(root / "sys/fs/cgroup", own, "memory.max", "memory.current", "inactive_file")
        elif "memory" in kind.split(","):
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
            known += _left(root / "sys/fs/cgroup/memory", own, limit, used, "total_inactive_file")
    return min(known, default=None)


def _left(top: Path, own: str, limit: str, used: str, again: str) -> list[int]:
    """Bytes left of the limits of a group and of those around it. again: what of the use can be read again."""
    inner = top / own.strip("/")
    found = []
    for group in (inner, *inner.parents):
        if not group.is_relative_to(top) or not (group / limit).exists() or not (group / used).exists():
            continue
        most = (group / limit).read_text().strip()
        if most.isdigit():  # "max" is none
            cached = [int(line.split()[1]) for line in _lines(group / "memory.stat") if line.split()[0] == again]
            found.append(max(0, int(most) - int((group / used).read_text()) + sum(cached)))
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@dataclass(frozen=True)
class Forecast:
    """What `rollouts` abreast of up to `tokens` tokens each will take. Sizes in bytes.

    token: keys and values of one token. weights: the model as it lies in memory, packed copies included (already
    taken). held: kept KV that is already allocated, and counts as free for this. step: activations of one step, an
    upper estimate. budget, host_budget: limits of kept KV on the device and the host. free: None if nobody tells.
    """

    rollouts: int
    tokens: int
    token: int
    weights: int
    step: int
    device: str
    held: int = 0
    budget: int | None = None
    host_budget: int = 0
    free: int | None = None

    @property
    def kv(self) -> int:
        """Bytes of all lanes' keys and values: exactly what a store with so many lanes allocates."""
        return self.lanes * self.lane

    @property
    def lanes(self) -> int:
        return lanes(self.rollouts)

    @property
    def lane(self) -> int:
        return places(self.tokens) * self.token

    @property
    def abreast(self) -> int:
        """Rollouts whose keys and values fit at once, at least 1; a budget does not lower it: it makes some wait."""
        if self.free is None:
            return self.rollouts
        most = (self.free + self.held - self.step) // self.lane
        return max(1, min(self.rollouts, 4 * most // 5))  # the most whose lanes are no more than that

    @property
    def fits(self) -> bool:
        return self.free is None or self.kv + self.step <= self.free + self.held

    def __str__(self) -> str:
        budget = "none" if self.budget is None else size(self.budget)
        host = f", {size(self.host_budget)} more on the host" if self.host_budget else ""
        free = "an unknown amount" if self.free is None else size(self.free)
        line = (
            f"{self.rollouts} rollouts x up to {self.tokens:,} tokens on {self.device}: KV {size(self.kv)}"
            f" ({size(self.token)} a token), a step up to {size(self.step)}, weights {size(self.weights)};"
            f" KV budget {budget}{host}; {free} free"
        )
        return line if self.fits else f"{line}. It does not fit: {self.abreast} rollouts at once instead"


def size(count: int) -> str:
    """Bytes for people: 1.5 GiB, 12 MiB, 4 KiB."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= one:
            number = count / one
            return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"
    return f"{count} bytes"


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out: torch names it on a GPU only, elsewhere the text must tell."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")
    )


def shortage(error: BaseException) -> OutOfMemory:
    """What a request fails with that does not fit even alone."""
    return OutOfMemory(
        f"one request alone, token by token, does not fit the memory ({first_line(error)}); use a shorter context, a"
        " smaller dtype or a device with more"
    )
