"""Import torchvision also where its compiled operators do not load.

The registry's torchvision wheel is linked against CUDA. Beside a CPU-only torch its library does not load, the
operators `nms` and `qnms` stay undeclared, and the import stops when it registers their shape functions
(pytorch/vision issues 9077 and 9085). The classification models need neither operator: declaring the two schemas
is enough. Where torchvision imports by itself, nothing is declared.
"""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType

import torch

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # the declarations live as long as their library object


@cache
def torchvision() -> ModuleType:
    """The imported torchvision package."""
    try:
        import torchvision as package
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _forget_half_imported()
        _declare()
        import torchvision as package
    return package


def _declare() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(f"{name}{_SCHEMA}")
    _libraries.append(library)


def _forget_half_imported() -> None:
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
