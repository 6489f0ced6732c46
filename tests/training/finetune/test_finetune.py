"""cifarblocks finetune: frozen layers do not change, and cached features equal computed ones."""

import itertools
import os
import pickle
import shutil
import signal

import pytest
import timm
import torch
from commands import after_steps, status_of, write_shades
from references import randomise
from refusals import assert_names, refuses
from run_folders import assert_same, metrics, summary, weights
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_forward_pre_hook

import cifarblocks
from cifarblocks.checkpoints.own import Card, load_weights
from cifarblocks.checkpoints.tables import TABLES
from cifarblocks.cli import finetune
from cifarblocks.training.data.batches import Normalisation
from cifarblocks.training.data.datasets import Images, load_data
from cifarblocks.training.distributed import ALONE, Processes
from cifarblocks.training.errors import UserError
from cifarblocks.training.finetune import features
from cifarblocks.training.finetune.probe import freeze, prepare_frozen
from cifarblocks.training.finetune.starting import NORMALISATIONS, read_start
from cifarblocks.training.run import prepare
from cifarblocks.training.run_folder.weights import save_weights

CPU = torch.device("cpu")
PLAIN = torch.autocast("cpu", enabled=False)
QUICK = ("--data", "folder:shades", "--precision", "float32", "--batch-size", "8")


def write_weights(path, name="resnet_20", classes=("dark", "light"), image_size=(6, 8), **arguments):
    """Random weights in a file that cifarblocks train could have written, and the network."""
    arguments = {**arguments, "num_classes": len(classes), "image_size": image_size}
    model = randomise(cifarblocks.create_model(name, **arguments)).eval()
    card = Card(name, arguments, list(classes), image_size, [0.5] * 3, [0.25] * 3, "float32", "shades", 1)
    save_weights(path, model.state_dict(), card)
    return model


