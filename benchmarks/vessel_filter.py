"""What the vessel filter keeps of true and of false calcium: justifies ``vessel_filter_mm`` in conf/inference/default.yaml.

``python benchmarks/vessel_filter.py scans=12 patients=60`` measures, on phantoms of the validation split,

- true calcium: the share of each vessel's plaque mass within each distance of the ventricles (left and right blood pool and
  left-ventricular myocardium), with the true ventricles of ``patients`` phantoms and with those that the shipped checkpoint
  finds in ``scans`` scans;
- false calcium: what the network keeps there with the filter off although it belongs to no coronary artery, by the vessel
  it was given, in lesions within each distance of the ventricles it finds.

The default is the smallest whole distance that keeps 99.5 % of the true mass of each vessel, with the true ventricles and
with the network's. Prints the tables and writes ``vessel_filter.md`` and ``vessel_filter.png`` below ``docs=``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cc3d
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from scipy.ndimage import map_coordinates

from cacsnet.errors import CacsError
from cacsnet.inference.pipeline import CaseResult, score_scan
from cacsnet.inference.settings import InferenceSettings
from cacsnet.keys import read_keys, whole_number
from cacsnet.labels import VESSEL_NAMES
from cacsnet.network.checkpoint import Model, load_model
from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.calcium import draw_plaques
from cacsnet.phantom.cohort import CohortCase, Recipe, make_case
from cacsnet.phantom.deposits import DISTRACTORS, Deposit
from cacsnet.phantom.heart import Artery
from cacsnet.scoring import distance_mm
from cacsnet.training.validation import VALIDATION_SEED

FIRST_SEED = VALIDATION_SEED + 2000  # the validation split beyond the scans that training looks at
TOTALS = (350.0, 60.0, 900.0, 150.0)
STEP_MM = 3.0
REACH_MM = 120.0
KEEP = 0.995
DRAWS, DRAWS_IN_SCAN = 3, 12  # of plaques on one tree; in a scored scan they are only placed, not imaged
TARGETS = {"LM": 60.0, "LAD": 400.0, "LCX": 400.0, "RCA": 400.0}  # Agatston of one draw: all of each vessel's length gets some
FARTHEST_MM = 60
SHOWN_MM = (0, 5, 10, 15, 20, 22, 24, 26, 28, 30, 35, 40, 50, 60)
COLOURS = ("#E69F00", "#D55E00", "#0072B2", "#009E73")  # Okabe and Ito: told apart by colour-blind readers


@dataclass
class Curve:
    """Masses and distances (mm) from the ventricles, by vessel."""

    distance: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in VESSEL_NAMES})
    mass: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in VESSEL_NAMES})

    def add(self, vessel: str, distance: np.ndarray, mass: np.ndarray) -> None:
        self.distance[vessel].append(distance)
        self.mass[vessel].append(mass)

    def total(self, vessel: str) -> float:
        return float(sum(m.sum() for m in self.mass[vessel]))

    def share(self, vessel: str) -> np.ndarray:
        """Share of the mass within 0, 1, ... FARTHEST_MM mm: float [FARTHEST_MM + 1]; nan where there is none."""
        if self.total(vessel) <= 0:
            return np.full(FARTHEST_MM + 1, np.nan)
        distance, mass = np.concatenate(self.distance[vessel]), np.concatenate(self.mass[vessel])
        return np.array([mass[distance <= mm].sum() for mm in range(FARTHEST_MM + 1)]) / mass.sum()

    def needed_mm(self, vessel: str) -> int | None:
        """The smallest whole distance that keeps KEEP of the vessel; None: above FARTHEST_MM."""
        enough = np.flatnonzero(self.share(vessel) >= KEEP)
        return int(enough[0]) if enough.size else None


def plaques_by_vessel(plaques: Sequence[Deposit]) -> dict[str, list[Deposit]]:
    """The plaques of each vessel that has some."""
    out = {name: [d for d in plaques if d.owner == index] for index, name in enumerate(VESSEL_NAMES, start=1)}
    return {name: mine for name, mine in out.items() if mine}


def many_plaques(patient: Patient, arteries: Sequence[Artery], rng: np.random.Generator, draws: int) -> list[Deposit]:
    """Several draws of heavy disease on one coronary tree."""
    return [plaque for _ in range(draws) for plaque in draw_plaques(patient, arteries, rng, TARGETS)]


def add_true(curve: Curve, seed: int) -> None:
    """Plaques of one phantom and its true ventricles, in the heart frame (millimetres of the patient)."""
    axes = [torch.arange(-REACH_MM, REACH_MM + STEP_MM / 2, STEP_MM)] * 3
    p = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    patient = Patient(seed)
    rng = np.random.default_rng([seed, 11])
    heart = patient.heart
    plaques = many_plaques(patient, heart.grow_tree(rng), rng, DRAWS)
    inside = (torch.minimum(heart.lv_outer_sdf(p), heart.rv_sdf(p)) < 0).numpy()
    distance = distance_mm(inside, (STEP_MM,) * 3)
    for name, mine in plaques_by_vessel(plaques).items():
        places = (np.array([d.centre for d in mine]) + REACH_MM) / STEP_MM
        # the surface lies half a voxel beyond the outermost centres, as in cacsnet.inference.localise
        values = map_coordinates(distance, places.T, order=1, mode="nearest") - STEP_MM / 2
        curve.add(name, values.clip(0) * patient.heart_scale, np.array([d.mass_mg for d in mine]))


def add_found(curve: Curve, phantom: CohortCase, result: CaseResult, seed: int) -> None:
    """Many more plaques on the arteries of a scored phantom, and the ventricles that the network found."""
    rng = np.random.default_rng([seed, 11])
    plaques = many_plaques(phantom.patient, phantom.arteries, rng, DRAWS_IN_SCAN)
    size = np.array(phantom.scan.hu.shape) * phantom.scan.spacing_mm
    for name, mine in plaques_by_vessel(plaques).items():
        places = phantom.patient.heart_to_patient(np.array([d.centre for d in mine])) - phantom.origin_mm
        covered = ((places >= 0) & (places <= size)).all(axis=1)  # what the scan doesn't show is no calcium of it
        distance = result.heart.sample(result.heart.ventricle_distance_mm, places[covered])
        curve.add(name, distance, np.array([d.mass_mg for d in mine])[covered])


def add_false(curve: Curve, by_owner: dict[str, float], phantom: CohortCase, result: CaseResult) -> None:
    """Kept voxels that belong to no coronary artery: mass (HU x mm³ / 1000) by the vessel that the network gave them.

    The distance is that of the filter: the smallest of the voxel's 26-connected kept lesion.
    """
    spacing = np.array(phantom.scan.spacing_mm)
    kept = result.vessel_map[result.box]
    lesion = cc3d.connected_components(kept > 0, connectivity=26)
    index = np.argwhere(lesion > 0)
    if not len(index):
        return
    number = lesion[tuple(index.T)]
    places = (index + [b.start for b in result.box]) * spacing
    nearest = np.full(int(number.max()) + 1, np.inf)
    np.minimum.at(nearest, number, result.heart.sample(result.heart.ventricle_distance_mm, places))
    owner = phantom.truth.owner[result.box][tuple(index.T)]
    mass = phantom.scan.hu[result.box][tuple(index.T)].astype(float) * spacing.prod() / 1000
    given = kept[tuple(index.T)]
    false = (owner == 0) | (owner > len(VESSEL_NAMES))
    for vessel, name in enumerate(VESSEL_NAMES, start=1):
        chosen = false & (given == vessel)
        curve.add(name, nearest[number[chosen]], mass[chosen])
    for kind, code in {**DISTRACTORS, "bone or noise": 0}.items():
        by_owner[kind] = by_owner.get(kind, 0.0) + float(mass[owner == code].sum())


def measure(
    scans: int, patients: int, first: int, matrix: int, model: Model, console: Console
) -> tuple[Curve, Curve, Curve, dict[str, float], int]:
    """True calcium with true and with found ventricles, false calcium and its mass by owner, number of scans scored."""
    true, found, false = Curve(), Curve(), Curve()
    by_owner: dict[str, float] = {}
    for number in range(patients):
        add_true(true, VALIDATION_SEED + number)
    settings = replace(InferenceSettings(), vessel_filter_mm=float("inf"))
    scored = 0
    for number in range(first, first + scans):
        seed = FIRST_SEED + number
        phantom = make_case(Recipe(seed, TOTALS[number % len(TOTALS)], gated=number % 6 != 5, matrix=matrix))
        try:
            result = score_scan(phantom.scan, model, settings)
        except CacsError as error:
            console.print(f"scan {number}: {error}")
            continue
        scored += 1
        add_found(found, phantom, result, seed)
        add_false(false, by_owner, phantom, result)
        console.print(f"scan {number}: scored")
    return true, found, false, by_owner, scored


def needed(curve: Curve) -> str:
    return ", ".join(f"{name} {'> 60' if (mm := curve.needed_mm(name)) is None else mm} mm" for name in VESSEL_NAMES)


def kept_share(curve: Curve, mm: float) -> str:
    """Share of all vessels' mass within a distance."""
    total = sum(curve.total(name) for name in VESSEL_NAMES)
    near = sum(
        float(m[d <= mm].sum()) for name in VESSEL_NAMES for d, m in zip(curve.distance[name], curve.mass[name], strict=True)
    )
    return f"{near / total:.1%}" if total else "nothing (there is none)"


