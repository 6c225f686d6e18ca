"""From a patient to a scan with its truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.deposits import DEVICES, CalciumImage, Deposit, image_calcium, reference_owner
from cacsnet.phantom.render import Anatomy
from cacsnet.scanner import Protocol, finish, image, move
from cacsnet.scanner.materials import CALCIUM_HU_PER_MG_CC

SOFT_HU = (-120.0, 150.0)
"""From fat to blood without contrast; lung lies below, bone above."""

BORDER_SHARE = 0.3
"""How far the heart's border to the lungs moves, as a share of the arteries' path: the epicardium of the lateral wall moves 2
to 4 mm where arteries in the grooves move 8 to 20 mm. Unverified default."""

BONE_HU = 90.0
"""Without contrast nothing but bone and calcified cartilage is brighter."""

MOVING_MM = 10.0
"""The heart's motion fades out between this and twice this outside its structures."""


@dataclass(frozen=True)
class PhantomScan:
    """A scan and its truth, all [z, y, x] on the protocol's grid.

    Attributes:
        hu: int16, what the reader of a real scan would get.
        owner: uint8, who adds most calcium there in the noise-free image (1 to 4 vessels, 5.. distractors), 0 nobody.
        protocol: how it was made.
    """

    hu: np.ndarray
    owner: np.ndarray
    protocol: Protocol


def make_scan(patient: Patient, anatomy: Anatomy, deposits: Sequence[Deposit], protocol: Protocol, seed: int) -> PhantomScan:
    """Image a painted patient with calcium, on the device of ``anatomy.hu``.

    ``anatomy`` should cover the protocol's grid; beyond it there is air.
    """
    field = moving_heart(anatomy, protocol) if protocol.moves else anatomy.hu
    if not patient.tissue.enhanced:
        field = bone_at(field, protocol.kvp)
    hu = image(field, anatomy.origin_mm, (anatomy.step_mm,) * 3, protocol.still(), background=-1000.0)
    calcium = image_calcium(patient, deposits, protocol)
    flat = hu.reshape(-1)
    if calcium.index.size:
        flat[torch.from_numpy(calcium.index).to(hu.device)] += torch.from_numpy(calcium.added_hu.sum(0)).to(hu.device)
    metal = _metal(calcium, protocol.shape, hu.device)
    volume = finish(hu, protocol, torch.Generator().manual_seed(seed), metal).to(torch.int16).cpu().numpy()
    return PhantomScan(volume, reference_owner(calcium, protocol.shape), protocol)


def bone_at(hu: Tensor, kvp: int) -> Tensor:
    """Painted HU, those of 120 kVp, at another tube voltage: bone is brighter than soft tissue by its calcium, whose HU fall as
    the voltage rises."""
    factor = CALCIUM_HU_PER_MG_CC[kvp] / CALCIUM_HU_PER_MG_CC[120]
    return hu if factor == 1 else hu + (factor - 1) * (hu - BONE_HU).clamp_min(0)


def _metal(calcium: CalciumImage, shape: Sequence[int], device: torch.device) -> Tensor | None:
    """HU that devices add, float32 [z, y, x]; None without devices."""
    devices = np.isin(calcium.owners, list(DEVICES.values()))
    if not devices.any():
        return None
    out = torch.zeros(tuple(shape))
    out.reshape(-1)[torch.from_numpy(calcium.index)] = torch.from_numpy(calcium.added_hu[devices].sum(0))
    return out.to(device)


def moving_heart(anatomy: Anatomy, protocol: Protocol) -> Tensor:
    """The painted HU with the heart displaced as the protocol says; bones stand still, lungs and what is further away too.

    Fat, muscle and blood follow the path, which is that of the arteries; the border to the lungs follows
    :data:`BORDER_SHARE` of it. Its contrast is six times that between fat and blood: moved as far as the arteries, it would
    leave bright crescents of several hundred HU.
    """
    box, share = _heart_share(anatomy)
    out = anatomy.hu.clone()
    if share is not None:
        still = anatomy.hu[box]
        brightest = max(SOFT_HU[1], float(anatomy.hu[anatomy.structures > 0].max()))  # enhanced blood moves too
        soft = still.clamp(SOFT_HU[0], brightest)
        lung = (still - SOFT_HU[0]).clamp_max(0)
        border = tuple((BORDER_SHARE * z, BORDER_SHARE * y, BORDER_SHARE * x) for z, y, x in protocol.motion_path_mm)
        first_z = anatomy.origin_mm[0] + anatomy.step_mm * box[0].start
        step = (anatomy.step_mm,) * 3
        change = move(soft, first_z, step, protocol) - soft
        change += move(lung, first_z, step, replace(protocol, motion_path_mm=border)) - lung
        out[box] = still + share * change
    return out


@lru_cache(maxsize=4)
def _heart_share(anatomy: Anatomy) -> tuple[tuple[slice, ...], Tensor | None]:
    """A box, and in it float32 [z, y, x]: 1 within MOVING_MM of the heart's structures, 0 beyond twice that; None: no heart."""
    cell = max(1, round(MOVING_MM / 2 / anatomy.step_mm))  # voxels in half of MOVING_MM
    heart = F.max_pool3d((anatomy.structures > 0).float()[None], cell, ceil_mode=True)
    for kernel, padding in (((7, 1, 1), (3, 0, 0)), ((1, 7, 1), (0, 3, 0)), ((1, 1, 7), (0, 0, 3))):
        heart = F.max_pool3d(heart, kernel, 1, padding)
    soft = F.avg_pool3d(heart, 3, 1, padding=1, count_include_pad=False)[0]
    index = torch.nonzero(soft)
    if not len(index):
        return (), None
    low, high = (index.amin(0) * cell - cell).clamp_min(0).tolist(), ((index.amax(0) + 2) * cell).tolist()
    box = tuple(slice(a, min(b, n)) for a, b, n in zip(low, high, anatomy.hu.shape, strict=True))
    for axis in range(3):  # linear between the cells' middles, level beyond the outermost
        place = ((np.arange(box[axis].start, box[axis].stop) + 0.5) / cell - 0.5).clip(0, soft.shape[axis] - 1)
        below = np.minimum(place.astype(int), max(soft.shape[axis] - 2, 0))
        above = np.minimum(below + 1, soft.shape[axis] - 1)
        part = torch.from_numpy(place - below).float().reshape([-1 if k == axis else 1 for k in range(3)]).to(soft.device)
        soft = soft.index_select(axis, torch.from_numpy(below).to(soft.device)) * (1 - part) + part * soft.index_select(
            axis, torch.from_numpy(above).to(soft.device)
        )
    return box, soft
