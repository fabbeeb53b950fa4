"""A model bundle: a trained finder as a folder that needs nothing else to score stamps.

    bundle = ray_train.bundle.load("bundles/demo")
    logits = bundle.score(stamps_NHWC, layout)
    bundle.probability(logits, prevalence=1e-4)

``bundle.json`` (`ray_train.bundle_record`) names every file with its SHA-256; what does not fit is refused before it is used.
`ray_train.make_bundle` writes bundles.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from torch import nn

from lensdata import storage
from lensdata.audit.recalibration import restored, shift_logit
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout, Stamps
from ray_train.bundle_record import BundleRecord, Member, read_record
from ray_train.core.images import NORMALISATIONS, ImageRecipe, Statistics
from ray_train.networks import build_network
from ray_train.stamps import check_images

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LoadedMember:
    """A network of a bundle, ready to score."""

    record: Member
    model: nn.Module
    statistics: Statistics | None

    def images(self, bands: tuple[str, ...]) -> ImageRecipe:
        """How stamps of these bands become the network's input."""
        wanted = self.record.bands
        return ImageRecipe(
            normalisation=self.record.normalisation,
            crop=self.record.crop,
            dtype=self.record.dtype,
            planes=None if wanted is None else tuple(bands.index(band) for band in wanted),
            statistics=self.statistics,
        )


class Finder(nn.Module):
    """Stamps (N, H, W, C) to mean logits (N,), preprocessing included; no autocast, which would tie scores."""

    def __init__(self, members: tuple[LoadedMember, ...], bands: tuple[str, ...]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(member.model for member in members)
        self.recipes = [member.images(bands) for member in members]

    def forward(self, stamps_NHWC: torch.Tensor) -> torch.Tensor:
        """The mean of the members' logits."""
        logits = [
            network(recipe.prepare(stamps_NHWC).float())[:, 0]
            for network, recipe in zip(self.networks, self.recipes, strict=True)
        ]
        return torch.stack(logits).mean(dim=0)


@dataclass(frozen=True)
class Bundle:
    """A model that scores stamps.

    Attributes
    ----------
    uri
        Its folder.
    sha256
        Of ``bundle.json``, which names the SHA-256 of everything else: it identifies the bundle.
    """

    uri: str
    record: BundleRecord
    finder: Finder
    device: torch.device
    sha256: str

    def score(self, stamps_NHWC: Stamps, layout: ImageLayout, batch: int = 128) -> npt.NDArray[np.float32]:
        """Logits of stamps, in their order; NaN where the network gives no number.

        Parameters
        ----------
        stamps_NHWC
            (N, H, W, C), any number type.
        layout
            What their pixels mean.

        Raises
        ------
        InputError
            Stamps of other bands, unit, size or pixel scale than the model was trained on.
        """
        self.record.input.require(layout)
        if stamps_NHWC.ndim != 4 or stamps_NHWC.shape[1:] != layout.shape:
            raise InputError(f"Stamps of shape {stamps_NHWC.shape} are not (n, {', '.join(map(str, layout.shape))}).")
        out = np.empty(len(stamps_NHWC), np.float32)
        with torch.inference_mode():
            for start in range(0, len(out), batch):
                part = torch.from_numpy(np.array(stamps_NHWC[start : start + batch])).to(self.device)
                out[start : start + batch] = self.finder(part).cpu().numpy()
        return np.where(np.isfinite(out), out, np.float32(np.nan))

    def calibrated(self, logits: npt.ArrayLike, prevalence: float | None = None) -> Floats:
        """Logits of the calibrated probabilities.

        Parameters
        ----------
        prevalence
            Share of lenses among the objects; None: that of the validation split. Another one shifts all logits by the change
            of the log prior odds (Elkan 2001; Saerens et al. 2002), which is right where lenses and others each look as they
            did in training.
        """
        known = self.record.calibration
        to_logits = restored(known.method, known.parameters).logits
        assert to_logits is not None
        out = to_logits(np.asarray(logits, np.float64))
        return out if prevalence is None else out + shift_logit(known.prevalence, prevalence)

    def probability(self, logits: npt.ArrayLike, prevalence: float | None = None) -> Floats:
        """Calibrated probabilities; see `calibrated`."""
        return np.asarray(expit(self.calibrated(logits, prevalence)))

    def threshold(self, fpr: float) -> float | None:
        """The logit from which an object passes at that false-positive rate; None where it could not be measured.

        Raises
        ------
        InputError
            The bundle has no threshold for that rate.
        """
        for entry in self.record.thresholds:
            if np.isclose(entry.fpr, fpr, rtol=1e-6):
                return entry.logit
        known = ", ".join(f"{entry.fpr:g}" for entry in self.record.thresholds)
        raise InputError(f"Bundle {self.uri} has thresholds at the false-positive rates {known}, none at {fpr:g}.")


def load(uri: str, device: torch.device | str = "cpu", sha256: str | None = None) -> Bundle:
    """Read a bundle; nothing in it can run code.

    Parameters
    ----------
    uri
        Its folder, local or ``s3://``.
    sha256
        That ``bundle.json`` must have, where the bundle comes from a stranger.

    Raises
    ------
    InputError
        No bundle, another format version, a file that is missing or not the one that was written, or parts that do not fit.
    """
    record, data = read_record(uri)
    digest = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, digest):
        raise InputError(f"Bundle {uri} has SHA-256 {digest}, expected {sha256}.")
    files = {name: _checked(uri, name, wanted) for name, wanted in record.files.items()}
    members = tuple(_member(entry, files[entry.weights], uri) for entry in record.members)
    return assemble(uri, record, members, torch.device(device), digest)


