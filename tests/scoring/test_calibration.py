"""Which thresholds hold for a scan: never silently those of 120 kVp."""

from __future__ import annotations

import pytest

from cacsnet.errors import ArgumentError, TubeVoltageError
from cacsnet.scan import Acquisition
from cacsnet.scoring import load_profile, profile_names
from cacsnet.scoring.calibration import calibration_of


@pytest.mark.parametrize("kvp", [70.0, 80.0, 100.0, 120.0, 135.0])
def test_a_known_tube_voltage_is_its_own(kvp: float) -> None:
    found = calibration_of(Acquisition(kvp=kvp, kernel="Qr36d"), load_profile("siemens"))
    assert (found.kvp, found.scored_kvp, found.flags) == (kvp, kvp, ())


@pytest.mark.parametrize("profile", profile_names())
@pytest.mark.parametrize(
    "facts",
    [
        {"kvp": 110.0},
        {"kvp": 140.0},
        {"kvp": 90.0},
        {"kvp": None},
        {"kvp": 100.0, "tin_filter": True},
        {"kvp": 120.0, "tin_filter": True, "kernel": "Sa36f"},
        {"kvp": None, "tin_filter": True},
        {"kvp": 120.0, "virtual_image": "VMI"},
        {"kvp": None, "virtual_image": "VMI", "kernel": "Sa36f"},
        {"kvp": None, "multi_energy": True},
    ],
)
def test_spectra_without_thresholds_are_refused(profile: str, facts: dict) -> None:
    rules = load_profile(profile)
    with pytest.raises(TubeVoltageError):
        calibration_of(Acquisition(**facts), rules)
    if facts != {"kvp": None}:  # assuming a voltage is for scans that say nothing
        with pytest.raises(TubeVoltageError):
            calibration_of(Acquisition(**facts), rules, assumed_kvp=120.0)


def test_an_unknown_tube_voltage_may_be_assumed_and_is_flagged() -> None:
    found = calibration_of(Acquisition(), load_profile("smartscore"), assumed_kvp=100.0)
    assert (found.kvp, found.scored_kvp, found.flags) == (100.0, 100.0, ("kvp_assumed",))
    with pytest.raises(TubeVoltageError):
        calibration_of(Acquisition(), load_profile("smartscore"), assumed_kvp=110.0)


@pytest.mark.parametrize("kvp", [70.0, 110.0, 140.0, None])
def test_the_kvp_independent_kernel_has_the_thresholds_of_120(kvp: float | None) -> None:
    found = calibration_of(Acquisition(kvp=kvp, kernel="Sa36f\\3"), load_profile("siemens"), assumed_kvp=100.0)
    assert (found.kvp, found.scored_kvp, found.flags) == (kvp, 120.0, ("kvp_independent_kernel",))
    at_120 = calibration_of(Acquisition(kvp=120.0, kernel="Sa36f"), load_profile("siemens"))
    assert at_120.flags == ()


def test_the_mass_factor_goes_along_unless_the_kernel_changed_the_voltage() -> None:
    rules = load_profile("siemens")
    assert calibration_of(Acquisition(kvp=100.0, mass_factor=7e-4), rules).mass_factor == 7e-4
    assert calibration_of(Acquisition(kvp=100.0, mass_factor=7e-4, kernel="Sa36f"), rules).mass_factor is None
    assert calibration_of(Acquisition(kvp=120.0, mass_factor=7e-4, kernel="Sa36f"), rules).mass_factor == 7e-4


@pytest.mark.parametrize("factor", [0.8, 1.9e-4, 2.1e-3])
def test_a_mass_factor_in_another_unit_is_refused(factor: float) -> None:
    with pytest.raises(ArgumentError, match="mg/mm3 per HU"):
        calibration_of(Acquisition(kvp=120.0, mass_factor=factor), load_profile("smartscore"))
