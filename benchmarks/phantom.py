"""The phantom as a test instrument: measured, drawn, timed, and its truth checked.

``python benchmarks/phantom.py measure phantoms=200 heart_model=ellipsoid workers=2 docs=docs``: measure phantoms of the
population of Sartoretti et al. 2022 from their painted labels, HU and scans, beside the literature. One JSON line a phantom in
``runs/phantom/``: an interrupted run goes on where it stopped; a file belongs to one state of the generator's source.

``python benchmarks/phantom.py truth plaques=50 docs=docs``: mass from HU, volumes against a finer painting, scan-rescan.
``python benchmarks/phantom.py speed docs=docs``: a whole scan and its parts, patches a second.
``python benchmarks/phantom.py pictures docs=docs``: the pictures of docs/phantom.md.

``docs=`` (empty: none): what was measured replaces what stands between the marks in ``<docs>/phantom.md``.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pages import write_between
from phantom_literature import agatston_table, literature_table
from phantom_measure import (
    Painted,
    agatston,
    aorta,
    body_tissues,
    bone_tissues,
    chambers,
    coronaries,
    courses,
    depth,
    heart_tissues,
    left_dominant,
    noise,
    off_groove,
    pulmonary_trunk,
    sampled,
    spine_place,
)
from rich.console import Console
from rows import collected

from cacsnet.errors import ConfigError
from cacsnet.keys import read_keys, whole_number
from cacsnet.phantom.anatomy import HEART_MODELS, Patient
from cacsnet.phantom.cohort import Recipe, make_cases
from cacsnet.phantom.heart import Artery
from cacsnet.phantom.plan import Planned, plan_cohort
from cacsnet.phantom.population import load_population
from cacsnet.phantom.render import render

FIRST_SEED = 60_000_000
"""Training, validation, held-out phantoms, examples and cohorts draw below; nothing is ever trained on these."""

POPULATION = "sartoretti2022"
ROOT = Path(__file__).resolve().parents[1]
WIDE_MM, FINE_MM = 2.0, 0.75
WIDE_BOX = ((-130.0, -150.0, -200.0), (130.0, 150.0, 200.0))
"""Patient mm that are painted first; the heart and the spine are looked for in there."""


# -- one phantom --------------------------------------------------------------------------------------------------------


def paint(patient: Patient, arteries: Sequence[Artery], low: np.ndarray, high: np.ndarray, step_mm: float) -> Painted:
    """Paint a box of patient mm."""
    shape = np.ceil((np.asarray(high) - low) / step_mm).astype(int) + 1
    anatomy = render(patient, arteries, np.asarray(low).tolist(), step_mm, shape.tolist())
    arrays = (anatomy.hu.numpy(), anatomy.structures.numpy(), anatomy.area.numpy())
    return Painted(*arrays, step_mm=step_mm, origin_mm=anatomy.origin_mm)


def labelled_box(painted: Painted, margin_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest place (patient mm) of structures and coronary area, with a margin."""
    index = np.argwhere((painted.structures > 0) | (painted.area > 0))
    origin = np.array(painted.origin_mm)
    return origin + index.min(0) * painted.step_mm - margin_mm, origin + index.max(0) * painted.step_mm + margin_mm


@lru_cache(maxsize=2)
def _plan(phantoms: int, heart_model: str) -> list[Planned]:
    return plan_cohort(POPULATION, phantoms, heart_model)


def recipe_of(number: int, phantoms: int, heart_model: str) -> Recipe:
    """Recipe of the digital twin cohort with a seed of this benchmark."""
    planned = _plan(phantoms, heart_model)[number]
    return replace(planned.recipe, seed=FIRST_SEED + number)


def measure_phantom(number: int, phantoms: int, heart_model: str) -> dict[str, Any]:
    """Everything measured of one phantom. Patient and arteries are only handed to the renderer."""
    torch.set_num_threads(1)
    start = time.process_time()
    visit = _plan(phantoms, heart_model)[number].visits[:1]
    [case] = make_cases(recipe_of(number, phantoms, heart_model), visit)
    patient, arteries = case.patient, case.arteries
    row: dict[str, Any] = {"seed": FIRST_SEED + number, "heart_model": heart_model}

    wide = paint(patient, arteries, *(np.array(corner) for corner in WIDE_BOX), WIDE_MM)
    row |= body_tissues(wide)
    place = spine_place(wide)
    low, high = labelled_box(wide, 4.0)
    if place is not None:
        y, x = (wide.origin_mm[k + 1] + WIDE_MM * place[k] for k in range(2))
        middle = 0.5 * (low[0] + high[0])
        row |= bone_tissues(paint(patient, arteries, [middle - 24, y - 36, x - 36], [middle + 24, y + 36, x + 36], FINE_MM))  # type: ignore[arg-type]
    heart = paint(patient, arteries, low, high, FINE_MM)
    for part in (chambers, aorta, pulmonary_trunk, heart_tissues):
        row |= part(heart)
    found = courses(heart)
    row |= coronaries(heart, found) | off_groove(heart, found)
    row["left_dominant"] = left_dominant(heart)

    scan, truth = case.scan, case.truth
    spacing = np.array(scan.spacing_mm)
    first = np.array(case.origin_mm) - heart.origin_mm
    cavity = heart.thinned(1.5)
    deep = (depth(cavity.label("left_ventricle"), cavity.step_mm) > 6).astype(np.uint8)
    row |= noise(scan.hu, sampled(deep, cavity.step_mm, first, scan.hu.shape, spacing) > 0)
    kvp = int(truth.protocol.kvp)
    row |= agatston(truth.hu, truth.owner, truth.protocol.spacing_mm, kvp)
    return row | {"kvp": kvp, "spacing_mm": list(scan.spacing_mm), "seconds": round(time.process_time() - start, 1)}


