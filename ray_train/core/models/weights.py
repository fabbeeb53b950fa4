"""Starting from published weights: other last layer, other number of planes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

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
        A key is missing or has another shape than the network's, other than in the last linear layer.
    """
    own = model.state_dict()
    head = _last_linear(model)
    first = f"{stem}.weight"
    fitting: dict[str, torch.Tensor] = {}
    for name, value in own.items():
        given = state.get(name)
        if given is not None and name == first and given.shape[1] != value.shape[1]:
            given = adapt_first_convolution(given, value.shape[1])
        if given is not None and given.shape == value.shape:
            fitting[name] = given
        elif not name.startswith(f"{head}."):
            found = "missing" if given is None else f"of shape {tuple(given.shape)}"
            raise ValueError(f"the weights are of another network: {name} is {found}, expected {tuple(value.shape)}")
    model.load_state_dict(own | fitting)


def _last_linear(model: nn.Module) -> str:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
