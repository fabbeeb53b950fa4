"""Sweep files of the simulated sky in the schema of DR10.1: 130 columns, 505 bytes a row, boxes of 5 degrees.

What the simulation does not draw (parallaxes, chi-squares, masks per exposure) is filled with values that a quiet
source has in real files; what it does draw follows from the source and its brick alone, never from being a lens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from lensdata.config.simulation import MockSurveyConfig
from lensdata.simulation.catalogue import RELEASE
from lensdata.simulation.conditions import Conditions, observe
from lensdata.simulation.facts import distributions, sweep_columns
from lensdata.simulation.galaxies import Mixture, noise_equivalent_area, psf_mixture, sersic_mixture
from lensdata.simulation.populations import Columns, mag_of
from lensdata.simulation.randomness import hashed_normal, hashed_uniform
from lensdata.simulation.sky import BANDS, PIXEL_SCALE

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

BOX_DEG = 5
EDGE_DEG = 0.05
"""Rows this near to the edge of a sweep box may be repeated in the next file."""
_NUMPY_OF = {"I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "B": "u1", "L": "S1", "5E": (">f4", (5,))}
_WISE_DEPTH = {"w1": 5.0, "w2": 0.92, "w3": 1e-3, "w4": 1.3e-5}
_WISE_NOBS = {"w1": 195, "w2": 197, "w3": 14, "w4": 14}
_FITS_BLOCK = 2880
_MODELS = ("PSF", "REX", "DEV", "EXP", "SER")


def sweep_name(ra: float, dec: float) -> str:
    """Name of the sweep file whose box holds a position.

    >>> sweep_name(7.3, -0.2), sweep_name(7.3, 0.2)
    ('sweep-005m005-010p000.fits', 'sweep-005p000-010p005.fits')
    """
    ra0, dec0 = int(ra // BOX_DEG) * BOX_DEG, int(dec // BOX_DEG) * BOX_DEG
    return f"sweep-{_corner(ra0, dec0)}-{_corner(ra0 + BOX_DEG, dec0 + BOX_DEG)}.fits"


def _corner(ra: int, dec: int) -> str:
    return f"{ra:03d}{'p' if dec >= 0 else 'm'}{abs(dec):03d}"


def sweep_files(config: MockSurveyConfig, sources: Columns) -> Iterator[tuple[str, bytes, int, int]]:
    """Every sweep file in order of its name: (name, FITS bytes, rows, of these repeated from a neighbour)."""
    records = sweep_records(config, sources)
    own = np.array([sweep_name(ra, dec) for ra, dec in zip(sources["ra"], sources["dec"], strict=True)])
    repeated = _repeated(config, sources, own)
    for name in np.unique(own):
        extra = repeated.get(str(name), np.empty(0, np.int64))
        rows = np.sort(np.concatenate([np.flatnonzero(own == name), extra]))
        yield str(name), _fits_bytes(records[rows]), len(rows), len(extra)


def _repeated(config: MockSurveyConfig, sources: Columns, own: npt.NDArray[np.str_]) -> dict[str, IntArray]:
    """Rows near an edge that the next file repeats, by the name of that file."""
    chance = hashed_uniform(config.seed, "duplicate", sources["source_id"]) < config.galaxies.duplicate_fraction
    found: dict[str, list[IntArray]] = {}
    for d_ra, d_dec in ((EDGE_DEG, 0.0), (-EDGE_DEG, 0.0), (0.0, EDGE_DEG), (0.0, -EDGE_DEG)):
        moved_ra, moved_dec = (sources["ra"] + d_ra) % 360, sources["dec"] + d_dec
        for row in np.flatnonzero(chance):
            other = sweep_name(float(moved_ra[row]), float(moved_dec[row]))
            if other != own[row]:
                found.setdefault(other, []).append(np.array([row]))
    return {name: np.unique(np.concatenate(rows)) for name, rows in found.items()}


def sweep_dtype() -> np.dtype[np.void]:
    """The structured type of a row, big-endian as FITS stores it."""
    fields = [(c.name, f"S{c.format[:-1]}" if c.format.endswith("A") else _NUMPY_OF[c.format]) for c in sweep_columns()]
    return np.dtype(fields)


def sweep_records(config: MockSurveyConfig, sources: Columns) -> npt.NDArray[np.void]:
    """All sources as rows of a sweep file."""
    seen = observe(config.seed, config.sky, sources["brickid"])
    out = np.zeros(len(sources["ra"]), sweep_dtype())
    _identity(out, sources)
    _photometry(out, sources, seen)
    _wise(out, sources, seen)
    _quality(out, sources, config.seed)
    _depth(out, seen)
    _shape(out, sources)
    _gaia(out, sources)
    return out


def _identity(out: npt.NDArray[np.void], sources: Columns) -> None:
    out["RELEASE"] = RELEASE
    for name in ("brickid", "objid", "ra", "dec", "maskbits"):
        out[name.upper()] = sources[name]
    out["BRICKNAME"], out["TYPE"] = sources["brickname"].astype("S8"), sources["type"].astype("S3")
    snr = np.sqrt(np.clip(sources["flux_r"], 1, None) * 500)
    out["RA_IVAR"] = out["DEC_IVAR"] = (snr / (1.3 / 3600)) ** 2


def _photometry(out: npt.NDArray[np.void], sources: Columns, seen: Conditions) -> None:
    out["EBV"] = seen.ebv
    extinction = distributions()["bands"]["extinction"]
    for k, band in enumerate(BANDS):
        flux, upper = np.where(seen.nobs[:, k] > 0, sources[f"flux_{band}"], 0.0), band.upper()
        out[f"FLUX_{upper}"] = flux
        out[f"FLUX_IVAR_{upper}"] = seen.psfdepth[:, k] / _dilution(sources, seen.psfsize[:, k])
        out[f"MW_TRANSMISSION_{upper}"] = 10 ** (-0.4 * extinction[band] * seen.ebv)
        out[f"NOBS_{upper}"] = seen.nobs[:, k]
        fibre = flux * _fibre_fraction(sources)
        out[f"FIBERFLUX_{upper}"], out[f"FIBERTOTFLUX_{upper}"] = fibre, fibre * 1.01
    snr2 = np.clip(out["FLUX_R"].astype(float) ** 2 * out["FLUX_IVAR_R"], 1, None)
    best = np.array([_MODELS.index(str(kind)) for kind in sources["type"]])
    loss = 1 - 0.02 * np.abs(np.arange(5) - best[:, None])
    out["DCHISQ"] = snr2[:, None] * np.where((best[:, None] < 2) & (np.arange(5) > 1), 0.0, loss)


def _dilution(sources: Columns, psfsize: FloatArray) -> FloatArray:
    """By how much a galaxy's extent raises the variance of its flux: ratio of noise-equivalent areas, approximate."""
    psf_area = 4 * np.pi * (psfsize / 2.355) ** 2
    return np.asarray(1 + 4 * np.pi * sources["shape_r"] ** 2 / psf_area)


