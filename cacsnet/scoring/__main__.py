"""``python -m cacsnet.scoring <scan> <labels.nii.gz> [key=value ...]``: score an edited label map against its scan.

The scan is whatever ``infer.py`` takes for one case (DICOM folder, NIfTI, NRRD, MetaImage); the labels are a ``labels.nii.gz``
of ``infer.py`` after editing, or any label map of vessels 1-4 on the grid of the scan. Nothing is edited here and no network
runs: a labelled voxel counts where its HU reach the threshold and its island the minimum area, as in ``infer.py``.

Keys: ``kvp`` (where the scan can't say), ``scoring`` (profile), ``slab_mm`` (average slices first; the labels may lie on the
slabs or on the slices), ``mass_factor`` (mg/mm³ per HU, instead of the header's), ``series_uid`` (DICOM), ``output`` (a
folder for ``scores.json`` and ``lesions.csv``).

Exit code: 0 scored, 3 the scan or the labels can't be scored, 2 a bad command.
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cacsnet.errors import ArgumentError, CacsError, ConfigError
from cacsnet.io.read import read_label_map, read_scan
from cacsnet.labels import VESSEL_NAMES
from cacsnet.scan import Scan
from cacsnet.scoring.agatston import CalciumScore, score, weigh
from cacsnet.scoring.calibration import Calibration, calibration_of, check_mass_factor_unit
from cacsnet.scoring.checks import check_labels
from cacsnet.scoring.document import score_document
from cacsnet.scoring.islands import above, bounding_box
from cacsnet.scoring.lesions import LESION_COLUMNS, lesion_table
from cacsnet.scoring.profiles import ScoringProfile, load_profile
from cacsnet.scoring.slabs import Slabs, average_scan, check_slab_mm, slab_labels

SCORED, BAD_COMMAND, NOT_SCORABLE = 0, 2, 3
KEYS = ("kvp", "scoring", "slab_mm", "mass_factor", "series_uid", "output")
USAGE = f"python -m cacsnet.scoring <scan> <labels.nii.gz> [{'= '.join(KEYS)}=]"


@dataclass(frozen=True)
class Command:
    """A checked command; attributes as the keys in the module's text."""

    scan: Path
    labels: Path
    profile: ScoringProfile
    kvp: float | None
    slab_mm: float | None
    mass_factor: float | None
    series_uid: str | None
    output: Path | None


@dataclass(frozen=True)
class Rescored:
    """The score of a label map.

    Attributes:
        scan: as it was scored: the one read, or its slabs.
        slabs: None if no slabs were asked for.
        calibration: tube voltage and mass factor.
        mass_factor_from: "argument" or the header's element.
        score: the coronary score.
        lesions: rows with ``LESION_COLUMNS``.
        voxels: labelled voxels on the grid that was scored, how many of them count and why the others don't;
            ``outside_slabs``: labelled voxels of slices that fill no slab.
        flags: all that weakens the score.
    """

    scan: Scan
    slabs: Slabs | None
    calibration: Calibration
    mass_factor_from: str
    score: CalciumScore
    lesions: list[dict[str, Any]]
    voxels: dict[str, int]
    flags: tuple[str, ...]


def main(arguments: Sequence[str], console: Console | None = None) -> int:
    """Run a command and print the score. Returns the exit code."""
    console = console or Console()
    try:
        command = parse(arguments)
        result = rescore(command)
        show(result, console)
        if command.output is not None:
            write(command, result)
            console.print(f"written to {escape(str(command.output))}", soft_wrap=True)
    except ConfigError as error:
        console.print(f"[red]error:[/] {escape(str(error))}\n{escape(USAGE)}", soft_wrap=True)
        return BAD_COMMAND
    except CacsError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        return NOT_SCORABLE
    except OSError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        return BAD_COMMAND
    return SCORED


