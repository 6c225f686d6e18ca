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
from cacsnet.scanner.motion import Frame, slabs_of
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
    if not protocol.motion_path_mm:
        pieces = [
            _in_plane(
                apply_weights(field, _slice_weights(field, origin_mm, step_mm, protocol, slices, shift[0]), 0),
                origin_mm, step_mm, protocol, box[1:], shift,
            )
            for slices, shift in slabs_of(protocol, box[0])
        ]  # fmt: skip
        out = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    else:
        out = _moving(field, origin_mm, step_mm, protocol, box)
    return out if background == 0 else out.add_(background)


def _moving(
    field: Tensor, origin_mm: Sequence[float], step_mm: Sequence[float], protocol: Protocol, box: Box
) -> Tensor:  # fmt: skip
    """Image of a field on the protocol's path.

    Each layer of the field is blurred and transformed once; the slices at all heights are sums of layers' spectra.
    """
    frame = Frame.around(protocol, box, [(origin_mm[k], origin_mm[k] + step_mm[k] * (field.shape[k] - 1)) for k in range(3)])
    heights = frame.heights_mm
    transfer = frame.transfer().to(field.device)
    spectra = []
    for slices, shift in slabs_of(protocol, box[0]):
        weights = _slice_weights(field, origin_mm, step_mm, protocol, slices, shift[0] + heights[:, None])
        used = torch.nonzero(weights.any(0)).flatten()
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        layers = frame.spectrum(_in_plane(field[low:high], origin_mm, step_mm, protocol, frame.region, shift))
        at_heights = (weights[:, low:high].to(field) @ torch.view_as_real(layers).flatten(1)).reshape(
            len(heights), -1, *layers.shape[1:], 2
        )
        moved = torch.zeros_like(layers[:1]).expand(slices.stop - slices.start, -1, -1).clone()
        for factor, one in zip(transfer, torch.view_as_complex(at_heights), strict=True):
            moved.addcmul_(factor, one)
        spectra.append(moved)
    return frame.image(torch.cat(spectra))


def _slice_weights(
    field: Tensor, origin_mm: Sequence[float], step_mm: Sequence[float], protocol: Protocol, slices: slice,
    height_mm: float | np.ndarray,
) -> Tensor:  # fmt: skip
    """Weights [slices (of all heights), layers] of the field's layers in slices, the field displaced to each height."""
    centres = protocol.origin_mm[0] + protocol.spacing_mm[0] * np.arange(slices.start, slices.stop) - height_mm
    return slice_weights(protocol, centres.ravel(), origin_mm[0], step_mm[0], field.shape[0])


def _in_plane(
    layers: Tensor, origin_mm: Sequence[float], step_mm: Sequence[float], protocol: Protocol, box: Sequence[slice],
    shift_mm: Vector,
) -> Tensor:  # fmt: skip
    """Layers [n, y, x] of a field displaced by ``shift_mm``, on a box of the protocol's rows and columns."""
    at = [protocol.origin_mm[k] + protocol.spacing_mm[k] * np.arange(box[k - 1].start, box[k - 1].stop) for k in (1, 2)]
    first = [origin_mm[k] + shift_mm[k] for k in (1, 2)]
    out = layers.new_empty(layers.shape[0], len(at[0]), len(at[1]))
    for number, (weight, sigma) in enumerate(gaussians(protocol)):
        rows = gauss_weights(sigma, at[0], first[0], step_mm[1], layers.shape[1])
        columns = gauss_weights(sigma, at[1], first[1], step_mm[2], layers.shape[2])
        part = apply_weights(layers, columns if weight == 1 else weight * columns, 2)  # while there are few rows
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