def _fibre_fraction(sources: Columns) -> FloatArray:
    """Share of the flux in a fibre of 1.5 arcsec diameter under 1 arcsec seeing, for a Gaussian galaxy."""
    variance = (1.0 / 2.355) ** 2 + (sources["shape_r"] / 1.177) ** 2
    return np.asarray(1 - np.exp(-0.5 * 0.75**2 / variance))


def _wise(out: npt.NDArray[np.void], sources: Columns, seen: Conditions) -> None:
    extinction = distributions()["bands"]["extinction"]
    colour = {"w1": 1.0, "w2": 0.65, "w3": 0.9, "w4": 1.5}
    for band, upper in ((name, name.upper()) for name in ("w1", "w2", "w3", "w4")):
        error = hashed_normal(3, f"wise-{band}", sources["source_id"]) / np.sqrt(_WISE_DEPTH[band])
        out[f"FLUX_{upper}"] = sources["flux_w1"] * colour[band] + error
        out[f"FLUX_IVAR_{upper}"] = _WISE_DEPTH[band]
        out[f"MW_TRANSMISSION_{upper}"] = 10 ** (-0.4 * extinction[band] * seen.ebv)
        out[f"NOBS_{upper}"] = _WISE_NOBS[band]
        out[f"RCHISQ_{upper}"], out[f"FRACFLUX_{upper}"] = 1.0, 0.05
    out["PSFDEPTH_W1"], out["PSFDEPTH_W2"] = _WISE_DEPTH["w1"], _WISE_DEPTH["w2"]
    out["WISE_COADD_ID"] = sources["brickname"].astype("S8")


def _quality(out: npt.NDArray[np.void], sources: Columns, seed: int) -> None:
    bits = sources["maskbits"]
    for band in BANDS:
        upper, ids = band.upper(), sources["source_id"]
        seen = out[f"NOBS_{upper}"] > 0
        out[f"RCHISQ_{upper}"] = np.where(seen, np.exp(0.1 * hashed_normal(seed, f"rchisq-{band}", ids)), 0)
        out[f"FRACFLUX_{upper}"] = np.where(seen, 0.08 * hashed_uniform(seed, f"fracflux-{band}", ids) ** 2, 0)
        out[f"FRACMASKED_{upper}"] = np.where(seen, 0.05 * hashed_uniform(seed, f"fracmasked-{band}", ids) ** 3, 0)
        out[f"FRACIN_{upper}"] = np.where(seen, 1 - 0.03 * hashed_uniform(seed, f"fracin-{band}", ids), 0)
    for band, bit in (("G", 5), ("R", 6), ("Z", 7), ("I", 15)):
        out[f"ALLMASK_{band}"] = out[f"ANYMASK_{band}"] = np.where(bits & (1 << bit), 1, 0)
    out["WISEMASK_W1"] = np.where(bits & (1 << 8), 1, 0)