def parse(arguments: Sequence[str]) -> Command:
    """Check a command before anything is read.

    Raises:
        ConfigError: not two paths, an unknown key, a value out of its domain.
    """
    paths = [a for a in arguments if "=" not in a or Path(a).exists()]
    given: dict[str, str] = {}
    for argument in arguments:
        if argument in paths:
            continue
        key, _, value = argument.partition("=")
        if key not in KEYS:
            raise ConfigError(f"unknown key; known are {', '.join(KEYS)}", field="key", value=key)
        if key in given:
            raise ConfigError("given twice", field=key, value=value)
        given[key] = value
    if len(paths) != 2:
        raise ConfigError("needs the scan and the labels", field="arguments", value=paths)
    for name, path in zip(("scan", "labels"), paths, strict=True):
        if not Path(path).exists():
            raise ConfigError("no such file or folder", field=name, value=path)
    kvp, slab_mm, mass_factor = (_number(given, key) for key in ("kvp", "slab_mm", "mass_factor"))
    try:
        if slab_mm is not None:
            check_slab_mm(slab_mm)
        if mass_factor is not None:
            check_mass_factor_unit(mass_factor)
    except ArgumentError as error:
        raise ConfigError(error.message, field=error.field, value=error.value) from None
    output = Path(given["output"]) if given.get("output") else None
    if output is not None:
        _check_output(output)
    profile = load_profile(given.get("scoring") or "smartscore")
    series_uid = given.get("series_uid") or None
    return Command(Path(paths[0]), Path(paths[1]), profile, kvp, slab_mm, mass_factor, series_uid, output)


def _number(given: Mapping[str, str], key: str) -> float | None:
    cell = given.get(key)
    if cell is None or cell in ("", "null"):
        return None
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ConfigError("must be a positive number", field=key, value=cell)
    return number


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError("is a file, not a folder", field="output", value=str(output))
    try:
        document = json.loads((output / "scores.json").read_text())
    except (OSError, ValueError):
        return
    if isinstance(document, dict) and "run" in document:
        raise ConfigError("holds a result of infer.py: choose another folder", field="output", value=str(output))


def rescore(command: Command) -> Rescored:
    """Read, average where asked for, and score.

    Raises:
        ConfigError: ``kvp=`` contradicts the scan.
        ReadError: the scan or the labels can't be read.
        TubeVoltageError: unknown tube voltage, or the profile has no thresholds for the scan.
        ArgumentError: labels on another grid, outside the table, or no whole numbers.
    """
    scan = read_scan(command.scan, command.series_uid)
    known = scan.acquisition.kvp
    if command.kvp is not None and known is not None and not math.isclose(known, command.kvp, rel_tol=0.01):
        raise ConfigError(f"the scan says {known:g} kVp", field="kvp", value=command.kvp)
    if known is None and command.kvp is not None:
        scan = replace(scan, acquisition=replace(scan.acquisition, kvp=command.kvp))
    calibration = calibration_of(scan.acquisition, command.profile)
    if command.mass_factor is not None:
        calibration = replace(calibration, mass_factor=command.mass_factor)
    kvp, mass_factor, profile = calibration.scored_kvp, calibration.mass_factor, command.profile

    slices, slabs = scan, None
    if command.slab_mm is not None:
        scan, slabs = average_scan(slices, command.slab_mm)
    labels, lost = read_labels(command.labels, slices, scan, slabs)
    spacing, affine = scan.spacing_mm, scan.geometry.affine_lps
    result = score(scan.hu, labels, spacing, kvp, profile, affine, mass_factor=mass_factor)

    rows: list[dict[str, Any]] = []
    voxels = {"labelled": 0, "counted": 0, "below_threshold": 0, "below_min_area": 0, "outside_slabs": lost}
    box = bounding_box(labels)
    if box is not None:
        hu, vessels = scan.hu[box], labels[box]
        labelled = vessels > 0
        bright = labelled & above(hu, min(profile.threshold_hu(kvp), profile.volume_threshold(kvp)), profile.strict)
        none = np.zeros(vessels.shape, dtype=np.uint8)
        first = (box[0].start, box[1].start, box[2].start)
        rows = lesion_table(hu, bright, vessels, none, spacing, kvp, profile, affine, first, mass_factor=mass_factor)
        weight, counted = weigh(hu, labelled, spacing, kvp, profile)
        n_labelled, n_bright, n_counted = (int(np.count_nonzero(m)) for m in (labelled, bright, (weight > 0) | counted))
        voxels = {
            "labelled": n_labelled,
            "counted": n_counted,
            "below_threshold": n_labelled - n_bright,
            "below_min_area": n_bright - n_counted,
            "outside_slabs": lost,
        }
    averaged = ("slab_averaged",) if slabs is not None and slabs.averaged else ()
    source = "argument" if command.mass_factor is not None else "header (0018,9351)"
    flags = (*calibration.flags, *averaged, *result.flags)
    return Rescored(scan, slabs, calibration, source, result, rows, voxels, flags)


