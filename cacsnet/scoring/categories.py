"""Risk categories from an Agatston score."""

from __future__ import annotations

import math
from bisect import bisect_left

from cacsnet.errors import ArgumentError

RISK_CATEGORIES: tuple[str, ...] = ("0", "1-100", "101-400", ">400")

_LEVELS: dict[int, tuple[tuple[int, ...], tuple[str, ...]]] = {  # upper edges (inclusive) of all but the last, names
    4: ((0, 100, 400), RISK_CATEGORIES),
    5: ((0, 10, 100, 400), ("0", "1-10", "11-100", "101-400", ">400")),
    6: ((0, 10, 100, 400, 1000), ("0", "1-10", "11-100", "101-400", "401-1000", ">1000")),
}


def risk_category(agatston: float, rule: str = "real", levels: int = 4) -> str:
    """The risk category of a total score.

    Four levels: 0, 1-100, 101-400, > 400 (Sartoretti et al. 2022). Five: 0, 1-10, 11-100, 101-400, > 400 (ascribed to
    Rumberger: unverified). Six: 0, 1-10, 11-100, 101-400, 401-1000, > 1000 (HL7 FHIR code system
    coronary-calcium-interpretation). None of them has a rule for scores between the whole numbers, so both are offered:

    Args:
        agatston: total Agatston score, ≥ 0.
        rule: "real": 0 | (0, 100] | (100, 400] | > 400; "round": round half up to a whole number, then bin.
        levels: 4, 5 or 6.

    Raises:
        ArgumentError: a negative or non-finite score, an unknown rule, another number of levels.
    """
    _check(agatston)
    if rule not in ("real", "round"):
        raise ArgumentError("the rule must be 'real' or 'round'", field="rule", value=rule)
    if levels not in _LEVELS:
        raise ArgumentError("there are categories of 4, 5 and 6 levels", field="levels", value=levels)
    edges, names = _LEVELS[levels]
    return names[bisect_left(edges, math.floor(agatston + 0.5) if rule == "round" else agatston)]


def cac_drs(agatston: float, n_vessels: int) -> str:
    """CAC-DRS Agatston category, e.g. "A2/N3"; "A0" without calcium.

    A0 = 0, A1 = (0, 100), A2 = [100, 300), A3 ≥ 300. Note that 100 is A2 here and "1-100" above. The classes are
    unverified defaults (stated from memory: 1-99, 100-299, ≥ 300); real values are classified before any rounding.

    Args:
        agatston: total Agatston score, ≥ 0.
        n_vessels: how many of LM, LAD, LCX, RCA hold calcium, 0-4.

    Raises:
        ArgumentError: a negative or non-finite score, a number of vessels outside 0-4.
    """
    _check(agatston)
    if n_vessels not in range(5):
        raise ArgumentError("there are four vessels", field="n_vessels", value=n_vessels)
    if agatston == 0:
        return "A0"
    grade = 1 if agatston < 100 else 2 if agatston < 300 else 3
    return f"A{grade}/N{n_vessels}"


def _check(agatston: float) -> None:
    if not (math.isfinite(agatston) and agatston >= 0):
        raise ArgumentError("a score is finite and not negative", field="agatston", value=agatston)
