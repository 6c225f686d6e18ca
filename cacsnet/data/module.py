"""The phantom patches of one training stage. Their order is that of cacsnet.training.stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cacsnet.data.jitter import jitter_from
from cacsnet.data.patches import PhantomPatches, cache_name, settings_from


class PhantomData:
    """Patches of one stage.

    Args:
        patches: fields of :class:`cacsnet.data.patches.PatchSettings`.
        length: patches per epoch.
        batch_size, workers: of the loader.
        cache_dir: where patches are kept after they were made once; null makes them anew each epoch.
        jitter: fields of :class:`cacsnet.data.jitter.Jitter`.
        seed: of the order and of the jitter.
    """

    def __init__(
        self,
        patches: Mapping[str, Any],
        length: int,
        batch_size: int = 2,
        workers: int = 0,
        cache_dir: str | None = None,
        jitter: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.settings = settings_from(patches)
        self.length, self.batch_size, self.workers, self.seed = length, batch_size, workers, seed
        folder = None if cache_dir is None else Path(cache_dir) / cache_name(self.settings)
        self.patches = PhantomPatches(self.settings, length, folder, jitter_from(jitter), seed)
