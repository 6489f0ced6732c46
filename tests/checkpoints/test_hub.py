"""The Hugging Face Hub without a network: the folder that is pushed, the calls that push it, and a filled cache."""

import json
import shutil
import sys
from dataclasses import replace
from unittest.mock import create_autospec

import pytest
import torch
from cards import CARD
from huggingface_hub import HfApi, ModelCard, RepoUrl, constants
from huggingface_hub.utils import LocalEntryNotFoundError
from refusals import refuses
from run_folders import summary

import cifarblocks
from cifarblocks import checkpoints
from cifarblocks.checkpoints import hub
from cifarblocks.checkpoints.own import read_weights
from cifarblocks.pretrained import find_weights
from cifarblocks.training.run_folder.weights import save_weights

DIGITS = "eca_resnet_20.digits"
COMMIT = "0" * 40


def written(folder, path, **arguments):
    """Read the card as the Hub does, the page below it, and the weights."""
    hub.write_folder(folder, path, "me/mine", **arguments)
    assert {file.name for file in folder.iterdir()} == {"README.md", "model.safetensors"}
    readme = ModelCard.load(folder / "README.md")
    return readme.data, readme.text, read_weights(folder / "model.safetensors")


def test_the_folder_of_the_packages_weights_says_what_the_hub_reads(tmp_path):
    data, text, (tensors, card) = written(tmp_path / "new" / "a", DIGITS)
    before, before_card = read_weights(find_weights(DIGITS))
    assert card == before_card
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {name: t.dtype for name, t in before.items()}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())
    assert (data.library_name, data.pipeline_tag) == ("cifarblocks", "image-classification")
    assert (data.license, data.metrics) == ("mit", ["accuracy"])
    assert "eca_resnet_20" in data.tags
    (result,) = data.eval_results
    assert (result.metric_type, result.dataset_name) == ("accuracy", card.data)
    assert result.metric_value == pytest.approx(card.accuracy["top1"] / 100, abs=1e-6)
    assert 'load_from_hub("me/mine")' in text
    assert "99.44 %" in text


def test_the_folder_may_be_a_string_and_exist(tmp_path):
    hub.write_folder(str(tmp_path), str(find_weights(DIGITS)), "me/mine")
    assert cifarblocks.load(tmp_path).card == cifarblocks.load(DIGITS).card


def test_a_runs_weights_get_the_result_of_the_run(command, image_folder, tmp_path):
    command("train", "--model", "mlp", "--data", "folder:shades", "--epochs", 1, "--batch-size", 8, "--name", "a")
    run = tmp_path / "runs/mlp/a"
    data, text, (_, card) = written(tmp_path / "pushed", run / "last.safetensors", licence="cc0-1.0")
    assert card.accuracy["top1"] == summary(run)["test_top1"]
    assert (card.accuracy["images"], card.accuracy["top5"]) == (8, None)
    assert (data.license, card.licence) == ("cc0-1.0", "cc0-1.0")
    assert card.command == summary(run)["configuration"]["command"]
    assert f"{card.accuracy['top1']:.2f} % on 8 test images" in text
    assert written(tmp_path / "best", run / "best.safetensors")[2][1].accuracy is None
    (run / "summary.json").write_text(json.dumps({"test_top1": 1}))
    with refuses(ValueError, run / "summary.json"):
        hub.write_folder(tmp_path / "again", run, "me/mine")
    assert not (tmp_path / "again").exists()


def test_a_card_cannot_break_out_of_its_page(tmp_path):
    """Weights of a stranger."""
    model = cifarblocks.create_model(CARD.model, **CARD.arguments)
    card = replace(CARD, classes=["a\n---\nlicense: mit", "b|c"], data="d: [\n---\n")
    save_weights(tmp_path / "a.safetensors", model.state_dict(), card)
    data, text, (_, found) = written(tmp_path / "a", tmp_path / "a.safetensors")
    assert (found, data.license) == (card, None)
    assert r"| classes | a --- license: mit, b\|c |" in text.splitlines()


@pytest.fixture
def api(monkeypatch, tmp_path):
    """The calls of HfApi, their arguments checked; what is uploaded is kept in `uploaded`."""
    stand_in = create_autospec(HfApi)
    calls = stand_in.return_value
    calls.create_repo.side_effect = lambda repo_id, **_: RepoUrl(f"https://huggingface.co/me/{repo_id.split('/')[-1]}")
    calls.upload_folder.side_effect = lambda folder_path, **_: shutil.copytree(folder_path, tmp_path / "uploaded")
    monkeypatch.setattr(hub, "HfApi", stand_in)
    return stand_in


def test_push_makes_the_repository_and_uploads_the_folder(api, tmp_path):
    address = hub.push_to_hub(DIGITS, "mine", private=True, token="secret")
    assert address == "https://huggingface.co/me/mine"
    api.assert_called_once_with(token="secret")
    api.return_value.create_repo.assert_called_once_with("mine", private=True, exist_ok=True)
    uploaded = api.return_value.upload_folder.call_args.kwargs
    assert uploaded["repo_id"] == "me/mine"
    assert "eca_resnet_20" in uploaded["commit_message"]
    assert cifarblocks.load(tmp_path / "uploaded").card == cifarblocks.load(DIGITS).card
    assert "me/mine" in (tmp_path / "uploaded" / "README.md").read_text()


def test_nothing_is_made_for_weights_that_cannot_be_read(api, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    for wrong in (tmp_path / "a.safetensors", "none", tmp_path):
        with refuses(ValueError, wrong):
            hub.push_to_hub(wrong, "me/mine")
    assert not api.called


def test_load_takes_the_file_from_the_cache_of_the_hub(tmp_path, monkeypatch):
    """huggingface_hub itself, offline."""
    snapshot = tmp_path / "models--me--mine" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for revision in ("main", "v1"):
        reference = tmp_path / "models--me--mine" / "refs" / revision
        reference.parent.mkdir(exist_ok=True)
        reference.write_text(COMMIT)
    hub.write_folder(snapshot, find_weights(DIGITS), "me/mine")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    images = torch.rand(2, 3, 32, 32)
    expected = cifarblocks.load(DIGITS).predict(images)
    for arguments in ({}, {"revision": "v1"}, {"revision": COMMIT}):
        assert hub.load_from_hub("me/mine", **arguments).predict(images) == expected
    with pytest.raises(LocalEntryNotFoundError):
        hub.load_from_hub("me/mine", revision="v2")
    with refuses(ValueError, "a b"):
        hub.load_from_hub("a b")


def test_without_huggingface_hub_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "cifarblocks.checkpoints.hub")
    monkeypatch.delattr(checkpoints, "hub")
    with refuses(ModuleNotFoundError, "pip install 'cifarblocks[hub]'"):
        from cifarblocks.checkpoints import hub as _  # noqa: F401
