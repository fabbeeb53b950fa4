"""Arcs on many stamps at once: lenses, sources and each stamp's own PSF, in torch (R-S10).

The one engine of injected arcs and of the simulated sky's. A source is drawn where rays of a fine grid end, on no more of the patch
than its light can reach; the transform of that grid, up to half a cycle per pixel, times that of the PSF (`psfs`) is the
transform of the image. Nothing is averaged over pixels on the way, so what is left of the grid is what it aliases from beyond
k - 1/2 cycles per pixel, k points per pixel and axis. `lensing` has the physics and the conventions.

Shapes: n lenses, b bands, patches of ``side`` pixels around the centre.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from lensdata.simulation.galaxies import noise_equivalent_area, psf_mixture
from lensdata.simulation.lensing import (
    SLOPE,
    Values,
    as_tensors,
    deflection,
    image_reach,
    inverse_magnification,
    series_terms,
    sersic_brightness,
    sersic_cusp,
    sersic_peak,
    sersic_radius2,
    sersic_reach,
)
from lensdata.simulation.psfs import Psf, as_psf
from lensdata.simulation.randomness import hashed_bits
from lensdata.simulation.sky import PIXEL_SCALE
from lensdata.simulation.source_images import COLUMN, SourceImages
from lensdata.simulation.structure import HALF

__all__ = ["Grid", "deflection", "magnification_map", "on_stamps", "photon_noise", "pixel_sigma", "unit_arcs"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MARGIN = 35
"""Pixels of padding between the far side of the light and the patch in the Fourier plane, over which the wings of the PSF fade."""
LOST_LIGHT = 1e-5
"""Share of a source's light that may lie outside the rays that are traced."""
CUSP_POINTS, CUSP_FINE = 1.5, 5
"""Radius of a source's cusp, in points of the grid; points in place of each, per axis (odd: one is the point itself)."""
CENTRE_POINTS, CENTRE_LIT = 3, 1e-4
"""Points on each side of the middle of a lens that are resolved, where they have that share of the brightest."""
POWER_LAW_POINTS = 1.5
"""More points for power laws: near the middle of these masses the deflection changes with the radius too."""
# Half sides of what is traced, and points per pixel and axis: few, so that lenses share a batch.
_CROPS = (6, 8, 10, 12, 14, 16, 19, 22, 25, 28, 32, 36, 42, 50, 60, 72, 86)
_FINE = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
# Arrays of fine points alive at a time, counted with a profiler; one to spare.
_ISOTHERMAL, _POWER_LAW, _PICTURES = 9, 14, 14
_CPU_MEMORY = 16 << 20  # what stays near a core; measured with benchmarks/injection.py


@dataclass(frozen=True)
class Grid:
    """Where arcs are drawn: a square of 2 ``half`` + 1 pixels and how finely.

    A lens has as many points per pixel and axis as make ``points_per_radius`` in the half-light radius of its source
    (along its minor axis), ``oversampling`` at least and ``max_oversampling`` at most. ``resolve`` samples the cusps of
    sources and the middles of lenses more finely than that; without it arcs are good to a percent of their peak or so,
    and a lens by itself takes half as long.
    """

    half: int = HALF
    oversampling: int = 4
    pixscale_arcsec: float = PIXEL_SCALE
    max_oversampling: int = 32
    points_per_radius: float = 3.0
    resolve: bool = True

    @property
    def side(self) -> int:
        """Pixels along an axis."""
        return 2 * self.half + 1

    def points(self, columns: Values) -> IntArray:
        """Points per pixel and axis of each lens."""
        minor = np.asarray(columns["source_radius"]) * np.sqrt(columns["source_q"])
        wanted = self.points_per_radius * self.pixscale_arcsec / minor
        if SLOPE in columns:
            steep = np.asarray(columns[SLOPE]) != 2
            wanted = np.where(steep, np.maximum(wanted, POWER_LAW_POINTS * self.oversampling), wanted)
        steps = np.array(
            sorted({k for k in _FINE if self.oversampling <= k <= self.max_oversampling} | {self.oversampling})
        )
        return np.asarray(steps[np.minimum(np.searchsorted(steps, wanted), len(steps) - 1)], np.int64)


