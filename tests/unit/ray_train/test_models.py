"""Networks: published parameter counts, any number of planes, weights from elsewhere (R-M1, R-M2)."""

from __future__ import annotations

import pytest
import torch

from ray_train.core.models import build_model, count_parameters, stem_of
from ray_train.core.torchvision_compat import torchvision


@pytest.mark.parametrize(
    ("arch", "options", "parameters"),
    [
        ("resnet18", {}, 11_177_025),
        ("efficientnet_v2_s", {}, 20_178_769),
        ("shielded_resnet", {"preset": "p4"}, 194_433),
        ("shielded_resnet", {"preset": "l18"}, 3_511_681),
        ("shielded_resnet", {"preset": "h21"}, 66_401),
    ],
)
def test_parameter_counts_are_the_published_ones(arch: str, options: dict[str, str], parameters: int) -> None:
    assert count_parameters(build_model(arch, **options)) == parameters


@pytest.mark.parametrize("bands", [1, 4])
def test_l18_has_the_counts_of_the_lens_challenges(bands: int) -> None:
    assert count_parameters(build_model("shielded_resnet", bands, preset="l18")) == {1: 3_508_545, 4: 3_513_249}[bands]


def test_the_ledger_of_p4() -> None:
    model = build_model("shielded_resnet", preset="p4")
    counts = {name: count_parameters(child) for name, child in model.named_children()}
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
