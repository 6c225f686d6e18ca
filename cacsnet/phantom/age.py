"""What a patient's age changes: bone loses mineral, costal cartilage calcifies, the aorta widens.

The burden of coronary calcium isn't tied to it: populations (``conf/phantom``) give that.
"""

from __future__ import annotations

import numpy as np

MEAN_YEARS = 63.0
"""Of the patients of Sartoretti et al. 2022: 63 ± 9 years."""

SD_YEARS, SD_WIDE_YEARS = 9.0, 15.0
YOUNGEST, OLDEST = 30.0, 90.0


def draw_age(rng: np.random.Generator, wide: bool) -> float:
    """Years; ``wide``: a wider spread than the paper's patients have."""
    return float(np.clip(rng.normal(MEAN_YEARS, SD_WIDE_YEARS if wide else SD_YEARS), YOUNGEST, OLDEST))


def trabecular_hu(age_years: float) -> float:
    """Mean HU of the spine's trabecular bone at 120 kVp: a line through 226 (under 30 years) and 89 (90 and over) of Jang et
    al. 2019, who give SDs of 44 and 38 at these ages."""
    return float(np.interp(age_years, [27.0, 92.0], [226.0, 89.0]))


def calcified_cartilage_share(age_years: float) -> float:
    """Share of patients of an age whose costal cartilages are calcified; default of this project: rare in the young, usual in
    the old."""
    return float(1 / (1 + np.exp(-(age_years - 55.0) / 8.0)))


def aortic_width(age_years: float) -> float:
    """Factor on the aorta's width, 1 at the mean age: about 1 mm more a decade, default of this project."""
    return 1 + 0.0035 * (age_years - MEAN_YEARS)
