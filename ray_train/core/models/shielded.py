"""The shielded ResNet: pre-activation bottlenecks with 1x1 "shields" between the stages (R-M2).

The blocks are those of CMU DeepLens (Lanusse et al. 2018, arXiv:1703.02642): ELU, stride on the first 1x1
convolution, biases only on the last 1x1 of each branch. Huang et al. 2021 (arXiv:2005.04730) put 1x1 convolutions
between the stages, which keep the width at 32 channels. Widths of the network of Inchausti et al. 2025 are not
published: `p4` is a reconstruction that has exactly their 194,433 parameters, one of many that do. `p4_c` is another,
made cheap by narrow stages at full resolution: a quarter of the arithmetic of `p4`. Both are parameter-count-matched,
neither is *the* network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

STEM_CHANNELS = 32
BLOCKS_PER_STAGE = 3


@dataclass(frozen=True, kw_only=True)
class ShieldedPreset:
    """Widths of a shielded ResNet.

    Parameters
    ----------
    stages
        (middle, output) channels of each stage's blocks; stages after the first halve the image.
    shield
        Channels of the 1x1 convolution behind a stage; 0 for none (Lanusse's L18).
    activated_shield
        The shield is BN, ELU, 1x1 with bias; otherwise a plain 1x1 without.
    final_norm
        BN and ELU before the average.
    last_shield
        A shield also behind the last stage.
    first_norm
        The first block has BN and ELU of its own, behind those of the stem.
    block_biases
        The last 1x1 convolution of each branch has a bias, as in CMU DeepLens.
    """

    stages: tuple[tuple[int, int], ...]
    shield: int
    activated_shield: bool
    final_norm: bool
    last_shield: bool = True
    first_norm: bool = False
    block_biases: bool = True


PRESETS = {
    "p4": ShieldedPreset(stages=((32, 32),) * 4 + ((32, 64),), shield=32, activated_shield=True, final_norm=True),
    "p4_c": ShieldedPreset(stages=((8, 8), (16, 16), (32, 32), (64, 64), (16, 32)), shield=8, activated_shield=False,
                           final_norm=True, last_shield=False, first_norm=True, block_biases=False),
    "l18": ShieldedPreset(stages=((16, 32), (32, 64), (64, 128), (128, 256), (256, 512)), shield=0,
                          activated_shield=False, final_norm=False),
    "h21": ShieldedPreset(stages=((16, 32),) * 5, shield=32, activated_shield=False, final_norm=False),
}  # fmt: skip


class Bottleneck(nn.Module):
    """Pre-activation bottleneck; (n, inputs, H, W) to (n, outputs, ceil(H/stride), ceil(W/stride)).

    Parameters
    ----------
    preactivated
        The input already went through BN and ELU (the first block, behind the stem).
    biases
        The last 1x1 convolution of each branch has a bias.
    """

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int, *, preactivated: bool, biases: bool = True
    ) -> None:
        super().__init__()
        self.stride = stride
        self.norm = None if preactivated else nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=biases)
        projected = inputs != outputs or stride != 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=biases) if projected else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x if self.norm is None else functional.elu(self.norm(x))
        if self.stride > 1:
            # A 1x1 convolution with a stride is that of every stride-th pixel. Said so, because oneDNN 3.12 (torch 2.13 on CPUs
            # with AVX-512) writes outside its memory in the backward pass of the former, in channels_last with fewer than 16
            # planes and an odd number of stamps.
            h = h[:, :, :: self.stride, :: self.stride]
        y = functional.elu(self.norm1(self.conv1(h)))
        y = functional.elu(self.norm2(self.conv2(y)))
        return self.conv3(y) + (x if self.shortcut is None else self.shortcut(h))


def shielded_resnet(in_channels: int, preset: ShieldedPreset) -> nn.Sequential:
    """Build a shielded ResNet with one logit.

    Returns
    -------
    Sequential
        `stem`, `stage1`, `shield1`, ..., `head`; (n, in_channels, H, W) to (n, 1).
    """
    model = nn.Sequential()
    model.add_module(
        "stem",
        nn.Sequential(
            nn.Conv2d(in_channels, STEM_CHANNELS, 7, padding=3, bias=False), nn.BatchNorm2d(STEM_CHANNELS), nn.ELU()
        ),
    )
    width = STEM_CHANNELS
    for index, (middle, outputs) in enumerate(preset.stages, start=1):
        blocks = nn.Sequential()
        for block in range(BLOCKS_PER_STAGE):
            stride = 2 if index > 1 and block == 0 else 1
            preactivated = index == 1 and block == 0 and not preset.first_norm
            blocks.append(
                Bottleneck(width, middle, outputs, stride, preactivated=preactivated, biases=preset.block_biases)
            )
            width = outputs
        model.add_module(f"stage{index}", blocks)
        if preset.shield and (index < len(preset.stages) or preset.last_shield):
            model.add_module(f"shield{index}", _shield(width, preset))
            width = preset.shield
    norm = [nn.BatchNorm2d(width), nn.ELU()] if preset.final_norm else []
    model.add_module("head", nn.Sequential(*norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1)))
    _initialise(model)
    return model


def _shield(width: int, preset: ShieldedPreset) -> nn.Sequential:
    before = [nn.BatchNorm2d(width), nn.ELU()] if preset.activated_shield else []
    return nn.Sequential(*before, nn.Conv2d(width, preset.shield, 1, bias=preset.activated_shield))


def _initialise(model: nn.Module) -> None:
    # He-normal in the blocks, Glorot-uniform (gain of a rectifier) in the stem, as in CMU DeepLens.
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if name.startswith("stem"):
            nn.init.xavier_uniform_(module.weight, gain=nn.init.calculate_gain("relu"))
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
