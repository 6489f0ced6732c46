import pytest
import torch
from refusals import refuses

from cifarblocks.cli import finetune, predict, train
from cifarblocks.training.device import find_device
from cifarblocks.training.errors import UserError


@pytest.mark.parametrize(
    ("gpu", "kind", "expected"), [(False, None, "cpu"), (True, None, "cuda"), (True, "cpu", "cpu")]
)
def test_a_gpu_is_taken_where_there_is_one_and_none_other_is_asked_for(monkeypatch, gpu, kind, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert find_device(kind) == torch.device(expected)


def test_a_gpu_that_is_not_there_is_refused():
    with refuses(UserError, "--device cuda", "GPU"):
        find_device("cuda")


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (train.main, ["--model", "mlp"]),
        (finetune.main, ["--weights", "eca_resnet_20.digits"]),
        (predict.main, ["--weights", "eca_resnet_20.digits", "--evaluate"]),
    ],
)
def test_every_command_that_computes_does_so_on_the_device_of_its_option(main, arguments, refused):
    refused(main, [*arguments, "--device", "cuda"], "--device cuda", "GPU")
