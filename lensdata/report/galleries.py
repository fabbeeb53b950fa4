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

SCALE = 2  # screen pixels per stamp pixel


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
    stamp, so that brightness can be compared; pictures are shown as they are.
    """
    if unit == "rgb8":
        return np.asarray(stamp[:, :, :3], np.uint8)
    g, r, z = (np.nan_to_num(stamp[:, :, band].astype(np.float64)) for band in range(3))
    picture = make_lupton_rgb(z * 0.9, r * 1.3, g * 2.2, stretch=0.07, Q=8, minimum=-0.003)
    return np.asarray(picture[::-1], np.uint8)  # FITS rows start at the bottom


def data_uri(picture: npt.NDArray[np.uint8]) -> str:
    """A picture as a PNG data URI, enlarged without smoothing."""
    sink = BytesIO()
    image = Image.fromarray(picture)
    image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST).save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


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
        link = (
            f"https://www.legacysurvey.org/viewer?ra={row['ra']:.5f}&dec={row['dec']:.5f}&layer=ls-dr10&zoom=16"
            if has_position
            else None
        )
        caption = " · ".join(part for part in (f"{row['score']:.3f}", name, position) if part)
        out.append(Picture(data_uri(to_rgb(stamp, unit)), f"{kind} {name}, score {row['score']:.3f}", caption, link))
    return out
