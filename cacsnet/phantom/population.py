"""How much calcium a patient has: target Agatston scores per vessel, drawn from a population (``conf/phantom/<name>.yaml``).

The total is drawn by strata (risk categories), since published cohorts are known by theirs and no textbook distribution
has them; it is then split between the vessels by nested beta distributions, tighter the higher the total: small burdens sit
in one vessel. With shares independent of the total within the heavy patients, means and standard deviations of all vessels
and of their sum can be met together, so the vessels' correlation follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats
from scipy.special import betaincinv, gammaincinv

from cacsnet.errors import ConfigError
from cacsnet.labels import VESSEL_NAMES

CONF = Path(__file__).resolve().parents[2] / "conf" / "phantom"
LIGHT, HEAVY = 10.0, 400.0
"""Totals between which a split tightens."""


@dataclass(frozen=True)
class Stratum:
    """Totals of a share of the patients: density ~ value ** (power - 1) from low to high, or low plus a gamma distribution."""

    share: float
    low: float
    high: float | None = None
    power: float = 0.0
    shape: float | None = None
    scale: float | None = None

    def quantile(self, u: float) -> float:
        """Total below which a share ``u`` of the stratum lies."""
        if self.high is None:
            return self.low + float(gammaincinv(self.shape, u)) * float(self.scale or 0)
        if self.power == 0.0:
            return self.low * (self.high / self.low) ** u
        a, b = self.low**self.power, self.high**self.power
        return float((a + u * (b - a)) ** (1 / self.power))


@dataclass(frozen=True)
class Split:
    """Share of a vessel in what the vessels before it leave: Beta(mean k, (1 - mean) k), k from light to heavy totals; at
    most ``largest``, which is what a short vessel has room for."""

    vessel: str
    mean: float = 1.0
    light: float = 1.0
    heavy: float = 1.0
    largest: float = math.inf

    def quantile(self, u: float, total: float) -> float:
        place = min(max(math.log(total / LIGHT) / math.log(HEAVY / LIGHT), 0.0), 1.0)
        k = self.light ** (1 - place) * self.heavy**place
        return float(betaincinv(self.mean * k, (1 - self.mean) * k, u))


@dataclass(frozen=True)
class Population:
    """A distribution of target scores.

    Attributes:
        zero: share of patients without calcium.
        strata: of the totals; shares with ``zero`` add up to one.
        splits: between the vessels, in order; the last vessel gets the rest.
        smallest: a vessel with less has nothing.
        paper: published figures to print beside what is measured.
    """

    name: str
    zero: float
    strata: tuple[Stratum, ...]
    splits: tuple[Split, ...]
    smallest: float
    paper: Mapping[str, Any]

    def __post_init__(self) -> None:
        total = self.zero + sum(s.share for s in self.strata)
        if abs(total - 1) > 1e-3:
            raise ConfigError(f"population {self.name}: shares must add up to 1", field="share", value=total)
        vessels = sorted(s.vessel for s in self.splits)
        if vessels != sorted(VESSEL_NAMES):
            raise ConfigError(f"population {self.name}: each vessel once", field="splits", value=vessels)

    def total(self, u: float) -> float:
        """Total score below which a share ``u`` of the patients lies."""
        u -= self.zero
        if u < 0:
            return 0.0
        for stratum in self.strata[:-1]:
            if u < stratum.share:
                return stratum.quantile(u / stratum.share)
            u -= stratum.share
        last = self.strata[-1]
        return last.quantile(float(np.clip(u / last.share, 0.0, 1 - 1e-4)))

    def split(self, total: float, u: np.ndarray) -> dict[str, float]:
        """Targets per vessel from uniform numbers ``u`` [3]."""
        out = dict.fromkeys(VESSEL_NAMES, 0.0)
        if total <= 0:
            return out
        rest = total
        for number, split in enumerate(self.splits):
            share = split.quantile(float(u[number]), total) if number + 1 < len(self.splits) else 1.0
            out[split.vessel] = min(rest * share, split.largest)
            rest -= out[split.vessel]
        most = max(out, key=lambda name: out[name])
        for name in VESSEL_NAMES:
            if name != most and out[name] < self.smallest:
                out[most] += out[name]
                out[name] = 0.0
        return out


@lru_cache(maxsize=8)
def load_population(name: str) -> Population:
    """Read ``conf/phantom/<name>.yaml``.

    Raises:
        ConfigError: no such population, an unknown setting, shares that don't add up.
    """
    path = CONF / f"{name}.yaml"
    known = sorted(p.stem for p in CONF.glob("*.yaml") if "strata" in p.read_text(encoding="utf-8"))
    if name not in known:
        raise ConfigError(f"unknown population; known are {', '.join(known)}", field="population", value=name)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        strata = tuple(Stratum(**s) for s in values["strata"])
        splits = tuple(Split(**s) for s in values["splits"])
        return Population(name, values["zero"], strata, splits, values["smallest"], values.get("paper", {}))
    except (TypeError, KeyError) as error:
        raise ConfigError(f"population {name}: {error}", path=path, field="population", value=name) from None


def draw_targets(population: Population, rng: np.random.Generator) -> dict[str, float]:
    """Target Agatston score per vessel of one patient."""
    u = rng.random(4)
    return population.split(population.total(float(u[0])), u[1:])


def spread_total(population: Population, number: int) -> float:
    """Total score of patient ``number`` of an endless sequence, any few of which spread over the whole population.

    Steps of the golden ratio; the first has the smallest total, which is 0 where the population has zeros.
    """
    return population.total(number * (math.sqrt(5) - 1) / 2 % 1.0)


def draw_cohort_targets(population: Population, patients: int, seed: int) -> list[dict[str, float]]:
    """Targets of a whole cohort: however small, it has the population's quantiles, means and standard deviations.

    Latin hypercube sampling; of several designs the one whose vessels and total come closest to the population.
    """
    rng = np.random.default_rng(seed)
    wanted = _moments(_vessel_table(_designed(population, POPULATION_SAMPLE, np.random.default_rng(0))))
    designs = [_designed(population, patients, rng) for _ in range(min(200, 12_000 // patients + 1))]
    off = [float(np.abs(_moments(_vessel_table(d)) - wanted).sum()) for d in designs]
    return designs[int(np.argmin(off))]


POPULATION_SAMPLE = 4000


def _designed(population: Population, patients: int, rng: np.random.Generator) -> list[dict[str, float]]:
    u = stats.qmc.LatinHypercube(d=4, rng=rng).random(patients)
    return [population.split(population.total(float(row[0])), row[1:]) for row in u]


def _vessel_table(targets: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Targets [patients, vessels and total]."""
    table = np.array([[row[name] for name in VESSEL_NAMES] for row in targets])
    return np.append(table, table.sum(1, keepdims=True), 1)


def _moments(table: np.ndarray) -> np.ndarray:
    """Logarithms of the means and standard deviations [2, columns]: small vessels count as much as large ones."""
    moments: np.ndarray = np.log(np.maximum([table.mean(0), table.std(0)], 1e-3))
    return moments


def draw_site_target(population: Population, rng: np.random.Generator) -> float:
    """Target of one calcified place that is no coronary artery: as much as one calcified vessel of the population has.

    A random vessel of a random patient, drawn again while it has none: so heavy patients with several count as often here.
    """
    for _ in range(50):
        target = draw_targets(population, rng)[VESSEL_NAMES[int(rng.integers(len(VESSEL_NAMES)))]]
        if target > 0:
            return target
    return population.smallest
