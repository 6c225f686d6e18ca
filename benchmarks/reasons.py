"""Are rejected candidates named rightly? Measures the rules of ``cacsnet/scoring/reasons.py`` on phantom scans.

``python benchmarks/reasons.py scans=12 first=200`` makes phantoms of the validation split with many distractors, scores
them with the shipped checkpoint and prints, by mass (HU x volume above the threshold):

- the confusion of true owner and named reason, (a) with the true structures on the coarse grid and every candidate that
  isn't coronary rejected, (b) with the network's structures and rejections;
- the Agatston columns of (b) beside the truth;
- what overriding kept candidates by a place rule would lose of each vessel, and which share of false calcium it would remove.

The tables replace what stands between the marks in ``report=`` (docs/reasons.md; empty: none), and ``picture=``
(docs/reasons.png; empty: none) is drawn. ``sweep=true`` prints instead how the share of rightly placed calcium depends on
each distance: they were chosen on ``first=0``, and the report is on other phantoms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cc3d
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rich.console import Console
from scipy.ndimage import gaussian_filter

from cacsnet.errors import CacsError
from cacsnet.inference.localise import Heart
from cacsnet.inference.pipeline import CaseResult, score_scan
from cacsnet.inference.settings import InferenceSettings
from cacsnet.keys import read_keys, whole_number
from cacsnet.labels import STRUCTURE_INDEX, STRUCTURES, VESSEL_NAMES
from cacsnet.network.checkpoint import Model, load_model
from cacsnet.phantom.anatomy import View
from cacsnet.phantom.cohort import CohortCase, Recipe, make_case
from cacsnet.phantom.deposits import DISTRACTORS
from cacsnet.phantom.render import render
from cacsnet.scoring import REASON_INDEX, REASONS, ReasonSettings, extracoronary_scores, reason_map
from cacsnet.scoring.lesions import EXTRACORONARY
from cacsnet.scoring.reasons import PLACES, Landmarks, place_voxels
from cacsnet.training.validation import VALIDATION_SEED

FIRST_SEED = VALIDATION_SEED + 1000  # the validation split beyond the scans that training looks at
TOTALS = (350.0, 900.0, 150.0)
MANY = {
    "aorta": 2.5, "aortic_valve": 2.5, "mitral_annulus": 2.5, "ostium": 0.5, "pericardium": 1.5, "papillary_muscle": 0.6,
    "node": 1.2, "bronchus": 0.5, "cartilage": 1.0, "bone": 0.5,
}  # fmt: skip
BONES = ("cartilage", "rib_cortex", "sternum_cortex", "disc", "vertebra_cortex", "posterior_elements")
BONE_REACH_MM = 2.0
BONE = DISTRACTORS["bone"]  # painted bone, and calcium on it
OWNERS = {
    **{name: index for index, name in enumerate(VESSEL_NAMES, start=1)},
    **DISTRACTORS,
    "noise": 0,
}
RIGHT = {
    "aorta": "aorta",
    "aortic_valve": "aortic_valve",
    "mitral_annulus": "mitral_annulus",
    "pericardium": "pericardium",
    "papillary_muscle": "other",
    "node": "outside_heart",
    "ostium": "aorta",
    "bronchus": "outside_heart",
    "cartilage": "bone",
    "bone": "bone",
    "noise": "noise",
}
LARGEST_LOSS = 0.005  # of each vessel's true mass: a rule that loses more must not override
KVP, THRESHOLD_HU = 120.0, 130
MARKS = ("<!-- measured: start -->", "<!-- measured: end -->")


@dataclass(frozen=True)
class Case:
    """One scored phantom on the voxels around its heart (arrays [z, y, x]).

    Attributes:
        hu: int16.
        true, predicted: uint8, structure labels.
        index: int [n, 3], candidate voxels: at or above the threshold within the margin of the heart.
        owner: int [n], their true owners, see OWNERS.
        mass: float [n], HU x mm³ / 1000.
        kept: uint8, vessel map of the network.
        reasons: uint8, what the pipeline named.
        spacing_mm: (dz, dy, dx).
    """

    hu: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    index: np.ndarray
    owner: np.ndarray
    mass: np.ndarray
    kept: np.ndarray
    reasons: np.ndarray
    spacing_mm: tuple[float, float, float]

    def mask(self, chosen: np.ndarray) -> np.ndarray:
        """bool [z, y, x] of the chosen candidates, bool [n]."""
        out = np.zeros(self.hu.shape, bool)
        out[tuple(self.index[chosen].T)] = True
        return out

    def at(self, volume: np.ndarray) -> np.ndarray:
        """Values of a volume at the candidates."""
        return volume[tuple(self.index.T)]

    @property
    def coronary(self) -> np.ndarray:
        return (self.owner >= 1) & (self.owner <= len(VESSEL_NAMES))


def recipe(number: int, matrix: int) -> Recipe:
    """Much calcium and many distractors; every sixth scan is a 5 mm one without gating."""
    return Recipe(FIRST_SEED + number, TOTALS[number % 3], MANY, gated=number % 6 != 5, matrix=matrix)


def score_case(phantom: CohortCase, model: Model, settings: InferenceSettings) -> Case:
    """Score a phantom and look up the truth of its candidates."""
    result = score_scan(phantom.scan, model, settings)
    spacing, box = phantom.scan.spacing_mm, result.box
    hu = phantom.scan.hu[box]
    index = np.argwhere(hu >= THRESHOLD_HU)
    places = (index + [b.start for b in box]) * np.array(spacing)
    near = result.heart.sample(result.heart.distance_mm, places) <= settings.heart_margin_mm
    index, places = index[near], places[near]
    true = true_structures(phantom, result)
    owner = phantom.truth.owner[box][tuple(index.T)].astype(int)
    owner[(owner == 0) & (bone_distance(phantom, places) <= BONE_REACH_MM)] = BONE
    return Case(
        hu=hu,
        true=true,
        predicted=result.heart.structures_on_native(spacing, box),
        index=index,
        owner=owner,
        mass=hu[tuple(index.T)].astype(float) * float(np.prod(spacing)) / 1000,
        kept=result.vessel_map[box],
        reasons=result.reasons,
        spacing_mm=spacing,
    )


def true_structures(phantom: CohortCase, result: CaseResult) -> np.ndarray:
    """True labels sampled on the coarse grid and brought back to the box as inference does: uint8 [z, y, x]."""
    heart: Heart = result.heart
    first = [a + b for a, b in zip(phantom.origin_mm, heart.grid.first_mm, strict=True)]
    anatomy = render(phantom.patient, phantom.arteries, first, heart.grid.step_mm, heart.grid.shape)
    one_hot = torch.nn.functional.one_hot(anatomy.structures.long(), len(STRUCTURES)).movedim(-1, 0).float()
    known = replace(heart, structures=anatomy.structures.numpy(), probabilities=one_hot)
    return known.structures_on_native(phantom.scan.spacing_mm, result.box)


def bone_distance(phantom: CohortCase, places_mm: np.ndarray) -> np.ndarray:
    """Signed distance (mm) to bone or cartilage at scan positions [n, 3]."""
    patient = phantom.patient
    points = torch.tensor((places_mm + phantom.origin_mm).T.copy(), dtype=torch.float32)
    thorax = patient.to_thorax(points[:, :, None, None])
    view = View(patient, thorax, patient.to_heart(thorax))
    return torch.stack([part.sdf(view) for part in patient.parts() if part.name in BONES]).amin(0).flatten().numpy()


def confusion(case: Case, reasons: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mass per true owner and reason of the chosen candidates, float [owners, reasons]."""
    out = np.zeros((max(OWNERS.values()) + 1, len(REASONS)))
    np.add.at(out, (case.owner[chosen], case.at(reasons)[chosen]), case.mass[chosen])
    return out


