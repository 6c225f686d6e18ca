"""Time and memory of ``cacsnet.scoring.score`` beside the way SimpleITK users compute an Agatston score.

``python benchmarks/scoring.py [folder]`` scores volumes of 512 x 512 x 60 and 512 x 512 x 400 voxels (int16) with 0, 20 and 400
lesions by both, prints and writes ``<folder>/scoring_speed.md`` (default ``docs``). Both must give the same score. Linux only:
extra memory is the peak resident set size during the call less that before it, as the kernel counts it, so it holds what
numpy, cc3d and ITK allocate alike; each is measured in a process of its own.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import SimpleITK as sitk  # noqa: N813
from process_memory import status_bytes
from rich.console import Console
from rich.table import Table

from cacsnet.scoring import load_profile, score

CASES = (
    (60, 0, "heart"),
    (60, 20, "heart"),
    (60, 400, "heart"),
    (60, 400, "whole field"),
    (400, 0, "heart"),
    (400, 20, "heart"),
    (400, 400, "heart"),
    (400, 400, "whole field"),
)
"""Slices, lesions and where they lie: all over the field is the hardest case, as the label map's bounding box is everything."""
KVP = 120
DEPTH_MM = 180.0
PIXEL_MM = 250.0 / 512
SECONDS_EACH = 2.0  # repeat until then, three times at least


@dataclass(frozen=True)
class Case:
    """hu int16 [z, y, x], vessels uint8 [z, y, x] (labels 0-4), spacing (dz, dy, dx) in mm."""

    hu: np.ndarray
    vessels: np.ndarray
    spacing_mm: tuple[float, float, float]


