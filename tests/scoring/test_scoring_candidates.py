"""Candidates, islands, the vote of islands, the vessel filter, distances."""

from __future__ import annotations

import numpy as np
import pytest

from cacsnet.errors import ArgumentError
from cacsnet.scoring import (
    VoteSettings,
    bounding_box,
    candidate_mask,
    distance_lookup,
    distance_mm,
    islands,
    vessel_filter,
    vote_islands,
)

SPACING = (3.0, 0.5, 0.5)


def row(n: int, n_coronary: int, vessel: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One island: n pixels in a row, the first n_coronary of them coronary."""
    candidates = np.zeros((3, 5, n + 2), dtype=bool)
    candidates[1, 2, 1 : n + 1] = True
    p = np.full(candidates.shape, np.nan, dtype=np.float32)  # must be read at candidates only
    p[candidates] = 0.1
    p[1, 2, 1 : n_coronary + 1] = 0.5
    return candidates, p, np.full(candidates.shape, vessel, dtype=np.uint8)


def test_candidate_mask() -> None:
    hu = np.array([[[129.0, 130.0, 500.0, 500.0]]])
    near = np.array([[[True, True, True, False]]])
    assert candidate_mask(hu, 130, near).tolist() == [[[False, True, True, False]]]
    assert candidate_mask(hu, 130, near, strict=True).tolist() == [[[False, False, True, False]]]
    distance = np.array([[[0.0, 30.0, 30.1, np.inf]]], dtype=np.float32)
    assert candidate_mask(hu, 130, distance).tolist() == [[[False, True, False, False]]]
    integers = hu.astype(np.int16)
    assert candidate_mask(integers, 129.5, near).tolist() == [[[False, True, True, False]]]
    assert candidate_mask(integers, 129.5, near, strict=True).tolist() == [[[False, True, True, False]]]
    with pytest.raises(ArgumentError):
        candidate_mask(hu, 130, near.astype(np.uint8))


def test_islands_never_join_across_slices() -> None:
    mask = np.zeros((3, 4, 4), dtype=bool)
    mask[:, 1, 1] = True
    mask[1, 2, 2] = True
    assert islands(mask, 8).max() == 3
    assert islands(mask, 4).max() == 4
    assert islands(mask).dtype == np.int32
    np.testing.assert_array_equal(islands(mask) > 0, mask)
    assert not islands(np.zeros((2, 3, 3), dtype=bool)).any()
    assert bounding_box(mask) == (slice(0, 3), slice(1, 3), slice(1, 3))


@pytest.mark.parametrize(("n_coronary", "kept"), [(10, 10), (5, 10), (4, 4), (2, 2), (1, 0), (0, 0)])
def test_vote(n_coronary: int, kept: int) -> None:
    candidates, p, vessel = row(10, n_coronary)
    out = vote_islands(candidates, p, vessel, SPACING)
    assert np.count_nonzero(out) == kept
    assert out.dtype == np.uint8
    assert not out[~candidates].any()


def test_vote_of_large_islands_is_by_voxel() -> None:
    settings = VoteSettings(max_island_mm2=2.5)
    assert np.count_nonzero(vote_islands(*row(10, 6), SPACING, settings=settings)) == 10  # exactly 2.5 mm²
    assert np.count_nonzero(vote_islands(*row(11, 6), SPACING, settings=settings)) == 6
    assert np.count_nonzero(vote_islands(*row(11, 1), SPACING, settings=settings)) == 1
    big = np.zeros((1, 30, 30), dtype=bool)
    big[0, :20, :20] = True  # 100 mm²
    p = np.full(big.shape, 0.9, dtype=np.float32)
    p[0, :, 12:] = 0
    assert np.count_nonzero(vote_islands(big, p, big * np.uint8(1), SPACING)) == 400
    big[0, 20, 0] = True
    assert np.count_nonzero(vote_islands(big, p, big * np.uint8(1), SPACING)) == 241


def test_the_rest_joins_the_nearest_vessel_of_its_own_island() -> None:
    candidates, p, vessel = row(10, 0)
    p[1, 2, [1, 2, 3, 9, 10]] = 0.9
    vessel[1, 2, 1:4], vessel[1, 2, 4:9], vessel[1, 2, 9:] = 2, 4, 3
    candidates[1, 4, 5], p[1, 4, 5], vessel[1, 4, 5] = True, 0.9, 1  # nearer, but another island
    out = vote_islands(candidates, p, vessel, SPACING)
    assert out[1, 2, 1:11].tolist() == [2, 2, 2, 2, 2, out[1, 2, 6], 3, 3, 3, 3]
    assert out[1, 2, 6] in (2, 3)
    # nearest in mm, not in pixels
    candidates = np.zeros((1, 5, 5), dtype=bool)
    candidates[0, 1:4, 2] = candidates[0, 1, 3] = True
    candidates[0, 1, 1] = True
    p = np.where(candidates, 0.9, 0).astype(np.float32)
    p[0, 1, 2] = 0.0
    vessel = np.full(candidates.shape, 2, dtype=np.uint8)
    vessel[0, 2:, 2] = 4
    assert vote_islands(candidates, p, vessel, (3.0, 0.3, 0.9))[0, 1, 2] == 4
    assert vote_islands(candidates, p, vessel, (3.0, 0.9, 0.3))[0, 1, 2] == 2


def test_vote_tau_and_connectivity() -> None:
    candidates, p, vessel = row(10, 5)
    assert not vote_islands(candidates, p, vessel, SPACING, tau=0.51).any()
    diagonal = np.eye(4, dtype=bool)[None]
    p = np.where(diagonal, 0.0, 0).astype(np.float32)
    p[0, 0, 0] = p[0, 1, 1] = 0.9
    assert np.count_nonzero(vote_islands(diagonal, p, diagonal * np.uint8(2), SPACING)) == 4
    assert np.count_nonzero(vote_islands(diagonal, p, diagonal * np.uint8(2), SPACING, connectivity=4)) == 2


def test_vote_bad_input() -> None:
    candidates, p, vessel = row(10, 5)
    with pytest.raises(ArgumentError, match="vessel"):
        vote_islands(candidates, p, vessel * 0, SPACING)
    with pytest.raises(ArgumentError, match="p_cor"):
        vote_islands(candidates, p * np.nan, vessel, SPACING)
    with pytest.raises(ArgumentError, match="p_cor"):
        vote_islands(candidates, p[:1], vessel, SPACING)
    with pytest.raises(ArgumentError, match="candidates"):
        vote_islands(candidates.astype(np.uint8), p, vessel, SPACING)
    with pytest.raises(ArgumentError):
        VoteSettings(join_fraction=0.1)
    assert not vote_islands(candidates & False, p, vessel, SPACING).any()


def test_vessel_filter_uses_a_lesion_s_smallest_distance() -> None:
    vessels = np.zeros((4, 10, 40), dtype=np.uint8)
    vessels[1, 4, 5:15] = 2
    vessels[2, 5, 15:18] = 3  # diagonal in 3-D: the same lesion
    vessels[1, 4, 30:33] = 4
    ventricles = np.zeros(vessels.shape, dtype=bool)
    ventricles[:, :, :2] = True
    distance = distance_mm(ventricles, SPACING)
    for source in (distance, distance_lookup(ventricles, SPACING)):
        kept, removed = vessel_filter(vessels, source, SPACING, 2.0)  # the nearest voxel is exactly 4 x 0.5 mm away
        assert set(np.unique(kept)) == {0, 2, 3}
        np.testing.assert_array_equal(removed, vessels == 4)
        kept, removed = vessel_filter(vessels, source, SPACING, 1.99)
        assert not kept.any()
        assert removed.sum() == np.count_nonzero(vessels)
        kept, _ = vessel_filter(vessels, source, SPACING, 100)
        np.testing.assert_array_equal(kept, vessels)
    nothing, removed = vessel_filter(vessels * 0, distance, SPACING, 1)
    assert not nothing.any()
    assert not removed.any()
    with pytest.raises(ArgumentError, match="NaN"):
        vessel_filter(vessels, distance * np.nan, SPACING, 1)


def test_distances_agree_with_brute_force() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((6, 12, 14), dtype=bool)
    mask[2:5, 3:9, 4:11] = rng.random((3, 6, 7)) < 0.8
    spacing = (2.5, 0.7, 0.4)
    index = np.argwhere(np.ones_like(mask))
    inside = np.argwhere(mask) * spacing
    brute = np.linalg.norm((index * spacing)[:, None] - inside[None], axis=2).min(axis=1)
    np.testing.assert_allclose(distance_mm(mask, spacing).ravel(), brute, atol=1e-5)
    np.testing.assert_allclose(distance_lookup(mask, spacing)(index * spacing), brute, atol=1e-9)
    bounded = distance_lookup(mask, spacing, max_mm=2.0)(index * spacing)
    np.testing.assert_allclose(bounded, np.where(brute < 2.0, brute, np.inf), atol=1e-9)


def test_distance_to_the_surface_from_inside() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[1:8, 1:8, 1:8] = True
    lookup = distance_lookup(mask, (1, 1, 1), to_surface=True)
    assert lookup(np.array([[4.0, 4, 4], [1, 4, 4], [0, 4, 4]])).tolist() == [3, 0, 1]
    assert distance_lookup(mask, (1, 1, 1))(np.array([[4.0, 4, 4]])).tolist() == [0]


def test_distance_to_nothing_is_infinite() -> None:
    mask = np.zeros((2, 3, 3), dtype=bool)
    assert np.isinf(distance_mm(mask, SPACING)).all()
    assert np.isinf(distance_lookup(mask, SPACING)(np.zeros((4, 3)))).all()
