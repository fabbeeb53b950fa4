"""Arcs with the shapes of real sources on real hosts, beside real lenses: a picture to judge the engine by.

    python benchmarks/real_injection.py DATA OUTPUT.png

DATA holds ``sim_inputs`` (sources of F814W; DES LRGs with their PSF images, zero point 30, g r i),
``ccd_patches/cut101`` and ``cutouts_dr10`` (g r z, nanomaggies; FWHM taken as 1.3, 1.2, 1.1 arcsec). Every host has a
row: without an arc, with one of 0.75, 1.5 and 2.5 arcsec, and the brightest of these arcs by itself. Sources have their
own size, redshift and, brightened by lensing, magnitudes g r i; the last two rows are thumbnails of real lenses.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from astropy.io import fits

from lensdata.simulation.injection import Grid, on_stamps, photon_noise, unit_arcs
from lensdata.simulation.populations import flux_of
from lensdata.simulation.psfs import GaussianPsf, Psf, PsfImages
from lensdata.simulation.source_images import COLUMN, SourceImages

THETA_E = (0.75, 1.5, 2.5)
SOURCE_SCALE = 0.03  # arcsec per pixel of the sources (the README of the data)
SHOWN = 50  # pixels of a stamp that are shown
GAINS = (10_500.0, 12_600.0, 8_000.0)
"""Electrons per nanomaggy: DECam counts one per second at about 26.6, 26.8 and 26.3 mag; three exposures of 80 s."""
BALANCE = np.array([0.6, 1.0, 1.8])
"""Brightness of the bands that is shown as white: near the colour of a red galaxy."""
THUMBNAILS = 10


@dataclass(frozen=True)
class Host:
    """A stamp (height, width, 3) in nanomaggies, and what it was seen through."""

    name: str
    stamp: np.ndarray
    psf: Psf
    pixscale_arcsec: float


def survey_hosts(data: Path) -> list[Host]:
    """Stamps in nanomaggies without a PSF of their own."""
    seeing = GaussianPsf.of_the_sky(np.array([[1.3, 1.2, 1.1]]))
    paths = sorted((data / "ccd_patches" / "cut101").glob("*.npz")) + sorted((data / "cutouts_dr10").glob("*.npz"))
    stamps = {path.stem: np.load(path)["cutout"] for path in paths}
    return [Host(name, stamp, seeing, 0.262) for name, stamp in stamps.items() if np.isfinite(stamp).all()]


def des_hosts(data: Path) -> list[Host]:
    """LRGs with zero point 30 and a PSF image per band."""
    found = []
    for path in sorted((data / "sim_inputs" / "hosts_des_lrg").glob("DES_[0-9]*.fits")):
        with fits.open(path) as planes, fits.open(path.with_name(path.name.replace("DES_", "DES_PSF"))) as psfs:
            stamp = np.stack([plane.data for plane in planes[:3]], -1) * 10 ** (-0.4 * (30 - 22.5))
            images = [np.asarray(plane.data, np.float64) for plane in psfs[:3]]
        side = max(len(image) for image in images)
        padded = np.stack([np.pad(image, (side - len(image)) // 2) for image in images])
        found.append(Host(path.stem, stamp, PsfImages(padded[None]), 0.263))
    return found


def source_fluxes(folder: Path, names: tuple[str, ...]) -> np.ndarray:
    """Flux in the three bands of each source, nanomaggies."""
    return np.array([flux_of(np.load(folder / name)["source_mag_gri"]) for name in names])


def arcs_on(host: Host, number: int, sources: SourceImages, fluxes: np.ndarray) -> np.ndarray:
    """Arcs (3, height, width, 3), nanomaggies, one per Einstein radius."""
    random, n = np.random.default_rng(number), len(THETA_E)
    which = (number + np.arange(n)) % len(sources.names)
    theta_e, direction = np.array(THETA_E), random.uniform(0, 2 * np.pi, n)
    offset = theta_e * random.uniform(0.1, 0.35, n)
    columns = {
        "theta_e": theta_e, "lens_q": random.uniform(0.65, 0.95, n), "lens_angle": random.uniform(0, np.pi, n),
        "shear_1": 0.03 * random.standard_normal(n), "shear_2": 0.03 * random.standard_normal(n),
        "source_x": offset * np.cos(direction), "source_y": offset * np.sin(direction),
        "source_radius": sources.half_light_pixels[which] * SOURCE_SCALE, "source_index": np.ones(n), "source_q": np.ones(n),
        "source_angle": random.uniform(0, 2 * np.pi, n), COLUMN: which,
    }  # fmt: skip
    images, magnification = unit_arcs(columns, host.psf, Grid(pixscale_arcsec=host.pixscale_arcsec), sources=sources)
    arcs = on_stamps(images, *host.stamp.shape[:2]).numpy() * fluxes[which][:, :, None, None]
    arcs += photon_noise(arcs, GAINS, np.arange(n) + 10 * number, seed=1)
    print(
        f"{host.name:24s} magnification {np.array2string(magnification.numpy(), precision=1)}, r of the arcs "
        f"{np.array2string(22.5 - 2.5 * np.log10(arcs[:, 1].sum((1, 2))), precision=1)}"
    )
    return np.moveaxis(arcs, 1, -1)


def coloured(stamp: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """RGB of the middle of a stamp, stretched by an inverse hyperbolic sine."""
    height, width = stamp.shape[:2]
    top, left = max((height - SHOWN) // 2, 0), max((width - SHOWN) // 2, 0)
    cut = stamp[top : top + SHOWN, left : left + SHOWN, ::-1] / scale[::-1]
    mean = np.clip(cut.mean(-1, keepdims=True), 1e-6, None)
    return np.clip(cut * np.arcsinh(mean * 8) / 3.2 / mean, 0, 1)


def main() -> int:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    folder = options.data / "sim_inputs" / "sources_hsc_hst"
    sources = SourceImages.load(str(folder))
    fluxes = source_fluxes(folder, sources.names)
    hosts = survey_hosts(options.data) + des_hosts(options.data)
    lenses = sorted((options.data / "cutouts_dr10" / "thumbs").glob("REAL_*.png"))[:THUMBNAILS]
    columns = 2 + len(THETA_E)
    rows = len(hosts) + -(-len(lenses) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.7 * rows), squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for number, (host, line) in enumerate(zip(hosts, axes, strict=False)):
        arcs = arcs_on(host, number, sources, fluxes)
        r = host.stamp[..., 1]
        scale = 15 * BALANCE * max(1.4826 * float(np.median(np.abs(r - np.median(r)))), 1e-4)
        shown = [host.stamp, *(host.stamp + arc for arc in arcs), arcs[1]]
        titles = [host.name, *(f"{theta:g} arcsec" for theta in THETA_E), "the arc of 1.5"]
        for axis, stamp, title in zip(line, shown, titles, strict=True):
            axis.imshow(coloured(stamp, scale), origin="lower")
            axis.set_title(title, fontsize=6)
    for axis, path in zip(axes[len(hosts) :].ravel(), lenses, strict=False):
        axis.imshow(plt.imread(path))
        axis.set_title(f"a real lens, {path.stem}", fontsize=6)
    figure.tight_layout(pad=0.3)
    figure.savefig(options.output, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
