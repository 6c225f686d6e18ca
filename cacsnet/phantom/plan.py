"""Which patients and scans a cohort has: ``conf/cohort/<name>.yaml``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from cacsnet.errors import ConfigError
from cacsnet.phantom.cohort import USUAL_DISTRACTORS, Recipe, Visit
from cacsnet.phantom.deposits import DEVICES, DISTRACTORS
from cacsnet.phantom.population import draw_cohort_targets, load_population
from cacsnet.scanner.profiles import load_profile, profile_names

CONF = Path(__file__).resolve().parents[2] / "conf" / "cohort"

FIRST_SEED = 40_000_000
"""Training, validation, held-out phantoms and examples draw below."""

SEEDS_PER_COHORT = 10_000_000

EACH = {"distractors": tuple(DISTRACTORS), "devices": tuple(DEVICES)}


@dataclass(frozen=True)
class Planned:
    """A patient and the scans to make of them."""

    patient_id: str
    recipe: Recipe
    visits: tuple[Visit, ...]


def cohort_names() -> tuple[str, ...]:
    """Names of all cohorts in ``conf/cohort/``."""
    return tuple(sorted(path.stem for path in CONF.glob("*.yaml")))


def plan_cohort(name: str, patients: int | None = None, heart_model: str = "ellipsoid", matrix: int = 512) -> list[Planned]:
    """The patients of a cohort.

    Args:
        patients: how many; None: as the cohort's file says. A population is drawn anew for that number, so that it has the
            population's quantiles; of the stress cohort evenly spaced cases are taken.
        heart_model: "ellipsoid" or "polar".
        matrix: rows and columns.

    Raises:
        ConfigError: unknown cohort, a bad setting, a number of patients below 1.
    """
    if name not in cohort_names():
        raise ConfigError(f"unknown cohort; known are {', '.join(cohort_names())}", field="cohort", value=name)
    if patients is not None and patients < 1:
        raise ConfigError("must be at least 1", field="patients", value=patients)
    settings = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    first = settings["first_seed"]
    if first < FIRST_SEED or first % SEEDS_PER_COHORT:
        raise ConfigError("must be a multiple of 10 000 000 from 40 000 000 on", field="first_seed", value=first)
    make = _stress if "groups" in settings else _population
    return make(name, settings, patients, heart_model, matrix)


def _population(name: str, settings: Mapping[str, Any], patients: int | None, heart_model: str, matrix: int) -> list[Planned]:
    count = patients or settings["patients"]
    targets = draw_cohort_targets(load_population(settings["population"]), count, settings["first_seed"])
    rates = heart_rates(settings["heart_rate_bpm"], settings["heart_rate_correlation"], count, settings["first_seed"])
    out = []
    for number in range(count):
        recipe = Recipe(
            settings["first_seed"] + number, agatston=targets[number], distractors=settings["distractors"],
            population=settings["population"], heart_model=heart_model, scanner=settings["scanner"], matrix=matrix,
            own_scanner=True,
        )  # fmt: skip
        visits = tuple(Visit(k + 1, round(float(rate), 1)) for k, rate in enumerate(rates[number]))
        out.append(Planned(f"{name}-{number + 1:04d}", recipe, visits))
    return out


def heart_rates(rows: list[list[float]], correlation: float, patients: int, seed: int) -> np.ndarray:
    """Heart rates [patients, scans] (1/min): normal, by Latin hypercube sampling, correlated between a patient's scans."""
    u = stats.qmc.LatinHypercube(d=len(rows), rng=np.random.default_rng([seed, 1])).random(patients)
    z = stats.norm.ppf(u)
    z[:, 1:] = correlation * z[:, :1] + np.sqrt(1 - correlation**2) * z[:, 1:]
    mean, sd = np.array(rows).T
    rates: np.ndarray = np.clip(mean + sd * z, 40, 130)
    return rates


def _stress(name: str, settings: Mapping[str, Any], patients: int | None, heart_model: str, matrix: int) -> list[Planned]:
    recipes = [(f"{name}-{group['name']}", fields) for group in settings["groups"] for fields in _combinations(group, settings)]
    chosen = np.arange(len(recipes))
    if patients is not None:
        chosen = np.unique(np.linspace(0, len(recipes) - 1, min(patients, len(recipes))).round().astype(int))
    out = []
    for number in chosen.tolist():
        label, fields = recipes[number]
        rate = fields.pop("heart_rate_bpm", None)
        recipe = Recipe(settings["first_seed"] + number, heart_model=heart_model, matrix=matrix, **fields)
        out.append(Planned(f"{label}-{number + 1:04d}", recipe, (Visit(1, rate),)))
    return out


def _combinations(group: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Recipe fields of every combination of a group's lists."""
    lists = {key: value for key, value in group.items() if isinstance(value, list)}
    each = group.get("each")
    names = EACH.get(each, ()) if each else ()
    names = profile_names() if each == "scanners" else names
    for _ in range(group.get("repeat", 1)):
        for which in names or (None,):
            for values in product(*lists.values()):
                fields: dict[str, Any] = dict(zip(lists, values, strict=True)) | {"population": settings["population"]}
                if each == "distractors":
                    fields["distractors"] = {**USUAL_DISTRACTORS, str(which): group["places"]}
                elif each == "devices":
                    fields["devices"] = {which: group["devices"]}
                elif each == "scanners":
                    fields |= {"scanner": which, "gated": load_profile(str(which)).gated}
                yield fields
