"""The reference networks of the benchmarks compute the same as ours."""

import peers
import pytest
import torch
from references import randomise


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_is_the_same_network(name, monkeypatch):
    build = peers.PEERS[name].build
    monkeypatch.setitem(peers.PEERS, name, peers.PEERS[name]._replace(build=lambda: scaled(randomise(build()))))
    ours, theirs = (network.double().eval() for network in peers.build(name))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0
        torch.testing.assert_close(ours(x), expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())


@torch.no_grad()
def scaled(network):
    """Kernels by their fan-in, so that nothing overflows."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.div_(parameter[0].numel() ** 0.5)
    return network


@pytest.mark.parametrize("name", peers.PEERS)
def test_no_branch_begins_switched_off(name):
    for network in peers.build(name):
        least = min(parameter.abs().max() for key, parameter in network.named_parameters() if not key.endswith("bias"))
        assert least > 1e-3
