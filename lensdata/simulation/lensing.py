"""Strong lensing in torch: elliptical masses in an external shear, Sersic sources, magnification in closed form.

All angles are arcsec on the sky plane of the image, relative to the lens: x grows with the column (to the west), y with the row (to
the north). Position angles are radians from x towards y. Everything is a pure function of tensors that broadcast: a lens
parameter of shape (n, 1, 1) with positions (n, height, width), on any device, in float64 or float32.

**Einstein radius**: intermediate-axis convention. The convergence is (3 - gamma) / 2 (theta_E / m)^(gamma - 1) with m =
sqrt(q u^2 + v^2 / q) along the axes u, v of the mass, so that an isothermal critical curve without shear encloses the
area pi theta_E^2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import gamma, gammainccinv, gammaincinv
from torch import Tensor

from lensdata.simulation.lenses import PARAMETERS

FloatArray = npt.NDArray[np.float64]
Values = Mapping[str, npt.NDArray[Any]]

MASS, SOURCE = PARAMETERS[:5], PARAMETERS[5:]
SLOPE = "lens_slope"
"""Optional column: three-dimensional density slope gamma of a power law, 1 < gamma < 3; 2, the default, is isothermal."""
_ROUND = 1 - 1e-6  # closed forms have a removable singularity at q = 1
_TINY = 1e-30  # keeps quotients finite; squares of arcsec
_OFF_CENTRE = 1e-12  # arcsec: a ray straight through a lens would not be bent, and all around it are, by theta_E
_SERIES_ERROR = 1e-9


def as_tensors(columns: Values, device: torch.device | str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Columns `MASS`, `SOURCE` and, where there is one, `SLOPE`, (n,) each; and three more of the Sersic profiles.

    ``source_b``: b_n, which puts half the light inside the half-light radius. ``source_exponent``: 1 / n.
    ``source_norm``: the integral of exp(-b_n r^(1/n)) over the plane (Graham & Driver 2005, PASA 22, 118, equation 2).
    """
    index = np.asarray(columns["source_index"], np.float64)
    b = gammaincinv(2 * index, 0.5)
    values = {name: columns[name] for name in (*MASS, *SOURCE, SLOPE) if name in columns}
    values |= {
        "source_b": b,
        "source_exponent": 1 / index,
        "source_norm": 2 * np.pi * index * b ** (-2 * index) * gamma(2 * index),
    }
    return {name: torch.as_tensor(np.asarray(v, np.float64)).to(device, dtype) for name, v in values.items()}


def deflection(lens: dict[str, Tensor], x: Tensor, y: Tensor, terms: int = 0) -> tuple[Tensor, Tensor]:
    """Deflection angle at image positions, arcsec.

    Parameters
    ----------
    lens
        `MASS`, and `SLOPE` for power laws.
    x, y
        Image positions, arcsec.
    terms
        Of the series of a power law (`series_terms`); 0 takes the closed form of the isothermal ellipsoid.
    """
    cos, sin = lens["lens_angle"].cos(), lens["lens_angle"].sin()
    u, v = x * cos + (y * sin + _OFF_CENTRE), y * cos - x * sin
    a_u, a_v = _isothermal(lens, u, v) if terms == 0 else _power_law(lens, u, v, terms)
    a_x = a_u * cos - a_v * sin + (lens["shear_1"] * x + lens["shear_2"] * y)
    a_y = a_u * sin + a_v * cos + (lens["shear_2"] * x - lens["shear_1"] * y)
    return a_x, a_y


