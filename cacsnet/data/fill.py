"""Fill the patch cache of an experiment ahead of training.

``python -m cacsnet.data.fill experiment=phantom workers=2 [length=N]``: makes the patches that each stage of the experiment is
going to read, patient by patient. What is there is not made again, so it can be stopped and started at any time, also
beside a training run or a second such command. Other ``key=value`` arguments change the experiment as in ``train.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cacsnet.data.module import PhantomData
from cacsnet.data.patches import PhantomPatches
from cacsnet.errors import ConfigError
from cacsnet.workers import worker_pool

CONF = Path(__file__).resolve().parents[2] / "conf"


def fill(patches: PhantomPatches, workers: int = 1, on_patches: Callable[[int], None] | None = None) -> int:
    """Make every missing patch of a cached dataset; ``on_patches`` is told how many came to be there.

    Args:
        workers: processes, one thread each; 0: this process.

    Returns:
        How many were made.
    """
    if patches.cache_dir is None:
        raise ConfigError("patches without a cache folder can't be filled", field="cache_dir", value=None)
    each = patches.settings.images_per_patient
    patients = range(-(-len(patches) // each))
    missing = {n: len(patches.missing(n)) for n in patients}
    tell = on_patches or (lambda count: None)
    tell(len(patches) - sum(missing.values()))
    todo = [number for number in patients if missing[number]]
    made = 0
    if workers == 0:
        for number in todo:
            made += patches.make(number)
            tell(missing[number])
        return made
    with worker_pool(workers) as pool:
        running = {pool.submit(patches.make, number): number for number in todo}
        try:
            for done in as_completed(running):
                made += done.result()
                tell(missing[running[done]])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return made


def stages_of(overrides: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The ``data`` settings of every stage that ``train.py`` would train with these arguments.

    Raises:
        ConfigError: an unknown key or experiment.
    """
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = OmegaConf.to_container(hydra.compose("train", list(overrides)), resolve=True)
    except HydraException as error:
        raise ConfigError(str(error).strip().splitlines()[0], field="arguments", value=" ".join(overrides)) from None
    assert isinstance(config, dict)
    return {name: stage["data"] for name, stage in config["stages"].items()}


def _whole(name: str, text: str, least: int) -> int:
    if not text.isdigit() or int(text) < least:
        raise ConfigError(f"must be a whole number from {least} on", field=name, value=text)
    return int(text)


def main(arguments: Sequence[str], console: Console | None = None) -> int:
    """Returns the exit code: 0, or 2 for a bad command."""
    console = console or Console()
    try:
        own = dict(a.split("=", 1) for a in arguments if a.startswith(("workers=", "length=")))
        workers = _whole("workers", own.get("workers", "1"), 0)
        length = _whole("length", own["length"], 1) if "length" in own else None
        stages = stages_of([a for a in arguments if not a.startswith(("workers=", "length="))])
        words = TextColumn("{task.description}")
        columns = (words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        for name, values in stages.items():
            if values.get("cache_dir") is None:
                console.print(f"{name}: no cache_dir, patches are made as they are needed")
                continue
            patches = PhantomData(**{**values, "length": length or values["length"]}).patches
            with Progress(*columns, console=console) as progress:
                task = progress.add_task(name, total=len(patches))
                made = fill(patches, workers, lambda count, task=task, bar=progress: bar.advance(task, count))  # type: ignore[misc]
            console.print(f"{name}: {made} made, {len(patches)} in {patches.cache_dir}")
    except ConfigError as error:
        console.print(f"error: {error}", style="red")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
