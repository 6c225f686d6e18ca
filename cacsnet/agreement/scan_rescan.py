"""Two scans of each patient: variability, ICC between the scans, and agreement with the reference scan by scan."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cacsnet.agreement.paired import PairedTest, RateTest, paired_test, rate_test
from cacsnet.agreement.statistics import (
    ICC,
    Kappa,
    Reclassification,
    category_indices,
    confusion,
    icc,
    reclassification,
    weighted_kappa,
)
from cacsnet.scoring.categories import RISK_CATEGORIES


@dataclass(frozen=True)
class OneScan:
    """Agreement of reference and model in one of the scans, over the patients that have both."""

    scan: str
    n: int
    icc: ICC
    kappa_quadratic: Kappa
    reclassification: Reclassification


@dataclass(frozen=True)
class ScanRescan:
    """Scan and rescan of the same patients, total Agatston score.

    Attributes:
        scans: names of the two scans; differences are first - second.
        n: patients with both.
        n_left_out: compared cases that are no part of a pair.
        reference, model: scores of the first against the second scan: ``mean`` ± ``sd`` is the variability.
        reference_icc, model_icc: between the two scans.
        methods: variability of the reference against that of the model (first - second, each patient's two differences).
        heart_rate: of the first against the second scan; None if unknown.
        first, second: agreement with the reference in each scan.
        reclassified: how many patients are reclassified in the first and in the second scan.
    """

    scans: tuple[str, str]
    n: int
    n_left_out: int
    reference: PairedTest
    model: PairedTest
    reference_icc: ICC
    model_icc: ICC
    methods: PairedTest
    heart_rate: PairedTest | None
    first: OneScan
    second: OneScan
    reclassified: RateTest


def scan_rescan(pairs: pd.DataFrame) -> ScanRescan | str:
    """Scan-rescan analysis of a table of :class:`~cacsnet.agreement.pairs.Pairs`, or why there is none.

    The two scans are the first two names in ``scan``, numbers in rising order. A patient counts if they have exactly
    one case of each.
    """
    if pairs["patient_id"].isna().any() or pairs["scan"].isna().any():
        missing = [name for name in ("patient_id", "scan") if pairs[name].isna().any()]
        return f"no {' and '.join(missing)} for all cases"
    names = sorted(set(pairs["scan"]), key=_natural)
    if len(names) < 2:
        return "one scan only"
    first, second = names[:2]
    frames = {}
    for name in (first, second):
        of_scan = pairs[pairs["scan"] == name]
        frames[name] = of_scan[~of_scan["patient_id"].duplicated(keep=False)].set_index("patient_id")
    both = frames[first].index.intersection(frames[second].index).sort_values()
    if len(both) == 0:
        return f"no patient has scan {first} and scan {second}"
    a, b = frames[first].loc[both], frames[second].loc[both]
    reference = a["reference_total"].to_numpy(), b["reference_total"].to_numpy()
    model = a["model_total"].to_numpy(), b["model_total"].to_numpy()
    rates = a["heart_rate_bpm"].to_numpy(), b["heart_rate_bpm"].to_numpy()
    known = np.isfinite(rates[0]) & np.isfinite(rates[1])
    moved = [(frame["reference_category"] != frame["model_category"]).to_numpy() for frame in (a, b)]
    return ScanRescan(
        scans=(first, second),
        n=len(both),
        n_left_out=len(pairs) - 2 * len(both),
        reference=paired_test(*reference),
        model=paired_test(*model),
        reference_icc=icc(*reference),
        model_icc=icc(*model),
        methods=paired_test(reference[0] - reference[1], model[0] - model[1]),
        heart_rate=paired_test(rates[0][known], rates[1][known]) if known.any() else None,
        first=_one_scan(first, reference[0], model[0]),
        second=_one_scan(second, reference[1], model[1]),
        reclassified=rate_test(*moved),
    )


def _one_scan(name: str, reference: np.ndarray, model: np.ndarray) -> OneScan:
    table = confusion(category_indices(reference), category_indices(model), range(len(RISK_CATEGORIES)))
    return OneScan(name, len(reference), icc(reference, model), weighted_kappa(table), reclassification(table))


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key: "2" before "10", "rest 2" before "rest 10"."""
    return tuple((0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in re.split(r"(\d+)", name) if piece)
