"""The multi-branch U-Net with pre-activation residual units.

Sartoretti et al. 2022: one feature extractor (U-Net with residual units, He et al. 2016 "identity mappings") shared by two
branches: coronary arteries (5 channels with background) and heart structures (8 channels with background).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cacsnet.labels import STRUCTURES, VESSELS


class Prediction(NamedTuple):
    """Logits, float [B, channels, Z, Y, X].

    coronary: 5 channels, the decision on candidate voxels ("is this bright voxel calcium of which artery").
    structures: 8 channels, the heart structures.
    course: 5 channels, where the arteries run (learnt on voxels that are not bright); second output of the coronary branch,
        or the same one.
    """

    coronary: Tensor
    structures: Tensor
    course: Tensor


def _norm(name: str, channels: int) -> nn.Module:
    if name == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    if name == "group":
        return nn.GroupNorm(max(1, channels // 8), channels)
    raise ValueError(f"norm must be 'instance' or 'group' (statistics per sample), got {name!r}")


class ResidualUnit(nn.Module):
    """Pre-activation residual unit: x + conv(relu(norm(conv(relu(norm(x)))))). Channels and size stay."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.norm1 = _norm(norm, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _norm(norm, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(h)))


class _Up(nn.Module):
    """1x1x1 convolution, trilinear upsampling by two, sum with the skip connection, residual units."""

    def __init__(self, channels_in: int, channels_out: int, units: int, norm: str) -> None:
        super().__init__()
        self.project = nn.Conv3d(channels_in, channels_out, 1, bias=False)
        self.units = nn.Sequential(*(ResidualUnit(channels_out, norm) for _ in range(units)))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(self.project(x), scale_factor=2, mode="trilinear", align_corners=False)
        return self.units(x + skip)


class _Branch(nn.Module):
    """The finest decoder levels of one branch and its output layer."""

    def __init__(self, widths: Sequence[int], levels: int, units: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.ups = nn.ModuleList(_Up(widths[level + 1], widths[level], units, norm) for level in reversed(range(levels)))
        self.norm = _norm(norm, widths[0])
        self.head = nn.Conv3d(widths[0], channels_out, 1)

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        for up, skip in zip(self.ups, reversed(skips[: len(self.ups)]), strict=True):
            x = up(x, skip)
        return self.head(F.relu(self.norm(x)))


class MultiBranchUNet(nn.Module):
    """Multi-branch residual 3-D U-Net.

    Args:
        in_channels: 1 (CT) or more (CT and the coarse structure probabilities).
        widths: channels per level, finest first; each level halves the grid.
        units: residual units per level in the encoder and in the decoder.
        branch_levels: number of finest decoder levels that each branch has for itself; 0 parts at the output layer.
        norm: "instance" or "group".
        separate_course: two outputs of the coronary branch, for the decision and for the course; else one for both.

    Input float [B, in_channels, Z, Y, X], sizes divisible by 2 ** (len(widths) - 1).
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (8, 32, 64, 128),
        units: int = 1,
        branch_levels: int = 1,
        norm: str = "instance",
        separate_course: bool = True,
    ) -> None:
        super().__init__()
        widths = tuple(widths)
        if not 0 <= branch_levels < len(widths):
            raise ValueError(f"branch_levels must lie in 0..{len(widths) - 1}, got {branch_levels}")
        self.stem = nn.Conv3d(in_channels, widths[0], 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(nn.Sequential(*(ResidualUnit(width, norm) for _ in range(units))) for width in widths)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2, bias=False) for a, b in pairwise(widths))
        self.shared = nn.ModuleList(
            _Up(widths[level + 1], widths[level], units, norm) for level in reversed(range(branch_levels, len(widths) - 1))
        )
        self.coronary = _Branch(widths, branch_levels, units, (1 + separate_course) * len(VESSELS), norm)
        self.structures = _Branch(widths, branch_levels, units, len(STRUCTURES), norm)
        self.stride = 2 ** (len(widths) - 1)

    def forward(self, x: Tensor) -> Prediction:
        if any(size % self.stride for size in x.shape[2:]):
            raise ValueError(f"patch size {tuple(x.shape[2:])} is not divisible by {self.stride}")
        skips: list[Tensor] = []
        x = self.stem(x)
        for level, units in enumerate(self.encoder):
            x = units(x)
            if level < len(self.down):
                skips.append(x)
                x = self.down[level](x)
        first_shared = len(skips)
        for up in self.shared:
            first_shared -= 1
            x = up(x, skips[first_shared])
        outputs = self.coronary(x, skips).split(len(VESSELS), dim=1)
        return Prediction(outputs[0], self.structures(x, skips), outputs[-1])


def summary(model: MultiBranchUNet, patch: int = 64) -> dict[str, object]:
    """Shapes, parameter count and FLOPs (multiply and add counted as two) of one patch ``patch`` voxels a side."""
    from torch.utils.flop_counter import FlopCounterMode

    in_channels = model.stem.in_channels
    x = torch.zeros(1, in_channels, patch, patch, patch)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        out = model.eval()(x)
    return {
        "input": tuple(x.shape),
        **{name: tuple(value.shape) for name, value in out._asdict().items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflop_per_patch": counter.get_total_flops() / 1e9,
    }
