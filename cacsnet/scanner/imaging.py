"""From a sampled field to an image: slice profile, in-plane kernel, sampling, motion.

Linear in the field, so calcium can be imaged apart from the rest and added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cacsnet.scanner.kernel import BLOCK, apply_weights, gauss_weights, gaussians, slice_weights
from cacsnet.scanner.materials import CALCIUM_HU_PER_MG_CC
from cacsnet.scanner.motion import in_motion
from cacsnet.scanner.noise import noise
from cacsnet.scanner.protocol import Protocol, Vector

Box = tuple[slice, slice, slice]


def image(
    volume: Tensor,
    origin_mm: Sequence[float],
    step_mm: Sequence[float],
    protocol: Protocol,
    box: Box | None = None,
    background: float = 0.0,
) -> Tensor:
    """Image a sampled field: slice profile along z, point spread function in-plane, on the protocol's grid (or a box of it).

    A moving heart (``protocol.moves``) moves the *whole* field; image what stands still with ``protocol.still()``.

    Args:
        volume: float32 [z, y, x] on a regular grid, first voxel at ``origin_mm`` (patient mm), voxel size ``step_mm``; each
            value is the mean of its voxel.
        box: voxels of the protocol's grid to compute; None: all.
        background: value of the field outside ``volume``.

    Returns:
        float32 [slices, rows, columns] of the box, on the device of ``volume``.
    """
    box = box or (slice(0, protocol.shape[0]), slice(0, protocol.shape[1]), slice(0, protocol.shape[2]))
    field = volume if background == 0 else volume - background

    def still(part: Sequence[slice], shift_mm: Vector) -> Tensor:
        return _image(field, origin_mm, step_mm, protocol, part, shift_mm)

    out = in_motion(still, protocol, box) if protocol.moves else still(box, (0.0, 0.0, 0.0))
    return out if background == 0 else out.add_(background)


def _image(
    volume: Tensor,
    origin_mm: Sequence[float],
    step_mm: Sequence[float],
    protocol: Protocol,
    box: Sequence[slice],
    shift_mm: Vector,
) -> Tensor:
    """Image of a field displaced by ``shift_mm``."""
    centres = [protocol.origin_mm[k] + protocol.spacing_mm[k] * np.arange(box[k].start, box[k].stop) for k in range(3)]
    first = [origin_mm[k] + shift_mm[k] for k in range(3)]
    sliced = apply_weights(volume, slice_weights(protocol, centres[0], first[0], step_mm[0], volume.shape[0]), 0)
    out = sliced.new_empty(sliced.shape[0], len(centres[1]), len(centres[2]))
    for number, (weight, sigma) in enumerate(gaussians(protocol)):
        rows = gauss_weights(sigma, centres[1], first[1], step_mm[1], volume.shape[1])
        columns = gauss_weights(sigma, centres[2], first[2], step_mm[2], volume.shape[2])
        part = apply_weights(sliced, columns if weight == 1 else weight * columns, 2)  # while there are few rows
        _add_rows(out, rows, part, beta=min(number, 1))
    return out


def _add_rows(out: Tensor, weights: Tensor, volume: Tensor, beta: int) -> None:
    """``beta`` · out + weights [rows, n] @ volume [slices, n, columns], block by block straight into ``out``."""
    used = weights.abs() > 1e-8
    weights = weights.to(volume)
    for start in range(0, len(weights), BLOCK):
        hit = torch.nonzero(used[start : start + BLOCK].any(0)).flatten()
        low, high = (int(hit[0]), int(hit[-1]) + 1) if hit.numel() else (0, 1)
        block = weights[start : start + BLOCK, low:high].expand(len(volume), -1, -1)
        out[:, start : start + BLOCK].baddbmm_(block, volume[:, low:high], beta=beta)


__all__ = ["CALCIUM_HU_PER_MG_CC", "Protocol", "image", "noise"]