def _depth(out: npt.NDArray[np.void], seen: Conditions) -> None:
    """PSF sizes and depths: the galaxy depth is for a round exponential of 0.45 arcsec."""
    galaxy = sersic_mixture(1.0, 0.45)
    for k, band in enumerate(BANDS):
        upper, psfsize = band.upper(), np.where(seen.nobs[:, k] > 0, seen.psfsize[:, k], 0.0)
        sizes, place = np.unique(psfsize, return_inverse=True)
        ratio = np.array([_galaxy_ratio(size, galaxy) if size else 0.0 for size in sizes])
        out[f"PSFSIZE_{upper}"], out[f"PSFDEPTH_{upper}"] = psfsize, seen.psfdepth[:, k]
        out[f"GALDEPTH_{upper}"] = seen.psfdepth[:, k] * ratio[place]


def _galaxy_ratio(psfsize: float, galaxy: Mixture) -> float:
    psf = psf_mixture(psfsize)
    return noise_equivalent_area(psf) / noise_equivalent_area(psf, galaxy)


def _shape(out: npt.NDArray[np.void], sources: Columns) -> None:
    for name in ("shape_r", "shape_e1", "shape_e2", "sersic"):
        out[name.upper()] = sources[name]
    snr2 = np.clip(out["FLUX_R"].astype(float) ** 2 * out["FLUX_IVAR_R"], 1, None)
    extended = sources["type"] != "PSF"
    flat = extended & (sources["type"] != "REX")
    out["SHAPE_R_IVAR"] = np.where(extended, snr2 / (sources["shape_r"] + PIXEL_SCALE) ** 2, 0)
    out["SHAPE_E1_IVAR"] = out["SHAPE_E2_IVAR"] = np.where(flat, snr2, 0)
    out["SERSIC_IVAR"] = np.where(sources["type"] == "SER", snr2 / 10, 0)


def _gaia(out: npt.NDArray[np.void], sources: Columns) -> None:
    """Gaia columns for stars brighter than G = 21, blanks for all else."""
    star = (sources["type"] == "PSF") & (mag_of(sources["flux_r"]) < 20.5)
    out["REF_CAT"] = np.where(star, b"G3", b"  ")
    out["REF_ID"] = np.where(star, sources["source_id"], 0)
    out["REF_EPOCH"] = np.where(star, 2016.0, 0)
    r = np.nan_to_num(mag_of(sources["flux_r"]))
    for column, shift in (
        ("GAIA_PHOT_G_MEAN_MAG", 0.1),
        ("GAIA_PHOT_BP_MEAN_MAG", 0.5),
        ("GAIA_PHOT_RP_MEAN_MAG", -0.5),
    ):
        out[column] = np.where(star, r + shift, 0)
    out["GAIA_DUPLICATED_SOURCE"] = b"F"  # FITS writes logicals as the letters T and F
    out["GAIA_ASTROMETRIC_PARAMS_SOLVED"] = np.where(star, 31, 0)
    out["PMRA_IVAR"] = out["PMDEC_IVAR"] = out["PARALLAX_IVAR"] = np.where(star, 12.0, 0)


def _fits_bytes(records: npt.NDArray[np.void]) -> bytes:
    """A FITS file with the records as they are: they already lie as FITS stores them."""
    header = _table_header().copy()
    header["NAXIS2"] = len(records)
    body = records.tobytes()
    primary = fits.PrimaryHDU().header.tostring() + header.tostring()
    return str(primary).encode("ascii") + body + bytes(-len(body) % _FITS_BLOCK)


@lru_cache(maxsize=1)
def _table_header() -> fits.Header:
    header = fits.Header()
    fixed = {"BITPIX": 8, "NAXIS": 2, "NAXIS1": sweep_dtype().itemsize, "NAXIS2": 0, "PCOUNT": 0, "GCOUNT": 1}
    for key, value in {"XTENSION": "BINTABLE", **fixed, "TFIELDS": len(sweep_columns())}.items():
        header[key] = value
    for k, column in enumerate(sweep_columns(), start=1):
        header[f"TTYPE{k}"], header[f"TFORM{k}"] = column.name, column.format
        if column.unit:
            header[f"TUNIT{k}"] = column.unit
    header["EXTNAME"] = "SWEEP"
    return header
