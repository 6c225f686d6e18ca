"""What a model reaches on phantom scans it never saw, beside baselines without a network.

``python -m cacsnet.training.evaluate checkpoint=… scans=40`` prints a table and writes it as JSON and CSV. With
``heart_model=polar`` (or ``ellipsoid``) the hearts are built in that way: one that the network wasn't trained on shows what is
learnt of hearts and what of the generator. The baselines are always tuned on the network's own heart model.

Baselines, on the same candidates (voxels ≥ threshold within 30 mm of the *true* heart) and the same scorer:

- ``all``: every candidate in the true heart box is coronary; the vessel is that of the mean map.
- ``nothing``: nothing is.
- ``map``: the mean vessel-area map of training phantoms in heart coordinates (the true heart box scaled to a unit cube). A
  candidate is coronary where the map reaches a threshold, chosen on training phantoms for the best total ICC.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.ndimage import map_coordinates

from cacsnet.agreement.statistics import icc
from cacsnet.agreement.summary import summary_table
from cacsnet.errors import CacsError, ConfigError
from cacsnet.inference.settings import InferenceSettings
from cacsnet.keys import read_keys, whole_number
from cacsnet.labels import VESSEL_NAMES
from cacsnet.network.checkpoint import Model, load_model, update_card
from cacsnet.phantom.anatomy import HEART_MODELS, Patient
from cacsnet.phantom.cohort import USUAL_DISTRACTORS, CohortCase, Recipe, make_case, reference_row
from cacsnet.phantom.population import load_population, spread_total
from cacsnet.phantom.render import AREA_MARGIN_MM, heart_box
from cacsnet.scoring import score
from cacsnet.training.judging import calcium_of, calcium_shares, scored_row
from cacsnet.workers import worker_pool

SPLITS = {"held_out": 20_000_000, "validation": 17_000_000}
"""First seeds. What is reported is measured on ``held_out``, what is chosen is chosen on ``validation``; training draws below
10 000 000, a validation during training from 10 000 000 on."""
MAP_SIZE = 40
MARGIN = 0.15
"""The map reaches beyond the heart box by this share of it on each side."""

CARD_DECIMALS = 6
"""An agreement of 0.99996 is none of 1."""

POPULATION = "balanced"
"""Zeros and all risk categories often (``conf/phantom/balanced.yaml``)."""


def held_out_recipe(number: int, heart_model: str = "ellipsoid", split: str = "held_out") -> Recipe:
    """Totals from none to heavy, every sixth scan a 5 mm non-gated one, every fourth with twice the distractors."""
    times = 2.0 if number % 4 == 1 else 1.0
    return Recipe(
        SPLITS[split] + number, spread_total(load_population(POPULATION), number),
        {kind: times * mean for kind, mean in USUAL_DISTRACTORS.items()}, gated=number % 6 != 5, population=POPULATION,
        heart_model=heart_model,
    )  # fmt: skip


@dataclass(frozen=True)
class MeanMap:
    """float32 [4, n, n, n]: share of training phantoms whose vessel area covers a place of the unit heart cube."""

    share: np.ndarray
    threshold: float

    def at(self, unit: np.ndarray) -> np.ndarray:
        """Shares [4, n] at places [n, 3] of the unit cube (0 to 1 = the heart box)."""
        index = (unit.T + MARGIN) / (1 + 2 * MARGIN) * (MAP_SIZE - 1)
        return np.stack([map_coordinates(channel, index, order=1, cval=0.0) for channel in self.share])


def mean_map(phantoms: int, tuning_scans: int, first_seed: int = 0, heart_model: str = "ellipsoid") -> MeanMap:
    """Mean vessel-area map of ``phantoms`` training patients; the threshold is tuned on ``tuning_scans`` training scans."""
    share = np.zeros((len(VESSEL_NAMES), MAP_SIZE, MAP_SIZE, MAP_SIZE), np.float32)
    for number in track(range(phantoms), "mean map of training phantoms", transient=True):
        patient = Patient(first_seed + number, heart_model=heart_model)
        arteries = patient.heart.grow_tree(np.random.default_rng([first_seed + number, 2]))
        low, high = heart_box(patient)
        step = (high - low).max() / MAP_SIZE
        hit = np.zeros(share.shape, bool)
        for artery in arteries:
            if not artery.vessel:
                continue
            line = patient.heart_to_patient(artery.line)
            reach = int(np.ceil((artery.radii.max() + AREA_MARGIN_MM) / step)) + 1
            unit = (line - low) / (high - low)
            voxel = np.round((unit + MARGIN) / (1 + 2 * MARGIN) * (MAP_SIZE - 1)).astype(int)
            offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
            cell = (high - low) * (1 + 2 * MARGIN) / (MAP_SIZE - 1)
            near = offsets[(np.linalg.norm(offsets * cell, axis=1)) <= artery.radii.max() + AREA_MARGIN_MM + cell.max() / 2]
            places = (voxel[:, None] + near[None]).reshape(-1, 3)
            places = places[((places >= 0) & (places < MAP_SIZE)).all(1)]
            hit[artery.vessel - 1][tuple(places.T)] = True
        share += hit
    share /= phantoms
    best, best_value = 0.1, -2.0
    cases = [
        make_case(replace(held_out_recipe(k, heart_model), seed=first_seed + 5_000_000 + k, gated=True, matrix=320))
        for k in track(range(1, tuning_scans + 1), "tuning the map's threshold", transient=True)
    ]
    reference = [case.reference.total.agatston for case in cases]
    for threshold in (0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3):
        totals = [baseline_score(case, MeanMap(share, threshold), "map")["agatston_total"] for case in cases]
        value = icc(reference, totals).agreement
        if np.isfinite(value) and value > best_value:
            best, best_value = threshold, value
    return MeanMap(share, best)


def baseline_score(case: CohortCase, mean: MeanMap, kind: str) -> dict[str, float]:
    """Score of a baseline (``all``, ``nothing`` or ``map``) on one case."""
    truth = case.truth
    low, high = heart_box(case.patient)
    index = np.argwhere(truth.hu >= 130)
    places = np.array(truth.protocol.origin_mm) + index * np.array(truth.protocol.spacing_mm)
    unit = (places - low) / (high - low)
    share = mean.at(unit)
    in_box = ((unit >= 0) & (unit <= 1)).all(1)
    keep = {"nothing": np.zeros(len(index), bool), "all": in_box, "map": share.max(0) >= mean.threshold}[kind]
    vessels = np.zeros(truth.hu.shape, np.uint8)
    vessels[tuple(index[keep].T)] = share.argmax(0)[keep] + 1
    result = score(truth.hu, vessels, truth.protocol.spacing_mm, truth.protocol.kvp)
    row = {"agatston_total": result.total.agatston}
    return row | {f"agatston_{name}": result.vessels[name].agatston for name in VESSEL_NAMES}


def evaluate(
    checkpoint: Path, recipes: Sequence[Recipe], mean: MeanMap, settings: InferenceSettings, workers: int = 1
) -> dict[str, pd.DataFrame]:
    """Score every recipe with the model and the baselines; one table each, and the reference."""
    jobs = [(checkpoint, number, recipe, mean, settings) for number, recipe in enumerate(recipes)]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("reference", "model", "all", "nothing", "map")}
    with worker_pool(workers) as pool:
        for case in track(pool.map(_one, jobs), "phantom scans", total=len(jobs), transient=True):
            for name, row in case.items():
                rows[name].append(row)
    return {name: pd.DataFrame(values) for name, values in rows.items()}


def _one(job: tuple[Path, int, Recipe, MeanMap, InferenceSettings]) -> dict[str, dict[str, Any]]:
    """Make one case and score it every way."""
    checkpoint, number, recipe, mean, settings = job
    model, case, case_id = load_model(checkpoint), make_case(recipe), str(number)
    start = time.perf_counter()
    row, result = scored_row(case.scan, model, settings)
    row = {"case_id": case_id, "seed": recipe.seed, "gated": recipe.gated, **row}
    if result is not None:
        row |= calcium_of(case, result.vessel_map)
    row["seconds"] = time.perf_counter() - start
    rows = {"model": row, "reference": reference_row(case_id, case)}
    return rows | {kind: {"case_id": case_id, **baseline_score(case, mean, kind)} for kind in ("all", "nothing", "map")}


def agreement(tables: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Rows of ``summary_table`` for the model and each baseline. A scan that the model refused counts as scored 0."""
    out = []
    for name in ("model", "map", "all", "nothing"):
        scores = tables[name]
        columns = [c for c in scores.columns if c.startswith("agatston")]
        scores = scores.assign(**{c: scores[c].fillna(0.0).astype(float) for c in columns})
        out += [{"method": name, **row} for row in summary_table(tables["reference"], scores)]
    return out