def assemble(
    uri: str, record: BundleRecord, members: tuple[LoadedMember, ...], device: torch.device, sha256: str
) -> Bundle:
    """A bundle from its parts, which have to fit the stamps that the record names."""
    shape = (*record.input.size, len(record.input.bands))
    layout = ImageLayout(shape=shape, dtype="float32", bands=record.input.bands, unit=record.input.unit)
    for member in members:
        _require_fit(member, layout, uri)
    finder = Finder(members, record.input.bands).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Bundle(uri, record, finder.eval(), device, sha256)


def weights_bytes(model: nn.Module, statistics: Statistics | None) -> bytes:
    """Weights, and the figures of the training split that the normalisation needs, as a file."""
    kept = None if statistics is None else {"mean": statistics.mean.cpu(), "sigma": statistics.sigma.cpu()}
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    sink = io.BytesIO()
    torch.save({"weights": state, "statistics": kept}, sink)
    return sink.getvalue()


def _checked(uri: str, name: str, wanted: str) -> bytes:
    place = storage.join(uri, name)
    if not storage.exists(place):
        raise InputError(f"Bundle {uri} lacks its file {name}; copy the whole folder again.")
    data = storage.read_bytes(place)
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise InputError(
            f"{place} is not the file that was written: its SHA-256 is {found[:16]}..., expected {wanted[:16]}...; do not use it."
        )
    return data


def _member(entry: Member, data: bytes, uri: str) -> LoadedMember:
    try:
        saved: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        weights, kept = saved["weights"], saved["statistics"]
        statistics = None if kept is None else Statistics(kept["mean"], kept["sigma"])
    except Exception as error:  # torch raises a dozen kinds for a broken file
        raise InputError(f"Weights {entry.weights} of bundle {uri} cannot be read ({type(error).__name__}).") from error
    model = build_network(entry.model_dump(include={"arch", "in_channels", "dropout", "preset"}))
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"Weights {entry.weights} of bundle {uri} are not those of {entry.arch} with {entry.in_channels} planes."
        ) from error
    return LoadedMember(entry, model.eval(), statistics)


def _require_fit(member: LoadedMember, layout: ImageLayout, uri: str) -> None:
    """Refuse a member whose bands, crop or figures do not fit the stamps of its own bundle."""
    entry = member.record
    absent = [band for band in entry.bands or () if band not in layout.bands]
    if absent or len(entry.bands or layout.bands) != entry.in_channels:
        raise InputError(
            f"Bundle {uri}: {entry.weights} takes {entry.in_channels} planes of the bands "
            f"{', '.join(entry.bands or layout.bands)}; the stamps have {', '.join(layout.bands)}."
        )
    if entry.normalisation not in NORMALISATIONS:
        raise InputError(f"Bundle {uri}: normalisation {entry.normalisation!r} is unknown to this lensdata.")
    recipe = member.images(layout.bands)
    check_images(recipe, layout)
    if recipe.needs_statistics:
        raise InputError(f"Bundle {uri}: {entry.normalisation} needs figures of the training split, which are missing.")
    known, (height, width, planes) = member.statistics, recipe.prepared_shape(layout.shape)
    if known is not None and (known.mean.shape != (planes, height, width) or known.sigma.shape != (planes,)):
        raise InputError(
            f"Bundle {uri}: the figures of the training split in {entry.weights} are those of other stamps."
        )