def make_case(slices: int, lesions: int, where: str = "heart", size: int = 512, seed: int = 0) -> Case:
    """A chest of ellipses with noise of 20 HU, bright ribs and spine, four arteries and ``lesions`` separate lesions.

    The label map holds the arteries (tubes of 6 mm) and a margin around each lesion, as a vessel map does: most of it is not
    calcium. The field shows 250 mm. ``where``: the lesions lie in the "heart" or in the "whole field".
    """
    rng = np.random.default_rng([seed, slices, lesions])
    pixel = PIXEL_MM * 512 / size
    spacing = (DEPTH_MM / slices, pixel, pixel)
    hu = _chest(slices, size, pixel, rng)
    vessels = np.zeros(hu.shape, np.uint8)

    def ball(centre: np.ndarray, radius: float) -> tuple[tuple[slice, ...], np.ndarray]:
        """The box around a ball and the squared distance from its centre there, in radii."""
        low = np.maximum(np.ceil((centre - radius) / spacing).astype(int), 0)
        high = np.minimum(np.floor((centre + radius) / spacing).astype(int) + 1, hu.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        away = np.ogrid[box]
        return box, sum(((s * i - c) / radius) ** 2 for s, i, c in zip(spacing, away, centre, strict=True))

    for label, (start, stop) in enumerate(((95, 105), (20, 100), (40, 95), (15, 90)), start=1):
        for z in np.arange(start, stop, 0.5) * DEPTH_MM / 120:
            turn = z / 40 + 1.6 * label
            box, away = ball(np.array([z, 125 + 45 * np.sin(turn), 125 + 45 * np.cos(turn)]), 3.0)
            vessels[box][away <= 1] = label
    first, across = (70.0, 8) if where == "heart" else (8.0, 17)
    cells = np.indices((13, across, across)).reshape(3, -1).T
    for cell in cells[rng.permutation(len(cells))[:lesions]]:
        centre = np.array([12.0, first, first]) + cell * np.array([12.0, 14.0, 14.0]) + rng.uniform(-2, 2, 3)
        radius = rng.uniform(1.5, 3.5)
        box, away = ball(centre, radius + 1.5)
        vessels[box][away <= 1] = rng.integers(1, 5)
        box, away = ball(centre, radius)
        calcium = 40 + rng.uniform(200, 1200) * np.clip(1.5 - 1.5 * away, 0, 1)
        hu[box] = np.where(away < 1, np.maximum(hu[box], calcium), hu[box]).astype(np.int16)  # in lung and air, too
    return Case(hu, vessels, spacing)


def _chest(slices: int, size: int, pixel: float, rng: np.random.Generator) -> np.ndarray:
    y, x = ((np.indices((size, size)) - size / 2) * pixel).astype(np.float32)
    plane = np.full((size, size), -1000, np.float32)
    plane[(x / 150) ** 2 + (y / 115) ** 2 <= 1] = 40
    plane[((np.abs(x) - 85) / 40) ** 2 + (y / 90) ** 2 <= 1] = -850
    plane[(x / 18) ** 2 + ((y - 98) / 14) ** 2 <= 1] = 350  # spine
    bank = 20 * rng.standard_normal((8, size, size), dtype=np.float32)
    hu = np.empty((slices, size, size), np.int16)
    for z in range(slices):
        noise = np.roll(bank[z % len(bank)], rng.integers(0, size, 2), (0, 1))
        hu[z] = plane + noise
        turn = z * DEPTH_MM / slices / 12
        for rib in range(10):
            angle = 0.6 * rib + turn
            hu[z][(x - 122 * np.cos(angle)) ** 2 + (y - 104 * np.sin(angle)) ** 2 <= 36] = 700
    return hu


def score_cacsnet(case: Case) -> float:
    """Agatston by cacsnet; volume, mass, vessels and the list of lesions come with it."""
    return score(case.hu, case.vessels, case.spacing_mm, KVP).total.agatston


def as_images(case: Case) -> tuple[sitk.Image, sitk.Image]:
    """HU and vessel labels as SimpleITK reads them from a file; not a part of what is timed."""
    images = sitk.GetImageFromArray(case.hu), sitk.GetImageFromArray(case.vessels)
    for image in images:
        image.SetSpacing(case.spacing_mm[::-1])
    return images


def score_simpleitk(hu: sitk.Image, vessels: sitk.Image) -> float:
    """Agatston the way SimpleITK users do it: threshold within the mask, then components and their statistics per slice.

    The rules are those of the ``smartscore`` profile: >= 130 HU, fully connected, area >= 1 mm², weight from the peak,
    increment / 3 mm. Nothing else is computed.
    """
    bands = load_profile("smartscore").bands(KVP)
    calcium = sitk.And(sitk.BinaryThreshold(hu, bands[0], 32767, 1, 0), vessels > 0)
    statistics = sitk.LabelIntensityStatisticsImageFilter()
    total = 0.0
    for z in range(hu.GetSize()[2]):
        islands = sitk.ConnectedComponent(calcium[:, :, z], True)
        statistics.Execute(islands, hu[:, :, z])
        for label in statistics.GetLabels():
            area = statistics.GetPhysicalSize(label)
            if area >= 1 - 1e-9:
                total += area * int(np.searchsorted(bands, statistics.GetMaximum(label), side="right"))
    return total * hu.GetSpacing()[2] / 3


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Median wall time and median processor time of a call, after one that doesn't count."""
    call()
    wall: list[float] = []
    processor: list[float] = []
    while len(wall) < 3 or sum(wall) < SECONDS_EACH:
        start, start_processor = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return median(wall), median(processor)


def extra_bytes(call: Callable[[], object]) -> int:
    """Peak resident memory during a call less that before it, as the kernel counts pages."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak (VmHWM) back to what is resident now
    before = status_bytes("VmRSS")
    call()
    return status_bytes("VmHWM") - before


def extra_bytes_in_child(way: str, slices: int, lesions: int, where: str) -> int:
    """:func:`extra_bytes` of one way on one case, in a process of its own."""
    command = [sys.executable, __file__, "--memory", way, str(slices), str(lesions), where]
    # else the allocator keeps freed pages of making the volume, and a call that uses them would look free
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **allocator})
    return int(done.stdout)


def way_of(name: str, case: Case) -> Callable[[], float]:
    """The call that is measured: "cacsnet" or "SimpleITK"."""
    if name == "cacsnet":
        return lambda: score_cacsnet(case)
    images = as_images(case)
    return lambda: score_simpleitk(*images)


COLUMNS = (
    "voxels",
    "lesions",
    "in",
    "Agatston",
    "cacsnet s",
    "SimpleITK s",
    "ratio",
    "ratio of CPU time",
    "cacsnet extra",
    "/ HU volume",
    "SimpleITK extra",
)


TEXT = """`python benchmarks/scoring.py` made this page on {machine}.

Both ways give the same Agatston score. SimpleITK computes that only, from images already in its memory; cacsnet also
computes volumes, masses, vessels and the list of lesions. One thread each. Seconds are medians of wall time; the
ratio of processor time depends less on what else the machine does. Extra memory is the peak resident set size during the
call less that before it, as the kernel counts it, each in a process of its own.
"""


def compare(slices: int, lesions: int, where: str) -> tuple[str, ...]:
    """One row of the table: what COLUMNS names. Ends the program if the two scores differ."""
    case = make_case(slices, lesions, where)
    ours, theirs = way_of("cacsnet", case), way_of("SimpleITK", case)
    agatston, other = ours(), theirs()
    if not np.isclose(agatston, other, rtol=1e-9, atol=1e-9):
        raise SystemExit(f"the scores differ: cacsnet {agatston}, SimpleITK {other}")
    (wall, processor), (their_wall, their_processor) = seconds(ours), seconds(theirs)
    extra, their_extra = (extra_bytes_in_child(name, slices, lesions, where) for name in ("cacsnet", "SimpleITK"))
    return (
        f"512 x 512 x {slices}",
        str(lesions),
        where,
        f"{agatston:.1f}",
        f"{wall:.4f}",
        f"{their_wall:.3f}",
        f"{their_wall / wall:.0f}x",
        f"{their_processor / processor:.0f}x",
        f"{extra / 1e6:.1f} MB",
        f"{extra / case.hu.nbytes:.2f}",
        f"{their_extra / 1e6:.0f} MB",
    )


def main(folder: Path) -> None:
    rows = [compare(*case) for case in CASES]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, SimpleITK {sitk.Version.VersionString()}"
    table = Table(*COLUMNS, title=f"scoring one volume, median wall time; {machine}")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    text = [
        "# Speed of scoring",
        "",
        TEXT.format(machine=machine),
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    text += ["| " + " | ".join(row) + " |" for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scoring_speed.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # cacsnet uses one; two were no faster on single slices
    if sys.argv[1:2] == ["--memory"]:
        print(extra_bytes(way_of(sys.argv[2], make_case(int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))))
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs"))
