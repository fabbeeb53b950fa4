"""Networks that combine the predictions of other networks (R-M3).

`MlpCombiner` is Paper IV's: probabilities in, one hidden layer of 300, a logit out; 1,201 parameters for two members. The
feature-weighted ones are those of Coscrato, Inacio & Izbicki 2020 (arXiv:1906.09735) on logits: their weights depend on the
observing conditions m.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

HIDDEN = 300
LOGIT_LIMIT = 15.0  # beyond, a logit says no more than that the member is sure
RIDGE = 1e-3
STEPS, ROWS, RATE, DECAY = 400, 4096, 0.01, 1e-3  # optimizer steps, rows of each at most


class MlpCombiner(nn.Module):
    """P = sigmoid(w2' relu(W1 p + b1) + b2) of the members' probabilities p.

    >>> sum(weight.numel() for weight in MlpCombiner(2).parameters())
    1201
    """

    def __init__(self, members: int, features: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(members, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(N, members) logits to (N,) logits; features are not used."""
        return self.layers(torch.sigmoid(logits))[:, 0]


class FreeCombiner(nn.Module):
    """z = sum_j theta_j(m) l_j + phi(m), with free weights (Coscrato's unconstrained form)."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.layers = _body(features, members + 1)
        nn.init.zeros_(self.layers[-1].weight)
        with torch.no_grad():  # begins as the mean logit
            self.layers[-1].bias.copy_(torch.tensor([1 / members] * members + [0.0]))

    def weights(self, features: torch.Tensor) -> torch.Tensor:
        """(N, members) theta."""
        return self.layers(features)[:, :-1]

    def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(N, members) logits and (N, F) features to (N,) logits."""
        out = self.layers(features)
        return (out[:, :-1] * logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)).sum(dim=1) + out[:, -1]


class ConstrainedCombiner(nn.Module):
    """z = a sum_j theta_j(m) l_j + b with sum_j theta_j = 1 (Coscrato's constrained form), and a, b to recalibrate.

    The layers give a lower triangle L; P = L L' + ridge stands for the inverse of the members' error matrix, and
    theta = P e / (e' P e). Weights may be negative.
    """

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.members = members
        self.layers = _body(features, members * (members + 1) // 2)
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
        self.scale, self.offset = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def weights(self, features: torch.Tensor) -> torch.Tensor:
        """(N, members) theta, which add up to 1."""
        rows, columns = torch.tril_indices(self.members, self.members)
        flat = self.layers(features)
        lower = flat.new_zeros(len(flat), self.members, self.members)
        lower[:, rows, columns] = torch.where(rows == columns, functional.softplus(flat), flat)
        precision = lower @ lower.mT + RIDGE * torch.eye(self.members, dtype=flat.dtype)
        sums = precision.sum(dim=2)
        return sums / sums.sum(dim=1, keepdim=True)

    def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(N, members) logits and (N, F) features to (N,) logits."""
        combined = (self.weights(features) * logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)).sum(dim=1)
        return self.scale * combined + self.offset


def _body(features: int, outputs: int) -> nn.Sequential:
    """One hidden layer of the features; without features, a constant."""
    if features == 0:
        return nn.Sequential(_Constant(), nn.Linear(1, outputs))
    return nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


class _Constant(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """A column of zeros: what follows is its bias."""
        return features.new_zeros(len(features), 1)


def fit(
    make: Callable[[int, int], nn.Module], logits: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, seed: int
) -> nn.Module:
    """A combiner fitted by binary cross-entropy, in float64.

    Parameters
    ----------
    make
        From members and features to the module.
    logits, features, labels
        (N, members), (N, F) standardised, (N,) float64.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(logits.shape[1], features.shape[1]).double()
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    for _ in range(STEPS):
        rows = torch.randperm(len(labels), generator=random)[:ROWS] if len(labels) > ROWS else slice(None)
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(model(logits[rows], features[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()
