"""The pixels of the simulated sky. `render_window` is the only place where they are made.

A pixel is the sum of what is drawn there, in the order of the sources, plus noise that is a function of
(seed, layer, brick, band, y, x). Each source is evaluated on a patch of its own on whole pixels of the brick and then
cut, so a window equals the cut of the full brick bit for bit. Noise is white and Gaussian with the
variance of the catalogue depth; photon noise of the sources is left out, so the sky with arcs minus the sky without
is exactly the arcs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lensdata.simulation import lenses
from lensdata.simulation.background import (
    Background,
    background,
    faint_patch,
    merge,
    outskirts,
    reach_pixels,
    satellites,
    unit_disk,
)
from lensdata.simulation.conditions import Hole, holes, observe, pixel_sigma
from lensdata.simulation.galaxies import (
    Mixture,
    Patch,
    galaxy_patches,
    psf_mixture,
    scaled,
    sersic_mixture,
    shape_matrix,
)
from lensdata.simulation.randomness import generator, key_of, pixel_noise
from lensdata.simulation.sky import (
    BANDS,
    BRICK_MARGIN_DEG,
    BRICK_PIXELS,
    BRICK_SIZE_DEG,
    PIXEL_SCALE,
    brick_pixels,
    bricks_at,
    bricks_by_id,
)
from lensdata.simulation.structure import FRACTION, HALF, structure_patch
from lensdata.simulation.world import Survey

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
NOISE_LAYER = "dr10"
_DRAWN = ("source_id", "type", "structure", "shape_r", "shape_e1", "shape_e2", *(f"flux_{band}" for band in BANDS))
_REACH_DEG = 30 / 3600
"""How far outside a brick image sources are drawn in; wider patches are cut there."""


@dataclass(frozen=True)
class Scene:
    """All that a brick image can show and how the brick was observed.

    ``x``, ``y``, ``reach`` (half side of the patch, pixels) have one entry per thing to draw: first the catalogue
    rows ``rows``, then the ``faint`` objects, then the arcs of the rows ``arcs``. ``sigma`` and ``observed`` are per
    band g r i z.
    """

    x: FloatArray
    y: FloatArray
    reach: FloatArray
    rows: IntArray
    faint_flux: FloatArray
    faint_radius: FloatArray
    arcs: IntArray
    psfs: tuple[Mixture, ...]
    sigma: FloatArray
    observed: npt.NDArray[np.bool_]
    holes: list[Hole]


class Renderer:
    """Draws windows of one survey; keeps the scenes of the last bricks.

    Parameters
    ----------
    survey
        What to draw.
    scenes
        Number of bricks whose object lists are kept in memory (about 0.5 MB each).
    """

    def __init__(self, survey: Survey, scenes: int = 512) -> None:
        self.survey = survey
        self._outskirts = outskirts(survey.config.seed, survey.sources)
        self._scene = lru_cache(maxsize=scenes)(self._make_scene)

    def render_window(
        self,
        brick: int,
        y0: int,
        x0: int,
        height: int,
        width: int,
        bands: Sequence[str],
        *,
        arcs: bool = True,
        layer: str = NOISE_LAYER,
    ) -> Float32Array:
        """Pixels of a window of a brick image.

        Parameters
        ----------
        brick
            Brick number.
        y0, x0, height, width
            Window in pixels of the 3600 x 3600 image, counted from 0; parts outside the image are zeros.
        bands
            Any of g, r, i, z, in the order wanted.
        arcs
            False leaves the lensed arcs out and nothing else.
        layer
            Names the noise: another layer is another exposure of the same sky.

        Returns
        -------
        ndarray
            float32, shape (bands, height, width), nanomaggies; exact zeros where there are no data.
        """
        scene = self._scene(brick)
        index = tuple(BANDS.index(band) for band in bands)
        image = np.zeros((len(bands), height, width))
        near = (np.abs(scene.x - (x0 + (width - 1) / 2)) < width / 2 + scene.reach) & (
            np.abs(scene.y - (y0 + (height - 1) / 2)) < height / 2 + scene.reach
        )
        if not arcs:
            near[len(near) - len(scene.arcs) :] = False
        for k in np.flatnonzero(near):
            for patch in self._draw(scene, int(k), index):
                _add(image, patch, y0, x0)
        for row, band in enumerate(index):
            key = key_of(self.survey.config.seed, f"noise-{layer}-{BANDS[band]}-{brick}")
            image[row] += scene.sigma[band] * pixel_noise(key, y0, x0, height, width, BRICK_PIXELS)
        _blank(image, scene, index, y0, x0)
        return image.astype(np.float32)

    def _make_scene(self, brick: int) -> Scene:
        config, sources = self.survey.config, self.survey.sources
        seen = observe(config.seed, config.sky, np.array([brick]))
        psfs = tuple(psf_mixture(float(fwhm)) for fwhm in seen.psfsize[0])
        widest = max(float(psf.variance.max()) for psf in psfs)
        around = neighbours(brick)
        spans = [self.survey.of_brick(number) for number in around]
        rows = np.concatenate([np.arange(span.start, span.stop) for span in spans]).astype(np.int64)
        x, y, inside = _place(brick, sources["ra"][rows], sources["dec"][rows])
        rows = rows[inside]
        is_lens = np.isfinite(sources["theta_e"][rows])
        faint = merge(
            [
                *(background(config.seed, config.galaxies.background_per_arcmin2, number) for number in around),
                self._satellites(rows[sources["type"][rows] != "PSF"]),
            ]
        )
        faint_x, faint_y, shown = _place(brick, faint.ra, faint.dec)
        row_reach = np.array([self._row_reach(int(row), widest) for row in rows], float)
        observed = seen.nobs[0] > 0
        sigma = [
            pixel_sigma(*pair) if ok else 0.0
            for *pair, ok in zip(seen.psfsize[0], seen.psfdepth[0], observed, strict=True)
        ]
        return Scene(
            x=np.concatenate([x, faint_x, x[is_lens]]),
            y=np.concatenate([y, faint_y, y[is_lens]]),
            reach=np.concatenate(
                [row_reach, reach_pixels(faint.radius[shown], widest), np.full(is_lens.sum(), HALF + 2.0)]
            ),
            rows=rows,
            faint_flux=faint.flux[shown],
            faint_radius=faint.radius[shown],
            arcs=rows[is_lens],
            psfs=psfs,
            sigma=np.array(sigma),
            observed=observed,
            holes=holes(config.seed, config.sky, brick),
        )

    def _satellites(self, rows: IntArray) -> Background:
        config, sources = self.survey.config, self.survey.sources
        columns = (sources[name][rows] for name in ("source_id", "ra", "dec", "flux_r"))
        return satellites(config.seed, config.galaxies.satellite_fraction, *columns)

    def _draw(self, scene: Scene, k: int, bands: tuple[int, ...]) -> list[Patch]:
        """The patches of one thing in a scene, in the bands asked for."""
        x, y, psfs, chosen = float(scene.x[k]), float(scene.y[k]), tuple(scene.psfs[b] for b in bands), list(bands)
        if k < len(scene.rows):
            return self._draw_row(int(scene.rows[k]), x, y, chosen, psfs)
        k -= len(scene.rows)
        if k < len(scene.faint_flux):
            return [faint_patch(x, y, scene.faint_flux[k][chosen], scene.faint_radius[k], psfs)]
        row, sources = int(scene.arcs[k - len(scene.faint_flux)]), self.survey.sources
        lens = {name: float(sources[name][row]) for name in lenses.PARAMETERS}
        flux = np.array([float(sources[f"source_flux_{BANDS[b]}"][row]) for b in bands])
        return [lenses.arc_patch(lens, x, y, flux, psfs, self.survey.config.oversampling)]

    def _draw_row(self, row: int, x: float, y: float, bands: list[int], psfs: tuple[Mixture, ...]) -> list[Patch]:
        """A catalogue row: its smooth profile, and a structure that takes a share of the flux."""
        source = {name: self.survey.sources[name][row] for name in _DRAWN}
        flux = np.array([max(float(source[f"flux_{BANDS[b]}"]), 0.0) for b in bands])
        kind, radius = str(source["structure"]), float(source["shape_r"])
        shape = shape_matrix(float(source["shape_e1"]), float(source["shape_e2"]))
        share = np.array(FRACTION.get(kind, (0.0,) * len(BANDS)))[bands]
        outer = self._outskirts.share[row, bands] * (1 - share)
        patches = galaxy_patches(x, y, flux * (1 - share - outer), self._profile(row), shape, psfs)
        if outer.any():
            disk = scaled(unit_disk(), self._outskirts.radius[row])
            patches += galaxy_patches(x, y, flux * outer, disk, shape, psfs)
        if kind != "none":
            config = self.survey.config
            random = generator(config.seed, "structure-shape", int(source["source_id"]))
            patches.append(structure_patch(kind, random, x, y, flux * share, radius, shape, psfs, config.oversampling))
        return patches

    def _profile(self, row: int) -> Mixture:
        sources = self.survey.sources
        if sources["type"][row] == "PSF":
            return Mixture(np.ones(1), np.zeros(1))
        return sersic_mixture(float(sources["sersic"][row]), float(sources["shape_r"][row]))

    def _row_reach(self, row: int, psf_variance: float) -> float:
        widest = max(self._profile(row).variance.max(), scaled(unit_disk(), self._outskirts.radius[row]).variance.max())
        reach = np.ceil(4.5 * np.sqrt(widest + psf_variance)) + 2
        return float(reach if self.survey.sources["structure"][row] == "none" else max(reach, HALF + 2))


def render_window(
    survey: Survey, brick: int, y0: int, x0: int, height: int, width: int, bands: Sequence[str], *, arcs: bool = True
) -> Float32Array:
    """One window of one brick; see `Renderer.render_window`, which is faster for many."""
    return Renderer(survey, scenes=1).render_window(brick, y0, x0, height, width, bands, arcs=arcs)


def neighbours(brick: int) -> list[int]:
    """Numbers of the bricks whose sources a brick image shows: itself and those around it."""
    centre = bricks_by_id([brick])
    half = BRICK_SIZE_DEG / 2 + BRICK_MARGIN_DEG + _REACH_DEG
    north = np.linspace(-half, half, 5)
    dec = np.clip(centre.dec[0] + north, -89.99, 89.99)
    east = np.linspace(-half, half, 9)[:, None] / np.cos(np.radians(np.abs(dec)))
    ra = centre.ra[0] + east
    return [int(number) for number in np.unique(bricks_at(ra.ravel(), np.broadcast_to(dec, ra.shape).ravel()).brickid)]


def _place(brick: int, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Pixel positions of what lies on or near the image, and which rows these are."""
    centre = bricks_by_id([brick])
    x, y = brick_pixels(ra, dec, float(centre.ra[0]), float(centre.dec[0]))
    margin = _REACH_DEG * 3600 / PIXEL_SCALE
    inside = (x > -margin) & (x < BRICK_PIXELS + margin) & (y > -margin) & (y < BRICK_PIXELS + margin)
    return x[inside], y[inside], inside


