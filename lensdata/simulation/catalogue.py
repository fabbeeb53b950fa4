"""The rows of the sky: hosts at the lens positions, other galaxies around them, pairs, stars, masks.

Rows lie in bricks that hold a lens (and a few that do not), because a whole-brick route pays off only where a brick
serves many stamps, and because lenses and negatives then share their seeing and depth.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lensdata.config.simulation import GalaxiesConfig, MockSurveyConfig
from lensdata.errors import InputError
from lensdata.hashing import pack_source_id
from lensdata.simulation import lenses as lens_models
from lensdata.simulation import populations
from lensdata.simulation.conditions import mask_circles, observe
from lensdata.simulation.populations import Columns
from lensdata.simulation.randomness import generator, hashed_uniform
from lensdata.simulation.sky import BANDS, bricks_at, bricks_by_id, bricks_in_box

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

RELEASE = 10000
"""RELEASE of DR10 sources (10002 in the 598 bricks that 10.1 repaired)."""
PAIR_SEPARATION_ARCSEC = (2.2, 4.7)
PAIR_MAX_MAG = 0.9
_REFERENCE_DEPTH = (5 / 10 ** (0.4 * (22.5 - 24.0))) ** 2


@dataclass(frozen=True)
class LensList:
    """Positions to put lenses at: names, RA and Dec in degrees."""

    name: npt.NDArray[np.str_]
    ra: FloatArray
    dec: FloatArray


def build_sources(config: MockSurveyConfig, listed: LensList) -> Columns:
    """All catalogue rows of the sky with everything that drawing them needs.

    Returns
    -------
    dict
        One row per source, in order of (brickid, objid); columns of `populations.draw`, position, brick, mask bits,
        ``origin`` (what the row is for), ``structure``, ``lens_name`` and the lens parameters (NaN where no lens).

    Raises
    ------
    InputError
        No lens of the list lies in the box.
    """
    hosts = _hosts(config, listed)
    bricks = _active_bricks(config, hosts["ra"], hosts["dec"])
    pieces = [hosts, _pool(config, hosts, bricks), _others(config, hosts, bricks)]
    pieces.append(_companions(config, pieces))
    rows = _concatenate(pieces)
    rows["structure"] = populations.structures(generator(config.seed, "structure"), rows, config.galaxies)
    rows["structure"][rows["origin"] == "host"] = "none"
    tails = generator(config.seed, "tails").random(len(rows["ra"])) < config.galaxies.tail_drawn_fraction
    rows["structure"][(rows["origin"] == "companion") & tails] = "tail"
    rows = _concatenate([rows, _stars(config, bricks)])
    _place_in_bricks(config, rows)
    _add_lenses(config, rows)
    order = np.lexsort([rows["objid"], rows["brickid"]])
    return {name: values[order] for name, values in rows.items()}


def _hosts(config: MockSurveyConfig, listed: LensList) -> Columns:
    sky, lenses = config.sky, config.lenses
    inside = _in_box(config, listed.ra, listed.dec)
    identity = np.array([zlib.crc32(str(name).encode()) for name in listed.name], np.int64)
    exists = hashed_uniform(config.seed, "lens-exists", identity) < lenses.fraction
    found = hashed_uniform(config.seed, "lens-host", identity) >= lenses.without_host_fraction
    take = np.flatnonzero(inside & exists & found)
    if not len(take):
        raise InputError(
            f"No lens of the list lies in the box RA {sky.ra_min:g}-{sky.ra_max:g}, Dec {sky.dec_min:g}-{sky.dec_max:g}; "
            "choose a larger box or another list."
        )
    random = generator(config.seed, "hosts")
    rows = _draw_pool(random, len(take), config.galaxies)
    outside = np.flatnonzero(random.random(len(take)) < lenses.outside_cuts_fraction)
    for name, values in _draw_others(random, len(take), config.galaxies, stars=False).items():
        rows[name][outside] = values[outside]
    shift = np.clip(lenses.position_scatter_arcsec * random.standard_normal((2, len(take))), -1.2, 1.2) / 3600
    rows["ra"] = listed.ra[take] + shift[0] / np.cos(np.radians(listed.dec[take]))
    rows["dec"] = listed.dec[take] + shift[1]
    rows["lens_name"] = listed.name[take].astype(object)
    return _label(rows, "host")


def _active_bricks(config: MockSurveyConfig, ra: FloatArray, dec: FloatArray) -> IntArray:
    """A brick per lens (with repeats), and some bricks without a lens."""
    sky = config.sky
    of_lens = bricks_at(ra, dec).brickid
    rest = np.setdiff1d(bricks_in_box(sky.ra_min, sky.ra_max, sky.dec_min, sky.dec_max).brickid, of_lens)
    wanted = min(round(config.galaxies.empty_brick_fraction * len(of_lens)), len(rest))
    return np.concatenate([of_lens, generator(config.seed, "empty-bricks").choice(rest, wanted, replace=False)])


def _pool(config: MockSurveyConfig, hosts: Columns, bricks: IntArray) -> Columns:
    random = generator(config.seed, "pool")
    counts = random.poisson(config.galaxies.pool_rows_per_lens, len(bricks))
    rows = _draw_pool(random, int(counts.sum()), config.galaxies)
    rows["ra"], rows["dec"] = _scatter(random, config, np.repeat(bricks, counts))
    return _label(rows, "pool")


def _others(config: MockSurveyConfig, hosts: Columns, bricks: IntArray) -> Columns:
    random = generator(config.seed, "others")
    counts = random.poisson(config.galaxies.other_rows_per_lens, len(bricks))
    rows = _draw_others(random, int(counts.sum()), config.galaxies)
    rows["ra"], rows["dec"] = _scatter(random, config, np.repeat(bricks, counts))
    return _label(rows, "other")


def _draw_pool(random: np.random.Generator, n: int, config: GalaxiesConfig) -> Columns:
    share = np.array(list(config.type_mix.values()))
    types = random.choice(np.array(list(config.type_mix)), n, p=share / share.sum())
    return populations.draw(random, types, config)


def _draw_others(random: np.random.Generator, n: int, config: GalaxiesConfig, *, stars: bool = True) -> Columns:
    """Rows that the negatives' cuts drop, each for one reason."""
    mix = {kind: share for kind, share in config.other_mix.items() if stars or kind in ("faint", "EXP")}
    share = np.array(list(mix.values())) + 1e-12
    kind = random.choice(np.array(list(mix)), n, p=share / share.sum())
    types = np.where(
        kind == "EXP",
        "EXP",
        np.where(kind == "PSF", "PSF", random.choice(["REX", "SER", "DEV"], n, p=[0.6, 0.25, 0.15])),
    )
    rows = populations.draw(random, types, config)
    faint = kind == "faint"
    fainter = populations.draw(random, types, config, 20.02 + 1.6 * random.beta(1.5, 1.0, n))
    for name, values in fainter.items():
        rows[name][faint] = values[faint]
    too_bright = faint & (populations.mag_of(rows["flux_z"]) < 20.0)  # "large" rows are made bright
    for band in (*BANDS, "w1"):
        rows[f"flux_{band}"][too_bright] *= 0.2
    rows["flux_z"][kind == "nonpositive_flux_z"] *= -0.02
    rows["flux_z"][(kind == "nonpositive_flux_z") & (random.random(n) < 0.3)] = 0.0
    return rows


