"""How many arcs per second, and how right: the engine of injected arcs beside lenstronomy and a plain loop over caustics.

    python benchmarks/injection.py [--stamps 96] [--rounds 3] [--device cuda] [--threads 1]

Every engine draws the same lenses, isothermal with shear, Sersic sources: 73 x 73 pixels, three bands with a seeing of
their own. The others are installed from competitors.txt, and left out where they are not. lenstronomy is measured as
its users run it, by `ImageModel` with 2 x 2 points per pixel and each band's kernel by FFT, on pixels and on the fine
points; and in the shortest way that its parts allow, rays once per stamp. caustics traces a system at a time.

Time is of the processor, one thread by default, so that other work on a machine does not count; with ``--device cuda``
it is of the clock. Rounds alternate between the engines, a figure is the best round. Errors are the largest of a stamp
over its peak, against 20 x 20 points per pixel, median and worst of the stamps; the last column is what 110,000
injections (220 cells of a selection function, 500 each) take.
"""

from __future__ import annotations

import os

for _limit in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_limit, "1")  # before the libraries start their threads

import argparse  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.special import gamma, gammaincinv  # noqa: E402

from lensdata.config.simulation import LensesConfig  # noqa: E402
from lensdata.simulation import lenses  # noqa: E402
from lensdata.simulation.galaxies import psf_mixture  # noqa: E402
from lensdata.simulation.injection import Grid, unit_arcs  # noqa: E402
from lensdata.simulation.randomness import KeyedDraws  # noqa: E402
from lensdata.simulation.sky import PIXEL_SCALE  # noqa: E402

Columns = dict[str, np.ndarray]
Draw = Callable[[], np.ndarray]
SIDE, POINTS, KERNEL = 73, 2, 31
INJECTIONS = 110_000


def drawn(count: int) -> tuple[Columns, np.ndarray]:
    """Lenses of 0.5 to 3 arcsec, and their seeing in three bands."""
    random = np.random.default_rng(0)
    hosts = {
        "type": np.array(["DEV"] * count),
        "shape_e1": random.normal(0, 0.2, count),
        "shape_e2": random.normal(0, 0.2, count),
    }
    columns = lenses.draw_lenses(
        KeyedDraws(0, "benchmark", np.arange(count)), hosts, LensesConfig(theta_e_arcsec=(0.5, 3.0))
    )
    return columns, random.uniform(0.9, 1.8, (count, 3))


def kernel(fwhm: float, points: int = 1) -> np.ndarray:
    """The PSF on pixels, or on the fine points."""
    half = KERNEL // 2 * points
    y, x = np.indices((2 * half + 1, 2 * half + 1)) - half
    psf = psf_mixture(fwhm * points)
    image = sum(w / v * np.exp(-0.5 * (x**2 + y**2) / v) for w, v in zip(psf.weight, psf.variance, strict=True))
    return np.asarray(image / image.sum())


def value_of(columns: Columns, row: int) -> dict[str, float]:
    """The parameters of a lens."""
    return {name: float(columns[name][row]) for name in lenses.PARAMETERS}


def brightness_at_half_light(value: dict[str, float]) -> float:
    """Of a Sersic source of flux 1, per arcsec squared (Graham & Driver 2005, equation 2)."""
    n = value["source_index"]
    b = gammaincinv(2 * n, 0.5)
    return float(np.exp(-b) / (2 * np.pi * n * b ** (-2 * n) * gamma(2 * n) * value["source_radius"] ** 2))


