"""The endless stream of training patches: which patch comes next is a function of the seed and the step alone.

A run has one endless epoch. Sample ``n`` of the stream is place ``n mod length`` of the ``n div length``-th shuffle of the
patches, and that shuffle's number is the ``epoch`` of the patch's jitter. So a run that goes on from a checkpoint, in the
middle of a shuffle or not, on any number of workers, sees what an uninterrupted one sees, and two processes see what one does
with twice the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Place = tuple[int, int]
"""(epoch, index) of a patch."""


class EpochPatches(Protocol):
    """A map-style dataset whose items depend on ``epoch`` (jitter) and the index only."""

    epoch: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...


class PatchSource(Protocol):
    """What a data module offers."""

    @property
    def patches(self) -> Any: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def workers(self) -> int: ...


class StepOrder(Sampler[list[Place]]):
    """Batches of (epoch, index) without end, from batch ``first`` on; process ``rank`` of ``world`` gets its share of each."""

    def __init__(self, length: int, batch_size: int, seed: int, first: int = 0, rank: int = 0, world: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first, self.rank, self.world = first, rank, world

    def shuffle(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.length, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[Place]]:
        known, order = -1, []
        batch = self.first
        while True:
            places: list[Place] = []
            start = (batch * self.world + self.rank) * self.batch_size
            for n in range(start, start + self.batch_size):
                epoch, place = divmod(n, self.length)
                if epoch != known:
                    known, order = epoch, self.shuffle(epoch)
                places.append((epoch, order[place]))
            yield places
            batch += 1


class _AtEpoch(Dataset[dict[str, Tensor]]):
    """Patches by (epoch, index)."""

    def __init__(self, patches: EpochPatches) -> None:
        self.patches = patches

    def __getitem__(self, place: Place) -> dict[str, Tensor]:
        self.patches.epoch, index = place
        return self.patches[index]


class PatchStream(pl.LightningDataModule):
    """Loads a data module's patches in :class:`StepOrder`, from the trainer's step on."""

    def __init__(self, source: PatchSource, seed: int = 0) -> None:
        super().__init__()
        self.source, self.seed = source, seed

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        trainer = self.trainer
        assert trainer is not None
        first = trainer.global_step * trainer.accumulate_grad_batches
        order = StepOrder(
            len(self.source.patches), self.source.batch_size, self.seed, first, trainer.global_rank, trainer.world_size
        )
        return DataLoader(
            _AtEpoch(self.source.patches),
            batch_sampler=order,
            num_workers=self.source.workers,
            worker_init_fn=_one_thread,
            pin_memory=torch.cuda.is_available(),
        )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
