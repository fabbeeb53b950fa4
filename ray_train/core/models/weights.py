"""Starting from published weights: other last layer, other number of planes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ray_train.core.torchvision_compat import torchvision

State = Mapping[str, torch.Tensor]


def adapt_first_convolution(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """A first convolution's weight (out, old, k, k) for another number of planes (out, new, k, k).

    Planes are repeated where the new number is a multiple of the old, else averaged; the sum over planes stays, so
    that the same image in every plane gives the same answer as before.
    """
    old = weight.shape[1]
    if in_channels % old == 0:
        return weight.repeat(1, in_channels // old, 1, 1) * (old / in_channels)
    return weight.mean(dim=1, keepdim=True).expand(-1, in_channels, -1, -1) * (old / in_channels)


def load_pretrained(model: nn.Module, state: State, stem: str) -> None:
    """Load all weights that fit; only the last layer may differ.

    Raises
    ------
    ValueError
        A key is missing or has another shape than the network's, other than in the last layer.
    """
    own = model.state_dict()
    heads = tuple(f"{name}." for name in classifier_names(model))
    first = f"{stem}.weight"
    fitting: dict[str, torch.Tensor] = {}
    for name, value in own.items():
        given = state.get(name)
        if given is not None and name == first and given.shape[1] != value.shape[1]:
            given = adapt_first_convolution(given, value.shape[1])
        if given is not None and given.shape == value.shape:
            fitting[name] = given
        elif not name.startswith(heads):
            found = "missing" if given is None else f"of shape {tuple(given.shape)}"
            raise ValueError(f"the weights are of another network: {name} is {found}, expected {tuple(value.shape)}")
    model.load_state_dict(own | fitting)


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the last layers: what a timm network declares, else the last linear layer."""
    declared = getattr(model, "pretrained_cfg", {}).get("classifier")
    if declared:
        return (declared,) if isinstance(declared, str) else tuple(declared)
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.Linear))[-1:]


def torchvision_weights(arch: str) -> State:
    """The ImageNet weights that torchvision calls its DEFAULT for an architecture.

    They are downloaded once into the cache of torch.hub (`TORCH_HOME`). The file's name ends in the first digits of
    its SHA-256, and a download with other content is refused.

    Raises
    ------
    ValueError
        The architecture is not torchvision's, or the download or the file in the cache failed.
    """
    models = torchvision().models
    try:
        weights = models.get_model_weights(arch).DEFAULT
    except ValueError as error:
        raise ValueError(f"torchvision has no weights of {arch}; give a state_dict file") from error
    try:
        state: State = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, another hash; and torch raises a dozen kinds for a broken file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"the weights {weights.url} could not be loaded ({reason}); give a state_dict file instead"
        ) from error
    return state
