"""Stamps as pictures (R-E6)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from astropy.visualization import make_lupton_rgb
from PIL import Image

from lensdata.catalogue.confusers import CATEGORIES
from lensdata.hashing import second_key


@dataclass(frozen=True)
class Picture:
    """One stamp of a gallery."""

    uri: str
    alt: str
    caption: str
    link: str | None


def to_rgb(stamp: npt.NDArray[Any], unit: str) -> npt.NDArray[np.uint8]:
    """A stamp (H, W, bands) as an RGB picture, sky north up.

    Survey stamps (g, r, z in nanomaggies) become z, r, g as red, green, blue by Lupton et al. 2004, stretched alike for every
    stamp, so that brightness can be compared; pictures are shown as they are; stamps of fewer bands or another unit are grey,
    each from its own 1st to 99.5th percentile.
    """
    if unit == "rgb8" and stamp.shape[2] >= 3:
        return np.asarray(stamp[:, :, :3], np.uint8)
    if unit != "nanomaggy" or stamp.shape[2] < 3:
        plain = np.nan_to_num(stamp.astype(np.float64)).mean(axis=2)
        low, high = np.percentile(plain, [1, 99.5])
        grey = (255 * np.clip((plain - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
        return np.repeat(grey[::-1, :, None], 3, axis=2)
    g, r, z = (np.nan_to_num(stamp[:, :, band].astype(np.float64)) for band in range(3))
    picture = make_lupton_rgb(z * 0.9, r * 1.3, g * 2.2, stretch=0.07, Q=8, minimum=-0.003)
    return np.asarray(picture[::-1], np.uint8)  # FITS rows start at the bottom


def data_uri(picture: npt.NDArray[np.uint8]) -> str:
    """A picture as a PNG data URI; the page enlarges it without smoothing."""
    sink = BytesIO()
    Image.fromarray(picture).save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def jpeg_uri(picture: npt.NDArray[np.uint8], quality: int = 80) -> str:
    """A picture as a JPEG data URI, a fifth of the PNG: for pages with hundreds."""
    sink = BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def viewer_link(ra: float, dec: float) -> str:
    """The place in the Legacy Survey's sky viewer; degrees."""
    return f"https://www.legacysurvey.org/viewer?ra={ra:.5f}&dec={dec:.5f}&layer=ls-dr10&zoom=16"


def pictures(rows: pd.DataFrame, stamps: npt.NDArray[Any], unit: str) -> list[Picture]:
    """Pictures of manifest rows with their scores, in the order given."""
    out = []
    for row, stamp in zip(rows.to_dict("records"), stamps, strict=True):
        name = row.get("lens_name") if isinstance(row.get("lens_name"), str) else str(row["cutout_id"])
        has_position = row.get("ra") is not None and np.isfinite(row.get("ra", np.nan))
        kind = (
            "lens"
            if row["label"] == 1
            else f"not a lens{', ' + row['confuser'] if isinstance(row.get('confuser'), str) else ''}"
        )
        position = f"{row['ra']:.4f} {row['dec']:+.4f}" if has_position else ""
        link = viewer_link(row["ra"], row["dec"]) if has_position else None
        score = f"{row['score']:.3f}" if np.isfinite(row["score"]) else "unranked"
        caption = " · ".join(part for part in (score, name, position) if part)
        out.append(Picture(data_uri(to_rgb(stamp, unit)), f"{kind} {name}, score {score}", caption, link))
    return out


def choose_examples(stored: pd.DataFrame, count: int, seed: int) -> dict[str, pd.DataFrame]:
    """Rows to show of positives, of N1 and of each category of N2: those of smallest sampling key, whatever the order.

    Parameters
    ----------
    stored
        ``source_id, label, pool, confuser`` of objects with a stamp.
    """
    order = np.argsort(second_key(stored["source_id"].to_numpy(), seed, "examples"))
    stored = stored.iloc[order]
    kinds = {"positives": stored["label"] == 1, "N1": stored["pool"] == "N1"}
    kinds |= {name: (stored["pool"] == "N2") & (stored["confuser"] == name) for name in CATEGORIES}
    return {name: stored[mask.to_numpy(bool)].head(count) for name, mask in kinds.items() if mask.any()}


def examples(rows: pd.DataFrame, stamps: npt.NDArray[Any], unit: str) -> list[Picture]:
    """Pictures of sample rows with r magnitude and type, each linked to the sky viewer."""
    out = []
    for row, stamp in zip(rows.to_dict("records"), stamps, strict=True):
        magnitude = f"r {row['mag_r']:.1f}" if np.isfinite(row["mag_r"]) else "no r"
        caption = f"{magnitude} · {row['type']}"
        alt = f"stamp of source {row['source_id']}, {caption}"
        out.append(Picture(data_uri(to_rgb(stamp, unit)), alt, caption, viewer_link(row["ra"], row["dec"])))
    return out
