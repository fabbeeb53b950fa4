"""What a network costs, before it is trained: parameters, arithmetic and memory (R-M1, R-M2).

python -m ray_train.model                                  # every architecture and preset
python -m ray_train.model shielded_resnet --preset p4_c --precision bf16
python -m ray_train.model timm:convnext_nano --size 64
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from torch import nn

from lensdata.errors import InputError
from lensdata.steps import EXIT_DONE, EXIT_INPUT
from ray_train.core.models import ARCHITECTURES, activation_bytes, build_model, forward_flops, parameter_count
from ray_train.core.models.shielded import PRESETS
from ray_train.core.window import AUTOCAST

MICRO_BATCHES = (64, 128, 512, 2048)
STATE_BYTES = 16  # per parameter: weight, gradient and AdamW's two moments, float32 each
SHIELDED = "shielded_resnet"
MB, GB = 1e6, 1e9
MAX_SIZE = 1024
TABLE_WIDTH = 118  # where the output is no terminal


@dataclass(frozen=True)
class Cost:
    """One line of the table."""

    name: str
    parameters: int
    flops: int
    stamp_bytes: float

    def memory_bytes(self, micro_batch: int) -> float:
        """Weights, gradients, AdamW's moments and the activations of a micro-batch."""
        return STATE_BYTES * self.parameters + self.stamp_bytes * micro_batch


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code (0 done, 2 bad input)."""
    args = _parser().parse_args(argv)
    try:
        costs = [_cost(name, preset, args) for name, preset in _wanted(args)]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
        return EXIT_INPUT
    _show(costs, args)
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ray_train.model", description="What a network costs.")
    parser.add_argument("name", nargs="?", help=f"{', '.join(ARCHITECTURES)} or timm:NAME; all but timm's by default")
    parser.add_argument("--preset", help=f"of {SHIELDED}: {', '.join(PRESETS)} (p4)")
    parser.add_argument("--in-channels", type=int, default=3, help="planes of a stamp (%(default)s)")
    parser.add_argument("--size", type=int, default=101, help="side of a stamp in pixels (%(default)s)")
    parser.add_argument("--precision", choices=AUTOCAST, default="fp32", help="autocast type (%(default)s)")
    return parser


def _wanted(args: argparse.Namespace) -> list[tuple[str, str]]:
    if args.preset and args.name != SHIELDED:
        raise InputError(f"--preset is of {SHIELDED} alone; give its name before it.")
    if not 1 <= args.size <= MAX_SIZE:
        raise InputError(f"--size must be 1 to {MAX_SIZE} pixels, found {args.size}.")
    if args.name:
        return [(args.name, args.preset or "p4")]
    return [(name, preset) for name in ARCHITECTURES for preset in (PRESETS if name == SHIELDED else ("p4",))]


def _cost(name: str, preset: str, args: argparse.Namespace) -> Cost:
    try:
        model = build_model(name, args.in_channels, preset=preset)
    except ValueError as error:
        raise InputError(f"Model: {error}.") from error
    title = f"{name} {preset}" if name == SHIELDED else name
    return Cost(title, parameter_count(model), *_measured(model, title, args))


def _measured(model: nn.Module, title: str, args: argparse.Namespace) -> tuple[int, float]:
    try:
        return (
            forward_flops(model, args.in_channels, args.size),
            activation_bytes(model, args.in_channels, args.size, args.precision),
        )
    except (AssertionError, RuntimeError, ValueError) as error:  # a size that the network does not take
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{title} does not take stamps of {args.size} x {args.size} pixels: {reason}.") from error


def _show(costs: list[Cost], args: argparse.Namespace) -> None:
    table = Table(
        title=f"{args.in_channels} x {args.size} x {args.size} stamps, {args.precision}",
        caption=(
            "GFLOP: forward pass of a stamp, 2 per multiply-add. Kept: activations held for the backward pass, counted "
            f"on the CPU. Memory: what a micro-batch keeps, with {STATE_BYTES} bytes per parameter for weights, gradients "
            "and AdamW's moments; working space of the kernels comes on top."
        ),
        caption_justify="left",
    )
    table.add_column("network")
    memory = [f"GB at {micro_batch}" for micro_batch in MICRO_BATCHES]
    for heading in ("parameters", "GFLOP", "kept, MB per stamp", *memory):
        table.add_column(heading, justify="right")
    for cost in costs:
        table.add_row(
            cost.name,
            f"{cost.parameters:,}",
            f"{cost.flops / 1e9:.3f}",
            f"{cost.stamp_bytes / MB:.2f}",
            *(f"{cost.memory_bytes(micro_batch) / GB:.2f}" for micro_batch in MICRO_BATCHES),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
