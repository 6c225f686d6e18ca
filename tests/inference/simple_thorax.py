"""What the tests of inference share: tissues of the small thorax of ``conftest.py``."""

from dataclasses import replace

SPACING = (2.5, 1.0, 1.0)
SHAPE = (44, 200, 200)
TISSUE_HU = {
    "left_ventricle": 32,
    "myocardium": 46,
    "right_ventricle": 60,
    "left_atrium": 74,
    "right_atrium": 88,
}
FAT_HU, LUNG_HU, PLAQUE_HU, BONE_HU = -60, -850, 300, 600
# centre (z, y, x) and radius in mm; later ones are painted over earlier ones
SPHERES = (
    ("right_ventricle", (42, 85, 72), 26),
    ("right_atrium", (75, 110, 62), 21),
    ("left_atrium", (84, 128, 98), 21),
    ("myocardium", (42, 110, 120), 36),
    ("left_ventricle", (42, 110, 120), 28),
)


def paint_spheres(out, positions, values):
    for name, centre, radius in SPHERES:
        distance2 = sum((p - c) ** 2 for p, c in zip(positions, centre, strict=True))
        out[distance2 <= radius**2] = values[name]


def with_acquisition(scan, **changes):
    return replace(scan, acquisition=replace(scan.acquisition, **changes))
