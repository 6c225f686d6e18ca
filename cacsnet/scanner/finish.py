"""From a noise-free image to what the scanner writes: cupping, metal streaks, noise, clipping, padding."""

from __future__ import annotations

import torch
from torch import Tensor

from cacsnet.scanner.noise import noise
from cacsnet.scanner.protocol import Protocol
from cacsnet.scanner.streaks import metal_streaks

LOWEST_HU, HIGHEST_HU = -1024.0, 3071.0
"""Twelve bits from air on: what scanners store."""

CUPPING_RADIUS_MM = 150.0


def from_centre_mm2(protocol: Protocol, device: torch.device) -> Tensor:
    """Squared distance [rows, columns] from the centre of the grid, mm²."""
    _, dy, dx = protocol.spacing_mm
    y, x = (torch.arange(n, device=device) - (n - 1) / 2 for n in protocol.shape[1:])
    return ((y * dy) ** 2)[:, None] + ((x * dx) ** 2)[None]


def finish(hu: Tensor, protocol: Protocol, generator: torch.Generator, metal_hu: Tensor | None = None) -> Tensor:
    """Everything after :func:`image`: float32 [slices, rows, columns], HU rounded to integers.

    Args:
        hu: noise-free image on the protocol's grid.
        generator: on the CPU; its state decides noise and streaks on every device.
        metal_hu: see :func:`metal_streaks`.
    """
    out = noise(protocol, generator, hu) if protocol.noise_hu else torch.zeros_like(hu)
    streaks = metal_streaks(hu, protocol, generator, metal_hu)
    away = from_centre_mm2(protocol, hu.device) if protocol.cupping_hu or protocol.circle_mm else None
    darker = None if away is None else protocol.cupping_hu * (1 - away / CUPPING_RADIUS_MM**2).clamp_min(0)
    padded = away > (protocol.circle_mm / 2) ** 2 if away is not None and protocol.circle_mm else None
    for k in range(len(hu)):  # slice by slice: it stays in the cache
        one = out[k].add_(hu[k])
        if k in streaks:
            one.add_(streaks[k])
        if darker is not None and protocol.cupping_hu:
            one.addcmul_(darker, ((hu[k] + 1000) / 1000).clamp_(0, 1), value=-1)
        one.round_().clamp_(LOWEST_HU, HIGHEST_HU)
        if padded is not None:
            one.masked_fill_(padded, float(protocol.padding_hu))
    return out
