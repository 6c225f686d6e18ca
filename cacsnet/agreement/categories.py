"""Each row of the confusion matrix of risk categories: under- and overestimation and concordance (the paper's Table 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from cacsnet.agreement.statistics import Interval
from cacsnet.errors import ArgumentError
from cacsnet.scoring.categories import RISK_CATEGORIES


@dataclass(frozen=True)
class Share:
    """``count`` of ``n`` cases; ``rate`` and its 95 % Wilson interval are ``nan`` of no case."""

    count: int
    n: int
    rate: float
    ci: Interval


@dataclass(frozen=True)
class CategoryRow:
    """Cases of one reference category: the model puts them lower, higher, or into the same one."""

    category: str
    n: int
    under: Share
    over: Share
    concordant: Share


def share(count: int, n: int, confidence: float = 0.95) -> Share:
    """A proportion with its Wilson interval."""
    if n == 0:
        return Share(count, n, math.nan, (math.nan, math.nan))
    low, high = proportion_confint(count, n, alpha=1 - confidence, method="wilson")
    return Share(count, n, count / n, (float(low), float(high)))


def category_rows(table: ArrayLike, categories: Sequence[str] = RISK_CATEGORIES) -> tuple[CategoryRow, ...]:
    """One row per reference category of a cross table [reference, model], categories in rising order.

    Raises:
        ArgumentError: the table isn't square with one row per category.
    """
    counts = np.asarray(table)
    if counts.shape != (len(categories), len(categories)):
        raise ArgumentError("one row and column per category", field="table", value=counts.shape)
    rows = []
    for i, name in enumerate(categories):
        n, under, over = int(counts[i].sum()), int(counts[i, :i].sum()), int(counts[i, i + 1 :].sum())
        rows.append(CategoryRow(name, n, share(under, n), share(over, n), share(n - under - over, n)))
    return tuple(rows)
