"""``python -m ray_train.model``: what it prints and returns."""

from __future__ import annotations

import pytest

from ray_train import model
from ray_train.core.models import ARCHITECTURES
from ray_train.core.models.shielded import PRESETS


def cells(out: str, name: str) -> list[str]:
    """The cells of a network's line."""
    line = next(line for line in out.splitlines() if f"│ {name} " in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_one_network_has_its_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["resnet18"]) == 0
    name, parameters, flops, *_ = cells(capsys.readouterr().out, "resnet18")
    assert (name, parameters, flops) == ("resnet18", "11,177,025", "0.899")


def test_memory_is_activations_and_sixteen_bytes_per_parameter() -> None:
    cost = model.Cost("tiny", parameters=1_000, flops=1, stamp_bytes=500.0)
    assert cost.memory_bytes(64) == 16 * 1_000 + 64 * 500


def test_without_a_name_every_architecture_and_preset_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["--size", "32", "--precision", "bf16"]) == 0
    out = capsys.readouterr().out
    names = [name for name in ARCHITECTURES if name != model.SHIELDED]
    for name in names + [f"{model.SHIELDED} {preset}" for preset in PRESETS]:
        assert len(cells(out, name)) == 8
    assert "3 x 32 x 32 stamps, bf16" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet19"], "Model: unknown architecture 'resnet19'; known are resnet18, "),
        (["shielded_resnet", "--preset", "p5"], "Model: unknown preset 'p5' of shielded_resnet; known are p4, "),
        (["resnet18", "--preset", "p4"], "--preset is of shielded_resnet alone"),
        (["resnet18", "--in-channels", "0"], "Model: in_channels must be at least 1, found 0."),
        (["resnet18", "--size", "0"], "--size must be 1 to 1024 pixels, found 0."),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {sentence}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_size_that_a_network_does_not_take_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm", reason="timm is not installed (extra lensdata[timm])")
    assert model.main(["timm:vit_tiny_patch16_224"]) == 2
    assert "does not take stamps of 101 x 101 pixels" in capsys.readouterr().err
