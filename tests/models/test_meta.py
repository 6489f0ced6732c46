"""Networks made on the meta device and filled in afterwards, as FSDP does, have the values of fresh ones."""

import pytest
import torch
from networks import NAMES, OTHERS, build, walk
from tools import as_drawn, filled_in


@pytest.mark.parametrize("name", walk(NAMES, OTHERS))
def test_a_network_filled_in_is_as_a_fresh_one(name):
    torch.manual_seed(0)
    model = filled_in(build(name, device="meta"))
    model.initialise()
    torch.manual_seed(0)
    fresh = build(name).state_dict()
    for path, tensor in model.state_dict().items():
        assert as_drawn(tensor, fresh[path]), path


def test_other_values_are_seen():
    x = torch.randn(1000)
    assert as_drawn(torch.randn(1000), x)
    for other in (torch.full((1000,), float("nan")), 1.5 * x, x + 0.5, torch.zeros(1000)):
        assert not as_drawn(other, x)
    assert not as_drawn(torch.zeros(3), torch.ones(3))
    assert not as_drawn(torch.zeros(3), torch.randn(3))
