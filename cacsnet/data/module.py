"""LightningDataModule: phantom patches for training, whole phantom scans for validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from cacsnet.data.patches import PhantomPatches, cache_name, settings_from


class PhantomData(pl.LightningDataModule):
    """Patches of one stage.

    Args:
        patches: fields of :class:`cacsnet.data.patches.PatchSettings`.
        length: patches per epoch.
        batch_size, workers: of the loader.
        cache_dir: where patches are kept after they were made once; null makes them anew each epoch.
        seed: of the order and of the jitter.
    """

    def __init__(
        self,
        patches: Mapping[str, Any],
        length: int,
        batch_size: int = 2,
        workers: int = 0,
        cache_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings = settings_from(patches)
        self.length, self.batch_size, self.workers, self.seed = length, batch_size, workers, seed
        folder = None if cache_dir is None else Path(cache_dir) / cache_name(self.settings)
        self.patches = PhantomPatches(self.settings, length, folder, seed=seed)

    def train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        self.patches.epoch = epoch
        return DataLoader(
            self.patches,
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            worker_init_fn=_one_thread,
            generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch),
            pin_memory=torch.cuda.is_available(),
        )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
