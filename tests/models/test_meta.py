"""Networks made on the meta device and filled in afterwards, as FSDP does, have the values of fresh ones."""

import pytest
import torch
import torch.distributed.fsdp
from networks import build, walk, without_repetitions
from tools import as_drawn, filled_in, slow
from two_processes import run


@pytest.mark.parametrize("name", walk())
def test_a_network_filled_in_is_as_a_fresh_one(name):
    torch.manual_seed(0)
    model = filled_in(without_repetitions(build(name, device="meta")))
    model.initialise()
    torch.manual_seed(0)
    fresh = without_repetitions(build(name)).state_dict()
    for path, tensor in model.state_dict().items():
        assert as_drawn(tensor, fresh[path]), path


def test_other_values_are_seen():
    x = torch.randn(1000)
    assert as_drawn(torch.randn(1000), x)
    for other in (torch.full((1000,), float("nan")), 1.5 * x, x + 0.5, torch.zeros(1000)):
        assert not as_drawn(other, x)
    assert not as_drawn(torch.zeros(3), torch.ones(3))
    assert not as_drawn(torch.zeros(3), torch.randn(3))


@pytest.mark.parametrize("names", [["vit_nano_cifar"], slow(["resnet_20", "coatnet_nano_cifar"])])
def test_networks_are_sharded_from_the_meta_device_over_two_processes(tmp_path, names):
    if not hasattr(torch.distributed.fsdp, "fully_shard"):
        pytest.skip("fully_shard is in torch 2.6 and later")
    for status, output in run(tmp_path, "sharded", *names):
        assert status == 0, output
        assert output.split() == names