def overridden(case: Case) -> dict[str, tuple[np.ndarray, float, float]]:
    """For each place rule: true coronary mass lost per vessel, false kept mass removed, false kept mass."""
    kept = case.at(case.kept) > 0
    named = case.at(reason_map(case.hu, case.mask(kept), case.predicted, case.spacing_mm, KVP))
    false = kept & ~case.coronary
    out = {}
    for rules in (*((name,) for name in EXTRACORONARY), EXTRACORONARY):
        hit = kept & np.isin(named, [REASON_INDEX[name] for name in rules])
        lost = np.array([case.mass[hit & (case.owner == v)].sum() for v in range(1, len(VESSEL_NAMES) + 1)])
        out[" + ".join(rules)] = (lost, float(case.mass[hit & false].sum()), float(case.mass[false].sum()))
    return out


def extracoronary(case: Case) -> tuple[dict[str, float], dict[str, float]]:
    """Agatston of the three columns by true owner and by the pipeline's reasons."""
    truth = np.zeros(case.hu.shape, np.uint8)
    names = {0: "other"} | {index: RIGHT[kind] for kind, index in DISTRACTORS.items()}
    for owner, name in names.items():
        truth[case.mask(case.owner == owner)] = REASON_INDEX[name]
    scores = [extracoronary_scores(case.hu, volume, case.spacing_mm, KVP) for volume in (truth, case.reasons)]
    true, reported = ({name: measures.agatston for name, measures in score.items()} for score in scores)
    return true, reported


