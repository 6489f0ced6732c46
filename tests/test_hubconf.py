"""hubconf.py as torch.hub reads it, from another folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import cifarblocks

ROOT = Path(__file__).parents[1]
CODE = """
import json, sys, torch
repository, entry = sys.argv[1], {"source": "local"}
model = torch.hub.load(repository, "eca_resnet_20", pretrained=True, **entry)
untrained = torch.hub.load(repository, "eca_resnet_20", num_classes=7, **entry)
named = torch.hub.load(repository, "eca_resnet_20", weights="digits", **entry)
trained = torch.hub.load(repository, "load", "eca_resnet_20.digits", **entry)
import cifarblocks
x = torch.ones(1, 3, 32, 32)
print(json.dumps({
    "file": cifarblocks.__file__,
    "logits": [each.eval()(x).tolist() for each in (model, named, trained.model)],
    "classes": untrained.head.classifier.out_features,
}))
"""


def test_torch_hub_builds_models_and_loads_weights_from_a_clone(tmp_path):
    command = [sys.executable, "-c", CODE, str(ROOT)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert Path(found["file"]).is_relative_to(ROOT / "src")
    first, *_ = cifarblocks.list_weights("eca_resnet_20.*")
    for logits, name in zip(found["logits"], (first, "eca_resnet_20.digits", "eca_resnet_20.digits"), strict=True):
        with torch.inference_mode():
            expected = cifarblocks.load(name).model(torch.ones(1, 3, 32, 32))
        torch.testing.assert_close(torch.tensor(logits), expected)
    assert found["classes"] == 7


def test_the_entry_points_are_the_models_and_load(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    module = torch.hub._import_module("hubconf", ROOT / "hubconf.py")
    listed = [name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")]
    assert sorted(listed) == sorted([*cifarblocks.list_models(), "load"])  # as torch.hub.list does
    told = module.eca_resnet_20.__doc__  # as torch.hub.help does
    assert "digits" in told
    assert cifarblocks.models.eca_resnet_20.__doc__.splitlines()[0] in told
