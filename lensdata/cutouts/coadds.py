"""Routes B and C: stamps cut from brick coadds, files read whole or only the tiles needed (R-C1).

Both routes fill the same kind of file in memory (`lensdata.cutouts.tiled`) and hand it to astropy, so they give the same pixels
bit for bit. Names and layout: legacysurvey.org/dr10/files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from astropy.wcs import WCS

from lensdata.config.cutouts import PIXSCALE_ARCSEC
from lensdata.cutouts.outcome import Rejected
from lensdata.cutouts.tiled import Corners, Read, TiledImage, decoding, read_first, read_span
from lensdata.errors import InputError

Kind = Literal["image", "invvar", "maskbits"]
File = tuple[Kind, str]
"""Kind and band of a coadd; the band of maskbits is empty."""
BRICK_NAME = re.compile(r"[0-9]{4}[pm][0-9]{3}")
COADD_FOLDER = "coadd"
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class BrickStamps:
    """Stamps of one brick, north up, in the order of the positions asked for.

    Attributes
    ----------
    stamps
        (n, H, W, C) float32, nanomaggies, bands in the order asked; zeros where there is a reason.
    offsets
        (n, 2) sub-pixel offset (x, y) of the position from the centre pixel (index ``size // 2``), pixels, within 0.5; NaN
        where there is a reason.
    reasons
        Per stamp None, ``brick_edge`` (it leaves the image) or ``no_coadd_g`` (that file is missing, for all stamps alike;
        ``no_invvar_g`` and ``no_maskbits`` for extras).
    survey, version
        SURVEY and DRVERSIO (or VERSION) of the first band; None without files.
    invvar, maskbits
        Extras, None if not asked for: (n, H, W, C) float32, 1 / nanomaggies^2; (n, H, W) int32.
    """

    stamps: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float64]
    reasons: list[str | None]
    survey: str | None = None
    version: str | None = None
    invvar: npt.NDArray[np.float32] | None = None
    maskbits: npt.NDArray[np.int32] | None = None


def coadd_path(brickname: str, kind: Kind, band: str = "") -> str:
    """Path of a coadd below the data release's folder.

    >>> coadd_path("0959p805", "image", "r")
    'coadd/095/0959p805/legacysurvey-0959p805-image-r.fits.fz'
    >>> coadd_path("0959p805", "maskbits")
    'coadd/095/0959p805/legacysurvey-0959p805-maskbits.fits.fz'
    """
    if not BRICK_NAME.fullmatch(brickname):  # it becomes part of a path
        raise InputError(f"{brickname!r} is no name of a brick; expected one like 0959p805.")
    name = kind if kind == "maskbits" else f"{kind}-{band}"
    return f"{COADD_FOLDER}/{brickname[:3]}/{brickname}/legacysurvey-{brickname}-{name}.fits.fz"


def coadd_uri(url: str, brickname: str, kind: Kind, band: str = "") -> str:
    """Address of a coadd under the address, s3:// URI or folder ``url``."""
    return f"{url.rstrip('/')}/{coadd_path(brickname, kind, band)}"


def coadd_files(bands: str, extras: Sequence[str] = ()) -> list[File]:
    """The files that stamps of a brick come from.

    >>> coadd_files("gz", ("maskbits",))
    [('image', 'g'), ('image', 'z'), ('maskbits', '')]
    """
    files: list[File] = [("image", band) for band in bands]
    if "invvar" in extras:
        files += [("invvar", band) for band in bands]
    return files + ([("maskbits", "")] if "maskbits" in extras else [])


def read_brick(
    read: Read,
    url: str,
    brickname: str,
    ra: npt.ArrayLike,
    dec: npt.ArrayLike,
    bands: str,
    size: int,
    *,
    whole: bool,
    extras: Sequence[str] = (),
    threads: ThreadPoolExecutor | None = None,
) -> BrickStamps:
    """Stamps around positions of one brick.

    Parameters
    ----------
    read
        ``read(uri, start, stop)`` gives bytes of a file (to its end if ``stop`` is None, fewer there) or raises `Rejected`,
        with the reason ``no_such_file`` where there is none. Called from several threads if ``threads`` are given.
    url
        Address, s3:// URI or folder that holds ``coadd/``.
    brickname
        The brick.
    ra, dec
        Positions, degrees, shape (n,).
    bands, size
        Bands in the order wanted; side of the stamps, pixels.
    whole
        True reads each file in one piece (route B), False its headers and index, then the tiles needed (route C).
    extras
        Any of ``invvar``, ``maskbits``.
    threads
        Files and ranges are read on these.

    Raises
    ------
    Rejected
        A file cannot be had; is not FITS, truncated or damaged (not permanent); shows another brick or grid (permanent).
    """
    positions = np.column_stack([np.atleast_1d(ra), np.atleast_1d(dec)]).astype(float)
    files = coadd_files(bands, extras)
    uris = [coadd_uri(url, brickname, *file) for file in files]
    first = _each(threads, partial(_first, read, whole), uris)
    missing = next((file for file, found in zip(files, first, strict=True) if found is None), None)
    if missing is not None:
        return _without(missing, len(positions), bands, size, extras)
    images = [TiledImage(found) for found in first if found is not None]
    wcs = _same_wcs(images, brickname)
    corners, offsets, inside = _place(wcs, images[0].shape, positions, size)
    if not whole:
        _hold_tiles(read, uris, images, corners[inside], size, threads)
    out, places = _empty(len(positions), bands, size, extras), np.flatnonzero(inside)
    for (kind, band), image in zip(files, images, strict=True):
        target = out[kind] if kind == "maskbits" else out[kind][..., bands.index(band)]
        for n, stamp in image.cuts(corners[inside], size):
            target[places[n]] = stamp
    return BrickStamps(
        out["image"],
        np.where(inside[:, None], offsets, np.nan),
        [None if ok else "brick_edge" for ok in inside],
        _text(images[0], "SURVEY"),
        _text(images[0], "DRVERSIO", "VERSION"),
        out.get("invvar"),
        out.get("maskbits"),
    )


def _empty(num: int, bands: str, size: int, extras: Sequence[str]) -> dict[Kind, npt.NDArray[Any]]:
    """Zeros for the stamps and each extra asked for."""
    out: dict[Kind, npt.NDArray[Any]] = {"image": np.zeros((num, size, size, len(bands)), np.float32)}
    if "invvar" in extras:
        out["invvar"] = np.zeros_like(out["image"])
    if "maskbits" in extras:
        out["maskbits"] = np.zeros((num, size, size), np.int32)
    return out


def _first(read: Read, whole: bool, uri: str) -> bytes | None:
    """The first bytes of a file; None if there is no such file."""
    try:
        return read_first(read, uri, whole=whole)
    except Rejected as error:
        if error.reason == "no_such_file":
            return None
        raise


def _same_wcs(images: list[TiledImage], brickname: str) -> WCS:
    """The projection of a brick's files, which must be one and the survey's."""
    grids = [_grid(image, brickname) for image in images]
    shape, wcs = images[0].shape, grids[0].wcs
    for image, grid in zip(images, grids, strict=True):
        words = grid.wcs
        same = np.allclose([words.crpix, words.crval], [wcs.crpix, wcs.crval], rtol=0, atol=1e-8)
        if image.shape != shape or not same:
            raise Rejected("wrong_grid", permanent=True)
    return grids[0]


def _grid(image: TiledImage, brickname: str) -> WCS:
    """The projection of one file after its checks: a status 200 does not say that it is the right file."""
    name = _text(image, "BRICKNAM")
    if name != brickname:
        raise Rejected(f"wrong_brick_{name}", permanent=True)
    with decoding():
        # nothing to fix: the words that a brick has are the standard's
        wcs = WCS(image.header, naxis=2, fix=False)
    if list(wcs.wcs.ctype) != ["RA---TAN", "DEC--TAN"]:
        raise Rejected("wrong_projection", permanent=True)
    # x to the west, y to the north, pixels of the survey's size
    if np.abs(wcs.pixel_scale_matrix * 3600 / PIXSCALE_ARCSEC - np.diag([-1, 1])).max() > 1e-3:
        raise Rejected("wrong_pixel_scale", permanent=True)
    return wcs


def _place(
    wcs: WCS, shape: tuple[int, ...], positions: npt.NDArray[np.float64], size: int
) -> tuple[Corners, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Lower corners (y, x) of the stamps, offsets (x, y) of the positions, and which stamps lie in the image."""
    # plain degrees: the files name no RADESYS, which by the standard means FK5, but the survey's catalogue and projections are of
    # one frame (Gaia's), and a conversion by SkyCoord would be off by 0.02 arcsec
    place = wcs.wcs_world2pix(positions, 0)
    # a position on the far side of the sky has no place on a tangent plane; clipped so that it can be an integer
    centre = np.floor(np.nan_to_num(place, nan=-1e6).clip(-1e6, 1e6) + 0.5).astype(np.int64)
    corners = centre[:, ::-1] - size // 2
    inside: npt.NDArray[np.bool_] = np.all((corners >= 0) & (corners + size <= np.array(shape)), axis=1)
    return corners, place - centre, inside


def _hold_tiles(
    read: Read,
    uris: list[str],
    images: list[TiledImage],
    corners: Corners,
    size: int,
    threads: ThreadPoolExecutor | None,
) -> None:
    """Read the tiles that the stamps need, of all files at once."""
    wanted = [(k, *span) for k, image in enumerate(images) for span in image.spans(corners, size)]

    def fetch(one: tuple[int, int, int]) -> bytes:
        return read_span(read, uris[one[0]], one[1], one[2])

    for (k, start, _), piece in zip(wanted, _each(threads, fetch, wanted), strict=True):
        images[k].hold(start, piece)


def _without(missing: File, num: int, bands: str, size: int, extras: Sequence[str]) -> BrickStamps:
    """What a brick without one of its files gives."""
    kind, band = missing
    reason = "no_maskbits" if kind == "maskbits" else f"no_{'coadd' if kind == 'image' else kind}_{band}"
    out = _empty(num, bands, size, extras)
    nowhere = np.full((num, 2), np.nan)
    return BrickStamps(out["image"], nowhere, [reason] * num, invvar=out.get("invvar"), maskbits=out.get("maskbits"))


def _each(threads: ThreadPoolExecutor | None, function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    return list((threads.map if threads else map)(function, items))


def _text(image: TiledImage, *keys: str) -> str | None:
    """The first of these header words that there is, as text."""
    with decoding():
        return next((str(image.header[key]).strip() for key in keys if key in image.header), None)
