"""One small virtual patient, drawn and painted once for all tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cacsnet.phantom.anatomy import Patient
from cacsnet.phantom.cohort import CohortCase, Recipe, make_case
from cacsnet.phantom.heart import Artery
from cacsnet.phantom.render import Anatomy, render

torch.set_num_threads(1)  # small tensors: threads only wait for each other, the more so beside other test processes


@dataclass(frozen=True)
class Painted:
    patient: Patient
    arteries: list[Artery]
    anatomy: Anatomy


@pytest.fixture(scope="session")
def painted() -> Painted:
    """A patient's chest around the heart, painted at 2.5 mm (72 voxels a side)."""
    patient = Patient(900)
    arteries = patient.heart.grow_tree(np.random.default_rng([900, 2]))
    return Painted(patient, arteries, render(patient, arteries, (-90.0, -90.0, -90.0), 2.5, (72, 72, 72)))


@pytest.fixture(scope="session")
def small_case() -> CohortCase:
    """A gated scan of 80 x 80 pixels with plaques."""
    return make_case(Recipe(30_000_104, agatston=350.0, matrix=80))