def report(true: Curve, found: Curve, false: Curve, by_owner: dict[str, float], default_mm: float, facts: str) -> str:
    """docs/vessel_filter.md."""
    every = [curve.needed_mm(name) for curve in (true, found) for name in VESSEL_NAMES]
    known = [mm for mm in every if mm is not None]
    smallest = f"{max(known)} mm" if len(known) == len(every) else f"above {FARTHEST_MM} mm"
    owners = ", ".join(f"{kind} {mass:.1f}" for kind, mass in by_owner.items()).replace("_", " ")
    lines = [
        "# The vessel filter",
        "",
        "A kept lesion farther than `vessel_filter_mm` from the ventricles (left and right blood pool and left-ventricular",
        "myocardium) is removed as a whole. The left ventricle alone would reject the right coronary artery.",
        "",
        f"Measured by {facts}.",
        "",
        f"- Smallest whole distance that keeps {KEEP:.1%} of the true mass, true ventricles: {needed(true)}.",
        f"- The same with the ventricles that the network finds: {needed(found)}.",
        f"- So the rule (each vessel, both kinds of ventricles) gives **{smallest}**; the default is {default_mm:g} mm.",
        f"- At {default_mm:g} mm the filter keeps {kept_share(found, default_mm)} of the true mass (found ventricles) and "
        f"{kept_share(false, default_mm)} of the false.",
        f"- False calcium that the network keeps with the filter off, mass (HU × mm³ / 1000): {owners}.",
        "",
        "![kept true and false calcium against the distance](vessel_filter.png)",
        "",
        "Share of the mass (%) within a distance. *true*: plaques and true ventricles; *found*: plaques and the network's",
        "ventricles; *false*: what the network keeps although it is no coronary calcium, by the vessel it was given.",
        "",
        "| mm | " + " | ".join(f"{v} {kind}" for v in VESSEL_NAMES for kind in ("true", "found", "false")) + " |",
        "|---:|" + "---:|" * (3 * len(VESSEL_NAMES)),
    ]
    shares = [curve.share(v) for v in VESSEL_NAMES for curve in (true, found, false)]
    for mm in sorted({*SHOWN_MM, *([round(default_mm)] if default_mm <= FARTHEST_MM else [])}):
        cells = ["–" if np.isnan(s[mm]) else f"{100 * s[mm]:.2f}" for s in shares]
        mark = "**" if mm == round(default_mm) else ""
        lines.append(f"| {mark}{mm}{mark} | " + " | ".join(cells) + " |")
    masses = " | ".join(f"{false.total(v):.1f}" for v in VESSEL_NAMES)
    lines += ["", "| mass of false calcium | " + " | ".join(VESSEL_NAMES) + " |", "|---|" + "---:|" * len(VESSEL_NAMES)]
    lines += [f"| HU × mm³ / 1000 | {masses} |", ""]
    return "\n".join(lines)


