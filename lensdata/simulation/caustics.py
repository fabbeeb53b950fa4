"""Where a source must lie to be strongly lensed: the caustics of isothermal ellipsoids in shear (R-E7).

An isothermal lens has closed forms for both of its caustics. Its potential is r f(phi), so that the second derivative across the
ray from the centre is 2 kappa = k(phi) / r and that along it is zero: with the matrix M = 1 - shear, the tangential critical curve
is r(phi) = k(phi) t'M^-1 t, t the unit vector across (Kormann, Schneider & Bartelmann 1994, A&A 284, 285). The other border is
the cut: the image of the centre, minus the deflection, which depends on the direction alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

POINTS = 256  # of a caustic; its area is right to 1e-3


def cut(theta_e: FloatArray, q: FloatArray, angle: FloatArray, points: int = POINTS) -> tuple[FloatArray, FloatArray]:
    """The cut of each lens in the source plane, arcsec; x and y of shape (n, points).

    Parameters
    ----------
    theta_e, q, angle
        (n,), Einstein radius in arcsec, axis ratio, and angle of the major axis in radians, x towards y.
    """
    phi = np.linspace(0, 2 * np.pi, points, endpoint=False)[None, :]
    q = np.minimum(np.asarray(q, np.float64), 1 - 1e-6)[:, None]
    flattening = np.sqrt(1 - q * q)
    ellipse = np.sqrt(q * q * np.cos(phi) ** 2 + np.sin(phi) ** 2)
    scale = np.asarray(theta_e)[:, None] * np.sqrt(q) / flattening
    along = -scale * np.arctan(flattening * np.cos(phi) / ellipse)
    across = -scale * np.arctanh(flattening * np.sin(phi) / ellipse)
    return _turned(along, across, angle)


def tangential(
    theta_e: FloatArray,
    q: FloatArray,
    angle: FloatArray,
    shear_1: FloatArray,
    shear_2: FloatArray,
    points: int = POINTS,
) -> tuple[FloatArray, FloatArray]:
    """The tangential caustic of each lens in the source plane, arcsec; x and y of shape (n, points)."""
    phi = np.linspace(0, 2 * np.pi, points, endpoint=False)[None, :]
    ratio = np.asarray(q, np.float64)[:, None]
    # the shear in the frame of the lens: a spin-2 quantity
    size, turn = np.hypot(shear_1, shear_2), np.arctan2(shear_2, shear_1) - 2 * np.asarray(angle)
    g1, g2 = (size * np.cos(turn))[:, None], (size * np.sin(turn))[:, None]
    determinant = 1 - g1**2 - g2**2
    across_x, across_y = -np.sin(phi), np.cos(phi)
    inverse = ((1 + g1) * across_x**2 + 2 * g2 * across_x * across_y + (1 - g1) * across_y**2) / determinant
    radius = np.asarray(theta_e)[:, None] / np.sqrt(ratio * np.cos(phi) ** 2 + np.sin(phi) ** 2 / ratio) * inverse
    x, y = radius * np.cos(phi), radius * np.sin(phi)
    bent_x, bent_y = cut(theta_e, q, np.zeros(len(ratio)), points)  # minus the deflection
    return _turned((1 - g1) * x - g2 * y + bent_x, (1 + g1) * y - g2 * x + bent_y, angle)


def reach(
    theta_e: FloatArray,
    q: FloatArray,
    angle: FloatArray,
    shear_1: FloatArray,
    shear_2: FloatArray,
    points: int = POINTS,
) -> tuple[FloatArray, FloatArray]:
    """Directions (points + 1,) in radians, and in each how far the outer caustic reaches, (n, points + 1), arcsec.

    Sources within it have several images. It is the outer one of cut and tangential caustic, which shear can push out.
    """
    directions = np.linspace(-np.pi, np.pi, points + 1)
    out = np.zeros((len(theta_e), points + 1))
    for x, y in (cut(theta_e, q, angle, points), tangential(theta_e, q, angle, shear_1, shear_2, points)):
        polar, radius = np.arctan2(y, x), np.hypot(x, y)
        order = np.argsort(polar, axis=1)
        for row, (places, found, extent) in enumerate(zip(order, polar, radius, strict=True)):
            seen = np.interp(directions, found[places], extent[places], period=2 * np.pi)
            out[row] = np.maximum(out[row], seen)
    return directions, out


def positions_within(
    lens: dict[str, FloatArray], multiple: float, first: FloatArray, second: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Source positions, uniform over the area within a multiple of the outer caustic: in a direction p(beta) ~ beta.

    Parameters
    ----------
    lens
        ``theta_e, lens_q, lens_angle, shear_1, shear_2``, (n,) each.
    first, second
        (n,), uniform in (0, 1).

    Returns
    -------
    tuple
        x and y, (n,), arcsec from the lens.
    """
    directions, extent = reach(lens["theta_e"], lens["lens_q"], lens["lens_angle"], lens["shear_1"], lens["shear_2"])
    sector = (extent[:, 1:] ** 2 + extent[:, :-1] ** 2) / 2
    share = np.concatenate([np.zeros((len(extent), 1)), np.cumsum(sector, axis=1)], axis=1)
    share /= share[:, -1:]
    direction = np.array([np.interp(u, row, directions) for u, row in zip(first, share, strict=True)])
    far = np.array([np.interp(psi, directions, row) for psi, row in zip(direction, extent, strict=True)])
    distance = multiple * far * np.sqrt(second)
    return distance * np.cos(direction), distance * np.sin(direction)


def _turned(along: FloatArray, across: FloatArray, angle: FloatArray) -> tuple[FloatArray, FloatArray]:
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return along * cos - across * sin, along * sin + across * cos
