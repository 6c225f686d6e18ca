"""The fine network's simulated context: probabilities that look like a coarse result."""

import pytest
import torch

from cacsnet.data.context import simulated_context


@pytest.fixture(scope="module")
def structures(painted):
    return painted.anatomy.structures[8:72, 8:72, 8:72][None].contiguous()


def test_probabilities_sum_to_one(structures):
    torch.manual_seed(0)
    context = simulated_context(structures.expand(2, -1, -1, -1), 1.5)
    assert context.shape == (2, 8, 64, 64, 64)
    assert (context.sum(1) - 1).abs().max() < 1e-4
    assert context.min() >= 0


@pytest.mark.parametrize("spacing", [1.5, 3.0])
def test_with_nothing_missing_it_is_close_to_the_truth(structures, spacing):
    torch.manual_seed(1)
    still = simulated_context(structures, spacing, bend_mm=0.0, missing=0.0).argmax(1)
    assert (still == structures).float().mean() > 0.9
    bent = simulated_context(structures, spacing, missing=0.0).argmax(1)
    assert 0.75 < (bent == structures).float().mean() < 1
    assert not torch.equal(bent, still)


def test_it_is_not_shifted(structures):
    still = simulated_context(structures, 1.5, bend_mm=0.0, missing=0.0)[0]
    place = torch.arange(64.0)
    for label in range(1, 8):
        truth = (structures[0] == label).float()
        for axis in range(3):
            mean = [(v.movedim(axis, -1) * place).sum() / v.sum() for v in (still[label], truth)]
            assert abs(float(mean[0] - mean[1])) < 0.6


def test_a_missing_structure_becomes_background(structures):
    context = simulated_context(structures, 1.5, missing=1.0)
    assert torch.allclose(context[:, 0], torch.ones(1, 64, 64, 64), atol=1e-5)


def test_no_data_is_background(structures):
    cut = structures.clone()
    cut[:, :32] = 255
    context = simulated_context(cut, 1.5, bend_mm=0.0, missing=0.0)
    assert (context[:, 0, :24] > 0.999).all()
    assert (context[:, 1:, 36:].sum(1) > 0.5).any()


def test_it_differs_each_time(structures):
    torch.manual_seed(2)
    assert not torch.equal(simulated_context(structures, 1.5), simulated_context(structures, 1.5))
