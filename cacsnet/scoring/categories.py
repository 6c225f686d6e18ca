"""Risk categories from an Agatston score."""

from __future__ import annotations

import math

from cacsnet.errors import ArgumentError

RISK_CATEGORIES: tuple[str, ...] = ("0", "1-100", "101-400", ">400")


def risk_category(agatston: float, rule: str = "real") -> str:
    """The paper's four categories "0", "1-100", "101-400", ">400" (Sartoretti et al. 2022).

    The paper has no rule for scores between the whole numbers, so both are offered:

    Args:
        agatston: total Agatston score, ≥ 0.
        rule: "real": 0 | (0, 100] | (100, 400] | > 400; "round": round half up to a whole number, then bin.

    Raises:
        ArgumentError: a negative or non-finite score, an unknown rule.
    """
    _check(agatston)
    if rule not in ("real", "round"):
        raise ArgumentError("the rule must be 'real' or 'round'", field="rule", value=rule)
    value = math.floor(agatston + 0.5) if rule == "round" else agatston
    if value == 0:
        return RISK_CATEGORIES[0]
    if value <= 100:
        return RISK_CATEGORIES[1]
    return RISK_CATEGORIES[2] if value <= 400 else RISK_CATEGORIES[3]


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
