"""How long a whole scan and its parts take, and how many patches a second the training path makes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cacsnet.data.patches import PatchSettings, make_patch, settings_from
from cacsnet.phantom.cohort import Recipe, make_subject
from cacsnet.phantom.deposits import image_calcium, reference_owner
from cacsnet.phantom.render import Anatomy, render
from cacsnet.phantom.scan import make_scan, moving_heart
from cacsnet.scanner import finish, image
from cacsnet.training.sweep import composed
from cacsnet.workers import worker_pool

SPEED_SEED = 69_500_000
SCAN_SECONDS, PATCHES_PER_SECOND = 15.0, 6.0
SLICES = 60


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def scan_seconds(threads: int, heart_model: str) -> dict[str, float]:
    """Seconds of a 512 x 512 x 60 scan, in all and by its parts."""
    torch.set_num_threads(threads)
    recipe = Recipe(SPEED_SEED, agatston=400.0, heart_model=heart_model)
    out: dict[str, float] = {}
    (patient, arteries, deposits, [protocol]), out["patient, tree, calcium drawn"] = timed(lambda: make_subject(recipe))
    protocol = replace(protocol, shape=(SLICES, *protocol.shape[1:]), slab_shifts_mm=(), slab_slices=0)
    low = np.array(protocol.origin_mm) - protocol.reach_mm
    high = np.array(protocol.origin_mm) + np.array(protocol.spacing_mm) * (np.array(protocol.shape) - 1) + protocol.reach_mm
    step = float(np.clip(0.8 * protocol.spacing_mm[1], 1.25, 2.5))
    shape = np.ceil((high - low) / step).astype(int) + 1

    def painted() -> Anatomy:
        return render(patient, arteries, low.tolist(), step, shape.tolist())

    anatomy, out["anatomy painted"] = timed(painted)
    field, out["heart moved"] = timed(lambda: moving_heart(anatomy, protocol) if protocol.moves else anatomy.hu)
    hu, out["imaged"] = timed(lambda: image(field, anatomy.origin_mm, (step,) * 3, protocol.still(), background=-1000.0))
    calcium, out["calcium imaged"] = timed(lambda: image_calcium(patient, deposits, protocol))
    _, out["noise and the rest"] = timed(lambda: finish(hu, protocol, torch.Generator().manual_seed(1)))
    _, out["reference owners"] = timed(lambda: reference_owner(calcium, protocol.shape))
    _, seconds = timed(lambda: make_scan(patient, anatomy, deposits, protocol, 1))
    out["whole"] = out["patient, tree, calcium drawn"] + out["anatomy painted"] + seconds
    torch.set_num_threads(1)
    return out


def _patches(settings: PatchSettings, first: int, count: int) -> int:
    torch.set_num_threads(1)
    for index in range(first, first + count):
        make_patch(settings, index)
    return count


def patches_per_second(settings: PatchSettings, count: int, workers: int) -> float:
    """Patches a second of ``workers`` processes, after a patch each to start up."""
    share = -(-count // workers)
    share += -share % settings.images_per_patient  # whole patients
    with worker_pool(workers) as pool:
        list(pool.map(_patches, [settings] * workers, [900_000 + 1000 * k for k in range(workers)], [1] * workers))
        start = time.perf_counter()
        made = sum(pool.map(_patches, [settings] * workers, [910_000 + 1000 * k for k in range(workers)], [share] * workers))
        return made / (time.perf_counter() - start)


def speed(patches: int, workers: int) -> str:
    """The measured part of docs/phantom.md on speed."""
    load = os.getloadavg()[0]
    lines = [
        f"`python benchmarks/phantom.py speed patches={patches} workers={workers}` on {os.cpu_count()} cores, load of "
        f"other work {load:.1f} (1 or more: the figures are too slow)."
    ]
    each = {model: scan_seconds(workers, model) for model in ("ellipsoid", "polar")}
    table = [f"| 512 × 512 × {SLICES} scan, {workers} threads, s | " + " | ".join(each) + " |", "|---|" + "---:|" * len(each)]
    for part in next(iter(each.values())):
        table.append(f"| {part} | " + " | ".join(f"{seconds[part]:.1f}" for seconds in each.values()) + " |")
    slowest = max(seconds["whole"] for seconds in each.values())
    lines += [
        "\n".join(table),
        f"Slowest {slowest:.1f} s, target {SCAN_SECONDS:.0f} s: {'reached' if slowest <= SCAN_SECONDS else 'missed'}.",
    ]
    stages = composed(["experiment=phantom_fine"])["stages"] | composed(["experiment=phantom"])["stages"]
    for name in ("coarse", "fine"):
        own = stages[name]["data"]["patches"]
        rates = {model: patches_per_second(settings_from({**own, "heart_model": model}), patches, workers) for model in each}
        found = ", ".join(f"{rate:.1f} ({model})" for model, rate in rates.items())
        reached = min(rates.values()) >= PATCHES_PER_SECOND
        lines.append(
            f"Training patches of the {name} stage a second, {workers} processes of one thread, on the full path "
            f"(`make_patch`): {found}; target {PATCHES_PER_SECOND:.0f}: {'reached' if reached else 'missed'}."
        )
    return "\n\n".join(lines)
