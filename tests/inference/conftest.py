"""A small thorax whose tissues are told apart by their HU alone, and networks that read it that way."""

import numpy as np
import pytest
import torch
from simple_thorax import BONE_HU, FAT_HU, LUNG_HU, PLAQUE_HU, SHAPE, SPACING, TISSUE_HU, paint_spheres
from torch import nn

from cacsnet.labels import STRUCTURE_INDEX
from cacsnet.network.checkpoint import Model, Stage, StageConfig
from cacsnet.network.unet import Prediction
from cacsnet.scan import Acquisition, Geometry, Scan

torch.set_num_threads(1)  # small tensors: threads only wait for each other, the more so beside other test processes


@pytest.fixture(scope="session")
def thorax_hu():
    """int16 [44, 200, 200] at 2.5 x 1 x 1 mm: air, fat, two lungs, five chambers, one plaque, one bone."""
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij", sparse=True)
    hu = np.full(SHAPE, -1000, dtype=np.int16)
    hu[:, 20:186, 3:197] = FAT_HU
    hu[:, 40:160, 5:36] = LUNG_HU
    hu[:, 40:160, 164:195] = LUNG_HU
    hu[:, 40:160, 8:30] += (np.arange(44)[:, None, None] + np.arange(22) * 7).astype(
        np.int16
    )  # many distinct values, as a CT has
    paint_spheres(hu, (z + 0 * y + 0 * x, y + 0 * z + 0 * x, x + 0 * z + 0 * y), TISSUE_HU)
    hu[17, 109:113, 157:161] = PLAQUE_HU  # 16 mm² in one slice, beside the left ventricle
    hu[:, 50:60, 110:120] = BONE_HU
    return hu


@pytest.fixture
def thorax(thorax_hu):
    acquisition = Acquisition(modality="CT", kvp=120.0, gated=True, slice_thickness_mm=2.5, kernel="Qr36")
    return Scan(thorax_hu.copy(), Geometry.axial(SHAPE, SPACING), acquisition)


class ByHounsfield(nn.Module):
    """Structures by nearest tissue HU; calcium of the LAD between 100 and 490 HU."""

    def __init__(self, in_channels=1):
        super().__init__()
        self.in_channels = in_channels
        self.calls = 0

    def forward(self, x):
        self.calls += x.shape[0]
        assert x.shape[1] == self.in_channels
        if self.in_channels > 1:
            assert float((x[:, 1:].sum(1) - 1).abs().max()) < 1e-4  # the context holds probabilities
        hu = (x[:, 0] + 1) * 400 - 300
        structures = torch.full((x.shape[0], 8, *x.shape[2:]), -9.0)
        structures[:, 0] = 0
        for name, value in TISSUE_HU.items():
            structures[:, STRUCTURE_INDEX[name]][(hu - value).abs() < 7] = 9.0
        coronary = torch.full((x.shape[0], 5, *x.shape[2:]), -9.0)
        calcium = (hu > 100) & (hu < 490)
        coronary[:, 0] = torch.where(calcium, -9.0, 9.0)
        coronary[:, 2] = torch.where(calcium, 9.0, -9.0)
        return Prediction(coronary, structures, coronary)


@pytest.fixture
def model():
    coarse = Stage(StageConfig(3.0, patch=32), ByHounsfield())
    fine = Stage(StageConfig(1.0, patch=64, in_channels=9), ByHounsfield(9))
    return Model(coarse, fine, {}, "0" * 64)