def _companions(config: MockSurveyConfig, pieces: list[Columns]) -> Columns:
    """A second galaxy within 5 arcsec and 1 mag of some hosts and pool rows."""
    random = generator(config.seed, "companions")
    both = {name: np.concatenate([pieces[0][name], pieces[1][name]]) for name in ("ra", "dec", "flux_r", "flux_z")}
    # Every chosen row makes a pair of two rows: half the share of pool rows that shall be in one.
    chosen = np.flatnonzero((random.random(len(both["ra"])) < config.galaxies.pair_fraction / 2) & (both["flux_z"] > 0))
    rows = _draw_pool(random, len(chosen), config.galaxies)
    wanted = populations.mag_of(both["flux_r"][chosen]) + random.uniform(-PAIR_MAX_MAG, PAIR_MAX_MAG, len(chosen))
    scale = populations.flux_of(wanted) / rows["flux_r"]
    too_faint = populations.mag_of(rows["flux_z"] * scale) > 19.98
    scale = np.where(too_faint, both["flux_r"][chosen] / rows["flux_r"], scale)
    for band in (*BANDS, "w1"):
        rows[f"flux_{band}"] *= scale
    angle, distance = (
        random.uniform(0, 2 * np.pi, len(chosen)),
        random.uniform(*PAIR_SEPARATION_ARCSEC, len(chosen)) / 3600,
    )
    rows["ra"] = both["ra"][chosen] + distance * np.cos(angle) / np.cos(np.radians(both["dec"][chosen]))
    rows["dec"] = both["dec"][chosen] + distance * np.sin(angle)
    inside = _in_box(config, rows["ra"], rows["dec"])
    return _label({name: values[inside] for name, values in rows.items()}, "companion")


def _in_box(config: MockSurveyConfig, ra: FloatArray, dec: FloatArray) -> BoolArray:
    sky = config.sky
    return np.asarray((ra >= sky.ra_min) & (ra < sky.ra_max) & (dec >= sky.dec_min) & (dec < sky.dec_max))


def _stars(config: MockSurveyConfig, bricks: IntArray) -> Columns:
    """The stars at the middle of masked circles."""
    circles = [
        c for b in np.unique(bricks) for c in mask_circles(config.seed, config.galaxies.mask_circles_per_brick, int(b))
    ]
    stars = [circle for circle in circles if np.isfinite(circle.star_r_mag)]
    r = np.array([star.star_r_mag for star in stars])
    random = generator(config.seed, "stars")
    colours = np.stack([random.normal(0.7, 0.3, len(r)), random.normal(0.4, 0.2, len(r)), np.full(len(r), 0.1)], 1)
    rows = populations.fluxes(r - colours[:, 1], colours)
    zero = np.zeros(len(r))
    rows |= {"shape_r": zero, "shape_e1": zero.copy(), "shape_e2": zero.copy(), "sersic": zero.copy()}
    rows["type"] = np.full(len(r), "PSF")
    rows["ra"], rows["dec"] = np.array([s.ra for s in stars]), np.array([s.dec for s in stars])
    rows["structure"] = np.full(len(r), "none", dtype="U6")
    return _label(rows, "star")