def show(rows: Sequence[dict[str, Any]], console: Console, title: str = "") -> None:
    """One line per method and vessel."""
    table = Table(title=f"phantom scans{title}: agreement with the reference")
    for column in ("method", "vessel", "n", "ICC(A,1)", "95 % CI", "kappa (quadratic)", "reclassified", "bias"):
        table.add_column(column, justify="left" if column in ("method", "vessel") else "right")
    for row in rows:
        table.add_row(
            row["method"], row["vessel"], str(row["n"]), f"{row['icc_a1']:.3f}",
            f"{row['icc_a1_low']:.3f} to {row['icc_a1_high']:.3f}", f"{row['kappa_quadratic']:.3f}",
            f"{100 * row['reclassification_rate']:.0f} %", f"{row['bias']:.1f}",
        )  # fmt: skip
    console.print(table)


KEYS = {
    "checkpoint": "checkpoints/cacsnet.safetensors", "scans": "40", "first": "0", "heart_model": "ellipsoid",
    "split": "held_out", "coarse_share": str(InferenceSettings().coarse_share), "phantoms": "60", "tuning": "6",
    "output": "outputs/evaluation", "card": "false", "workers": str(os.cpu_count() or 1),
}  # fmt: skip


def read_command(arguments: Sequence[str]) -> tuple[dict[str, str], dict[str, int], InferenceSettings, Model]:
    """The keys, those of them that are numbers, settings of inference, and the model.

    Raises:
        CacsError: a wrong key or value, no such checkpoint.
    """
    keys = read_keys(arguments, KEYS)
    for key, choices in (("split", tuple(SPLITS)), ("heart_model", HEART_MODELS), ("card", ("true", "false"))):
        if keys[key] not in choices:
            raise ConfigError(f"choose from {', '.join(choices)}", field=key, value=keys[key])
    least = {"scans": 1, "first": 0, "phantoms": 1, "tuning": 1, "workers": 1}
    numbers = {key: whole_number(keys, key, low) for key, low in least.items()}
    try:
        settings = InferenceSettings(coarse_share=float(keys["coarse_share"]))
    except ValueError:
        raise ConfigError("must be a number", field="coarse_share", value=keys["coarse_share"]) from None
    if keys["card"] == "true" and (keys["split"] != "held_out" or settings != InferenceSettings()):
        raise ConfigError("the card holds held-out figures with the default settings", field="card", value=keys["card"])
    return keys, numbers, settings, load_model(Path(keys["checkpoint"]))


