"""HU of calcium and iodine, and attenuation of water, by tube voltage and body size.

First principles: spectrum of a tungsten anode (8°) behind 6 mm Al and 16, 20 or 28 cm of water, energy-integrating detector,
NIST cross sections (spekpy 2.5.4, xraydb 4.5.8); HU = 1000 · Δμ / μ_water, both averaged over that spectrum. Hydroxyapatite
(3.16 g/cc) takes the place of water; iodine is dissolved in it. Published for comparison: 130 HU at 100 mg/cc and 120 kVp
(Eur Radiol, doi:10.1007/s00330-022-08642-5); a scanner's own calibration differs by some ten percent (Protocol.calcium_scale).
"""

from __future__ import annotations

import numpy as np

from cacsnet.errors import ArgumentError

BODY_MM = (160.0, 200.0, 280.0)
"""Water-equivalent diameters of the columns below, mm."""

CALCIUM_BY_BODY = {
    70: (2.35, 2.25, 2.11),
    80: (2.04, 1.96, 1.83),
    100: (1.68, 1.61, 1.50),
    120: (1.47, 1.41, 1.31),
    135: (1.36, 1.30, 1.20),
    140: (1.33, 1.27, 1.17),
}
"""HU per mg/cc hydroxyapatite: kVp to one value for each of :data:`BODY_MM`."""

CALCIUM_HU_PER_MG_CC = {kvp: row[1] for kvp, row in CALCIUM_BY_BODY.items()}
"""HU per mg/cc of hydroxyapatite behind 20 cm of water."""

IODINE_HU_PER_MG_CC = {70: 51.9, 80: 44.0, 100: 34.2, 120: 28.1, 135: 24.7, 140: 23.8}
"""HU per mg/cc of iodine (contrast agent) behind 20 cm of water, by kVp."""

WATER_PER_MM = {70: 0.0225, 80: 0.0214, 100: 0.0201, 120: 0.0192, 135: 0.0187, 140: 0.0185}
"""Linear attenuation of water behind 20 cm of water, 1/mm, by kVp."""


def calcium_hu_per_mg_cc(kvp: int, water_mm: float) -> float:
    """HU per mg/cc hydroxyapatite in a body of that water-equivalent diameter; beyond :data:`BODY_MM` that of the outermost.

    Raises:
        ArgumentError: an unknown kVp.
    """
    if kvp not in CALCIUM_BY_BODY:
        known = ", ".join(map(str, CALCIUM_BY_BODY))
        raise ArgumentError(f"no attenuation known, choose from {known}", field="kvp", value=kvp)
    return float(np.interp(water_mm, BODY_MM, CALCIUM_BY_BODY[kvp]))