@pytest.fixture
def tuned(tmp_path, image_folder, monkeypatch):
    """cifarblocks finetune in this process: tuned("--freeze", name="a") → the folder of the run."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, name="run", status=0, weights="start.safetensors"):
        assert status_of(finetune.main, ["--weights", weights, *QUICK, "--name", name, *arguments]) == status
        return tmp_path / "runs" / "resnet_20" / name

    return run


@pytest.fixture
def start(tmp_path):
    return write_weights(tmp_path / "start.safetensors").state_dict()


@pytest.fixture
def counted():
    """Count the images that a network without its last layer sees, each time."""
    counts = []

    def count(module, inputs):
        if isinstance(getattr(getattr(module, "head", None), "classifier", None), torch.nn.Identity):
            counts.append(len(inputs[0]))

    hook = register_module_forward_pre_hook(count)
    yield counts
    hook.remove()


def test_a_frozen_network_stays_to_the_bit_and_its_last_layer_learns(tuned, start, tmp_path, capsys):
    arguments = ("--freeze", "--epochs", 12, "--lr", 1)
    folder = tuned(*arguments)
    last = weights(folder)["last"]
    assert last.keys() == start.keys()
    for name, value in start.items():
        assert torch.equal(last[name], value) != name.startswith("head.classifier."), name
    result, lines = summary(folder), metrics(folder)
    assert len(lines) == result["epochs"] == 12
    assert lines[-1]["train_loss"] < 0.5 * lines[0]["train_loss"]

    # What is written of the test images is what the network in the file makes of them.
    model, card = load_weights(folder / "last.safetensors")
    test = load_data("folder:shades", tmp_path / "data").test
    logits = model(Normalisation(card.mean, card.std, CPU, torch.float32)(test.pixels))
    assert result["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, test.labels).item(), rel=1e-5)
    assert result["test_top1"] == pytest.approx(100 * (logits.argmax(1) == test.labels).float().mean().item())
    tuned(*arguments, "--resume")
    assert "is finished" in capsys.readouterr().out


def test_kept_features_give_the_same_layer_as_features_computed_anew(tuned, start, tmp_path, counted):
    arguments = ("--freeze", "--epochs", 2)
    seen = 24 + 24  # the training images, mirrored too
    first = tuned(*arguments, "--no-test", name="computed")
    assert sum(counted) == seen
    second = tuned(*arguments, "--no-test", name="kept")
    assert sum(counted) == seen
    shutil.rmtree(tmp_path / "data" / "cache" / "features")
    third = tuned(*arguments, "--no-test", name="computed_again")
    assert sum(counted) == 2 * seen
    for other in (second, third):
        assert_same(weights(first)["last"], weights(other)["last"])
    final = tuned(*arguments, "--no-mirror", "--final", name="final")
    assert sum(counted) == 2 * seen + 8  # which images are held out does not matter to the network
    assert summary(final)["training_images"] == 24


@pytest.mark.parametrize("share", [1, 0.5])
def test_the_layer_trains_on_the_images_that_are_not_held_out(tmp_path, image_folder, monkeypatch, share):
    monkeypatch.chdir(tmp_path)
    model = write_weights(tmp_path / "start.safetensors")
    arguments = ["--weights", "start.safetensors", "--freeze", *QUICK, "--mirror", "--share", str(share)]
    options, start = finetune.parse_arguments(arguments)
    run = prepare(options, ALONE, start.build)
    assert len(run.batches.training) == 22 * share
    found = freeze(run).batches
    for part in ("training", "validation", "test"):
        features, images = getattr(found, part), getattr(run.batches, part)
        assert torch.equal(features.labels, images.labels)
        torch.testing.assert_close(features.values[0], direct(model, images, 0.5), rtol=1e-5, atol=1e-5)
    mirrored = Images(run.batches.training.pixels.flip(2), run.batches.training.labels)
    torch.testing.assert_close(found.training.values[1], direct(model, mirrored, 0.5), rtol=1e-5, atol=1e-5)


def test_the_test_images_may_be_left_alone_until_later(tuned, start, counted, capsys):
    arguments = ("--freeze", "--epochs", 3, "--share", 0.5)
    folder = tuned(*arguments, "--no-test", "--tensorboard")
    assert sum(counted) == 24 + 24  # the training images, mirrored too
    assert "test top-1" not in capsys.readouterr().out
    assert not (folder / "summary.json").exists()
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = reader.EventAccumulator(str(folder / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in log.Scalars("train_loss")]
    assert losses == [(line["epoch"], pytest.approx(line["train_loss"])) for line in metrics(folder)]

    layer = weights(folder)["last"]
    tuned(*arguments, "--resume")
    assert_same(weights(folder)["last"], layer)
    result = summary(folder)
    assert (result["epochs"], result["training_images"], result["test_images"]) == (3, 11, 8)


def test_a_layer_whose_training_was_interrupted_goes_on_to_the_bit(tuned, start, signals, capsys):
    options = ("--freeze", "--epochs", 3, "--ema", 0.5, "--accumulate", 2, "--no-test")
    whole = tuned(*options, name="whole")
    taken = itertools.count(1)
    with after_steps(lambda _: next(taken) == 4 and os.kill(os.getpid(), signal.SIGTERM)):
        folder = tuned(*options, name="cut", status=143)
    assert_names(capsys.readouterr().err, "cifarblocks finetune", "SIGTERM", "epoch 2", "step 2", "--name cut --resume")
    tuned(*options, "--resume", name="cut")
    assert weights(folder).keys() == {"last", "best", "average"}
    assert_same(weights(folder), weights(whole))


def direct(model, images, mean):
    """Compute features without the code under test, except for the normalisation."""
    bare = cifarblocks.create_model("resnet_20", image_size=(6, 8), num_classes=2, in_channels=3)
    bare.load_state_dict(model.state_dict())
    bare.reset_classifier(0)
    bare.eval()
    with torch.no_grad():
        return bare(Normalisation([mean] * 3, [0.25] * 3, CPU, torch.float32)(images.pixels))


@pytest.fixture
def scene(tmp_path):
    """A network, random images, and how their features are read with a cache."""
    model = write_weights(tmp_path / "start.safetensors")
    images = Images(torch.randint(0, 256, (30, 6, 8, 3), dtype=torch.uint8), torch.zeros(30, dtype=torch.int64))

    def read(model, images, mean=0.5, built="resnet_20", chunk=2000):
        normalise = Normalisation([mean] * 3, [0.25] * 3, CPU, torch.float32)
        with features.frozen(model, {"model": built}, normalise, PLAIN) as backbone:
            return features.compute_features(backbone, images, tmp_path / "cache", "images", ALONE, chunk)

    return model, images, read


@pytest.mark.parametrize("changed", ["nothing", "a weight", "a statistic", "the transform", "a pixel", "the model"])
def test_whatever_changes_is_computed_anew(scene, counted, changed):
    model, images, read = scene
    read(model, images)
    mean, built = 0.5, "resnet_20"
    with torch.no_grad():
        if changed == "a weight":
            model.stem[0].weight[0, 0, 0, 0] += 0.5
        if changed == "a statistic":
            model.stem[1].running_mean[3] += 0.5
    if changed == "the transform":
        mean = 0.25
    if changed == "a pixel":
        images.pixels[7, 0, 0, 0] ^= 128
    if changed == "the model":
        built = "another_of_the_same_weights"
    found = read(model, images, mean, built)
    assert len(counted) == (1 if changed == "nothing" else 2)
    torch.testing.assert_close(found, direct(model, images, mean), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file_is_computed_again_and_that_is_said(scene, counted, tmp_path, capsys, damage):
    model, images, read = scene
    whole = read(model, images)
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
    path.write_bytes({"truncated": content[:-9], "flipped": flipped, "empty": b""}[damage])
    assert torch.equal(read(model, images), whole)
    assert f"cache {path} cannot be used, computing again: " in capsys.readouterr().err
    assert path.read_bytes() == content
    read(model, images)
    assert len(counted) == 2


def test_what_was_interrupted_goes_on_from_the_last_whole_chunk(scene, counted):
    model, images, read = scene

    def interrupt(*_):
        if len(counted) == 4:
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        read(model, images, chunk=7)
    hook.remove()
    assert isinstance(model.head.classifier, torch.nn.Linear)  # it was put back
    found = read(model, images, chunk=7)
    assert counted == [7, 7, 7, 7, 7, 2]
    torch.testing.assert_close(found, direct(model, images, 0.5), rtol=1e-5, atol=1e-5)


def test_the_whole_network_is_tuned_at_a_constant_rate(tuned, start, capsys):
    folder = tuned("--epochs", 2, "--ema", 0.75, "--lr", 0.01, "--final")
    for name, value in weights(folder)["last"].items():
        assert value.dtype == torch.int64 or not torch.equal(value, start[name]), name
    assert [line["learning_rate"] for line in metrics(folder)] == [0.01 * 8 / 256] * 2
    result = summary(folder)
    assert result["training_images"] == 24
    assert "average_test_top1" in result
    assert "with the last layer of the same classes" in capsys.readouterr().out


def test_a_run_starts_from_the_weights_and_is_not_resumed_with_others(tuned, start, tmp_path, capsys):
    arguments = ("--epochs", 1, "--lr", 0, "--resume", "--no-test")
    folder = tuned(*arguments)
    for name, value in weights(folder)["last"].items():
        assert "running" in name or "batches" in name or torch.equal(value, start[name]), name
    card = load_weights(folder / "last.safetensors")[1]
    assert (card.mean, card.std) == ([0.5] * 3, [0.25] * 3)  # images are normalised as the weights know them
    write_weights(tmp_path / "start.safetensors")
    capsys.readouterr()
    tuned(*arguments, status=2)
    assert_names(capsys.readouterr().err, "runs/resnet_20/run", "weights")


@pytest.mark.parametrize(
    ("classes", "kept"),
    [(("dark", "light"), True), (("light", "dark"), False), (("a", "b"), False), (("a", "b", "c"), False)],
)
def test_the_last_layer_is_kept_for_the_same_classes_alone(tmp_path, image_folder, classes, kept):
    theirs = write_weights(tmp_path / "start.safetensors", classes=classes)
    data = load_data(f"folder:{image_folder}", tmp_path)
    options = finetune.parse_arguments(["--weights", str(tmp_path / "start.safetensors")])[0]
    ours, arguments = read_start(tmp_path / "start.safetensors").build(options.model, options.arguments, data)
    assert arguments["num_classes"] == ours.head.classifier.out_features == 2
    same = ours.head.classifier.weight.shape == theirs.head.classifier.weight.shape and torch.equal(
        ours.head.classifier.weight, theirs.head.classifier.weight
    )
    assert same == kept
    assert torch.equal(ours.stem[0].weight, theirs.stem[0].weight)


@pytest.mark.parametrize("suffix", ["pth", pytest.param("safetensors", marks=pytest.mark.slow)])
def test_published_weights_give_the_features_of_the_reference(tmp_path, image_folder, suffix):
    theirs = timm.create_model("resnet18", num_classes=7).eval()
    path = tmp_path / f"resnet18.{suffix}"
    torch.save(theirs.state_dict(), path) if suffix == "pth" else save_file(theirs.state_dict(), path)
    options, start = finetune.parse_arguments(
        ["--weights", str(path), "--source", "timm", "--model", "resnet_18", "--model-argument", "stem=imagenet"]
    )
    assert (options.mean, options.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    ours, _ = start.build(options.model, options.arguments, load_data(f"folder:{image_folder}", tmp_path, 32))
    x = torch.randn(2, 3, 32, 32)
    theirs.reset_classifier(0)
    assert ours.head.classifier.out_features == 2
    ours.reset_classifier(0)
    torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-4, atol=1e-4)


class Harmful:
    def __reduce__(self):
        return (open, ("harm", "w"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of images, and of files that are weights and that are not."""
    folder = tmp_path_factory.mktemp("files")
    write_shades(folder / "shades")
    write_weights(folder / "start.safetensors")
    write_weights(folder / "mlp.safetensors", "mlp", image_size=(8, 8))
    write_weights(folder / "eca.safetensors", "eca_resnet_20", kernel_size=3)
    save_file({"a": torch.zeros(1)}, folder / "bare.safetensors")
    (folder / "text.pth").write_text("not weights")
    (folder / "harm.pth").write_bytes(pickle.dumps(Harmful(), protocol=2))
    torch.save([1], folder / "list.pth")
    torch.save({"model": {"a": torch.zeros(1)}}, folder / "nested.pth")
    return folder


