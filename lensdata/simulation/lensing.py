"""Strong lensing by a singular isothermal ellipsoid in an external shear.

All coordinates are in arcsec on the sky plane of the image: x grows with the column (to the west), y with the row
(to the north). Position angles are counted from x towards y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensdata.simulation.galaxies import sersic_b

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lens:
    """A singular isothermal ellipsoid with shear at the origin.

    ``theta_e`` (arcsec) is the Einstein radius in the intermediate-axis convention: the critical curve encloses
    the same area as a circle of that radius. ``axis_ratio`` is that of the mass, ``angle`` (radians) its major axis.
    """

    theta_e: float
    axis_ratio: float = 1.0
    angle: float = 0.0
    shear_1: float = 0.0
    shear_2: float = 0.0


@dataclass(frozen=True)
class SersicSource:
    """An elliptical Sersic source of flux 1 behind the lens; positions and half-light radius in arcsec."""

    x: float
    y: float
    radius: float
    index: float = 1.0
    axis_ratio: float = 1.0
    angle: float = 0.0


def deflection(lens: Lens, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Deflection angle at image positions, arcsec.

    Source: Kormann, Schneider & Bartelmann 1994, A&A 284, 285; the shear term is the constant matrix
    [[g1, g2], [g2, -g1]].
    """
    q = min(lens.axis_ratio, 1 - 1e-6)  # the closed form has a removable singularity at q = 1
    cos, sin = np.cos(lens.angle), np.sin(lens.angle)
    along, across = x * cos + y * sin, -x * sin + y * cos
    ellipse = np.sqrt(q * q * along**2 + across**2) + 1e-12
    flattening = np.sqrt(1 - q * q)
    scale = lens.theta_e * np.sqrt(q) / flattening
    a_along = scale * np.arctan(flattening * along / ellipse)
    a_across = scale * np.arctanh(flattening * across / ellipse)
    a_x = a_along * cos - a_across * sin + lens.shear_1 * x + lens.shear_2 * y
    a_y = a_along * sin + a_across * cos + lens.shear_2 * x - lens.shear_1 * y
    return a_x, a_y


def source_brightness(source: SersicSource, x: FloatArray, y: FloatArray) -> FloatArray:
    """Surface brightness of the source at source-plane positions, per arcsec squared; its integral is 1."""
    cos, sin = np.cos(source.angle), np.sin(source.angle)
    dx, dy = x - source.x, y - source.y
    along, across = dx * cos + dy * sin, -dx * sin + dy * cos
    q, n, b = source.axis_ratio, source.index, sersic_b(source.index)
    radius = np.sqrt(q * along**2 + across**2 / q) / source.radius
    return np.asarray(np.exp(-b * radius ** (1 / n)) / (sersic_norm(n) * source.radius**2))


def sersic_norm(n: float) -> float:
    """Integral of exp(-b_n r^(1/n)) over the plane, for a half-light radius of 1.

    Source: Graham & Driver 2005, PASA 22, 118, equation 2.
    """
    from scipy.special import gamma

    return float(2 * np.pi * n * sersic_b(n) ** (-2 * n) * gamma(2 * n))


def lensed_brightness(lens: Lens, source: SersicSource, x: FloatArray, y: FloatArray) -> FloatArray:
    """Surface brightness of the lensed source at image positions, per arcsec squared.

    Lensing conserves surface brightness: the value is the source's where the ray ends. The total over the image is
    the magnification.
    """
    a_x, a_y = deflection(lens, x, y)
    return source_brightness(source, x - a_x, y - a_y)