def main(arguments: Sequence[str]) -> int:
    """Keys: ``checkpoint`` (default the shipped one), ``scans``, ``first`` (number of the first scan), ``heart_model``,
    ``split`` (held_out or validation), ``coarse_share`` (as in conf/inference; 1: the coarse network alone, 0: the fine one),
    ``phantoms`` and ``tuning`` (for the map), ``output``, ``card`` (write the figures into the model card), ``workers``.

    Exit code 0, or 2 for a bad command.
    """
    try:
        keys, numbers, settings, model = read_command(arguments)
    except CacsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    checkpoint = Path(keys["checkpoint"])
    mean = mean_map(numbers["phantoms"], numbers["tuning"], heart_model=trained_heart_model(model.card))
    scans = range(numbers["first"], numbers["first"] + numbers["scans"])
    recipes = [held_out_recipe(number, keys["heart_model"], keys["split"]) for number in scans]
    tables = evaluate(checkpoint, recipes, mean, settings, numbers["workers"])
    rows = agreement(tables)
    show(rows, console, f", heart model {keys['heart_model']}, split {keys['split']}")
    output = Path(keys["output"])
    output.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(output / f"{name}.csv", index=False)
    shares = {k: round(v, 4) for k, v in calcium_shares(tables["model"]).items() if math.isfinite(v)}
    facts = {
        "weights_sha256": model.sha256, "scans": len(recipes), "first": numbers["first"], "heart_model": keys["heart_model"],
        "map_threshold": mean.threshold, "agreement": rows,
        "failed": int((tables["model"]["status"] != "ok").sum()), "calcium": shares,
        "seconds_median": round(float(tables["model"]["seconds"].median()), 1),
    }  # fmt: skip
    console.print(facts["calcium"])
    temporary = output / "agreement.json.tmp"
    temporary.write_text(json.dumps(facts, indent=2, default=float))
    os.replace(temporary, output / "agreement.json")
    if keys["card"] == "true":
        write_card(checkpoint, model.card, facts)
    console.print(f"written to {output}")
    return 0


def trained_heart_model(card: Mapping[str, Any]) -> str:
    """Heart model that a network's coarse stage was trained on, from its card."""
    patches = card.get("training", {}).get("coarse", {}).get("data", {}).get("patches", {})
    return str(patches.get("heart_model", "ellipsoid"))


def write_card(checkpoint: Path, card: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Put the agreement on held-out phantoms into the model's ``card``, the file beside the weights. The heart model that the
    network wasn't trained on has its own entry."""
    columns = ("icc_a1", "icc_a1_low", "icc_a1_high", "kappa_quadratic", "reclassification_rate", "bias")
    rows = [
        {c: row[c] for c in ("method", "vessel", "n")} | {c: round(row[c], CARD_DECIMALS) for c in columns}
        for row in facts["agreement"]
    ]
    own = facts["heart_model"] == trained_heart_model(card)
    given = " ".join(f"{key}={facts[key]}" for key in ("scans", "first", "heart_model"))
    found = {
        "command": f"python -m cacsnet.training.evaluate {given}",
        "seconds_median": facts["seconds_median"], "failed": facts["failed"], "calcium": facts["calcium"], "agreement": rows,
    }  # fmt: skip
    update_card(checkpoint, **{"held_out_phantoms" if own else "held_out_phantoms_other_heart_model": found})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
