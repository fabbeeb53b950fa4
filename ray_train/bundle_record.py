"""``bundle.json``: everything that a model bundle says about itself, checked where it is read."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from lensdata import storage
from lensdata.audit.recalibration import PARAMETERS
from lensdata.config.base import Config, validate
from lensdata.errors import InputError
from lensdata.shards.layout import ImageLayout

FORMAT, FORMAT_VERSION = "lensdata-bundle", 1
RECORD = "bundle.json"
RECORD_BYTES = 1 << 20  # a record is a few kilobytes
# A name inside the bundle's folder: no slash, no leading dot, so no way out of it.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=8, le=1024)]


class Input(Config):
    """The stamps that the model takes: those of its training.

    Attributes
    ----------
    size
        Height and width, pixels.
    routes, layers
        How the training stamps came (docs/guide/cutouts.md), as far as their shards say.
    dec_deg
        Range of declination of the training stamps; None where the manifest does not know it.
    """

    bands: tuple[str, ...] = Field(min_length=1, max_length=64)
    unit: str
    pixscale_arcsec: float | None = Field(gt=0)
    size: tuple[Side, Side]
    routes: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    dec_deg: tuple[float, float] | None = None

    def require(self, layout: ImageLayout) -> None:
        """Refuse stamps of other bands, unit, size or pixel scale.

        Raises
        ------
        InputError
            Says what the stamps have and what the model was trained on.
        """
        checks = (
            ("bands", ", ".join(layout.bands), ", ".join(self.bands)),
            ("unit", layout.unit, self.unit),
            ("size", "{} x {} pixels".format(*layout.shape[:2]), "{} x {} pixels".format(*self.size)),
        )
        for name, found, wanted in checks:
            if found != wanted:
                raise InputError(f"The stamps have {name} {found}, but the model was trained on {wanted}.")
        ours, theirs = self.pixscale_arcsec, layout.pixscale_arcsec
        if ours is not None and theirs is not None and abs(ours - theirs) > 1e-3 * ours:
            raise InputError(
                f"The stamps have {theirs:g} arcsec per pixel, but the model was trained on {ours:g}: arcs would have "
                "another size."
            )


class Member(Config):
    """One network: its weights, its architecture, its preprocessing, and the run that it comes from."""

    weights: FileName
    arch: str
    in_channels: int = Field(ge=1, le=64)
    dropout: float = Field(ge=0, lt=1)
    preset: str
    normalisation: str
    crop: int | None = Field(ge=8, le=1024)
    dtype: Literal["float32", "float16"]
    bands: tuple[str, ...] | None
    parameters: int = Field(ge=1)
    run_id: str
    epoch: int = Field(ge=0)
    seed: int
    git_commit: str | None
    lensdata: str


class Calibration(Config):
    """Map from logits to probabilities at the validation split's share of lenses."""

    method: Literal["platt", "temperature", "beta", "none"]
    parameters: dict[str, float]
    prevalence: float = Field(gt=0, lt=1)
    n_positive: int
    n_negative: int
    fitted_on: Literal["validation split"] = "validation split"

    @model_validator(mode="after")
    def _parameters_are_the_method_s(self) -> Calibration:
        if set(self.parameters) != set(PARAMETERS[self.method]):
            raise ValueError(f"{self.method} has the parameters {', '.join(PARAMETERS[self.method]) or 'none'}")
        return self


class Threshold(Config):
    """The logit from which an object passes at a false-positive rate, by the validation split.

    Attributes
    ----------
    logit
        None with a ``reason`` where it cannot be measured.
    low, high
        95% interval of the logit at which the rate is just that, by order statistics of the negatives; None: unbounded.
    false_positives_allowed, false_positives
        At that rate among so many negatives, and found.
    completeness
        Share of the validation lenses that pass, with its 95% interval.
    """

    fpr: float = Field(gt=0, lt=1)
    logit: float | None
    reason: str | None = None
    low: float | None = None
    high: float | None = None
    n_positive: int
    n_negative: int
    false_positives_allowed: int
    false_positives: int | None = None
    completeness: tuple[float, float, float] | None = None


class Onnx(Config):
    """The exported model: stamps in, logits out, preprocessing included."""

    file: FileName
    opset: int
    input: str
    output: str
    max_difference: float
    tolerance: float
    stamps: int


class Manifest(Config):
    """The training set, by its identity."""

    content: str
    rows: dict[str, int]


class BundleRecord(Config):
    """The whole record."""

    format: Literal["lensdata-bundle"] = "lensdata-bundle"
    format_version: int = FORMAT_VERSION
    combination: Literal["mean_logit"] = "mean_logit"
    members: tuple[Member, ...] = Field(min_length=1, max_length=64)
    input: Input
    calibration: Calibration
    thresholds: tuple[Threshold, ...]
    manifest: Manifest
    evaluation: dict[str, Any] | None = None
    versions: dict[str, str | None]
    git_commit: str | None
    onnx: Onnx | None = None
    files: dict[FileName, Digest]


def read_record(uri: str) -> tuple[BundleRecord, bytes]:
    """The record of a bundle, and its bytes.

    Raises
    ------
    InputError
        There is none, it is no JSON, of another format version, or a value is not what it may be.
    """
    place = storage.join(uri, RECORD)
    if not storage.exists(place):
        raise InputError(f"{uri} has no {RECORD}, so it is not a model bundle; `lensdata bundle RUN` makes one.")
    if storage.size(place) > RECORD_BYTES:
        raise InputError(f"{place} has {storage.size(place)} bytes, more than any record of a bundle.")
    data = storage.read_bytes(place)
    try:
        values = json.loads(data)
    except ValueError as error:
        raise InputError(f"{place} is not valid JSON ({error}).") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{place} is not the record of a model bundle.")
    if values.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"Bundle {uri} has format version {values.get('format_version')}, this lensdata reads {FORMAT_VERSION}."
        )
    record = validate(BundleRecord, values, place)
    needed = {member.weights for member in record.members} | ({record.onnx.file} if record.onnx else set())
    unknown = sorted(needed - set(record.files))
    if unknown:
        raise InputError(f"{place} has no SHA-256 of {', '.join(unknown)} under files.")
    return record, data


def record_bytes(record: BundleRecord) -> bytes:
    """The record as it is stored."""
    return (json.dumps(record.model_dump(mode="json"), indent=1) + "\n").encode()