def read_labels(path: Path, slices: Scan, scan: Scan, slabs: Slabs | None) -> tuple[np.ndarray, int]:
    """Labels [z, y, x] on the grid of ``scan``, and how many labelled voxels lie in slices that fill no slab.

    Args:
        path: label file.
        slices: the scan as it was read.
        scan: the scan to be scored: the same, or its slabs. Labels may lie on either grid.
        slabs: how ``scan`` was made of ``slices``; None if it wasn't.
    """
    on_slices = slabs is None or not slabs.averaged
    try:
        labels, lost = read_label_map(path, scan.geometry), 0
    except ArgumentError as error:
        if on_slices:
            hint = "; labels made with slab_mm need slab_mm= here too" if slabs is None else ""
            raise ArgumentError(error.message + hint, path=path, field=error.field, value=error.value) from None
        labels, lost = read_label_map(path, slices.geometry), -1
    try:
        check_labels(labels, labels.shape, len(VESSEL_NAMES), "labels")
    except ArgumentError as error:
        raise ArgumentError(error.message, path=path, field="labels", value=error.value) from None
    if lost < 0:
        assert slabs is not None
        labels, lost = slab_labels(labels, slabs)
    return labels, lost


def show(result: Rescored, console: Console) -> None:
    """Print the table and what has to be known about it."""
    found, calibration = result.score, result.calibration
    table = Table(title="calcium score", caption="Research use only, not a medical device.")
    table.add_column("vessel")
    for name in ("Agatston", "volume mm³", "isotropic mm³", "mass mg", "lesions"):
        table.add_column(name, justify="right")
    for vessel, measures in (*found.vessels.items(), ("total", found.total)):
        lesions = [lesion for lesion in found.lesions if vessel in ("total", lesion.vessel)]
        values = (measures.agatston, measures.volume_mm3, measures.volume_isotropic_mm3, measures.mass_mg)
        table.add_row(vessel, *(f"{value:.1f}" for value in values), str(len(lesions)))
    console.print(table)
    levels = (found.risk_category, found.risk_category_5, found.risk_category_6)
    voltage = "unknown" if calibration.kvp is None else f"{calibration.kvp:g} kVp"
    source = "the profile's default" if calibration.mass_factor is None else result.mass_factor_from
    lines = [
        f"category {levels[0]} (of 4 levels), {levels[1]} (of 5), {levels[2]} (of 6), CAC-DRS {found.cac_drs}",
        f"profile {found.profile}, tube voltage {voltage}, thresholds of {found.kvp:g} kVp: {found.bands_hu[0]:g} HU; "
        f"mass factor {found.mass_factor:.3g} mg/mm³ per HU ({source})",
        _voxel_line(result.voxels),
        f"flags: {', '.join(result.flags) or 'none'}",
        *(f"note: {note}" for note in result.scan.notes),
    ]
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)


def _voxel_line(voxels: Mapping[str, int]) -> str:
    if not voxels["labelled"] and not voxels["outside_slabs"]:
        return "no voxel is labelled"
    line = f"{voxels['counted']} of {voxels['labelled']} labelled voxels count"
    for key, where in (("below_threshold", "below the threshold"), ("below_min_area", "in islands below the minimum area")):
        line += f"; {voxels[key]} {where}" if voxels[key] else ""
    if voxels["outside_slabs"]:
        line += f"; {voxels['outside_slabs']} more lie in slices at the head that fill no slab"
    return line


def write(command: Command, result: Rescored) -> None:
    """Write ``lesions.csv`` and ``scores.json``, each under a temporary name first, the latter last."""
    output = command.output
    assert output is not None
    document = {
        "scan": str(command.scan),
        "labels": str(command.labels),
        "flags": list(result.flags),
        "notes": list(result.scan.notes),
        "lesions_total": len(result.score.lesions),
        "voxels": result.voxels,
        **score_document(result.score, result.calibration, result.slabs, result.mass_factor_from),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("cacsnet", "numpy", "scipy")},
    }
    output.mkdir(parents=True, exist_ok=True)
    temporary = output / ".lesions.csv.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, LESION_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(result.lesions)
    os.replace(temporary, output / "lesions.csv")
    temporary = output / ".scores.json.tmp"
    temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, output / "scores.json")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
