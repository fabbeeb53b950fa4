"""What each route would cost for a manifest, and which one to take (R-C1); pure arithmetic, no I/O.

Routes: ``service`` renders a stamp per request; ``bricks`` reads the brick files whole; ``tiles`` reads the headers, the index and
the needed tiles of the brick files. Prices are those of `lensdata.config.cutouts.Prices`; bytes are bodies of answers without
repeated requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from lensdata.config.cutouts import PIXSCALE_ARCSEC, Prices, Route
from lensdata.cutouts.coadds import Kind, coadd_files
from lensdata.cutouts.tiled import BLOCK, HEAD_BYTES
from lensdata.errors import InputError

FloatArray = npt.NDArray[np.float64]

BRICK_PIXELS, TILE_PIXELS = 3600, 100
"""Side of a coadd and of its tiles (legacysurvey.org/dr10/files)."""
INDEX_BYTES = 46_000
"""Headers and index of a band's file: what is not tiles. 45,504 in the coadds of DR6."""
SIZE_OF_EXTRA: Mapping[Kind, float] = {"image": 1.0, "invvar": 1.0, "maskbits": 0.05}
"""Size of a file relative to an image: 0.92 and 1.04 for invvar, 0.04 for another HCOMPRESS coadd (nexp), in DR6."""
WORTH_A_HINT = 10.0
"""How many times faster or smaller another route must be to be mentioned."""
_NUM_TILES = (BRICK_PIXELS // TILE_PIXELS) ** 2


@dataclass(frozen=True)
class RoutePlan:
    """What a route would cost for all stamps.

    Attributes
    ----------
    bytes, requests, seconds
        Expected: bytes received, requests made, time of the whole job.
    why
        What the numbers rest on, or why the route cannot be taken.
    possible
        False where it cannot; the numbers are 0 then.
    """

    route: Route
    stamps: int
    bytes: float
    requests: float
    seconds: float
    why: str
    possible: bool = True


def plan_routes(
    stamps_per_brick: Mapping[str, int] | Sequence[int] | npt.NDArray[np.int64],
    bands: str,
    size: int,
    extras: Sequence[str],
    prices: Prices,
    *,
    service_rate: float,
    coadds_rate: float,
    cores: int = 1,
    file_bytes: Mapping[Kind, float] | None = None,
    pixscale_arcsec: float = PIXSCALE_ARCSEC,
) -> tuple[RoutePlan, ...]:
    """Plans of the three routes.

    Seconds of the service are those of its slower limit, ours or what it delivers. Seconds of the others are those of the slower
    of requests (at their rate) and bytes (at the bandwidth), plus the CPU time of decompression over the cores.

    Parameters
    ----------
    stamps_per_brick
        Numbers of stamps by brick, as a mapping from brick names or as plain numbers; at least one each.
    bands, size, extras, pixscale_arcsec
        What is asked for; size in pixels.
    prices
        What to reckon with.
    service_rate, coadds_rate
        Limits of the job, requests per second; `math.inf` for files that no web server gives.
    cores
        Tasks that decompress at the same time.
    file_bytes
        Mean sizes of the files looked at, by kind. Kinds left out are reckoned from the image, the image from its price.
    """
    values = list(stamps_per_brick.values()) if isinstance(stamps_per_brick, Mapping) else stamps_per_brick
    per_brick = np.asarray(values, dtype=np.int64)
    sizes = _sizes(prices, file_bytes or {})
    files = [kind for kind, _ in coadd_files(bands, extras)]
    native = abs(pixscale_arcsec / PIXSCALE_ARCSEC - 1) <= 1e-3
    plans = [_service(int(per_brick.sum()), len(bands), size, prices, service_rate)]
    if extras:
        plans[0] = _impossible(plans[0], f"cannot be taken: it does not give {' and '.join(extras)}")
    for plan in (_bricks(per_brick, files, sizes), _tiles(per_brick, files, sizes, size)):
        timed = _timed(plan, per_brick, len(files), prices, coadds_rate, cores)
        why = f"cannot be taken: coadds have {PIXSCALE_ARCSEC} arcsec per pixel, not {pixscale_arcsec:g}"
        plans.append(timed if native else _impossible(timed, why))
    return tuple(plans)


def choose(plans: Sequence[RoutePlan], prefer: Literal["bytes", "seconds"]) -> RoutePlan:
    """The possible plan with the fewest bytes, or seconds; the other decides between equals.

    Raises
    ------
    InputError
        No route is possible.
    """
    other = "seconds" if prefer == "bytes" else "bytes"
    possible = [plan for plan in plans if plan.possible]
    if not possible:
        raise InputError("No route gives such stamps: " + "; ".join(f"{plan.route} {plan.why}" for plan in plans) + ".")
    return min(possible, key=lambda plan: (getattr(plan, prefer), getattr(plan, other)))


def table(plans: Sequence[RoutePlan], chosen: RoutePlan) -> str:
    """The plans as lines of text, the chosen one marked, with a hint where another is far faster or smaller.

    >>> fast = RoutePlan("tiles", 100, 2.5e7, 1500, 150.0, "4 tiles")
    >>> slow = RoutePlan("service", 100, 1.3e7, 100, 3600.0, "a request each")
    >>> print(table((slow, fast), slow))
      route         stamps     requests        GB    hours
    * service          100          100     0.013     1.00  a request each
      tiles            100        1,500     0.025    0.042  4 tiles
    Hint: route tiles would be 24 times faster, for 1.92 times the bytes.
    """
    lines = [f"  {'route':8}{'stamps':>12}{'requests':>13}{'GB':>10}{'hours':>9}"]
    for plan in plans:
        cells = (f"{plan.requests:,.0f}", _short(plan.bytes / 1e9), _short(plan.seconds / 3600))
        requests, volume, hours = cells if plan.possible else ("-", "-", "-")
        mark = "*" if plan.route == chosen.route else " "
        lines.append(f"{mark} {plan.route:8}{plan.stamps:>12,}{requests:>13}{volume:>10}{hours:>9}  {plan.why}")
    return "\n".join(lines + _hint(plans, chosen))


def _hint(plans: Sequence[RoutePlan], chosen: RoutePlan) -> list[str]:
    """One line about the route with the greatest advantage over the chosen one, if that is great."""
    found = []
    for plan in plans:
        if not plan.possible or plan.route == chosen.route or not plan.stamps:
            continue
        for better, worse, adjective, price in (
            (chosen.seconds / plan.seconds, plan.bytes / chosen.bytes, "faster", "bytes"),
            (chosen.bytes / plan.bytes, plan.seconds / chosen.seconds, "smaller", "time"),
        ):
            if better > WORTH_A_HINT:
                cost = f", for {_short(worse)} times the {price}" if worse > 1 else ""
                found.append((better, f"Hint: route {plan.route} would be {better:,.0f} times {adjective}{cost}."))
    return [max(found)[1]] if found else []


def _sizes(prices: Prices, measured: Mapping[Kind, float]) -> dict[Kind, float]:
    """Mean size of a file by kind."""
    image = measured.get("image", prices.coadd_file_bytes)
    return {kind: measured.get(kind, image * share) for kind, share in SIZE_OF_EXTRA.items()}


def _service(num_stamps: int, num_bands: int, size: int, prices: Prices, rate: float) -> RoutePlan:
    """A FITS file per stamp: a header block and 32-bit pixels in whole blocks (126,720 bytes for 101 x 101 x 3)."""
    file_bytes = BLOCK * (1 + math.ceil(4 * num_bands * size**2 / BLOCK))
    speed = min(rate, prices.service_stamps_per_s)
    why = f"{file_bytes:,} bytes a stamp, {speed:g} stamps/s"
    return RoutePlan("service", num_stamps, num_stamps * file_bytes, num_stamps, num_stamps / speed, why)


def _bricks(per_brick: npt.NDArray[np.int64], files: Sequence[Kind], sizes: Mapping[Kind, float]) -> RoutePlan:
    """Every file of every brick, whole."""
    brick_bytes = sum(sizes[kind] for kind in files)
    why = f"{len(per_brick):,} bricks of {len(files)} files, {_short(brick_bytes / 1e6)} MB"
    num = len(per_brick)
    return RoutePlan("bricks", int(per_brick.sum()), num * brick_bytes, num * len(files), 0.0, why)


def _tiles(
    per_brick: npt.NDArray[np.int64], files: Sequence[Kind], sizes: Mapping[Kind, float], size: int
) -> RoutePlan:
    """Per file a range for headers and index and those of the tiles that the stamps touch."""
    tiles, ranges = expected_tiles(per_brick, size)
    per_file = [
        min(sizes[kind], HEAD_BYTES) * len(per_brick) + max(sizes[kind] - INDEX_BYTES, 0.0) / _NUM_TILES * tiles.sum()
        for kind in files
    ]
    num_stamps = int(per_brick.sum())
    requests = len(files) * (len(per_brick) + ranges.sum())
    num_bricks = max(len(per_brick), 1)
    why = f"{num_stamps / num_bricks:.1f} stamps a brick, {_short(float(tiles.sum()) / num_bricks)} of its {_NUM_TILES:,} tiles"
    return RoutePlan("tiles", num_stamps, float(sum(per_file)), float(requests), 0.0, why)


def expected_tiles(per_brick: npt.NDArray[np.int64], size: int) -> tuple[FloatArray, FloatArray]:
    """Tiles that randomly placed stamps of a brick touch, and the ranges of adjacent tiles they make, both per brick.

    A stamp of s pixels touches k = 1 + (s - 1) / w tiles of w pixels along each axis on average, a given tile of T with
    probability p = k^2 / T, at least one of a given pair of neighbours with q = k (k + 1) / T. Of n stamps, T (1 - (1 - p)^n)
    tiles are touched, and a range begins where a tile is touched and its neighbour is not: T ((1 - p)^n - (1 - q)^n). Edges of
    the brick are left out of account.

    >>> [float(values.round(2)[0]) for values in expected_tiles(np.array([1]), 101)]
    [4.0, 2.0]
    """
    along = min(1 + (size - 1) / TILE_PIXELS, BRICK_PIXELS / TILE_PIXELS)
    n = np.asarray(per_brick, float)
    untouched = (1 - along**2 / _NUM_TILES) ** n
    both_untouched = (1 - min(along * (along + 1) / _NUM_TILES, 1.0)) ** n
    return _NUM_TILES * (1 - untouched), np.maximum(_NUM_TILES * (untouched - both_untouched), 1.0)


def _timed(
    plan: RoutePlan, per_brick: npt.NDArray[np.int64], num_files: int, prices: Prices, rate: float, cores: int
) -> RoutePlan:
    """The plan with its seconds: transfer, then decompression (whole files at once where that is cheaper than by stamp)."""
    cpu_s = num_files * per_brick * prices.section_s
    if plan.route == "bricks":
        cpu_s = np.minimum(cpu_s, num_files * prices.decompress_s)
    transfer_s = max(plan.requests / rate, plan.bytes / prices.bytes_per_s)
    return replace(plan, seconds=transfer_s + float(cpu_s.sum()) / cores)


def _impossible(plan: RoutePlan, why: str) -> RoutePlan:
    return RoutePlan(plan.route, plan.stamps, 0.0, 0.0, 0.0, why, possible=False)


def _short(value: float) -> str:
    """A number of three digits or so, whole above a hundred.

    >>> _short(0.0131), _short(1.5), _short(8123.4)
    ('0.013', '1.50', '8,123')
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