# -- many phantoms ------------------------------------------------------------------------------------------------------


def source_hash() -> str:
    """Of everything a phantom and its measures depend on."""
    files = [*(ROOT / "cacsnet").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml")]
    used = [f for f in files if f.parts[len(ROOT.parts) + 1] in ("phantom", "scanner", "scoring", "cohort")]
    used += [ROOT / "benchmarks" / name for name in ("phantom.py", "phantom_measure.py", "phantom_vessels.py")]
    digest = hashlib.sha256()
    for path in sorted(used):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def measured(phantoms: int, heart_model: str, workers: int, path: Path, console: Console) -> list[dict[str, Any]]:
    """Rows of all phantoms, by seed."""
    jobs = {FIRST_SEED + number: (number, phantoms, heart_model) for number in range(phantoms)}
    return collected(path, "seed", jobs, measure_phantom, workers, f"{heart_model} phantoms", console)


def measure(keys: Mapping[str, str], console: Console) -> str:
    phantoms, model = whole_number(keys, "phantoms", 1), keys["heart_model"]
    path = Path(keys["cache"] or ROOT / "runs" / "phantom") / f"{model}_{phantoms}_{source_hash()}.jsonl"
    rows = pd.DataFrame(measured(phantoms, model, whole_number(keys, "workers", 1), path, console))
    table, inside, counted = literature_table(rows)
    paper = load_population(POPULATION).paper
    text = "\n\n".join((
        f"`python benchmarks/phantom.py measure phantoms={phantoms} heart_model={model}`: {phantoms} phantoms, seeds from "
        f"{FIRST_SEED} on, labels painted at {FINE_MM} mm; {np.median(rows['seconds']):.0f} s of CPU time each. "
        f"**{inside} of {counted} quantities are within their published range.**",
        table,
        dominance(rows),
        f"Reference Agatston of one scan each (profile as in the paper, 120 kVp) beside {POPULATION}:",
        agatston_table(rows, paper),
    ))  # fmt: skip
    write(keys["docs"], f"measured {model}", text)
    return text


def dominance(rows: pd.DataFrame) -> str:
    known = rows["left_dominant"].dropna()
    return (
        f"The artery in the posterior interventricular groove is the LCX's in {int(known.sum())} of {len(known)} phantoms "
        "where one was found there: about 15 % of people are left-dominant (usual textbook figure)."
    )


# -- docs ---------------------------------------------------------------------------------------------------------------


def write(docs: str, mark: str, text: str) -> None:
    """Into ``<docs>/phantom.md``; nothing without ``docs``."""
    if docs:
        write_between(Path(docs) / "phantom.md", mark, text)


KEYS = {
    "phantoms": "200", "heart_model": "ellipsoid", "workers": "2", "docs": "docs", "cache": "", "plaques": "50",
    "patients": "56", "patches": "24", "only": "",
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 for a bad command."""
    console = Console(width=160)
    torch.set_num_threads(1)
    try:
        command = arguments[0] if arguments else ""
        keys = read_keys(arguments[1:], KEYS)
        if keys["heart_model"] not in HEART_MODELS:
            raise ConfigError(f"choose from {', '.join(HEART_MODELS)}", field="heart_model", value=keys["heart_model"])
        if command == "measure":
            console.print(measure(keys, console), markup=False)
        elif command == "truth":
            from phantom_truth import truth

            text = truth(
                whole_number(keys, "plaques", 1),
                whole_number(keys, "patients", 1),
                keys["heart_model"],
                whole_number(keys, "workers", 1),
            )
            write(keys["docs"], "truth", text)
            console.print(text, markup=False)
        elif command == "speed":
            from phantom_speed import speed

            text = speed(whole_number(keys, "patches", 1), whole_number(keys, "workers", 1))
            write(keys["docs"], "speed", text)
            console.print(text, markup=False)
        elif command == "pictures":
            from phantom_pictures import pictures

            for path in pictures(Path(keys["docs"] or "docs"), keys["only"]):
                console.print(f"written to {path}")
        else:
            raise ConfigError("choose from measure, truth, speed, pictures", field="command", value=command)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
