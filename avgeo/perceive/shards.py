"""Vectors to train on: one tensor, or a sequence of shards (memory-mapped or loaded when asked) that need not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Data = Tensor | Sequence[Any]
_BLOCK = 16_384


def shards(x: Data) -> Sequence[Any]:
    """The shards of `x`; a tensor is one. What `x[i]` gives may be anything that `torch.as_tensor` takes."""
    return [x] if isinstance(x, Tensor) else x


def blocks(x: Data, rows: int = _BLOCK) -> Iterator[Tensor]:
    """All rows in order, `rows` at a time."""
    for shard in (shards(x)[number] for number in range(len(shards(x)))):
        for start in range(0, len(shard), rows):
            yield torch.as_tensor(shard[start : start + rows])


def batches(x: Data, batch: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Batches without end, from batch number `start` on: the same whether or not those before were drawn.

    Every epoch shuffles the shards and the rows within each; a shard is read once per epoch, and only those of
    batches that are asked for. What an epoch leaves over begins the next one.
    """
    parts = shards(x)
    lengths = [len(parts[number]) for number in range(len(parts))]
    total = sum(lengths)
    if total == 0:
        raise ValueError("x has no rows to draw batches from")
    epoch, skip = divmod(start * batch, total)
    held: list[Tensor] = []
    while True:
        draw = torch.Generator().manual_seed(hash((seed, epoch)) % 2**63)
        for number in torch.randperm(len(parts), generator=draw).tolist():
            order = torch.randperm(lengths[number], generator=draw)
            if skip >= len(order):
                skip -= len(order)
                continue
            order, skip = order[skip:], 0
            shard = torch.as_tensor(parts[number])
            while len(order):
                wanted = batch - sum(map(len, held))
                held.append(shard[order[:wanted]])
                order = order[wanted:]
                if sum(map(len, held)) == batch:
                    yield held[0] if len(held) == 1 else torch.cat(held)
                    held = []
        epoch += 1
