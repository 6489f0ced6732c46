import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cifarblocks
from cifarblocks.training.optim.groups import (
    build_optimizer,
    filters_without_biases,
    parameter_groups,
)
from cifarblocks.training.optim.muon import Muon, MuonAdamW
from cifarblocks.training.optim.schedule import Schedule
from cifarblocks.training.options.recipes import load_recipes, recipe_of_family


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.gamma = nn.Parameter(torch.ones(4))
        self.relative_bias = nn.Parameter(torch.zeros(2, 3, 3))
        self.positions = nn.Parameter(torch.zeros(5, 4))
        self.token = nn.Parameter(torch.zeros(1, 4))


def test_only_convolutions_and_matrices_decay():
    model = nn.Sequential(Parts(), nn.Linear(4, 2))
    decayed, undecayed = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1
    assert undecayed["weight_decay"] == 0
    assert {names[id(p)] for p in decayed["params"]} == {"0.conv.weight", "1.weight"}
    assert len(decayed["params"]) + len(undecayed["params"]) == len(names)


@pytest.mark.parametrize("name", ["nano_vit", "coatnet_nano_cifar", "mlp_mixer_tiny", "hornet_nano_cifar"])
def test_in_real_networks_only_what_is_called_a_weight_decays(name):
    with torch.device("meta"):
        model = cifarblocks.create_model(name)
    decayed = {id(parameter) for parameter in parameter_groups(model, 0.1)[0]["params"]}
    for path, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (path.endswith("weight") and parameter.ndim > 1), path


KINDS = {"sgd": torch.optim.SGD, "muon": Muon, "adamw": torch.optim.AdamW, "muon_adamw": MuonAdamW}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_the_optimizer_is_what_was_asked(name, kind):
    optimizer = build_optimizer(name, nn.ModuleDict({"stages": nn.ModuleList([nn.Linear(2, 2)])}), 0.1)
    assert type(optimizer) is kind
    assert "adamw" in name or (optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == 0.9)


FAMILIES = load_recipes()[1]
TWINS = [
    "resnet_18",
    *(
        name
        for name in cifarblocks.list_models("*20*")
        if recipe_of_family(name, FAMILIES) == "residual_networks_muon" and name != "eca_resnet_20"
    ),
]


@pytest.mark.parametrize(
    "name", ["eca_resnet_20", "resnet_50", *(pytest.param(name, marks=pytest.mark.slow) for name in TWINS)]
)
def test_muon_moves_all_filters_of_its_family_and_none_needs_its_length(name):
    torch.manual_seed(0)
    model = cifarblocks.create_model(name).double().train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-12
    optimizer = build_optimizer("muon", model, 0.1, muon_share=0.3)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, model.parameters()))
    orthogonal = [group for group in optimizer.param_groups if group["orthogonal"]]
    assert [group["scale"] for group in orthogonal] == [0.3]
    assert set(map(id, orthogonal[0]["params"])) == {id(p) for p in model.parameters() if p.ndim == 4}
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    before = model(x)
    with torch.no_grad():
        for number, parameter in enumerate(orthogonal[0]["params"]):
            parameter.mul_(2 + number)
    torch.testing.assert_close(model(x), before, atol=1e-6, rtol=1e-6)


def test_muon_leaves_depthwise_and_grouped_filters_and_those_with_biases_to_sgd():
    convolutions = {
        "moved": nn.Conv2d(1, 4, 3, bias=False),
        "depthwise": nn.Conv2d(4, 4, 3, groups=4, bias=False),
        "grouped": nn.Conv2d(4, 4, 3, groups=2, bias=False),
        "with_bias": nn.Conv2d(4, 4, 1),
    }
    assert filters_without_biases(nn.ModuleDict(convolutions)) == ["moved.weight"]


RECIPES = ("attention_and_convnext_muon", "attention_and_convnext_adamw")
MATRICES = [
    name for name in cifarblocks.list_models() if recipe_of_family(name, FAMILIES) in RECIPES and name != "patch_lstm"
]
QUICK = ["convnext_atto_cifar", "vit_nano_cifar", "coatnet_nano_cifar", "lsknet_tiny_cifar", "hornet_tiny_gf"]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MATRICES if name not in QUICK)]
)
def test_muon_beside_adamw_moves_the_matrices_of_blocks_alone(name):
    with torch.device("meta"):
        model = cifarblocks.create_model(name)
    optimizer = build_optimizer("muon_adamw", model, 0.1)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(groups) == len(list(model.parameters()))
    moved = 0
    for path, parameter in model.named_parameters():
        layer = model.get_submodule(path.rpartition(".")[0])
        matrix = path.startswith("stages.") and path.endswith("weight") and parameter.ndim in (2, 4)
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
        group = groups[id(parameter)]
        assert group["orthogonal"] == (matrix and not depthwise and not isinstance(layer, nn.LSTM)), path
        assert group["weight_decay"] == 0.1 or not group["orthogonal"]
        moved += parameter.numel() if group["orthogonal"] else 0
    assert moved > 0.7 * sum(parameter.numel() for parameter in model.parameters()), name


@given(total=st.integers(1, 200), share=st.floats(0, 0.99), peak=st.floats(0.001, 10))
def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine(total, share, peak):
    warmup = int(total * share)
    schedule = Schedule(epochs=1, steps=total, batch_size=256, lr=peak, warmup_epochs=warmup / total)
    rates = [schedule.rate(step) for step in range(total)]
    assert rates[:warmup] == pytest.approx([peak * (step + 1) / warmup for step in range(warmup)])
    assert rates[warmup] == peak
    # A cosine falls by what a pendulum does: its middle is half the peak, and it ends at 0.
    assert schedule.rate(total) == pytest.approx(0, abs=1e-12 * peak)
    assert schedule.rate((total + warmup) / 2) == pytest.approx(peak / 2)
    assert all(a >= b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))


def test_the_learning_rate_grows_with_the_global_batch():
    for batch_size, rate in ((256, 0.3), (64, 0.075), (1024, 1.2)):
        schedule = Schedule(epochs=2, steps=5, batch_size=batch_size, lr=0.3, final_lr=0.03)
        assert [schedule.rate(0), schedule.peak] == pytest.approx([rate, rate])
        assert schedule.rate(10) == pytest.approx(rate / 10)
