"""The network's contract: shapes, one trunk and two branches, statistics per sample."""

import pytest
import torch
from rich.console import Console

from cacsnet.errors import ConfigError
from cacsnet.network.__main__ import main, read_stages
from cacsnet.network.checkpoint import network_input
from cacsnet.network.unet import MultiBranchUNet, ResidualUnit, summary

SMALL = (4, 8, 16)


def small(**changes):
    torch.manual_seed(0)
    return MultiBranchUNet(**{"in_channels": 1, "widths": SMALL} | changes)


@pytest.mark.parametrize("branch_levels", [0, 1, 2])
@pytest.mark.parametrize("in_channels", [1, 9])
def test_channels_and_sizes(in_channels, branch_levels):
    out = small(in_channels=in_channels, branch_levels=branch_levels)(torch.randn(2, in_channels, 8, 12, 16))
    assert out.coronary.shape == (2, 5, 8, 12, 16)
    assert out.structures.shape == (2, 8, 8, 12, 16)
    assert out.course.shape == (2, 5, 8, 12, 16)


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("branch_levels", [0, 1, 2])
def test_gradients_reach_every_parameter(branch_levels, norm):
    network = small(branch_levels=branch_levels, norm=norm)
    out = network(torch.randn(1, 1, 16, 16, 16))
    sum(value.square().sum() for value in out).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_one_coronary_map_answers_both_questions():
    one, two = small(separate_course=False), small()
    x = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(one(x).course, one(x).coronary)
    assert one(x).course.shape == two(x).course.shape
    assert not torch.equal(two(x).course, two(x).coronary)


def test_branches_part_where_they_should():
    """A loss on the structures alone trains the trunk, not the coronary branch."""
    network = small()
    network(torch.randn(1, 1, 8, 8, 8)).structures.square().sum().backward()
    assert all(p.grad is None for p in network.coronary.parameters())
    assert all(p.grad is not None for p in network.encoder.parameters())
    assert all(p.grad is not None for p in network.structures.parameters())


def test_a_size_that_is_not_divisible_is_refused():
    with pytest.raises(ValueError, match=r"\(8, 8, 10\) is not divisible by 4"):
        small()(torch.zeros(1, 1, 8, 8, 10))


@pytest.mark.parametrize("changes", [{"norm": "batch"}, {"branch_levels": 3}, {"branch_levels": -1}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match=r"norm|branch_levels"):
        small(**changes)


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_samples_of_a_batch_do_not_see_each_other(norm):
    network = small(norm=norm).train()
    batch = torch.randn(2, 1, 16, 16, 16) * torch.tensor([1.0, 30.0]).reshape(2, 1, 1, 1, 1)
    together = network(batch)
    for sample in range(2):
        alone = network(batch[sample : sample + 1])
        for a, b in zip(together, alone, strict=True):
            assert torch.allclose(a[sample], b[0], atol=1e-4)


def test_a_residual_unit_is_the_identity_when_its_last_convolution_is_zero():
    unit = ResidualUnit(4, "instance")
    torch.nn.init.zeros_(unit.conv2.weight)
    x = torch.randn(1, 4, 6, 6, 6)
    assert torch.equal(unit(x), x)


def test_summary_counts_a_network_by_hand():
    network = MultiBranchUNet(1, (2, 3), units=1, branch_levels=1)
    unit = {n: 2 * (2 * n) + 2 * (27 * n * n) for n in (2, 3)}  # two norms, two convolutions
    up = 3 * 2 + unit[2]
    branch = [up + 2 * 2 + 2 * out + out for out in (10, 8)]
    stem, down = 27 * 2, 8 * 2 * 3
    facts = summary(network, patch=8)
    assert facts["parameters"] == stem + unit[2] + down + unit[3] + sum(branch)
    fine, coarse = 8**3, 4**3
    multiplications = fine * (stem + 3 * 2 * 27 * 4 + 2 * (10 + 8)) + coarse * (down + 2 * 27 * 9 + 2 * 6)
    assert facts["gflop_per_patch"] == pytest.approx(2 * multiplications / 1e9)
    assert facts["input"] == (1, 1, 8, 8, 8)
    assert facts["structures"] == (1, 8, 8, 8, 8)


def test_network_input_maps_the_window_and_appends_the_context():
    hu = torch.tensor([-1000.0, -300.0, 100.0, 500.0, 3000.0]).reshape(1, 5, 1, 1)
    x = network_input(hu, (-300.0, 500.0))
    assert x.flatten().tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]
    context = torch.rand(1, 8, 5, 1, 1)
    both = network_input(hu, (-300.0, 500.0), context)
    assert both.shape == (1, 9, 5, 1, 1)
    assert torch.equal(both[:, 1:], context)
    assert torch.equal(both[:, :1], x)


def test_the_command_prints_every_stage(tmp_path):
    tiny = "model: {spacing_mm: 2.0, patch: 8, in_channels: 9, widths: [2, 3]}"
    (tmp_path / "tiny.yaml").write_text(tiny)
    assert read_stages(folder=tmp_path)["tiny"].widths == (2, 3)
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        assert main(["coarse"], console) == 0
    text = console.export_text()
    assert "1 × 8 × 64 × 64 × 64" in text
    assert "1 544 570" in text
    assert "17.8" in text
    assert "fine" not in text


def test_the_command_names_an_unknown_stage(capsys, tmp_path):
    assert main(["medium"]) == 2
    assert "medium" in capsys.readouterr().out
    (tmp_path / "bad.yaml").write_text("data: {}")
    with pytest.raises(ConfigError, match="model"):
        read_stages(folder=tmp_path)
