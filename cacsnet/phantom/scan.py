"""From a patient to a scan with its truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.calcium import Deposit, image_calcium, reference_owner
from cacsnet.phantom.render import Anatomy
from cacsnet.scanner.imaging import Protocol, image, noise


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
    """Image a painted patient with calcium. ``anatomy`` should cover the protocol's grid; beyond it there is air."""
    hu = image(anatomy.hu, anatomy.origin_mm, (anatomy.step_mm,) * 3, protocol, background=-1000.0)
    calcium = image_calcium(patient, deposits, protocol)
    flat = hu.reshape(-1)
    if calcium.index.size:
        flat[torch.from_numpy(calcium.index)] += torch.from_numpy(calcium.added_hu.sum(0))
    hu = hu + noise(protocol, torch.Generator().manual_seed(seed)) * (1 + hu.clamp(-1000, 0) / 2000)
    volume = hu.round().clamp(-1024, 3071).to(torch.int16).numpy()
    return PhantomScan(volume, reference_owner(calcium, protocol.shape), protocol)
