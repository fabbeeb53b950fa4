"""Networks: published parameter counts, any number of planes, weights from elsewhere, costs (R-M1, R-M2)."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from email.message import Message
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn

from ray_train.core.models import activation_bytes, build_model, forward_flops, parameter_count, stem_of
from ray_train.core.models.weights import (
    adapt_first_convolution,
    classifier_names,
    load_pretrained,
    torchvision_weights,
)
from ray_train.core.torchvision_compat import torchvision

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed (extra lensdata[timm])"
)


@pytest.mark.parametrize(
    ("arch", "options", "parameters"),
    [
        ("resnet18", {}, 11_177_025),
        ("efficientnet_v2_s", {}, 20_178_769),
        ("shielded_resnet", {"preset": "p4"}, 194_433),
        ("shielded_resnet", {"preset": "p4_c"}, 194_433),
        ("shielded_resnet", {"preset": "l18"}, 3_511_681),
        ("shielded_resnet", {"preset": "h21"}, 66_401),
    ],
)
def test_parameter_counts_are_the_published_ones(arch: str, options: dict[str, str], parameters: int) -> None:
    assert parameter_count(build_model(arch, **options)) == parameters


@pytest.mark.parametrize("bands", [1, 4])
def test_l18_has_the_counts_of_the_lens_challenges(bands: int) -> None:
    assert parameter_count(build_model("shielded_resnet", bands, preset="l18")) == {1: 3_508_545, 4: 3_513_249}[bands]


def test_the_ledger_of_p4() -> None:
    model = build_model("shielded_resnet", preset="p4")
    counts = {name: parameter_count(child) for name, child in model.named_children()}
    stages = {f"stage{i}": 35_520 for i in (2, 3, 4)} | {"stage1": 34_400, "stage5": 41_920}
    shields = {f"shield{i}": 1_120 for i in range(1, 5)} | {"shield5": 2_208}
    assert counts == {"stem": 4_704 + 64, "head": 64 + 33} | stages | shields
    sizes = []
    x = torch.zeros(1, 3, 101, 101)
    for name, child in model.eval().named_children():
        x = child(x)
        if name.startswith("stage"):
            sizes.append(x.shape[-1])
    assert sizes == [101, 51, 26, 13, 7]


def test_p4_c_keeps_the_parameters_at_a_quarter_of_the_arithmetic() -> None:
    p4, p4_c = (build_model("shielded_resnet", preset=preset) for preset in ("p4", "p4_c"))
    names = [name for name, _ in p4_c.named_children()]
    assert names == ["stem", *(f"{kind}{i}" for i in range(1, 5) for kind in ("stage", "shield")), "stage5", "head"]
    assert [name for name, _ in p4_c.named_parameters() if name.endswith("bias") and "conv" in name] == []
    assert 0.26 < forward_flops(p4_c, 3, 101) / forward_flops(p4, 3, 101) < 0.28
    assert p4_c.eval()(torch.zeros(2, 3, 101, 101)).shape == (2, 1)


@pytest.mark.parametrize("arch", ["resnet18", "efficientnet_v2_s", "shielded_resnet"])
@pytest.mark.parametrize("planes", [1, 6])
def test_any_number_of_planes_gives_one_logit(arch: str, planes: int) -> None:
    assert build_model(arch, planes).eval()(torch.zeros(2, planes, 63, 63)).shape == (2, 1)


def test_torchvisions_own_networks_give_the_same_answer() -> None:
    ours = build_model("resnet18").eval()
    theirs = torchvision().models.resnet18(num_classes=1).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


def test_pretrained_weights_keep_their_answer_to_grey_images() -> None:
    published = torchvision().models.resnet18(num_classes=1000).eval()
    grey = torch.randn(2, 1, 64, 64)
    expected = published.layer4(features(published, grey.expand(2, 3, 64, 64)))
    for planes in (1, 6):
        model = build_model("resnet18", planes, weights=published.state_dict()).eval()
        found = model.layer4(features(model, grey.expand(2, planes, 64, 64)))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def features(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return model.layer3(model.layer2(model.layer1(x)))


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights are of another network: conv1.weight is missing"):
        build_model("resnet18", weights=build_model("shielded_resnet").state_dict())


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'resnet19'; known are resnet18"):
        build_model("resnet19")
    with pytest.raises(ValueError, match="unknown preset 'p5'"):
        build_model("shielded_resnet", preset="p5")


def test_the_stem_is_the_first_convolution() -> None:
    assert [stem_of(build_model(arch)) for arch in ("resnet18", "efficientnet_v2_s", "shielded_resnet")] == [
        "conv1",
        "features.0.0",
        "stem.0",
    ]


@needs_timm
@pytest.mark.parametrize("planes", [1, 3, 6])
def test_a_timm_network_has_one_logit_for_any_number_of_planes(planes: int) -> None:
    model = build_model("timm:mobilenetv3_small_050", planes).eval()
    assert model(torch.zeros(2, planes, 63, 63)).shape == (2, 1)
    assert stem_of(model) == "conv_stem"
    assert model.get_submodule("conv_stem").in_channels == planes


@needs_timm
def test_timms_resnet18_is_torchvisions() -> None:
    ours = build_model("resnet18").eval()
    timms = build_model("timm:resnet18", weights=ours.state_dict()).eval()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(timms(x), ours(x))


@needs_timm
@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("mobilenetv3_small_050", ("classifier",)),
        ("convnext_atto", ("head.fc",)),
        ("deit_tiny_distilled_patch16_224", ("head", "head_dist")),
    ],
)
def test_the_last_layer_of_a_timm_network_is_the_one_it_declares(name: str, heads: tuple[str, ...]) -> None:
    assert classifier_names(build_model(f"timm:{name}")) == heads


@needs_timm
def test_timm_weights_of_a_thousand_classes_start_a_network_of_six_planes() -> None:
    published = build_model("timm:mobilenetv3_small_050").state_dict()
    head = torch.ones(1000, published["classifier.weight"].shape[1])
    weights = published | {"classifier.weight": head, "classifier.bias": torch.ones(1000)}
    found = build_model("timm:mobilenetv3_small_050", 6, weights=weights).state_dict()
    stem = found["conv_stem.weight"]
    torch.testing.assert_close(stem[:, :3] + stem[:, 3:], published["conv_stem.weight"])
    assert torch.equal(found["conv_head.weight"], published["conv_head.weight"])


@needs_timm
def test_the_head_of_a_timm_network_need_not_be_its_last_linear_layer() -> None:
    model = build_model("timm:mobilenetv3_small_050")
    model.add_module("auxiliary", nn.Linear(4, 4))
    assert classifier_names(model) == ("classifier",)
    load_pretrained(model, model.state_dict() | {"classifier.weight": torch.ones(1000, 4)}, stem_of(model))
    with pytest.raises(ValueError, match="auxiliary.weight is of shape"):
        load_pretrained(model, model.state_dict() | {"auxiliary.weight": torch.ones(1000, 4)}, stem_of(model))


@needs_timm
def test_an_unknown_timm_network_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="timm has no network 'resnett18'; near it are .*resnet18"):
        build_model("timm:resnett18")
    with pytest.raises(ValueError, match="timm has no network 'hf-hub:someone/network'"):
        build_model("timm:hf-hub:someone/network")


@needs_timm
def test_a_tag_that_timm_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"timm cannot build 'resnet18.no_tag' with 3 planes and one logit"):
        build_model("timm:resnet18.no_tag")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm:NAME needs timm; install the extra lensdata\[timm\]"):
        build_model("timm:resnet18")


@pytest.mark.parametrize("planes", [1, 2, 4, 6, 9])
def test_an_inflated_stem_keeps_the_sum_over_planes(planes: int) -> None:
    weight = torch.randn(64, 3, 7, 7)
    inflated = adapt_first_convolution(weight, planes)
    assert inflated.shape == (64, planes, 7, 7)
    torch.testing.assert_close(inflated.sum(dim=1), weight.sum(dim=1))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of torch.hub, and no network."""

    def refuse(*args: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    return tmp_path / "hub" / "checkpoints"


def test_torchvisions_weights_come_from_the_cache_of_the_hub(hub: Path) -> None:
    published = torchvision().models.resnet18(num_classes=1000).state_dict()
    hub.mkdir(parents=True)
    torch.save(published, hub / "resnet18-f37072fd.pth")
    model = build_model("resnet18", weights=torchvision_weights("resnet18"))
    assert torch.equal(model.layer4[1].conv2.weight, published["layer4.1.conv2.weight"])


def test_without_a_network_the_weights_ask_for_a_file(hub: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"weights https://\S+/efficientnet_v2_s-\w+.pth could not be loaded .*; give a state_dict file instead$",
    ):
        torchvision_weights("efficientnet_v2_s")


def test_weights_with_another_hash_are_refused(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(io.BytesIO):
        def info(self) -> Message:
            return Message()

    monkeypatch.setattr("torch.hub.urlopen", lambda request: Answer(b"something else"))
    with pytest.raises(ValueError, match=r"invalid hash value .*; give a state_dict file instead$"):
        torchvision_weights("resnet18")
    assert list(hub.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_one_sentence(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / "resnet18-f37072fd.pth").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"could not be loaded .*; give a state_dict file instead$"):
        torchvision_weights("resnet18")


@pytest.mark.parametrize("arch", ["shielded_resnet", "timm:resnet18"])
def test_torchvision_has_weights_of_its_own_networks_only(arch: str) -> None:
    with pytest.raises(ValueError, match=f"torchvision has no weights of {arch}; give a state_dict file"):
        torchvision_weights(arch)


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (2, 3, 1), (1, 1, 3)])
def test_flops_are_two_per_multiply_add_of_a_convolution(stride: int, padding: int, groups: int) -> None:
    convolution = nn.Conv2d(3, 12, 7, stride, padding, groups=groups)
    side = (33 + 2 * padding - 7) // stride + 1
    assert forward_flops(convolution, 3, 33) == 2 * (3 // groups * 7 * 7) * 12 * side * side


class TwoLayers(nn.Module):
    """A convolution with BatchNorm and rectifier, and a linear layer: what each keeps can be told by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 10 * 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(self.norm(self.conv(x))).flatten(1))


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_a_stamp_keeps_what_a_hand_count_says(batch: int) -> None:
    stamp, plane = 3 * 10 * 10, 4 * 10 * 10
    # The convolution keeps the stamp, BatchNorm the convolution's answer, the rectifier its own, which is the linear
    # layer's input as well.
    assert activation_bytes(TwoLayers(), 3, 10, batch=batch) == 4 * (stamp + plane + plane)


def test_half_precision_keeps_half_of_the_planes() -> None:
    full, half = (activation_bytes(build_model("shielded_resnet"), 3, 32, precision) for precision in ("fp32", "bf16"))
    assert half == pytest.approx(full / 2, rel=0.01)


def test_a_frozen_layer_keeps_nothing() -> None:
    model = TwoLayers()
    model.conv.requires_grad_(False)
    assert activation_bytes(model, 3, 10) == activation_bytes(TwoLayers(), 3, 10) - 4 * 3 * 10 * 10


def test_counting_costs_leaves_the_network_and_the_generator_alone() -> None:
    model = nn.Sequential(TwoLayers(), nn.Dropout(0.5))
    model[0].norm.eval()  # as in a frozen layer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    forward_flops(model, 3, 10)
    activation_bytes(model, 3, 10)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("preset", ["p4_c", "h21"])
@pytest.mark.parametrize("count", [3, 33])
def test_an_odd_micro_batch_in_channels_last_has_the_gradient_of_the_plain_layout(preset: str, count: int) -> None:
    """In a process of its own: a kernel that writes outside its memory ends it."""
    code = f"""
import torch
from ray_train.core.models import build_model
torch.set_num_threads(2)
x = torch.randn({count}, 3, 33, 33)
grads = []
for layout in (torch.contiguous_format, torch.channels_last):
    torch.manual_seed(0)
    model = build_model("shielded_resnet", preset={preset!r}).to(memory_format=layout).train()
    for _ in range(3):
        model.zero_grad()
        model(x.contiguous(memory_format=layout)).sum().backward()
    grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
assert torch.allclose(*grads, rtol=1e-3, atol=1e-3 * float(grads[0].abs().max()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