@dataclass(frozen=True)
class _Batch:
    """Lenses ``rows`` that are traced alike: ``points`` per pixel, ``crop`` pixels around the centre, ``terms`` of a power law."""

    rows: IntArray
    points: int
    crop: int
    terms: int


def unit_arcs(
    columns: Values,
    psf: FloatArray | Psf,
    grid: Grid,
    *,
    offsets: FloatArray | None = None,
    sources: SourceImages | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    memory_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Images of lensed sources of flux 1, traced in batches that fit the memory.

    Parameters
    ----------
    columns
        `lenses.PARAMETERS`, (n,) each; optionally ``lens_slope`` (`lensing.SLOPE`).
    psf
        FWHM (n, b) of PSFs as the simulated sky has them, arcsec; or any `psfs.Psf`.
    offsets
        (n, 2), x and y of each lens from the middle of the central pixel, pixels; none by default.
    sources
        Pictures that take the place of Sersic profiles; ``columns`` then says which (`source_images.COLUMN`).
    memory_bytes
        For the work on a batch, without the images that are returned: what stays near a CPU's core, or half of what a GPU has
        left, by default.

    Returns
    -------
    tuple
        Images (n, b, side, side), per pixel; and magnifications (n,), of what lies in the patch. Times the flux of a source
        in nanomaggies, an image is in nanomaggies per pixel; nothing is renormalised.
    """
    where, count, seen_by = torch.device(device), len(columns["theta_e"]), as_psf(psf)
    bands = seen_by.shape[1]
    if sources is not None:
        columns = {**columns, "source_q": np.ones(count)}  # pictures have their own
    models = as_tensors(columns, where, dtype)
    if sources is not None:
        models[COLUMN] = torch.as_tensor(np.asarray(columns[COLUMN], np.int64)).to(where)
    middle = np.zeros((count, 2)) if offsets is None else np.asarray(offsets, np.float64)
    models["offset_x"], models["offset_y"] = torch.as_tensor(middle.T.copy()).to(where, dtype)
    images = torch.empty((count, bands, grid.side, grid.side), device=where, dtype=dtype)
    magnification = torch.empty(count, device=where, dtype=dtype)
    memory = memory_for(where) if memory_bytes is None else memory_bytes
    with torch.inference_mode():  # nothing is differentiated; what is returned is not marked by it
        for batch in _batches(columns, grid, middle, sources, bands, images.element_size(), memory):
            rows = torch.as_tensor(batch.rows).to(where)
            light = _traced(_of_rows(models, rows, 2), grid, batch, sources)
            spectrum = _low_frequencies(light, batch.points, batch.crop, _padded(grid, batch.crop))
            del light
            # the light of each lens by itself, where a sum over a batch may change the last bit with its size
            magnification[rows] = spectrum[:, 0, 0].real
            images[rows] = _seen(spectrum, seen_by, batch, grid)
    return images, magnification


def memory_for(device: torch.device) -> int:
    """Bytes for a batch: half of a GPU's free memory, or what stays near a core of a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    return _CPU_MEMORY


def _batches(
    columns: Values, grid: Grid, middle: FloatArray, sources: SourceImages | None, bands: int, item: int, memory: int
) -> Iterator[_Batch]:
    """Lenses that are traced alike, as many at a time as the memory holds; one at least."""
    radius = np.asarray(columns["source_radius"], np.float64)
    if sources is None:
        reach = radius * sersic_reach(columns["source_index"], LOST_LIGHT) / np.sqrt(columns["source_q"])
    else:
        reach = radius * sources.reach[np.asarray(columns[COLUMN])]
    far = image_reach(columns, reach) / grid.pixscale_arcsec + np.abs(middle).max(axis=1, initial=0.0)
    crops = np.array([half for half in _CROPS if half < grid.half] + [grid.half])
    crop = crops[np.minimum(np.searchsorted(crops, far), len(crops) - 1)]
    slope = np.asarray(columns[SLOPE], np.float64) if SLOPE in columns else np.full(len(crop), 2.0)
    terms = series_terms(columns["lens_q"]) * (slope != 2)
    kinds, member = np.unique(np.stack([grid.points(columns), crop, terms], 1), axis=0, return_inverse=True)
    for number, (points, half, length) in enumerate(kinds.tolist()):
        rows = np.flatnonzero(member.ravel() == number)
        alive = max(_POWER_LAW if length else _ISOTHERMAL, 0 if sources is None else _PICTURES)
        step = max(1, int(memory // (item * _floats(grid, points, half, bands, alive))))
        for start in range(0, len(rows), step):
            yield _Batch(rows[start : start + step], points, half, length)


def _floats(grid: Grid, points: int, crop: int, bands: int, alive: int) -> int:
    """Numbers that the work on a lens holds at a time: when it is traced, transformed, or seen."""
    fine, padded = ((2 * crop + 1) * points) ** 2, _padded(grid, crop) ** 2
    centre = ((2 * CENTRE_POINTS + 1) * CUSP_FINE) ** 2
    return max(alive * fine, fine + alive * centre, 2 * fine + 7 * padded, (1 + 4 * bands) * padded)


def _padded(grid: Grid, crop: int) -> int:
    """Pixels along an axis such that what wraps around has passed the margin."""
    size = max(grid.half + crop + MARGIN, grid.side)
    return int(next_fast_len(size + size % 2, real=True))


def _traced(models: dict[str, Tensor], grid: Grid, batch: _Batch, sources: SourceImages | None) -> Tensor:
    """Light (n, points, points) of fine points, without a PSF; its sum is the magnification.

    Lensing conserves surface brightness: a point has the brightness of the place where its ray ends.
    """
    k, side = batch.points, 2 * batch.crop + 1
    like = models["theta_e"]
    fine = (torch.arange(side * k, device=like.device, dtype=like.dtype) + 0.5) / k - 0.5 - batch.crop
    x = (fine - models["offset_x"]) * grid.pixscale_arcsec
    y = (fine[:, None] - models["offset_y"]) * grid.pixscale_arcsec
    spacing = grid.pixscale_arcsec / k
    light = _lit(models, x, y, batch.terms, sources)
    if grid.resolve and sources is None:
        _add_cusps(light, models, x, y, spacing, batch.terms)
    if grid.resolve:
        _resolve_centres(light, models, x, y, spacing, batch.terms, sources)
    return light.mul_(spacing**2)


def _lit(models: dict[str, Tensor], x: Tensor, y: Tensor, terms: int, sources: SourceImages | None) -> Tensor:
    """Surface brightness at image positions."""
    a_x, a_y = deflection(models, x, y, terms)
    b_x, b_y = torch.sub(x, a_x, out=a_x), torch.sub(y, a_y, out=a_y)
    return sersic_brightness(models, b_x, b_y) if sources is None else sources.brightness(models, b_x, b_y)


def _add_cusps(light: Tensor, models: dict[str, Tensor], x: Tensor, y: Tensor, spacing: float, terms: int) -> None:
    """Sample the cusps in the middle of Sersic sources more finely than the rest, in place.

    A grid samples a smooth profile well and a cusp badly. What the profile has over a smooth one (`sersic_cusp`) is put in as
    the mean over finer points in place of the value at the point itself.
    """
    scale = spacing / (models["source_q"].sqrt() * models["source_radius"])
    edge2 = (CUSP_POINTS * scale).square()
    outside = (-models["source_b"] * ((CUSP_POINTS + 1) * scale) ** models["source_exponent"]).exp()
    lens, row, column = (light > outside * sersic_peak(models)).nonzero(as_tuple=True)
    fine = (torch.arange(CUSP_FINE, device=light.device, dtype=light.dtype) - CUSP_FINE // 2) / CUSP_FINE
    fine_x, fine_y = (fine * spacing).repeat(CUSP_FINE), (fine * spacing).repeat_interleave(CUSP_FINE)
    flat = {name: values[:, 0, 0] for name, values in models.items()}
    step = max(1, light.numel() // CUSP_FINE**2)  # in no more memory than the grid itself
    for start in range(0, len(lens), step):
        part = slice(start, start + step)
        here = _of_rows(flat, lens[part], 1)
        x_here = x[lens[part], 0, column[part], None] + fine_x
        y_here = y[lens[part], row[part], 0, None] + fine_y
        a_x, a_y = deflection(here, x_here, y_here, terms)
        radius2 = sersic_radius2(here, x_here - a_x, y_here - a_y)
        cusp = sersic_cusp(here, radius2, edge2[lens[part], 0])
        added = cusp.mean(dim=1) - cusp[:, CUSP_FINE**2 // 2]
        light[lens[part], row[part], column[part]] += added * sersic_peak(here)[:, 0]


def _of_rows(models: dict[str, Tensor], rows: Tensor, dimensions: int) -> dict[str, Tensor]:
    """Values (n,) of some lenses, with so many more dimensions; one gather for all, for a lens by itself is mostly overhead."""
    whole = {name: values for name, values in models.items() if name != COLUMN}
    taken = torch.stack(list(whole.values()))[:, rows][(..., *[None] * dimensions)]
    out = dict(zip(whole, taken.unbind(), strict=True))
    return out if COLUMN not in models else out | {COLUMN: models[COLUMN][rows][(..., *[None] * dimensions)]}


def _resolve_centres(
    light: Tensor,
    models: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    spacing: float,
    terms: int,
    sources: SourceImages | None,
) -> None:
    """Give the points around a lens that is lit in its middle the mean of a finer grid, in place.

    Around the middle of a singular mass the brightness depends on the direction alone, so that no grid is fine enough there.
    """
    block = torch.arange(-CENTRE_POINTS, CENTRE_POINTS + 1, device=light.device)
    column = (x.abs().argmin(dim=2) + block).clamp_(0, light.shape[2] - 1)
    row = (y.abs().argmin(dim=1) + block).clamp_(0, light.shape[1] - 1)
    lens = torch.arange(len(light), device=light.device)
    found = light[lens[:, None, None], row[:, :, None], column[:, None, :]].amax(dim=(1, 2))
    lens = lens[(found > CENTRE_LIT * light.amax(dim=(1, 2))) & (models["theta_e"][:, 0, 0] > 2 * spacing)]
    if not len(lens):
        return
    fine = ((torch.arange(CUSP_FINE, device=light.device, dtype=light.dtype) + 0.5) / CUSP_FINE - 0.5) * spacing
    x_here = x[lens[:, None], 0, column[lens]][:, None, :, None, None] + fine
    y_here = y[lens[:, None], row[lens], 0][:, :, None, None, None] + fine[:, None]
    here = {name: values[lens][..., None, None] for name, values in models.items()}
    resolved = _lit(here, x_here, y_here, terms, sources).flatten(3).mean(dim=3)
    light[lens[:, None, None], row[lens][:, :, None], column[lens][:, None, :]] = resolved


def _low_frequencies(light: Tensor, points: int, crop: int, size: int) -> Tensor:
    """Transform (n, size, size // 2 + 1) of fine points around pixel 0, in the order of `torch.fft.rfft2`.

    A matrix product with the sines and cosines that are wanted: the crop needs no padding, and no frequency that the image cannot
    hold is computed. Along y they are even and odd in the frequency, so half of the frequencies give the others.
    """
    kind: dict[str, Any] = {"device": light.device, "dtype": torch.float64}
    where = (torch.arange(light.shape[1], **kind) + 0.5) / points - 0.5 - crop
    phase = 2 * math.pi * torch.fft.rfftfreq(size, **kind)[:, None] * where
    cos, sin = phase.cos().to(light.dtype), phase.sin().to(light.dtype)
    both = _products(torch.cat([cos, sin]), light, torch.cat([cos, -sin]).T)
    half = size // 2 + 1
    (cc, cs), (sc, ss) = ((rows[..., :half], rows[..., half:]) for rows in (both[:, :half], both[:, half:]))
    spectrum = torch.empty((len(light), size, half), device=light.device, dtype=torch.complex(cc[:0], cc[:0]).dtype)
    spectrum[:, :half] = torch.complex(cc + ss, cs - sc)
    spectrum[:, half:] = torch.complex(cc - ss, cs + sc)[:, 1 : size - half + 1].flip(1)
    return spectrum


def _products(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """left @ middle @ right for a stack in the middle.

    On a CPU lens by lens, each in memory of its own: the size of a stack and where a lens begins in it may change the last bit.
    """
    if middle.device.type != "cpu":
        return torch.matmul(left, middle @ right)
    return torch.stack([left @ (one.clone() @ right) for one in middle])


def _seen(spectrum: Tensor, psf: Psf, batch: _Batch, grid: Grid) -> Tensor:
    """Patches (n, b, side, side) through the PSF of each band."""
    size = spectrum.shape[1]
    rows = batch.rows if psf.shape[0] > 1 else np.zeros(1, np.int64)
    seen = psf.transfer(rows, size, grid.pixscale_arcsec, spectrum.real) * spectrum[:, None]
    images = torch.fft.irfft2(seen, s=(size, size))
    return images.roll((grid.half, grid.half), dims=(2, 3))[..., : grid.side, : grid.side]


def magnification_map(columns: Values, x: FloatArray, y: FloatArray) -> FloatArray:
    """Signed magnification of n lenses at image positions (p,), arcsec; (n, p). Infinite on critical curves."""
    models = {name: values[:, None] for name, values in as_tensors(columns, "cpu", torch.float64).items()}
    terms = 0
    if SLOPE in columns and (np.asarray(columns[SLOPE]) != 2).any():
        terms = int(series_terms(columns["lens_q"]).max())
    inverse = inverse_magnification(models, torch.as_tensor(x)[None], torch.as_tensor(y)[None], terms)
    return np.asarray(1 / inverse.numpy())


def on_stamps(patches: Tensor, height: int, width: int) -> Tensor:
    """Patches (n, b, side, side) on stamps (n, b, height, width), central pixel on the pixel at index n // 2; cut or padded."""
    out = patches.new_zeros((*patches.shape[:2], height, width))
    half, y, x = patches.shape[-1] // 2, height // 2, width // 2
    top, left = min(half, y), min(half, x)
    bottom, right = min(half + 1, height - y), min(half + 1, width - x)
    out[..., y - top : y + bottom, x - left : x + right] = patches[
        ..., half - top : half + bottom, half - left : half + right
    ]
    return out


def pixel_sigma(fwhm_arcsec: FloatArray, psfdepth: FloatArray, pixscale_arcsec: float) -> FloatArray:
    """Noise of a pixel, nanomaggies, from FWHM and point-source depth (1 / nanomaggy^2); see `conditions.pixel_sigma`."""
    area = noise_equivalent_area(psf_mixture(1.0)) * (np.asarray(fwhm_arcsec) * PIXEL_SCALE / pixscale_arcsec) ** 2
    return np.asarray(1 / np.sqrt(np.asarray(psfdepth) * area))


def photon_noise(
    arcs: npt.NDArray[Any], electrons_per_nanomaggy: tuple[float, ...], identity: npt.NDArray[np.int64], seed: int
) -> FloatArray:
    """Poisson noise of the arcs' own light, nanomaggies, zero where there is none.

    Parameters
    ----------
    arcs
        (n, b, h, w), nanomaggies per pixel.
    electrons_per_nanomaggy
        (b,), the gain of each band's coadd.
    identity
        (n,), keys of the injections: the noise of each follows from its own key and the seed.
    """
    gain = np.asarray(electrons_per_nanomaggy, np.float64)[:, None, None]
    noise = np.empty(arcs.shape)
    for row, key in enumerate(hashed_bits(seed, "arc-photons", identity)):
        expected = (
            np.maximum(np.asarray(arcs[row], np.float64), 0) * gain
        )  # what a Fourier transform leaves is below 0 too
        noise[row] = (np.random.Generator(np.random.Philox(key=int(key))).poisson(expected) - expected) / gain
    return noise
