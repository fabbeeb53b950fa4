"""How many arcs per second? The batched tracer beside the simulated sky's numpy loop and, where it is installed, lenstronomy.

    python benchmarks/injection.py [--stamps 96] [--rounds 3] [--device cuda]

Every engine draws the same lenses: 73 x 73 pixels, 4 x 4 points per pixel, three bands with a seeing of their own. lenstronomy
traces the rays once per stamp, as the others do, and convolves with each band's kernel of 31 x 31 pixels by FFT. Rounds alternate
between the engines; a figure is the best round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch

from lensdata.config.simulation import LensesConfig
from lensdata.simulation import lenses
from lensdata.simulation.galaxies import psf_mixture
from lensdata.simulation.injection import Grid, unit_arcs
from lensdata.simulation.randomness import KeyedDraws
from lensdata.simulation.sky import PIXEL_SCALE

Columns = dict[str, np.ndarray]
KERNEL = 31


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


def batched(columns: Columns, seeing: np.ndarray, device: str, dtype: torch.dtype) -> np.ndarray:
    """The engine of the step ``inject``; total light per stamp and band."""
    memory = (32 if device == "cpu" else 4096) << 20
    images, _ = unit_arcs(columns, seeing, Grid(), device=device, dtype=dtype, memory_bytes=memory)
    return images.sum(dim=(2, 3)).cpu().numpy()


def one_by_one(columns: Columns, seeing: np.ndarray) -> np.ndarray:
    """The engine of the simulated sky."""
    totals = []
    for row, sizes in enumerate(seeing):
        values = {name: float(columns[name][row]) for name in lenses.PARAMETERS}
        psfs = tuple(psf_mixture(size) for size in sizes)
        totals.append(lenses.arc_patch(values, 0.0, 0.0, np.ones(3), psfs, 4).image.sum(axis=(1, 2)))
    return np.array(totals)


def kernel(fwhm: float) -> np.ndarray:
    """The PSF on pixels."""
    y, x = np.indices((KERNEL, KERNEL)) - KERNEL // 2
    psf = psf_mixture(fwhm)
    image = sum(w / v * np.exp(-0.5 * (x**2 + y**2) / v) for w, v in zip(psf.weight, psf.variance, strict=True))
    return np.asarray(image / image.sum())


def lenstronomy(columns: Columns, seeing: np.ndarray) -> np.ndarray:
    """The same by lenstronomy (Birrer & Amara 2018)."""
    from lenstronomy.ImSim.Numerics.convolution import PixelKernelConvolution
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    model, light = LensModel(["SIE", "SHEAR"]), LightModel(["SERSIC_ELLIPSE"])
    fine = ((np.arange(73 * 4) + 0.5) / 4 - 0.5 - 36) * PIXEL_SCALE
    x, y = (axis.ravel() for axis in np.meshgrid(fine, fine))
    totals = []
    for row, sizes in enumerate(seeing):
        value = {name: float(columns[name][row]) for name in lenses.PARAMETERS}
        e1, e2 = phi_q2_ellipticity(value["lens_angle"], value["lens_q"])
        s1, s2 = phi_q2_ellipticity(value["source_angle"], value["source_q"])
        mass = [
            {"theta_E": value["theta_e"], "e1": e1, "e2": e2},
            {"gamma1": value["shear_1"], "gamma2": value["shear_2"]},
        ]
        source = [
            {
                "amp": 1 / source_norm(value), "R_sersic": value["source_radius"], "n_sersic": value["source_index"],
                "e1": s1, "e2": s2, "center_x": value["source_x"], "center_y": value["source_y"],
            }
        ]  # fmt: skip
        seen = light.surface_brightness(*model.ray_shooting(x, y, mass), source)
        binned = seen.reshape(73, 4, 73, 4).mean(axis=(1, 3)) * PIXEL_SCALE**2
        bands = [PixelKernelConvolution(kernel(size), convolution_type="fft").convolution2d(binned) for size in sizes]
        totals.append([band.sum() for band in bands])
    return np.array(totals)


def source_norm(value: dict[str, float]) -> float:
    """Flux of a Sersic source whose brightness at the half-light radius is 1."""
    from lensdata.simulation.lensing import sersic_b, sersic_norm

    index = value["source_index"]
    return sersic_norm(index) * np.exp(sersic_b(index)) * value["source_radius"] ** 2


def main() -> None:
    """Print arcs per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    columns, seeing = drawn(options.stamps)
    engines: dict[str, Callable[[], np.ndarray]] = {
        "numpy, one by one": lambda: one_by_one(columns, seeing),
        "torch, batched, float64": lambda: batched(columns, seeing, options.device, torch.float64),
        "torch, batched, float32": lambda: batched(columns, seeing, options.device, torch.float32),
    }
    if find_spec("lenstronomy"):
        engines["lenstronomy"] = lambda: lenstronomy(columns, seeing)
    totals = {name: engine() for name, engine in engines.items()}  # also warms up
    best = dict.fromkeys(engines, np.inf)
    for _ in range(options.rounds):
        for name, engine in engines.items():
            started = time.perf_counter()
            engine()
            best[name] = min(best[name], time.perf_counter() - started)
    reference = best["numpy, one by one"]
    print(
        f"{options.stamps} arcs in 3 bands, device {options.device}, {torch.get_num_threads()} threads, best of {options.rounds}"
    )
    print(f"{'engine':26s} {'arcs/s':>9s} {'of numpy':>9s} {'light':>8s}")
    for name, seconds in best.items():
        light = float(np.median(totals[name] / totals["numpy, one by one"]))
        print(f"{name:26s} {options.stamps / seconds:9.1f} {reference / seconds:9.2f} {light:8.5f}")


if __name__ == "__main__":
    main()