def picture(path: Path, true: Curve, found: Curve, false: Curve, default_mm: float) -> None:
    """Left: true calcium kept, with true (dashed) and found (solid) ventricles; right: false calcium kept."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    mm = np.arange(FARTHEST_MM + 1)
    for name, colour in zip(VESSEL_NAMES, COLOURS, strict=True):
        left.plot(mm, 100 * found.share(name), color=colour, label=name)
        left.plot(mm, 100 * true.share(name), color=colour, linestyle="--")
        if false.total(name) > 0:
            right.step(mm, 100 * false.share(name), where="post", color=colour, label=f"{name} ({false.total(name):.1f})")
    left.axhline(100 * KEEP, color="black", linewidth=0.7)
    left.text(FARTHEST_MM, 100 * KEEP - 0.3, f"{KEEP:.1%}", ha="right", va="top", fontsize=9)
    left.plot([], [], color="black", label="found ventricles")
    left.plot([], [], color="black", linestyle="--", label="true ventricles")
    for axes in (left, right):
        axes.axvline(default_mm, color="black", linestyle=":", label=f"default, {default_mm:g} mm")
        axes.set_xlim(0, FARTHEST_MM)
        axes.set_xlabel("distance from the ventricles (mm)")
        axes.grid(alpha=0.3)
    left.set_ylim(80, 100.5)
    left.set_ylabel("true calcium kept (% of mass)")
    left.legend(loc="lower right", fontsize=9)
    right.set_ylim(0, 103)
    right.set_ylabel("false calcium kept (% of its mass)")
    right.legend(loc="lower right", fontsize=9, title="given to (HU × mm³ / 1000)", title_fontsize=9)
    figure.savefig(path, dpi=100)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 for a bad command."""
    defaults = {
        "scans": "12", "patients": "60", "first": "0", "matrix": "384", "docs": "docs",
        "checkpoint": "checkpoints/cacsnet.safetensors",
    }  # fmt: skip
    console = Console()
    try:
        keys = read_keys(arguments, defaults)
        least = {"scans": 1, "patients": 1, "first": 0, "matrix": 64}
        numbers = [whole_number(keys, name, from_) for name, from_ in least.items()]
        model, default_mm = load_model(Path(keys["checkpoint"])), InferenceSettings().vessel_filter_mm
    except CacsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    true, found, false, by_owner, scored = measure(*numbers, model, console)
    command = f"python benchmarks/vessel_filter.py scans={keys['scans']} patients={keys['patients']} first={keys['first']}"
    facts = f"`{command}` ({scored} phantom scans scored; weights {model.sha256[:12]})"
    text = report(true, found, false, by_owner, default_mm, facts)
    print(text)
    docs = Path(keys["docs"])
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "vessel_filter.md").write_text(text)
    picture(docs / "vessel_filter.png", true, found, false, default_mm)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