@pytest.mark.parametrize(
    ("file", "arguments", "named"),
    [
        ("none.safetensors", "", ["--weights", "none.safetensors"]),
        ("text.pth", "--source timm", ["--source", "timm", "--model"]),
        ("text.pth", "--source timm --model resnet_18", ["text.pth", "timm"]),
        ("harm.pth", "--source timm --model resnet_18", ["harm.pth", "timm"]),
        ("list.pth", "--source timm --model resnet_18", ["list.pth", "list"]),
        ("nested.pth", "--source timm --model resnet_20", ["nested.pth", "model"]),
        ("bare.safetensors", "", ["--weights", "bare.safetensors"]),
        ("start.safetensors", "--source timm --model resnet_20", ["--source", "timm", "start.safetensors"]),
        ("start.safetensors", "--model resnet_32", ["--model", "resnet_32", "start.safetensors", "resnet_20"]),
        ("start.safetensors", "--freeze --cutmix 1", ["--cutmix", "--freeze"]),
        ("start.safetensors", "--freeze --optimizer muon", ["--optimizer", "muon", "--freeze"]),
        ("start.safetensors", "--freeze --optimizer muon_adamw", ["--optimizer", "muon_adamw", "--freeze"]),
        ("start.safetensors", "--freeze --drop-path 0.1", ["--drop-path", "--freeze"]),
        ("start.safetensors", "--freeze --recipe residual_networks_sgd", ["--shift", "--freeze"]),
        ("start.safetensors", "--epochs 0", ["--epochs", 1, 0]),
        ("start.safetensors", "--std 0 1 1", ["--std", 0]),
        ("mlp.safetensors", "", ["mlp.safetensors", "mlp", "stem.2.weight", (512, 192), (512, 144)]),
        ("start.safetensors", "--model-argument expansion=2", ["resnet_20", "expansion"]),
        ("eca.safetensors", "--model-argument kernel_size=5", ["eca.safetensors", "eca_resnet_20"]),
    ],
)
def test_what_cannot_work_is_refused(files, file, arguments, named, monkeypatch, refused):
    monkeypatch.chdir(files)
    given = ["--weights", file, *arguments.split(), "--data", "folder:shades", "--batch-size", "8"]
    refused(finetune.main, given, "cifarblocks finetune: error", *named)
    assert not (files / "harm").exists()
    assert not (files / "runs").exists()


def test_a_last_layer_is_trained_in_one_process(tmp_path):
    write_weights(tmp_path / "start.safetensors")
    options, start = finetune.parse_arguments(["--weights", str(tmp_path / "start.safetensors"), "--freeze"])
    with refuses(UserError, "--freeze", 2):
        prepare_frozen(options, Processes(0, 2, CPU), start.build)


def test_every_source_is_normalised_as_its_networks_know_images(tmp_path):
    assert NORMALISATIONS.keys() == TABLES.keys()
    for source, mean in (("timm", 0.485), ("torchvision", 0.485), ("chenyaofo", 0.4914), ("kuangliu", 0.4914)):
        torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pt")
        options, _ = finetune.parse_arguments(
            ["--weights", str(tmp_path / "weights.pt"), "--source", source, "--model", "resnet_20"]
        )
        assert options.mean[0] == mean