def pieces(case: Case, chosen: np.ndarray) -> np.ndarray:
    """Number of connected pieces of each true owner among the chosen candidates, int [owners]."""
    out = np.zeros(max(OWNERS.values()) + 1, int)
    for owner in np.unique(case.owner[chosen]):
        mask = case.mask(chosen & (case.owner == owner))
        out[owner] = cc3d.connected_components(mask, connectivity=26, return_N=True)[1]
    return out


def confusion_table(title: str, mass: np.ndarray, count: np.ndarray) -> str:
    """Rows: true owner; columns: share of its mass per reason, %."""
    names = REASONS[1:]
    lines = [f"**{title}**", "", "| true owner | pieces | mass | " + " | ".join(names) + " |"]
    lines.append("|---|" + "---:|" * (len(names) + 2))
    for owner, index in OWNERS.items():
        total = mass[index].sum()
        if total <= 0:
            continue
        right = RIGHT.get(owner)
        cells = []
        for name in names:
            share = 100 * mass[index, REASON_INDEX[name]] / total
            text = f"{share:.1f}" if share >= 0.05 else "·"
            cells.append(f"**{text}**" if name == right else text)
        lines.append(f"| {owner} | {count[index]} | {total:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def override_table(cases: Sequence[Case]) -> str:
    """Share of each vessel's true mass lost, and of the false calcium that was kept removed."""
    true = np.array([sum(c.mass[c.owner == v].sum() for c in cases) for v in range(1, len(VESSEL_NAMES) + 1)])
    lines = [
        "| overriding rule | " + " | ".join(f"{v} lost" for v in VESSEL_NAMES) + " | false calcium removed | within the limit |"
    ]
    lines.append("|---|" + "---:|" * (len(VESSEL_NAMES) + 1) + "---|")
    each = [overridden(case) for case in cases]
    for rule in each[0]:
        lost = np.sum([e[rule][0] for e in each], axis=0) / np.maximum(true, 1e-9)
        removed, false = sum(e[rule][1] for e in each), sum(e[rule][2] for e in each)
        allowed = "yes" if (lost <= LARGEST_LOSS).all() else "no"
        shares = " | ".join(f"{100 * share:.2f} %" for share in lost)
        lines.append(f"| {rule} | {shares} | {100 * removed / max(false, 1e-9):.1f} % of {false:.0f} | {allowed} |")
    return "\n".join(lines)


def columns_table(cases: Sequence[Case]) -> str:
    """Agatston of the three columns: true, reported, mean absolute error per scan."""
    lines = ["| column | true Agatston, all scans | reported | mean absolute error per scan |", "|---|---:|---:|---:|"]
    each = [extracoronary(case) for case in cases]
    for name in EXTRACORONARY:
        true, found = (np.array([pair[k][name] for pair in each]) for k in (0, 1))
        lines.append(f"| {name} | {true.sum():.0f} | {found.sum():.0f} | {np.abs(found - true).mean():.1f} |")
    return "\n".join(lines)


def report(cases: Sequence[Case], command: str, facts: str) -> str:
    """The measured part of docs/reasons.md."""
    titles = (
        "(a) true structures on the coarse grid, every candidate that is not coronary",
        "(b) the network's structures, the candidates it rejected",
    )
    mass = np.zeros((2, max(OWNERS.values()) + 1, len(REASONS)))
    count = np.zeros(mass.shape[:2], int)
    for case in cases:
        ideal = reason_map(case.hu, case.mask(~case.coronary), case.true, case.spacing_mm, KVP)
        for k, (reasons, chosen) in enumerate(((ideal, ~case.coronary), (case.reasons, case.at(case.reasons) > 0))):
            mass[k] += confusion(case, reasons, chosen)
            count[k] += pieces(case, chosen)
    parts = [
        f"`{command}` ({facts}). Shares in %, of the mass (HU × volume) of each true owner; bold: the right name.",
        *(confusion_table(*each) for each in zip(titles, mass, count, strict=True)),
        "**Own Agatston columns of (b)**",
        columns_table(cases),
        "**If a rule overrode the network**: share of each vessel's true mass lost (allowed up to "
        f"{100 * LARGEST_LOSS:.1f} % of each), and share of the false calcium that the network keeps removed",
        override_table(cases),
    ]
    return "\n\n".join(parts)


SWEEP: dict[str, tuple[float, ...]] = {
    "contact_mm": (3.0, 4.5, 6.0, 9.0),
    "annulus_distance_mm": (0.0, 3.0, 5.0, 7.0, 9.0),
    "valve_distance_mm": (10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0, 25.0),
    "valve_depth_mm": (0.0, 1.0, 2.0, 3.0, 4.0),
    "aorta_distance_mm": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
    "mitral_distance_mm": (4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0),
    "pericardium_distance_mm": (6.0, 8.0, 10.0, 12.0, 14.0, 16.0),
    "pericardium_depth_mm": (0.0, 1.5, 3.0, 4.5, 6.0),
}


def sweep(cases: Sequence[Case]) -> str:
    """Share (%) of each distractor's mass in voxels of the right place, (a) / (b), one setting at a time."""
    kinds = ("aorta", "aortic_valve", "mitral_annulus", "pericardium", "papillary_muscle", "node")
    rows = [(name, value, replace(ReasonSettings(), **{name: value})) for name, values in SWEEP.items() for value in values]
    right, total = np.zeros((len(rows), 2, len(kinds))), np.zeros(len(kinds))
    for case in cases:
        chosen = np.isin(case.owner, [OWNERS[kind] for kind in kinds])
        index, owner, mass = case.index[chosen], case.owner[chosen], case.mass[chosen]
        total += [mass[owner == OWNERS[kind]].sum() for kind in kinds]
        for which, structures in enumerate((case.true, case.predicted)):
            marks: dict[float, Landmarks] = {}
            for row, (_, _, settings) in enumerate(rows):
                contact = settings.contact_mm
                if contact not in marks:
                    marks[contact] = Landmarks.of(structures, case.spacing_mm, contact)
                place = place_voxels(index, structures, case.spacing_mm, marks[contact], settings)
                for k, kind in enumerate(kinds):
                    right[row, which, k] += mass[(owner == OWNERS[kind]) & (place == PLACES.index(RIGHT[kind]))].sum()
    lines = ["| setting | mm | " + " | ".join(kinds) + " | mean |", "|---|---:|" + "---:|" * (len(kinds) + 1)]
    for (name, value, _), found in zip(rows, right, strict=True):
        share = 100 * found / np.maximum(total, 1e-9)
        cells = [f"{a:.0f} / {b:.0f}" for a, b in share.T] + ["{:.1f} / {:.1f}".format(*share.mean(1))]
        mark = "**" if getattr(ReasonSettings(), name) == value else ""
        lines.append(f"| {name} | {mark}{value:g}{mark} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# Okabe and Ito's colours, told apart by colour-blind readers
COLOURS = {
    "aortic_valve": "#E69F00",
    "aorta": "#56B4E9",
    "mitral_annulus": "#CC79A7",
    "pericardium": "#009E73",
    "other": "#F0E442",
}
OUTLINES = {"aorta": "-", "left_ventricle": "--", "left_atrium": ":"}
SHOWN = {"aortic_valve": "aortic valve", "mitral_annulus": "mitral annulus", "aorta": "aortic root"}


def picture(path: Path, cases: Sequence[Case]) -> None:
    """Slices through the aortic valve, the mitral annulus and the aortic root: scan above, zones and reasons below."""
    figure = Figure(figsize=(13.5, 9.6), facecolor="white", layout="constrained")
    axes = figure.subplots(2, len(SHOWN))
    for column, (kind, title) in enumerate(SHOWN.items()):
        case, z, centre = _best_slice(cases, kind)
        for row in range(2):
            _draw(axes[row, column], case, z, centre, zones=row == 1)
        axes[0, column].set_title(f"{title} (slice {z})", fontsize=12)
    handles = [Patch(facecolor=to_rgba(c, 0.75), label=f"{n.replace('_', ' ')}: zone, calcium") for n, c in COLOURS.items()]
    handles += [Line2D([], [], color="black", linestyle=s, label=n.replace("_", " ")) for n, s in OUTLINES.items()]
    handles += [Line2D([], [], color="black", marker="x", linestyle="", label="junctions")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def _best_slice(cases: Sequence[Case], kind: str) -> tuple[Case, int, np.ndarray]:
    """The case and slice with most calcium of ``kind`` that got this name, and where it lies (row, column)."""
    best = (0.0, cases[0], 0, np.zeros(2))
    for case in cases:
        hit = (case.owner == DISTRACTORS[kind]) & (case.at(case.reasons) == REASON_INDEX[kind])
        if kind == "aorta":  # the root: near the left ventricle's level, not the arch
            valve = Landmarks.of(case.predicted, case.spacing_mm).aortic_junction
            hit &= case.index[:, 0] * case.spacing_mm[0] <= (valve[:, 0].max() + 35.0 if len(valve) else -np.inf)
        if not hit.any() or case.spacing_mm[0] > 3.0:
            continue
        per_slice = np.bincount(case.index[hit, 0], weights=case.mass[hit])
        z = int(per_slice.argmax())
        if per_slice[z] > best[0]:
            here = hit & (case.index[:, 0] == z)
            best = (float(per_slice[z]), case, z, case.index[here, 1:].mean(0))
    return best[1], best[2], best[3]


def _draw(axes: Axes, case: Case, z: int, centre: np.ndarray, zones: bool, half_mm: float = 62.0) -> None:
    """One slice of the scan; with ``zones`` the places, the junctions and the rejected candidates by reason."""
    spacing = np.array(case.spacing_mm)
    # between the calcium and the middle of the heart, so that both are seen
    heart = np.argwhere(case.predicted[z] > 0)
    middle = (centre + (heart.mean(0) if len(heart) else centre)) / 2
    low = np.maximum(0, np.round(middle - half_mm / spacing[1:])).astype(int)
    high = np.minimum(case.hu.shape[1:], np.round(middle + half_mm / spacing[1:])).astype(int)
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    extent = (low[1] * spacing[2], high[1] * spacing[2], high[0] * spacing[1], low[0] * spacing[1])
    axes.imshow(case.hu[z][window], cmap="gray", vmin=-160, vmax=340, extent=extent, interpolation="nearest")
    if zones:
        marks = Landmarks.of(case.predicted, spacing)
        rows, columns = np.mgrid[window]
        index = np.stack([np.full(rows.size, z), rows.ravel(), columns.ravel()], 1)
        place = place_voxels(index, case.predicted, spacing, marks).reshape(rows.shape)
        shade = np.zeros((*place.shape, 4))
        for name in ("aortic_valve", "aorta", "mitral_annulus", "pericardium"):
            shade[place == PLACES.index(name)] = to_rgba(COLOURS[name], 0.15 if name == "pericardium" else 0.35)
        axes.imshow(shade, extent=extent, interpolation="nearest")
        for points in (marks.aortic_junction, marks.mitral_junction):
            here = points[np.abs(points[:, 0] - z * spacing[0]) < spacing[0] / 2]
            axes.plot(here[:, 2] + spacing[2] / 2, here[:, 1] + spacing[1] / 2, "kx", markersize=4, markeredgewidth=0.8)
        for name, colour in COLOURS.items():
            mine = case.reasons[z][window] == REASON_INDEX[name]
            if mine.any():
                solid = np.zeros((*mine.shape, 4))
                solid[mine] = to_rgba(colour)
                axes.imshow(solid, extent=extent, interpolation="nearest")
                axes.contour(mine, [0.5], colors="black", linewidths=0.6, extent=extent, origin="upper")
    for name, style in OUTLINES.items():
        # smoothed, or the steps of the pixels would hide the dashes
        mine = gaussian_filter((case.predicted[z][window] == STRUCTURE_INDEX[name]).astype(float), 1.5)
        if mine.max() > 0.5 and zones:
            axes.contour(mine, [0.5], colors="black", linewidths=1.4, linestyles=style, extent=extent, origin="upper")
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    axes.set_axis_off()


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 for a bad command."""
    defaults = {
        "scans": "12", "first": "200", "matrix": "384", "checkpoint": "checkpoints/cacsnet.safetensors",
        "report": "docs/reasons.md", "picture": "docs/reasons.png", "sweep": "false",
    }  # fmt: skip
    console = Console()
    try:
        keys = read_keys(arguments, defaults)
        first, scans, matrix = whole_number(keys, "first"), whole_number(keys, "scans", 1), whole_number(keys, "matrix", 64)
        model, settings = load_model(Path(keys["checkpoint"])), InferenceSettings()
    except CacsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cases, seconds, failed = [], [], 0
    for number in range(first, first + scans):
        phantom = make_case(recipe(number, matrix))
        try:
            case = score_case(phantom, model, settings)
        except CacsError as error:
            failed += 1
            console.print(f"scan {number}: {error}")
            continue
        start = time.process_time()
        reason_map(case.hu, case.reasons > 0, case.predicted, case.spacing_mm, KVP)
        seconds.append(time.process_time() - start)
        cases.append(case)
        console.print(f"scan {number}: {len(case.index)} candidate voxels, reasons {seconds[-1]:.2f} CPU s")
    if keys["sweep"] == "true":
        print(sweep(cases))
        return 0
    command = f"python benchmarks/reasons.py scans={keys['scans']} first={keys['first']}"
    facts = (
        f"{len(cases)} phantom scans, {failed} failed; weights {model.sha256[:12]}; "
        f"naming takes {np.median(seconds):.1f} s of CPU time a scan"
    )
    text = report(cases, command, facts)
    print(text)
    if keys["report"]:
        path = Path(keys["report"])
        before, _, rest = path.read_text().partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        path.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
    if keys["picture"]:
        picture(Path(keys["picture"]), cases)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
