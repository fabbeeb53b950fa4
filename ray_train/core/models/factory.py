"""`build_model`: networks by name, for any number of input planes (R-M1, R-M2)."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from types import ModuleType

from torch import nn

from ray_train.core.models.shielded import PRESETS, shielded_resnet
from ray_train.core.models.weights import State, load_pretrained
from ray_train.core.torchvision_compat import torchvision

TIMM_PREFIX = "timm:"


def build_model(
    arch: str,
    in_channels: int = 3,
    *,
    dropout: float = 0.2,
    preset: str = "p4",
    weights: State | None = None,
) -> nn.Module:
    """A network that maps (n, in_channels, H, W) to (n, 1) logits.

    Parameters
    ----------
    arch
        "resnet18" (11,177,025 parameters at 3 planes), "efficientnet_v2_s" (20,178,769), "shielded_resnet", or
        "timm:NAME" for a network of the timm package, with random weights.
    in_channels
        Planes of the input.
    dropout
        Before the last layer of efficientnet_v2_s.
    preset
        Of shielded_resnet: "p4" or "p4_c" (194,433 parameters each), "l18" (3,511,681) or "h21" (66,401).
    weights
        A state_dict to start from; its last layer is left out where its shape differs, its first is inflated or
        summed to `in_channels`.

    Raises
    ------
    ValueError
        Unknown name or preset, timm is asked for and not installed, or weights of another network.
    """
    if in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, found {in_channels}")
    if arch.startswith(TIMM_PREFIX):
        model = _timm_model(arch.removeprefix(TIMM_PREFIX), in_channels)
    elif arch in ARCHITECTURES:
        model = ARCHITECTURES[arch](in_channels, dropout, preset)
    else:
        raise ValueError(f"unknown architecture {arch!r}; known are {', '.join(ARCHITECTURES)} and {TIMM_PREFIX}NAME")
    if weights is not None:
        load_pretrained(model, weights, stem_of(model))
    return model


def stem_of(model: nn.Module) -> str:
    """Name of the first convolution: what `frozen_stem_epochs` keeps fixed and new planes change."""
    declared = getattr(model, "pretrained_cfg", {}).get("first_conv")  # of a timm network
    modules = dict(model.named_modules())
    if isinstance(declared, str) and isinstance(modules.get(declared), nn.Conv2d):
        return declared
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            return name
    raise ValueError("the network has no convolution")


def _resnet18(in_channels: int, dropout: float, preset: str) -> nn.Module:
    model: nn.Module = torchvision().models.resnet18(weights=None, num_classes=1)
    return _with_planes(model, in_channels)


def _efficientnet_v2_s(in_channels: int, dropout: float, preset: str) -> nn.Module:
    model: nn.Module = torchvision().models.efficientnet_v2_s(weights=None, dropout=dropout, num_classes=1)
    return _with_planes(model, in_channels)


def _shielded_resnet(in_channels: int, dropout: float, preset: str) -> nn.Module:
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r} of shielded_resnet; known are {', '.join(PRESETS)}")
    return shielded_resnet(in_channels, PRESETS[preset])


def _timm_model(name: str, in_channels: int) -> nn.Module:
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ValueError(f"timm has no network {name!r}{hint}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=1, in_chans=in_channels)
    except (RuntimeError, TypeError) as error:  # no such tag, or a network that takes other arguments
        raise ValueError(f"timm cannot build {name!r} with {in_channels} planes and one logit ({error})") from error
    return model


def _timm() -> ModuleType:
    torchvision()  # timm imports it
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"{TIMM_PREFIX}NAME needs timm; install the extra lensdata[timm]") from error
    return timm


def _with_planes(model: nn.Module, in_channels: int) -> nn.Module:
    name = stem_of(model)
    old = model.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    if old.in_channels == in_channels:
        return model
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        bias=old.bias is not None,
    )
    # torchvision's own rule for both networks; the default of Conv2d is another
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    return model


ARCHITECTURES: dict[str, Callable[[int, float, str], nn.Module]] = {
    "resnet18": _resnet18,
    "efficientnet_v2_s": _efficientnet_v2_s,
    "shielded_resnet": _shielded_resnet,
}
