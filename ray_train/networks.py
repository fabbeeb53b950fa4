"""The network of a run: by its configuration, from its checkpoint, with weights from elsewhere."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lensdata import storage
from lensdata.config.training import TrainingConfig
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout
from ray_train.core import state
from ray_train.core.images import Statistics
from ray_train.core.models import build_model
from ray_train.core.models.weights import State, torchvision_weights
from ray_train.run_folder import RunFolder

TORCHVISION = "torchvision"  # as model.weights: its own ImageNet weights
HUB = "hub:"  # as model.weights: the safetensors file of a repository of the Hugging Face Hub, where Zoobot's encoders are


def network_of(config: TrainingConfig, layout: ImageLayout) -> dict[str, Any]:
    """Everything that `build_network` needs, kept in every checkpoint."""
    return {
        "arch": config.model.arch,
        "in_channels": len(config.images.bands or layout.bands),
        "dropout": config.model.dropout,
        "preset": config.model.preset,
        "bands": list(layout.bands),
        "unit": layout.unit,
        "statistics": None,
    }


def build_network(network: dict[str, Any], weights: State | None = None) -> nn.Module:
    """The network; its options are errors for the user."""
    try:
        return build_model(
            network["arch"],
            network["in_channels"],
            dropout=network["dropout"],
            preset=network["preset"],
            weights=weights,
        )
    except ValueError as error:
        raise InputError(f"model: {error}.") from error


def read_weights(config: TrainingConfig, init_from: str | None) -> State | None:
    """Weights to start from: a run's best checkpoint, a checkpoint or a state_dict file; None for random ones."""
    source = init_from or config.model.weights
    if source is None:
        return None
    if source == TORCHVISION and not init_from:
        try:
            return torchvision_weights(config.model.arch)
        except ValueError as error:
            raise InputError(f"model.weights: {error}.") from error
    if source.startswith(HUB) and not init_from:
        return _checked(*_from_hub(source.removeprefix(HUB)), config)
    if storage.is_folder(source):
        return state.weights(state.load(RunFolder(source).checkpoint("best")))
    data = storage.read_bytes(source)
    return _state_dict(data, source) if init_from else _checked(data, source, config)


def _checked(data: bytes, source: str, config: TrainingConfig) -> State:
    """The weights of a file that has the SHA-256 that the configuration names, if it names one."""
    digest = hashlib.sha256(data).hexdigest()
    if config.model.weights_sha256 not in (None, digest):
        raise InputError(f"Weights {source} have SHA-256 {digest}, expected {config.model.weights_sha256}.")
    return _state_dict(data, source)


def _from_hub(name: str) -> tuple[bytes, str]:
    """The file ``model.safetensors`` of OWNER/NAME or OWNER/NAME@REVISION, downloaded once into the hub's cache."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError(
            f"model.weights {HUB}{name} needs huggingface_hub; install the extra lensdata[timm]."
        ) from error
    repository, _, revision = name.partition("@")
    try:
        path = hf_hub_download(repository, "model.safetensors", revision=revision or None)
    except Exception as error:  # no network, no such repository, no safetensors file in it: each of a kind of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(
            f"model.weights {HUB}{name} could not be downloaded ({reason}); give a model.safetensors file instead."
        ) from error
    return Path(path).read_bytes(), f"{HUB}{name}/model.safetensors"


def _state_dict(data: bytes, source: str) -> State:
    if source.endswith(".safetensors"):
        return _safetensors(data, source)
    try:
        values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a broken file
        raise InputError(
            f"Weights {source} cannot be read as a PyTorch state_dict ({type(error).__name__})."
        ) from error
    if isinstance(values, dict) and isinstance(values.get("model"), dict):
        values = state.weights(values) if "format_version" in values else values["model"]
    if not isinstance(values, dict) or not all(isinstance(value, torch.Tensor) for value in values.values()):
        raise InputError(f"Weights {source} hold no state_dict of tensors.")
    return values


def _safetensors(data: bytes, source: str) -> State:
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise InputError(f"Weights {source} need the package safetensors; install the extra lensdata[timm].") from error
    try:
        values: State = load(data)
    except Exception as error:  # its own error, or one of the reading of its header
        raise InputError(f"Weights {source} cannot be read as safetensors ({error}).") from error
    return values


def require_forward(model: nn.Module, arch: str, shape: tuple[int, int, int]) -> None:
    """Refuse a network that does not take stamps of this shape (C, h, w), with its own words for why."""
    try:
        with torch.inference_mode():
            output = model.eval()(torch.zeros(1, *shape))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"model.arch {arch} does not take stamps of {' x '.join(map(str, shape))}: {reason}."
        ) from error
    if output.shape != (1, 1):
        raise InputError(f"model.arch {arch} gives {tuple(output.shape[1:])} numbers per stamp, expected one logit.")


def require_one_stamp(model: nn.Module, micro_batch: int, shape: tuple[int, int, int]) -> None:
    """The last micro-batch of an epoch has one stamp: where the network shrinks that to one pixel, BatchNorm fails."""
    try:
        with torch.inference_mode():
            model.train()(torch.zeros(1, *shape))
    except ValueError as error:
        raise InputError(
            f"batch.micro_batch {micro_batch} leaves one stamp for the last micro-batch, of which BatchNorm can learn "
            f"nothing in a network that shrinks {shape[1]} pixels to one: choose another, or batch.drop_last=true."
        ) from error


def statistics_in(network: dict[str, Any]) -> Statistics | None:
    """Figures of the training split that a checkpoint keeps."""
    kept = network["statistics"]
    return None if kept is None else Statistics(kept["mean"].cpu(), kept["sigma"].cpu())
