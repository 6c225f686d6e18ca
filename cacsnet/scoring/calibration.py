"""What a HU of a scan means: the tube voltage whose thresholds hold, and the calcium mass of a HU.

No scan is ever silently scored with the thresholds of 120 kVp: a beam hardened by tin, a monoenergetic image or a material map
has HU that no row of a profile's table describes, and is refused, as is a tube voltage without a row (110, 140 kVp).
"""

from __future__ import annotations

from dataclasses import dataclass

from cacsnet.errors import ArgumentError, TubeVoltageError
from cacsnet.scan import MASS_FACTOR_LIMITS, Acquisition
from cacsnet.scoring.profiles import ScoringProfile, scoring_kvp


@dataclass(frozen=True)
class Calibration:
    """How to score a scan.

    Attributes:
        kvp: tube voltage of the scan, measured or assumed; None where it isn't known and needn't be.
        scored_kvp: the row of the profile's table that holds.
        mass_factor: mg/mm³ per HU of this scan; None: the profile's default.
        flags: ``kvp_assumed``; ``kvp_independent_kernel`` (the kernel gives the HU of 120 kVp at another or unknown voltage).
    """

    kvp: float | None
    scored_kvp: float
    mass_factor: float | None
    flags: tuple[str, ...]


def calibration_of(acquisition: Acquisition, profile: ScoringProfile, assumed_kvp: float | None = None) -> Calibration:
    """How a scan that was made like this is to be scored.

    A mass factor holds for the scan's own tube voltage. Where a kernel changed the HU to those of another one, nothing says
    whether the factor went along, so the profile's default is used.

    Args:
        acquisition: what is known about the scan.
        profile: scoring profile.
        assumed_kvp: taken, and flagged, where the scan can't say; None: such a scan is refused.

    Raises:
        TubeVoltageError: tin filter, virtual image, several spectra without one voltage, unknown kVp, or no thresholds for it.
        ArgumentError: a mass factor that isn't one in mg/mm³ per HU.
    """
    if acquisition.tin_filter:
        raise TubeVoltageError(
            "the beam was filtered by tin: no scoring profile has thresholds for it", field="kvp", value=_tin(acquisition.kvp)
        )
    if acquisition.virtual_image is not None:
        raise TubeVoltageError(
            "a monoenergetic or material image has no tube voltage: no scoring profile has thresholds for it",
            field="virtual_image",
            value=acquisition.virtual_image,
        )
    kvp, flags = acquisition.kvp, []
    scored = scoring_kvp(kvp, acquisition.kernel, profile)
    if scored is None:
        if acquisition.multi_energy:
            raise TubeVoltageError("an image of several spectra without one tube voltage", field="kvp", value=None)
        if assumed_kvp is None:
            raise TubeVoltageError("the scan doesn't say its tube voltage: give it as kvp=", field="kvp", value=None)
        kvp = scored = assumed_kvp
        flags.append("kvp_assumed")
    profile.bands(scored)
    if scored != kvp:
        flags.append("kvp_independent_kernel")
    factor = acquisition.mass_factor
    if factor is not None:
        check_mass_factor_unit(factor)
    return Calibration(None if kvp is None else float(kvp), float(scored), factor if scored == kvp else None, tuple(flags))


def check_mass_factor_unit(factor: float) -> None:
    """ArgumentError unless a mass factor is one in mg/mm³ per HU; one in mg/cm³ per HU would give 1000 times the mass."""
    low, high = MASS_FACTOR_LIMITS
    if not low <= factor <= high:
        raise ArgumentError(
            f"must be in mg/mm3 per HU, {low:g} to {high:g} (mg/cm3 per HU divided by 1000)", field="mass_factor", value=factor
        )


def _tin(kvp: float | None) -> str | None:
    return None if kvp is None else f"Sn{kvp:g}"