def _scatter(random: np.random.Generator, config: MockSurveyConfig, brickid: IntArray) -> tuple[FloatArray, FloatArray]:
    """Positions spread over the part of each brick that lies in the box."""
    bricks, sky = bricks_by_id(brickid), config.sky
    west, east = np.maximum(bricks.ra1, sky.ra_min), np.minimum(bricks.ra2, sky.ra_max)
    south, north = np.maximum(bricks.dec1, sky.dec_min), np.minimum(bricks.dec2, sky.dec_max)
    u, v = random.random((2, len(brickid)))
    return west + u * (east - west), south + v * (north - south)


def _label(rows: Columns, origin: str) -> Columns:
    n = len(rows["ra"])
    rows["origin"] = np.full(n, origin, dtype="U9")
    rows.setdefault("lens_name", np.full(n, None, dtype=object))
    return rows


def _concatenate(pieces: list[Columns]) -> Columns:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _place_in_bricks(config: MockSurveyConfig, rows: Columns) -> None:
    """Brick numbers, object numbers in random order, and mask bits."""
    sky = config.sky  # no host may leave the box by its shift: the box has no sweep file outside
    rows["ra"] = np.clip(rows["ra"], sky.ra_min, np.nextafter(sky.ra_max, 0))
    rows["dec"] = np.clip(rows["dec"], sky.dec_min, np.nextafter(sky.dec_max, -90))
    bricks = bricks_at(rows["ra"], rows["dec"])
    rows["brickid"], rows["brickname"] = bricks.brickid, bricks.name
    random = generator(config.seed, "objid")
    order = np.lexsort([random.random(len(rows["ra"])), rows["brickid"]])
    number = np.cumsum(random.integers(1, 40, len(order)))  # real bricks have thousands of objects, ours are thinned
    first = np.unique(rows["brickid"][order], return_index=True)[1]
    start = np.repeat(number[first], np.diff(np.append(first, len(order))))
    rows["objid"] = np.empty(len(order), np.int64)
    rows["objid"][order] = number - start + 1
    rows["source_id"] = pack_source_id(RELEASE, rows["brickid"], rows["objid"])
    rows["maskbits"] = _mask_bits(config, rows)


def _mask_bits(config: MockSurveyConfig, rows: Columns) -> IntArray:
    bits = np.zeros(len(rows["ra"]), np.int64)
    for brick in np.unique(rows["brickid"]):
        members = np.flatnonzero(rows["brickid"] == brick)
        for circle in mask_circles(config.seed, config.galaxies.mask_circles_per_brick, int(brick)):
            east = (rows["ra"][members] - circle.ra) * np.cos(np.radians(circle.dec)) * 3600
            north = (rows["dec"][members] - circle.dec) * 3600
            bits[members[np.hypot(east, north) < circle.radius_arcsec]] |= 1 << circle.bit
    return bits


def _add_lenses(config: MockSurveyConfig, rows: Columns) -> None:
    """Lens and source columns; each source is as bright as its arcs' signal-to-noise asks for."""
    host = np.flatnonzero(rows["origin"] == "host")
    host = host[np.argsort(rows["lens_name"][host].astype(str))]  # the order of drawing is the order of names
    hosts: Columns = {name: values[host] for name, values in rows.items()}
    random = generator(config.seed, "lenses")
    drawn: dict[str, npt.NDArray[Any]] = lens_models.draw_lenses(random, hosts, config.lenses)
    relative = lens_models.source_colours(random, hosts, config.lenses)
    snr = lens_models.log_uniform(random, config.lenses.arc_snr, len(host))
    conditions = observe(config.seed, config.sky, hosts["brickid"])
    seeing, depth = conditions.psfsize[:, 1], conditions.psfdepth[:, 1]
    magnification, signal = lens_models.arc_signals(drawn, seeing, config.oversampling)
    sigma = np.array([_sigma_r(*pair) for pair in zip(seeing, depth, strict=True)])
    drawn |= lens_models.band_fluxes(snr * sigma / signal, relative)
    drawn |= {"arc_snr": snr, "magnification": magnification}
    for name, values in drawn.items():
        rows[name] = np.full(len(rows["ra"]), np.nan)
        rows[name][host] = values


def _sigma_r(psfsize: float, psfdepth: float) -> float:
    """Pixel noise in r; that of a depth of 24 mag where r was not observed."""
    from lensdata.simulation.conditions import pixel_sigma

    return pixel_sigma(psfsize, psfdepth or _REFERENCE_DEPTH)
