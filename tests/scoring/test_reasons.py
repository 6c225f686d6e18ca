"""Why candidates were rejected: the rules, their order, and the geometry they look at, on a heart of blocks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cacsnet.errors import ArgumentError
from cacsnet.labels import STRUCTURE_INDEX
from cacsnet.scoring import REASON_INDEX, REASONS, ComponentFacts, ReasonSettings, name_reason, reason_map, reasons
from cacsnet.scoring.distances import junction, nearest_lookup
from cacsnet.scoring.reasons import PLACES, Landmarks, place_voxels

SPACING = (2.0, 1.0, 1.0)
SHAPE = (48, 90, 120)
LARGEST = 1e9


def heart(shape: tuple[int, int, int] = SHAPE, spacing: tuple[float, float, float] = SPACING) -> np.ndarray:
    """Blocks, in mm from the first voxel: left ventricle z 4-32, y 20-60, x 30-70; left atrium beside it (x 71-100, y 30-50);
    above it the aorta, a tube of radius 14 mm around y 40, x 50."""
    z, y, x = (np.arange(n) * s for n, s in zip(shape, spacing, strict=True))
    z, y, x = z[:, None, None], y[None, :, None], x[None, None]
    out = np.zeros(shape, dtype=np.uint8)
    ventricle_level = (z >= 4) & (z <= 32)
    out[ventricle_level & (y >= 20) & (y <= 60) & (x >= 30) & (x <= 70)] = STRUCTURE_INDEX["left_ventricle"]
    out[ventricle_level & (y >= 30) & (y <= 50) & (x > 70) & (x <= 100)] = STRUCTURE_INDEX["left_atrium"]
    out[(z > 32) & ((y - 40) ** 2 + (x - 50) ** 2 <= 14**2)] = STRUCTURE_INDEX["aorta"]
    return out


def without(*names: str) -> np.ndarray:
    labels = heart()
    labels[np.isin(labels, [STRUCTURE_INDEX[name] for name in names])] = 0
    return labels


def place(
    z_mm: float, y_mm: float, x_mm: float, structures: np.ndarray | None = None, settings: ReasonSettings | None = None
) -> str:
    """Place of the voxel at a position (mm)."""
    structures, settings = heart() if structures is None else structures, settings or ReasonSettings()
    index = np.rint(np.array([[z_mm, y_mm, x_mm]]) / SPACING).astype(int)
    marks = Landmarks.of(structures, SPACING, settings.contact_mm)
    return PLACES[int(place_voxels(index, structures, SPACING, marks, settings)[0])]


# --- the order of the rules --------------------------------------------------------------------------------------------

PLAIN: dict = {"peak_hu": 500.0, "margin_hu": 370.0, "island_factor": 5.0, "volume_mm3": 50.0}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"peak_hu": 2500.0, "volume_mm3": 5000.0, "place": "aorta"}, "metal_or_stent"),
        ({"peak_hu": 2499.0}, "other"),
        ({"volume_mm3": 3001.0, "place": "aorta"}, "bone"),
        ({"volume_mm3": 3000.0, "place": "aorta"}, "aorta"),
        ({"volume_mm3": 1001.0, "heart_mm": 10.1, "place": "outside_heart"}, "bone"),
        ({"volume_mm3": 1001.0, "heart_mm": 10.0, "place": "pericardium"}, "pericardium"),
        ({"volume_mm3": 1000.0, "heart_mm": np.inf, "place": "outside_heart"}, "outside_heart"),
        ({"volume_mm3": 3001.0, "island_factor": 1.0, "margin_hu": 1.0}, "bone"),
        ({"island_factor": 2.9, "margin_hu": 29.0, "place": "aortic_valve"}, "noise"),
        ({"island_factor": 3.0, "margin_hu": 29.0, "place": "aortic_valve"}, "aortic_valve"),
        ({"island_factor": 2.9, "margin_hu": 30.0, "place": "aortic_valve"}, "aortic_valve"),
        ({"island_factor": 2.9, "margin_hu": 29.0, "filtered": True}, "noise"),
        ({"filtered": True}, "outside_heart"),
        ({"filtered": True, "place": "other"}, "outside_heart"),
        ({"filtered": True, "place": "aorta"}, "aorta"),
        ({}, "other"),
        *(({"place": name}, name) for name in PLACES),
    ],
)
def test_name_reason(facts: dict, reason: str) -> None:
    assert name_reason(ComponentFacts(**PLAIN | facts)) == reason


def test_every_place_is_a_reason() -> None:
    assert set(PLACES) <= set(REASONS)
    assert len(REASONS) == len(set(REASONS)) == len(REASON_INDEX)
    assert REASON_INDEX[""] == 0


# --- places -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z_mm", "y_mm", "x_mm", "expected"),
    [
        (40, 40, 50, "aortic_valve"),  # a leaflet in the root, 6 mm above the junction
        (52, 40, 50, "aortic_valve"),  # 18 mm above
        (54, 40, 50, "aorta"),  # 20 mm above: no leaflet reaches there
        (44, 40, 61, "aortic_valve"),  # 2.2 mm from the wall of the root
        (44, 40, 62, "aorta"),  # 1.4 mm: the wall itself
        (30, 40, 50, "aortic_valve"),  # the annulus, 4 mm below the junction
        (28, 40, 50, "other"),  # 6 mm below: inside the ventricle
        (70, 40, 50, "aorta"),  # the lumen far above
        (70, 40, 68, "aorta"),  # 4 mm outside the wall
        (70, 40, 69, "outside_heart"),
        (18, 40, 59, "mitral_annulus"),  # 12 mm from where the atrium begins
        (18, 40, 58, "other"),
        (18, 40, 83, "mitral_annulus"),  # and on the atrium's side
        (18, 52, 76, "mitral_annulus"),  # beside the valve, in the groove
        (18, 40, 90, "other"),
        (18, 40, 18, "pericardium"),  # 12 mm from the ventricle
        (18, 40, 17, "outside_heart"),
        (18, 40, 33, "pericardium"),  # 3 mm inside: a coarse label may be that much too large
        (18, 40, 34, "other"),
    ],
)
def test_place(z_mm: float, y_mm: float, x_mm: float, expected: str) -> None:
    assert place(z_mm, y_mm, x_mm) == expected


@pytest.mark.parametrize(
    ("change", "where", "before", "after"),
    [
        ({"annulus_distance_mm": 3.9}, (30, 40, 50), "aortic_valve", "aorta"),
        ({"valve_distance_mm": 17.9}, (52, 40, 50), "aortic_valve", "aorta"),
        ({"valve_depth_mm": 2.3}, (44, 40, 61), "aortic_valve", "aorta"),
        ({"aorta_distance_mm": 3.9}, (70, 40, 68), "aorta", "outside_heart"),
        ({"mitral_distance_mm": 11.9}, (18, 40, 59), "mitral_annulus", "other"),
        ({"pericardium_distance_mm": 11.9}, (18, 40, 18), "pericardium", "outside_heart"),
        ({"pericardium_depth_mm": 2.9}, (18, 40, 33), "pericardium", "other"),
        ({"contact_mm": 2.0}, (18, 56, 84), "mitral_annulus", "pericardium"),
    ],
)
def test_each_setting_moves_its_border(change: dict, where: tuple[float, float, float], before: str, after: str) -> None:
    assert place(*where) == before
    assert place(*where, settings=replace(ReasonSettings(), **change)) == after


def test_valve_before_aorta_before_mitral_annulus_before_pericardium() -> None:
    """At one voxel where all of them hold, the rules take turns as the first ones are switched off."""
    where = (34.0, 40.0, 62.0)  # inside the aorta, at both junctions, 2 mm above the ventricle
    labels = heart()
    labels[10:20, 30:51, 65:] = STRUCTURE_INDEX["left_atrium"]
    names = []
    for change in (
        {},
        {"annulus_distance_mm": -1.0, "valve_distance_mm": -1.0},
    ):
        names.append(place(*where, structures=labels, settings=replace(ReasonSettings(), **change)))
    outside = (28.0, 40.0, 67.0)  # in the atrium, 6.7 mm from the aorta
    for change in ({"aorta_distance_mm": 9.0, "annulus_distance_mm": -1.0}, {"annulus_distance_mm": -1.0}):
        names.append(place(*outside, structures=labels, settings=replace(ReasonSettings(), **change)))
    surface = (18.0, 52.0, 76.0)
    names.append(place(*surface, settings=ReasonSettings()))
    names.append(place(*surface, settings=replace(ReasonSettings(), mitral_distance_mm=-1.0)))
    assert names == ["aortic_valve", "aorta", "aorta", "mitral_annulus", "mitral_annulus", "pericardium"]


# --- junctions ----------------------------------------------------------------------------------------------------------


def test_the_junctions_are_where_the_structures_meet() -> None:
    marks = Landmarks.of(heart(), SPACING)
    # the root's lowest slice over the ventricle, and its wall in the slice above: 4 mm from the ventricle
    assert set(marks.aortic_junction[:, 0]) == {34.0, 36.0}
    assert np.linalg.norm(marks.aortic_junction[:, 1:] - (40, 50), axis=1).max() <= 14
    assert marks.mitral_junction[:, 2].min() == 71
    assert marks.mitral_junction[:, 2].max() <= 70 + 4.5
    assert len(marks.heart) > 0
    assert len(marks.chambers) > 0


@pytest.mark.parametrize(
    ("missing", "empty"),
    [
        ("left_atrium", {"mitral_junction"}),
        ("aorta", {"aorta", "aortic_junction"}),
        ("left_ventricle", {"aortic_junction", "mitral_junction"}),
    ],
)
def test_a_missing_structure_has_no_points(missing: str, empty: set[str]) -> None:
    marks = Landmarks.of(without(missing), SPACING)
    assert {name for name, points in vars(marks).items() if not len(points)} == empty


def test_structures_apart_have_no_junction() -> None:
    labels = heart()
    labels[14:18] = 0  # 28 to 34 mm: the ventricle ends at 26 mm, the aorta begins at 36 mm
    labels[:, :, 71:76] = 0
    marks = Landmarks.of(labels, SPACING)
    assert len(marks.aortic_junction) == 0
    assert len(marks.mitral_junction) == 0
    assert place(40, 40, 50, labels) == "aorta"
    assert len(Landmarks.of(labels, SPACING, contact_mm=10.0).aortic_junction) > 0


def test_labels_that_touch_across_thick_slices_meet() -> None:
    labels = np.zeros((4, 20, 20), dtype=np.uint8)
    labels[:2, 5:15, 5:15] = STRUCTURE_INDEX["left_ventricle"]
    labels[2:, 5:15, 5:15] = STRUCTURE_INDEX["aorta"]
    junction_z = set(Landmarks.of(labels, (8.0, 1.0, 1.0)).aortic_junction[:, 0])
    assert junction_z == {16.0}


def test_junction_and_nearest_lookup() -> None:
    first = np.array([[0.0, 0, 0], [0, 0, 3], [0, 0, 4]])
    second = np.array([[0.0, 0, 0]])
    np.testing.assert_array_equal(junction(first, second, 3.0), first[:2])  # the limit belongs to it
    assert junction(first, second[:0], 3.0).shape == (0, 3)
    assert junction(first[:0], second, 3.0).shape == (0, 3)
    assert nearest_lookup(second)(first).tolist() == [0, 3, 4]
    assert nearest_lookup(second, 3.5)(first).tolist() == [0, 3, np.inf]
    assert np.isinf(nearest_lookup(second[:0])(first)).all()
    assert nearest_lookup(second)(first[:0]).shape == (0,)


# --- whole maps ---------------------------------------------------------------------------------------------------------

BLOCKS: dict[str, tuple[slice, slice, slice]] = {
    "aortic_valve": (slice(20, 22), slice(38, 43), slice(48, 53)),
    "aorta": (slice(34, 37), slice(38, 43), slice(63, 66)),
    "mitral_annulus": (slice(8, 10), slice(38, 43), slice(69, 73)),
    "pericardium": (slice(8, 10), slice(38, 43), slice(22, 26)),
    "outside_heart": (slice(8, 10), slice(38, 43), slice(4, 8)),
    "other": (slice(8, 10), slice(38, 43), slice(48, 52)),
    "noise": (slice(8, 9), slice(30, 31), slice(48, 50)),
    "metal_or_stent": (slice(8, 10), slice(24, 27), slice(48, 52)),
    "bone": (slice(2, 12), slice(72, 80), slice(40, 60)),
}
PEAKS = {"noise": 140, "metal_or_stent": 2600}


def scan() -> np.ndarray:
    """int16 [z, y, x] with one bright block of every reason."""
    hu = np.full(SHAPE, 40, dtype=np.int16)
    for name, block in BLOCKS.items():
        hu[block] = PEAKS.get(name, 400)
    return hu


def named(codes: np.ndarray) -> dict[str, str]:
    """Name of the reason of each block; all its voxels must share it."""
    out = {}
    for name, block in BLOCKS.items():
        (code,) = np.unique(codes[block])
        out[name] = REASONS[code]
    return out


def test_reason_map_names_every_block() -> None:
    hu = scan()
    codes = reason_map(hu, hu >= 130, heart(), SPACING, 120)
    assert named(codes) == {name: name for name in BLOCKS}
    np.testing.assert_array_equal(codes > 0, hu >= 130)
    assert codes.dtype == np.uint8
    assert not reason_map(hu, hu > LARGEST, heart(), SPACING, 120).any()


def test_only_rejected_voxels_are_named() -> None:
    hu = scan()
    rejected = np.zeros(SHAPE, dtype=bool)
    rejected[BLOCKS["aorta"]] = True
    codes = reason_map(hu, rejected, heart(), SPACING, 120)
    np.testing.assert_array_equal(codes > 0, rejected)


@pytest.mark.parametrize("axes", [axes for axes in product((False, True), repeat=3) if any(axes)])
def test_flips(axes: tuple[bool, bool, bool]) -> None:
    hu, structures = scan(), heart()
    flip = tuple(axis for axis in range(3) if axes[axis])
    codes = reason_map(hu, hu >= 130, structures, SPACING, 120)
    turned = reason_map(np.flip(hu, flip), np.flip(hu, flip) >= 130, np.flip(structures, flip), SPACING, 120)
    np.testing.assert_array_equal(np.flip(turned, flip), codes)


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (1.0, 1.0, 2.0), (3.0, 0.75, 1.5), (5.0, 1.0, 1.0)])
def test_distances_are_millimetres_on_any_grid(spacing: tuple[float, float, float]) -> None:
    """The same heart and the same deposits, sampled on other grids."""
    shape = tuple(int(96 / s) if k == 0 else int(120 / s) for k, s in enumerate(spacing))
    structures = heart(shape, spacing)
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    middles = {
        "aortic_valve": (42, 40, 50),
        "aorta": (74, 40, 63),
        "mitral_annulus": (20, 40, 68),
        "pericardium": (20, 40, 22),
        "other": (18, 40, 48),
        "outside_heart": (20, 40, 8),
    }
    for name, (a, b, c) in middles.items():
        hu = np.where((abs(z - a) <= 5.1) & (abs(y - b) <= 2) & (abs(x - c) <= 2), 400, 40).astype(np.int16)
        codes = reason_map(hu, hu >= 130, structures, spacing, 120)
        assert set(np.unique(codes)) == {0, REASON_INDEX[name]}, name


def test_most_voxels_decide() -> None:
    hu = np.full(SHAPE, 40, dtype=np.int16)
    hu[20, 40, 50:56] = 400  # six voxels of the valve ...
    hu[21:29, 40, 50] = 400  # ... and on to a height of 16 mm, eight more
    hu[29:34, 40, 50] = 400  # five in the aorta above
    codes = reason_map(hu, hu >= 130, heart(), SPACING, 120)
    assert set(np.unique(codes)) == {0, REASON_INDEX["aortic_valve"]}
    hu[29:46, 40, 50] = 400
    codes = reason_map(hu, hu >= 130, heart(), SPACING, 120)
    assert set(np.unique(codes)) == {0, REASON_INDEX["aorta"]}


def test_bone_is_judged_by_all_of_it_not_only_by_the_candidates() -> None:
    hu = np.full(SHAPE, 40, dtype=np.int16)
    hu[2:22, 80:90, 40:60] = 300  # 8,000 mm³ at 20 mm from the ventricle
    rejected = np.zeros(SHAPE, dtype=bool)
    rejected[2:22, 80:81, 40:45] = True  # of which a corner is a candidate
    codes = reason_map(hu, rejected, heart(), SPACING, 120)
    assert set(np.unique(codes[rejected])) == {REASON_INDEX["bone"]}
    hu[~rejected] = 40
    codes = reason_map(hu, rejected, heart(), SPACING, 120)
    assert set(np.unique(codes[rejected])) == {REASON_INDEX["outside_heart"]}


def test_far_bone_needs_distance_and_volume() -> None:
    hu = np.full(SHAPE, 40, dtype=np.int16)
    hu[4:14, 71:76, 40:52] = 300  # 1,200 mm³, 11 mm from the ventricle
    codes = reason_map(hu, hu >= 130, heart(), SPACING, 120)
    assert set(np.unique(codes)) == {0, REASON_INDEX["bone"]}
    hu[4, 70, 40] = 300  # 10 mm from the heart
    codes = reason_map(hu, hu >= 130, heart(), SPACING, 120)
    assert set(np.unique(codes)) == {0, REASON_INDEX["outside_heart"]}


def test_large_calcium_deep_inside_the_heart_is_no_bone() -> None:
    hu = np.full(SHAPE, 40, dtype=np.int16)
    hu[8:10, 31:49, 41:59] = 300  # 1,296 mm³, 11 mm below the ventricle's surface
    codes = reason_map(hu, hu >= 130, heart(), SPACING, 120)
    assert set(np.unique(codes)) == {0, REASON_INDEX["other"]}


def test_a_faint_edge_of_far_bone_is_bone_not_noise() -> None:
    hu = np.full(SHAPE, 40, dtype=np.int16)
    hu[4:14, 72:77, 40:52] = 300
    hu[4, 71, 40] = 140
    rejected = hu == 140
    codes = reason_map(hu, rejected, heart(), SPACING, 120)
    assert set(np.unique(codes)) == {0, REASON_INDEX["bone"]}
    hu[4:14, 72:77, 40:52] = 40
    codes = reason_map(hu, rejected, heart(), SPACING, 120)
    assert set(np.unique(codes)) == {0, REASON_INDEX["noise"]}


def test_no_structures_known() -> None:
    hu = scan()
    codes = reason_map(hu, hu >= 130, None, SPACING, 120, filtered=hu == 2600)
    names = named(codes)
    assert {names.pop("noise"), names.pop("metal_or_stent"), names.pop("bone")} == {"noise", "metal_or_stent", "bone"}
    assert set(names.values()) == {"other"}
    hu[hu == 2600] = 400
    filtered = np.zeros(SHAPE, dtype=bool)
    filtered[BLOCKS["metal_or_stent"]] = True
    codes = reason_map(hu, hu >= 130, None, SPACING, 120, filtered=filtered)
    assert named(codes)["metal_or_stent"] == "outside_heart"
    assert named(codes)["other"] == "other"


def test_empty_structures_are_all_outside_the_heart() -> None:
    hu = scan()
    names = named(reason_map(hu, hu >= 130, np.zeros(SHAPE, dtype=np.uint8), SPACING, 120))
    assert {names.pop("noise"), names.pop("metal_or_stent"), names.pop("bone")} == {"noise", "metal_or_stent", "bone"}
    assert set(names.values()) == {"outside_heart"}


def test_without_a_left_atrium_the_mitral_annulus_is_not_named() -> None:
    hu = scan()
    names = named(reason_map(hu, hu >= 130, without("left_atrium"), SPACING, 120))
    assert names["mitral_annulus"] == "pericardium"
    assert {n: v for n, v in names.items() if n != "mitral_annulus"} == {n: n for n in BLOCKS if n != "mitral_annulus"}


def test_without_an_aorta_its_calcium_is_named_by_what_is_left() -> None:
    hu = scan()
    names = named(reason_map(hu, hu >= 130, without("aorta"), SPACING, 120))
    assert names["aortic_valve"] == "pericardium"  # 8 mm above the ventricle
    assert names["aorta"] == "outside_heart"
    assert {n: v for n, v in names.items() if not n.startswith("aort")} == {n: n for n in BLOCKS if not n.startswith("aort")}


@pytest.mark.parametrize("label", ["background", "aorta", "pulmonary_artery"])
def test_the_pulmonary_artery_may_be_missing_or_taken_for_the_aorta(label: str) -> None:
    structures = heart()
    index = {"background": 0} | STRUCTURE_INDEX
    structures[20:40, 8:24, 40:60] = index[label]
    hu = scan()
    assert named(reason_map(hu, hu >= 130, structures, SPACING, 120)) == {name: name for name in BLOCKS}


def test_filtered_voxels_are_outside_the_heart_unless_they_have_a_place() -> None:
    hu = scan()
    filtered = np.zeros(SHAPE, dtype=bool)
    filtered[BLOCKS["other"]] = filtered[BLOCKS["aorta"]] = True
    names = named(reason_map(hu, hu >= 130, heart(), SPACING, 120, filtered=filtered))
    assert names["other"] == "outside_heart"
    assert names["aorta"] == "aorta"


def test_bone_and_noise_cost_no_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bone is most of the candidate voxels: only what may have a place is looked up."""
    looked_up = []

    def counting(index: np.ndarray, *rest: object) -> np.ndarray:
        looked_up.append(len(index))
        return place_voxels(index, *rest)

    monkeypatch.setattr(reasons, "place_voxels", counting)
    hu = scan()
    reason_map(hu, hu >= 130, heart(), SPACING, 120)
    size = {name: np.zeros(SHAPE)[block].size for name, block in BLOCKS.items()}
    assert looked_up == [sum(n for name, n in size.items() if name not in ("noise", "metal_or_stent", "bone"))]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rejected": np.zeros((2, 2, 2), dtype=bool)}, "rejected"),
        ({"rejected": np.zeros(SHAPE, dtype=np.uint8)}, "rejected"),
        ({"structures": np.full(SHAPE, 8, dtype=np.uint8)}, "structures"),
        ({"structures": np.zeros((2, 2, 2), dtype=np.uint8)}, "structures"),
        ({"filtered": np.zeros(SHAPE, dtype=np.uint8)}, "filtered"),
        ({"spacing_mm": (0.0, 1.0, 1.0)}, "spacing_mm"),
    ],
)
def test_bad_arguments(change: dict, field: str) -> None:
    hu = scan()
    arguments: dict = {"hu": hu, "rejected": hu >= 130, "structures": heart(), "spacing_mm": SPACING, "kvp": 120}
    with pytest.raises(ArgumentError) as caught:
        reason_map(**arguments | change)
    assert caught.value.field == field
