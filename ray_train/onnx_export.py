"""A finder as ONNX: stamps as they are stored go in, logits come out, preprocessing included.

Medians are sorts, annuli and rings are constant index tables, so every normalisation exports; what onnxruntime makes of it is
compared with torch on real stamps (`ray_train.make_bundle`).
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lensdata.errors import InputError
from lensdata.shards.layout import Stamps
from ray_train.bundle import Finder

INPUT, OUTPUT = "stamps", "logit"
OPSET = 20


def require_onnx() -> None:
    """Refuse to begin where the packages are missing."""
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(f"ONNX needs the packages {', '.join(absent)}; install the extra lensdata[onnx].")


def export(finder: Finder, shape: tuple[int, int, int]) -> bytes:
    """The finder as an ONNX file with one float32 input ``stamps`` (n, H, W, C), any n, and one output ``logit`` (n,).

    Parameters
    ----------
    shape
        (H, W, C) of a stamp.
    """
    require_onnx()
    finder = finder.cpu().eval()
    example = torch.zeros(2, *shape)
    with torch.no_grad():
        finder(example)  # index tables are cached by their first use, which must not be the exporter's
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            finder, (example,), dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_shapes={"stamps_NHWC": {0: torch.export.Dim("n", min=1, max=1 << 20)}}, verbose=False,
        )  # fmt: skip
        assert program is not None
        place = Path(scratch) / "model.onnx"
        program.save(str(place), external_data=False)
        return place.read_bytes()


def run(model: bytes, stamps_NHWC: Stamps, batch: int = 32) -> npt.NDArray[np.float32]:
    """Logits by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    stamps = np.asarray(stamps_NHWC, np.float32)
    parts = [session.run([OUTPUT], {INPUT: stamps[at : at + batch]})[0] for at in range(0, len(stamps), batch)]
    return np.concatenate(parts)