def _add(image: FloatArray, patch: Patch, y0: int, x0: int) -> None:
    """Add the part of a patch that lies in the window."""
    top, left = patch.y0 - y0, patch.x0 - x0
    y_from, y_to = max(top, 0), min(top + patch.image.shape[1], image.shape[1])
    x_from, x_to = max(left, 0), min(left + patch.image.shape[2], image.shape[2])
    if y_from < y_to and x_from < x_to:
        image[:, y_from:y_to, x_from:x_to] += patch.image[:, y_from - top : y_to - top, x_from - left : x_to - left]


def _blank(image: FloatArray, scene: Scene, bands: tuple[int, ...], y0: int, x0: int) -> None:
    """Exact zeros outside the brick image, in unobserved bands and in holes (the survey writes zeros, not NaN)."""
    height, width = image.shape[1:]
    rows, columns = np.arange(y0, y0 + height), np.arange(x0, x0 + width)
    image[:, (rows < 0) | (rows >= BRICK_PIXELS), :] = 0
    image[:, :, (columns < 0) | (columns >= BRICK_PIXELS)] = 0
    for row, band in enumerate(bands):
        if not scene.observed[band]:
            image[row] = 0
        for hole in scene.holes:
            if hole.band == BANDS[band]:
                image[row, max(hole.y0 - y0, 0) : max(hole.y1 - y0, 0), max(hole.x0 - x0, 0) : max(hole.x1 - x0, 0)] = 0
