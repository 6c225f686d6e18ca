from dataclasses import FrozenInstanceError
from itertools import permutations, product

import numpy as np
import pytest

from cacsnet.errors import ArgumentError
from cacsnet.scan import Geometry, Scan

SHAPE, SPACING = (2, 3, 4), (3.0, 0.5, 0.7)


def test_axial_geometry_maps_indices_to_patient_mm():
    geometry = Geometry.axial(SHAPE, SPACING, (10.0, 20.0, 30.0))
    assert np.allclose(geometry.affine_lps @ [1, 2, 3, 1], [10 + 3 * 0.7, 20 + 2 * 0.5, 30 + 3.0, 1])
    assert geometry.voxel_volume_mm3 == pytest.approx(3 * 0.5 * 0.7)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_source_axes_and_flips_come_back(axes):
    volume = np.arange(24).reshape(SHAPE)
    for flips in product((False, True), repeat=3):
        geometry = Geometry(SHAPE, SPACING, np.eye(4), axes, flips)
        source = geometry.to_source(volume)
        assert source.shape == tuple(SHAPE[a] for a in axes)
        assert source.flags.c_contiguous
        assert np.array_equal(geometry.from_source(source), volume)
        index = (1, 2, 0)
        turned = [n - 1 - i if f else i for n, i, f in zip(SHAPE, index, flips, strict=True)]
        assert source[tuple(turned[a] for a in axes)] == volume[index]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"shape": (2, 3)}, "shape"),
        ({"shape": (2, 0, 4)}, "shape"),
        ({"spacing_mm": (0.0, 1.0, 1.0)}, "spacing_mm"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "spacing_mm"),
        ({"affine_lps": np.eye(3)}, "affine_lps"),
        ({"affine_lps": np.full((4, 4), np.inf)}, "affine_lps"),
    ],
)
def test_impossible_geometry_is_refused(changes, field):
    with pytest.raises(ArgumentError) as error:
        Geometry(**{"shape": SHAPE, "spacing_mm": SPACING, "affine_lps": np.eye(4)} | changes)
    assert error.value.field == field


def test_array_and_geometry_must_agree():
    geometry = Geometry.axial(SHAPE, SPACING)
    with pytest.raises(ArgumentError, match="differ in shape"):
        Scan(np.zeros((2, 3, 5), np.int16), geometry)
    scan = Scan(np.zeros(SHAPE, np.int16), geometry)
    assert scan.spacing_mm == SPACING
    assert scan.acquisition.kvp is None
    with pytest.raises(FrozenInstanceError):
        scan.source = "x"