def fine_axis() -> np.ndarray:
    """Fine points along an axis, arcsec."""
    return ((np.arange(SIDE * POINTS) + 0.5) / POINTS - 0.5 - SIDE // 2) * PIXEL_SCALE


def of_lenstronomy(columns: Columns, seeing: np.ndarray) -> dict[str, Draw]:
    """Three ways to use lenstronomy (Birrer & Amara 2018)."""
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.ImSim.Numerics.convolution import PixelKernelConvolution
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    model, light = LensModel(["SIE", "SHEAR"]), LightModel(["SERSIC_ELLIPSE"])
    corner = -(SIDE // 2) * PIXEL_SCALE
    data = ImageData(
        image_data=np.zeros((SIDE, SIDE)), ra_at_xy_0=corner, dec_at_xy_0=corner, transform_pix2angle=np.eye(2) * PIXEL_SCALE,
        background_rms=1.0, exposure_time=1.0,
    )  # fmt: skip
    x, y = (axis.ravel() for axis in np.meshgrid(fine_axis(), fine_axis()))

    def system(row: int) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
        value = value_of(columns, row)
        e1, e2 = phi_q2_ellipticity(value["lens_angle"], value["lens_q"])
        s1, s2 = phi_q2_ellipticity(value["source_angle"], value["source_q"])
        mass = [
            {"theta_E": value["theta_e"], "e1": e1, "e2": e2},
            {"gamma1": value["shear_1"], "gamma2": value["shear_2"]},
        ]
        source = {
            "amp": brightness_at_half_light(value), "R_sersic": value["source_radius"], "n_sersic": value["source_index"],
            "e1": s1, "e2": s2, "center_x": value["source_x"], "center_y": value["source_y"],
        }  # fmt: skip
        return mass, [source]

    def by_image_model(supersampled: bool) -> np.ndarray:
        numerics: dict[str, Any] = {"supersampling_factor": POINTS, "supersampling_convolution": supersampled}
        numerics |= {"supersampling_kernel_size": None} if supersampled else {}
        points = POINTS if supersampled else 1
        images = np.empty((len(seeing), 3, SIDE, SIDE))
        for row, sizes in enumerate(seeing):
            mass, source = system(row)
            for band, size in enumerate(sizes):
                psf = PSF("PIXEL", kernel_point_source=kernel(size, points), point_source_supersampling_factor=points)
                images[row, band] = ImageModel(data, psf, model, light, kwargs_numerics=numerics).image(
                    mass, source, None, None
                )
        return images

    def by_parts() -> np.ndarray:
        images = np.empty((len(seeing), 3, SIDE, SIDE))
        for row, sizes in enumerate(seeing):
            mass, source = system(row)
            seen = light.surface_brightness(*model.ray_shooting(x, y, mass), source)
            binned = seen.reshape(SIDE, POINTS, SIDE, POINTS).mean(axis=(1, 3)) * PIXEL_SCALE**2
            for band, size in enumerate(sizes):
                images[row, band] = PixelKernelConvolution(kernel(size), convolution_type="fft").convolution2d(binned)
        return images

    return {
        "lenstronomy, ImageModel, PSF on fine points": lambda: by_image_model(True),
        "lenstronomy, ImageModel, PSF on pixels": lambda: by_image_model(False),
        "lenstronomy, rays once, PSF on pixels": by_parts,
    }


def of_caustics(columns: Columns, seeing: np.ndarray) -> dict[str, Draw]:
    """A plain loop over the functions of caustics (Stone et al. 2024), the PSF of each band by torch's FFT."""
    from caustics.lenses.func import reduced_deflection_angle_sie
    from caustics.light.func import brightness_sersic

    axis = torch.as_tensor(fine_axis())
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def loop() -> np.ndarray:
        images = np.empty((len(seeing), 3, SIDE, SIDE))
        size = SIDE + KERNEL - 1
        for row, sizes in enumerate(seeing):
            value = value_of(columns, row)
            v = {name: torch.tensor(number, dtype=torch.float64) for name, number in value.items()}
            a_x, a_y = reduced_deflection_angle_sie(0.0, 0.0, v["lens_q"], v["lens_angle"], v["theta_e"], x, y, 1e-9)
            b_x = x - a_x - v["shear_1"] * x - v["shear_2"] * y
            b_y = y - a_y - v["shear_2"] * x + v["shear_1"] * y
            b_n = torch.tensor(gammaincinv(2 * value["source_index"], 0.5))
            seen = brightness_sersic(
                v["source_x"], v["source_y"], v["source_q"], v["source_angle"], v["source_index"],
                v["source_radius"] / v["source_q"].sqrt(),  # along the major axis there
                torch.tensor(brightness_at_half_light(value)), b_x, b_y, b_n,
            )  # fmt: skip
            binned = seen.reshape(SIDE, POINTS, SIDE, POINTS).mean(dim=(1, 3)) * PIXEL_SCALE**2
            kernels = torch.as_tensor(np.stack([kernel(fwhm) for fwhm in sizes]))
            blurred = torch.fft.irfft2(
                torch.fft.rfft2(binned, s=(size, size)) * torch.fft.rfft2(kernels, s=(size, size)), s=(size, size)
            )
            edge = KERNEL // 2
            images[row] = blurred[:, edge : edge + SIDE, edge : edge + SIDE].numpy()
        return images

    return {"caustics, one at a time, PSF on pixels": loop}


def ours(columns: Columns, seeing: np.ndarray, device: str) -> dict[str, Draw]:
    """The engine: as coarse as the others, and as the step ``inject`` runs it."""

    def draw(grid: Grid, dtype: torch.dtype) -> np.ndarray:
        images, _ = unit_arcs(columns, seeing, grid, device=device, dtype=dtype)
        return images.cpu().numpy()

    same, default = Grid(oversampling=POINTS, max_oversampling=POINTS), Grid()
    bare = replace(same, resolve=False)
    return {
        "this engine, 2 x 2 points alone, float32": lambda: draw(bare, torch.float32),
        "this engine, 2 x 2 points alone, float64": lambda: draw(bare, torch.float64),
        "this engine, 2 x 2 points, float32": lambda: draw(same, torch.float32),
        "this engine, 2 x 2 points, float64": lambda: draw(same, torch.float64),
        "this engine, as inject runs it, float32": lambda: draw(default, torch.float32),
        "this engine, as inject runs it, float64": lambda: draw(default, torch.float64),
    }


def main() -> None:
    """Print arcs per second, errors and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--compared", type=int, default=96, help="stamps that the other engines draw, and errors are taken of"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    columns, seeing = drawn(options.stamps)
    few = min(options.compared, options.stamps)
    part = {name: values[:few] for name, values in columns.items()}
    engines = {name: (draw, options.stamps) for name, draw in ours(columns, seeing, options.device).items()}
    if find_spec("lenstronomy"):
        engines |= {name: (draw, few) for name, draw in of_lenstronomy(part, seeing[:few]).items()}
    if find_spec("caustics"):
        engines |= {name: (draw, few) for name, draw in of_caustics(part, seeing[:few]).items()}
    right = unit_arcs(part, seeing[:few], Grid(oversampling=20, max_oversampling=20))[0].numpy()
    errors = {}
    for name, (draw, _) in engines.items():  # also warms up
        errors[name] = np.abs(draw()[:few] - right).max((1, 2, 3)) / right.max((1, 2, 3))
    best = dict.fromkeys(engines, np.inf)
    for _ in range(options.rounds):
        for name, (draw, count) in engines.items():
            started = clock()
            draw()
            best[name] = min(best[name], (clock() - started) / count)
    print(
        f"{options.stamps} arcs in 3 bands, device {options.device}, {options.threads} threads, best of {options.rounds}"
    )
    print(f"{'':46s}{'arcs/s':>9s}{'times':>8s}{'median error':>14s}{'worst':>9s}{'110,000':>10s}")
    first = next(iter(best.values()))
    for name, seconds in best.items():
        print(
            f"{name:46s}{1 / seconds:9.0f}{seconds / first:8.1f}{np.median(errors[name]):14.1e}{errors[name].max():9.1e}"
            f"{INJECTIONS * seconds / 60:8.1f} m"
        )


if __name__ == "__main__":
    main()