def _isothermal(lens: dict[str, Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Along the axes of the mass. Source: Kormann, Schneider & Bartelmann 1994, A&A 284, 285, equation 27a.

    The inverse hyperbolic sine of f v / (q r) is taken as half a logarithm of 1 + 2 f v / (m - f v), m^2 = q^2 u^2 +
    v^2: of what torch has, these are fast and give the same bits wherever in an array a number stands.
    """
    q = lens["lens_q"].clamp(max=_ROUND)
    flattening = (1 - q * q).sqrt()
    scale = lens["theta_e"] * q.sqrt() / flattening
    u2, v2 = u.square(), v.square().add_(_TINY)
    ellipse = (q * q * u2).add_(v2).sqrt_()
    a_u = (flattening * u).div_(u2.add_(v2).sqrt_()).asin_().mul_(scale)
    bent = flattening * v
    return a_u, bent.div_(ellipse.sub_(bent)).mul_(2).log1p_().mul_(scale / 2)


def _power_law(lens: dict[str, Tensor], u: Tensor, v: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """Along the axes of the mass. Source: Tessore & Metcalf 2015, A&A 580, A79, equations 13 and 23 to 26.

    The angular part is a series in z = -f exp(2 i phi), f = (1 - q) / (1 + q), whose ratios of coefficients are (2 n - (2 - t)) /
    (2 n + (2 - t)); it is summed from its last term inwards.
    """
    q, t = lens["lens_q"].clamp(max=_ROUND), lens[SLOPE] - 1
    p, qu = (1 - q) / (1 + q), q * u
    squared = qu.square() + v.square() + _TINY
    z_re, z_im = -p * (qu.square() - v.square()) / squared, -2 * p * qu * v / squared
    total_re, total_im = torch.ones_like(squared), torch.zeros_like(squared)
    for n in range(terms, 0, -1):
        ratio = (2 * n - (2 - t)) / (2 * n + (2 - t))
        total_re, total_im = (
            1 + ratio * (z_re * total_re - z_im * total_im),
            ratio * (z_re * total_im + z_im * total_re),
        )
    b = lens["theta_e"] * q.sqrt()
    # b (b / R)^(t - 1) by its logarithm, for its bits, times exp(i phi) = (q u + i v) / R
    factor = 2 * b / (1 + q) * ((b.square() / squared).log() * ((t - 1) / 2)).exp() / squared.sqrt()
    return factor * (qu * total_re - v * total_im), factor * (qu * total_im + v * total_re)


def series_terms(lens_q: FloatArray) -> npt.NDArray[np.int64]:
    """Terms after the first that `deflection` needs of each lens: few distinct numbers, so that lenses share a batch."""
    q = np.clip(np.asarray(lens_q, np.float64), 0.05, 0.999)
    needed = np.log(_SERIES_ERROR) / np.log((1 - q) / (1 + q))
    return np.asarray(8 * np.ceil(needed / 8), np.int64)


def inverse_magnification(lens: dict[str, Tensor], x: Tensor, y: Tensor, terms: int = 0) -> Tensor:
    """Determinant of the Jacobian of the lens mapping, (1 - kappa)^2 - |gamma|^2; below 0 inside the critical curve.

    A deflection alpha = alpha_x + i alpha_y without shear is homogeneous of degree 2 - gamma in the position z, so that
    z kappa + conj(z) shear = (2 - gamma) alpha gives the shear of the mass; that of an isothermal one is -kappa z / conj(z).
    """
    bare = dict(lens) | {"shear_1": torch.zeros_like(lens["shear_1"]), "shear_2": torch.zeros_like(lens["shear_2"])}
    a_x, a_y = deflection(bare, x, y, terms)
    slope = lens[SLOPE] if terms else torch.full_like(lens["theta_e"], 2.0)
    cos, sin, q = lens["lens_angle"].cos(), lens["lens_angle"].sin(), lens["lens_q"]
    u, v = x * cos + y * sin, y * cos - x * sin
    ellipse = (q * u.square() + v.square() / q + _TINY).sqrt()
    kappa = (3 - slope) / 2 * (lens["theta_e"] / ellipse).pow(slope - 1)
    r2 = x * x + y * y + _TINY
    w_x, w_y = (2 - slope) * a_x - kappa * x, (2 - slope) * a_y - kappa * y  # conj(z) times the shear
    shear_1 = (w_x * x - w_y * y) / r2 + lens["shear_1"]
    shear_2 = (w_x * y + w_y * x) / r2 + lens["shear_2"]
    return (1 - kappa).square() - shear_1.square() - shear_2.square()


def sersic_brightness(source: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Surface brightness of Sersic sources of flux 1 at source-plane positions, per arcsec squared (`as_tensors`)."""
    radius2 = sersic_radius2(source, x, y)
    # radius^(1/n) by its logarithm: faster than a power, and exp(-inf) = 0 is right at the centre
    profile = radius2.log_().mul_(source["source_exponent"] / 2).exp_().mul_(-source["source_b"]).exp_()
    return profile.mul_(sersic_peak(source))


def sersic_radius2(source: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Square of the elliptical radius, in half-light radii, at source-plane positions."""
    along, across = source_frame(source, x, y)
    q, scale = source["source_q"], source["source_radius"].square()
    return along.square_().mul_(q / scale).add_(across.square_().mul_(1 / (q * scale)))


def sersic_peak(source: dict[str, Tensor]) -> Tensor:
    """Surface brightness in the middle of Sersic sources of flux 1, per arcsec squared."""
    return 1 / (source["source_norm"] * source["source_radius"].square())


def sersic_cusp(source: dict[str, Tensor], radius2: Tensor, edge2: Tensor) -> Tensor:
    """What a Sersic profile, 1 in the middle, has over a smooth one that equals it outside a radius.

    Inside, the smooth one is the parabola in the squared radius that has the value and the first two derivatives of the
    profile at the edge; the difference fades there as a third power.
    """
    b, power = source["source_b"], source["source_exponent"] / 2
    at_edge = (-b * (power * edge2.log()).exp()).exp()
    slope = -b * power * ((power - 1) * edge2.log()).exp()
    curvature = slope * slope + slope * (power - 1) / edge2
    inward = (radius2 - edge2).clamp_(max=0)
    profile = (-b * (power * (inward + edge2).clamp_(min=0).log()).exp()).exp()
    return profile - at_edge * (1 + inward * (slope + curvature / 2 * inward))


def source_frame(source: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Source-plane positions relative to the source, along and across its major axis, arcsec; new tensors."""
    cos, sin = source["source_angle"].cos(), source["source_angle"].sin()
    dx, dy = x - source["source_x"], y - source["source_y"]
    return dx * cos + dy * sin, dy * cos - dx * sin


def sersic_reach(index: FloatArray, lost: float) -> FloatArray:
    """Radius, in half-light radii, outside which a Sersic profile has that share of its light."""
    index = np.asarray(index, np.float64)
    return np.asarray((gammainccinv(2 * index, lost) / gammaincinv(2 * index, 0.5)) ** index)


def image_reach(columns: Values, source_reach_arcsec: FloatArray) -> FloatArray:
    """Radius around each lens, arcsec, outside which no ray ends within that reach of the middle of the source; (n,).

    At a radius r a ray is bent by no more than A r^(2 - gamma), A the largest deflection on the circle of 1 arcsec, and
    shear moves it by no more than its share of r; the radius is the largest r with r (1 - shear) <= A r^(2 - gamma) +
    distance to the far side.
    """
    shear = np.hypot(columns["shear_1"], columns["shear_2"])
    far = np.hypot(columns["source_x"], columns["source_y"]) + source_reach_arcsec
    q = np.minimum(columns["lens_q"], _ROUND)
    flattening = np.sqrt(1 - q * q)  # rays across the middle of the minor axis are bent most
    reach = (columns["theta_e"] * np.sqrt(q) / flattening * np.arctanh(flattening) + far) / (1 - shear)
    if SLOPE in columns:
        rows = np.flatnonzero(np.asarray(columns[SLOPE]) != 2)
        reach[rows] = _power_law_reach(
            {name: np.asarray(v)[rows] for name, v in columns.items()}, shear[rows], far[rows]
        )
    return np.asarray(reach)


def _power_law_reach(columns: Values, shear: FloatArray, far: FloatArray) -> FloatArray:
    """See `image_reach`."""
    slope = np.asarray(columns[SLOPE], np.float64)
    alone = dict.fromkeys(("shear_1", "shear_2", "lens_angle"), np.zeros(len(slope)))
    models = {name: v[:, None] for name, v in as_tensors({**columns, **alone}, "cpu", torch.float64).items()}
    angle = torch.linspace(0, math.pi / 2, 33).double()  # a quarter: both axes are symmetric
    a_x, a_y = deflection(
        models, angle.cos()[None], angle.sin()[None], int(series_terms(columns["lens_q"]).max(initial=1))
    )
    strength = torch.hypot(a_x, a_y).amax(dim=1).numpy() * 1.01  # what lies between the angles
    low, high = np.zeros(len(slope)), np.full(len(slope), 1e3)
    for _ in range(40):
        middle = (low + high) / 2
        beyond = middle * (1 - shear) > strength * middle ** (2 - slope) + far
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return np.asarray(high)
