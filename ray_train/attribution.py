"""Which pixels a logit comes from: integrated gradients and Grad-CAM, by captum (R-E6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from lensdata.errors import InputError
from ray_train.core.images import annulus
from ray_train.core.probes import ARC_ARCSEC

STEPS = 32  # of the integral from a stamp of zeros to the stamp
SMALLEST_MAP = 7  # pixels: a coarser map cannot tell core from arc
ZONES = ("core", "arc", "background")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Method:
    """An attribution: its name, and what it makes of stamps (N, C, h, w): (N, h, w), not negative."""

    name: str
    attribute: Callable[[torch.Tensor], torch.Tensor]


def methods(model: nn.Module, example: torch.Tensor) -> list[Method]:
    """Integrated gradients from a stamp of zeros, and Grad-CAM where the network has a map for it.

    Zeros after the normalisation; they are the sky where that is centred on it.

    Parameters
    ----------
    example
        (1, C, h, w) network input.

    Raises
    ------
    InputError
        captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients, LayerGradCam
    except ModuleNotFoundError as error:
        raise InputError(
            'Attributions need captum: pip install "lensdata[audit]", or set attribution_stamps=0.'
        ) from error

    def logit(x: torch.Tensor) -> torch.Tensor:
        return model(x).squeeze(1)

    gradients = IntegratedGradients(logit)

    def integrated(x: torch.Tensor) -> torch.Tensor:
        found = gradients.attribute(x, baselines=0.0, n_steps=STEPS, internal_batch_size=len(x))
        return found.abs().sum(dim=1)

    found = [Method("integrated_gradients", integrated)]
    layer = last_wide_layer(model, example)
    if layer is not None:
        cam = LayerGradCam(logit, layer)

        def grad_cam(x: torch.Tensor) -> torch.Tensor:
            coarse = cam.attribute(x, relu_attributions=True)
            return functional.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]

        found.append(Method("grad_cam", grad_cam))
    return found


def last_wide_layer(model: nn.Module, example: torch.Tensor) -> nn.Module | None:
    """The deepest layer whose map is still `SMALLEST_MAP` pixels wide; None where no layer has one.

    On small stamps the last maps of a deep network are a few pixels wide and show no more than that there is something.
    """
    seen: list[nn.Module] = []

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.dim() == 4 and min(output.shape[2:]) >= SMALLEST_MAP:
            seen.append(module)

    hooks = [part.register_forward_hook(record) for part in model.modules() if part is not model]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    usable = [module for module in seen if not isinstance(module, nn.Identity)]
    return usable[-1] if usable else None


def zones(size: int, pixscale_arcsec: float) -> npt.NDArray[np.bool_]:
    """Core (r < 0.8"), arc annulus and background of square stamps, (3, size, size)."""
    inner, outer = (edge / pixscale_arcsec for edge in ARC_ARCSEC)
    edges = ((0.0, inner), (inner, outer), (outer, float("inf")))
    return np.stack([annulus(size, size, *pair).numpy() for pair in edges])


def fractions(maps_NHW: Floats, size: int, pixscale_arcsec: float) -> Floats:
    """Share of each map's total in each zone, (N, 3); NaN where the map is empty."""
    inside = zones(size, pixscale_arcsec).reshape(3, -1).astype(np.float64)
    sums = maps_NHW.reshape(len(maps_NHW), -1).astype(np.float64) @ inside.T
    total = sums.sum(axis=1, keepdims=True)
    return np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0).astype(np.float32)
