import gzip
import pickle
import sys
import tarfile
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses
from safetensors.torch import load_file
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets as torchvision_datasets
from torchvision.datasets.utils import calculate_md5

from cifarblocks.training.data.datasets import (
    DIGITS,
    DataSet,
    Images,
    hold_out,
    load_data,
    load_digits,
    load_torchvision,
    share_of,
)
from cifarblocks.training.data.seeds import random_stream
from cifarblocks.training.data.sources import TORCHVISION
from cifarblocks.training.errors import UserError


def test_the_digits_are_those_of_scikit_learn_each_once():
    digits = load_digits()
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.image_size == (32, 32)
    assert not digits.mirror
    theirs = sklearn_digits()
    # Enlarged four times, the mean over an image stays, to within rounding.
    ours = torch.cat([digits.train.pixels, digits.test.pixels]).float()
    labels = torch.cat([digits.train.labels, digits.test.labels])
    assert (ours == ours[..., :1]).all()
    means = sorted(zip(labels.tolist(), ours.mean((1, 2, 3)).tolist(), strict=True))
    expected = sorted(zip(theirs.target.tolist(), (theirs.images.mean((1, 2)) * 255 / 16).tolist(), strict=True))
    for (label, mean), (their_label, their_mean) in zip(means, expected, strict=True):
        assert label == their_label
        assert abs(mean - their_mean) < 1.5


def test_the_digits_are_split_as_scikit_learn_splits_them():
    theirs, ours = sklearn_digits(), load_file(DIGITS)
    images, labels = theirs.images.astype("uint8"), theirs.target
    split = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    for name, expected in zip(("train_images", "test_images", "train_labels", "test_labels"), split, strict=True):
        assert torch.equal(ours[name], torch.from_numpy(expected)), name


def test_a_data_set_is_shown_in_one_line_without_its_pixels():
    digits = load_digits()
    assert repr(digits) == "DataSet(digits (UCI, 8x8), 1,437 training and 360 test images of 32x32, 10 classes)"
    assert repr(digits.test) == "Images(pixels (360, 32, 32, 3), labels (360,))"


def test_mean_and_std_are_those_of_the_training_pixels():
    pixels = torch.randint(0, 256, (50, 4, 5, 3), dtype=torch.uint8)
    part = Images(pixels, torch.zeros(50, dtype=torch.int64))
    mean, std = DataSet("noise", part, part[:10], ["one"], mirror=True).mean_and_std
    scaled = pixels.double().flatten(0, 2) / 255
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), scaled.mean(0))
    torch.testing.assert_close(torch.tensor(std, dtype=torch.float64), scaled.std(0, correction=0))


@pytest.mark.parametrize(("images", "held"), [(60_000, 5000), (50_000, 5000), (1437, 143), (30, 3), (9, 0)])
def test_the_held_out_images_are_stratified_random_and_of_the_promised_number(images, held):
    labels = torch.arange(images) * 10 // images  # sorted by class, as a folder's files are
    numbered = Images(torch.arange(images), labels)
    kept, out = hold_out(numbered, torch.Generator().manual_seed(1))
    assert (len(kept), len(out)) == (images - held, held)
    assert torch.equal(torch.cat([kept.pixels, out.pixels]).sort().values, numbered.pixels)
    assert (torch.bincount(out.labels, minlength=10) - held / 10).abs().max() <= 1
    again = hold_out(numbered, torch.Generator().manual_seed(2))[1]
    assert held < 100 or not torch.equal(out.pixels, again.pixels)


def test_the_fingerprint_changes_with_one_pixel_and_with_one_label():
    digits = load_digits()
    prints = {digits.fingerprint}
    pixels, labels = digits.test.pixels.clone(), digits.test.labels.clone()
    pixels[7, 3, 2, 1] ^= 1
    labels[0] = (labels[0] + 1) % 10
    for test in (Images(pixels, digits.test.labels), Images(digits.test.pixels, labels)):
        prints.add(DataSet(digits.name, digits.train, test, digits.classes, digits.mirror).fingerprint)
    assert len(prints) == 3
    assert load_digits().fingerprint in prints


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """Small files in torchvision's format, with their checksums where torchvision looks for them."""

    def write(source):
        reader = {"cifar10": torchvision_datasets.CIFAR10, "cifar100": torchvision_datasets.CIFAR100}[source]
        key, names = ("labels", "label_names") if source == "cifar10" else ("fine_labels", "fine_label_names")
        classes = [f"class {i}" for i in range(10 if source == "cifar10" else 100)]
        folder = tmp_path / reader.base_folder
        folder.mkdir()
        random = np.random.default_rng(0)
        rows = {}
        for attribute in ("train_list", "test_list"):
            listed = []
            for file, _ in getattr(reader, attribute):
                rows[file] = random.integers(0, 256, (4, 3072), dtype=np.uint8)
                content = {"data": rows[file], key: random.integers(0, len(classes), 4).tolist()}
                (folder / file).write_bytes(pickle.dumps(content))
                listed.append([file, calculate_md5(folder / file)])
            monkeypatch.setattr(reader, attribute, listed)
        meta = folder / reader.meta["filename"]
        meta.write_bytes(pickle.dumps({names: classes}))
        monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": calculate_md5(meta)})
        return rows, classes

    return write


@pytest.mark.parametrize(("source", "train", "last"), [("cifar10", 20, "test_batch"), ("cifar100", 4, "test")])
def test_cifar_is_read_from_torchvisions_files(source, train, last, small_cifar, tmp_path):
    rows, classes = small_cifar(source)
    data = load_data(source, tmp_path)
    assert (len(data.train), len(data.test)) == (train, 4)
    assert data.classes == classes
    assert data.mirror
    planes = torch.from_numpy(rows[last]).view(4, 3, 32, 32)
    assert torch.equal(data.test.pixels, planes.permute(0, 2, 3, 1))


def write_ubytes(directory, images, labels):
    """Write MNIST's files: big-endian sizes after a magic number, each file compressed."""
    written = []
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", images[part]), ("labels-idx1", labels[part])):
            header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            path = directory / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes()))
            written.append((path.name, calculate_md5(path)))
    return written


@pytest.mark.parametrize(("source", "reader"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_grey_images_are_read_from_compressed_ubytes(source, reader, tmp_path, monkeypatch):
    reader = getattr(torchvision_datasets, reader)
    random, counts = np.random.default_rng(0), {"train": 7, "t10k": 3}
    images = {part: random.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in counts.items()}
    labels = {part: random.integers(0, 10, n, dtype=np.uint8) for part, n in counts.items()}
    directory = tmp_path / reader.__name__ / "raw"
    directory.mkdir(parents=True)
    monkeypatch.setattr(reader, "resources", write_ubytes(directory, images, labels))
    data = load_data(source, tmp_path)
    assert data.mirror == (source == "fashion_mnist")
    assert len(data.classes) == 10
    assert data.classes[1] == {"mnist": "1", "fashion_mnist": "Trouser"}[source]
    for part, name in ((data.train, "train"), (data.test, "t10k")):
        assert part.pixels.is_contiguous()
        for channel in part.pixels.unbind(-1):
            assert torch.equal(channel, torch.from_numpy(images[name]))
        assert part.labels.tolist() == labels[name].tolist()


def test_svhn_is_read_from_matlabs_files(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    random, pixels = np.random.default_rng(0), {}
    splits = dict(torchvision_datasets.SVHN.split_list)
    for part in ("train", "test"):
        path = tmp_path / f"{part}_32x32.mat"
        pixels[part] = random.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
        scipy_io.savemat(path, {"X": pixels[part], "y": np.array([[10], [1], [9], [10]], dtype=np.uint8)})
        splits[part] = [splits[part][0], path.name, calculate_md5(path)]
    monkeypatch.setattr(torchvision_datasets.SVHN, "split_list", splits)
    data = load_data("svhn", tmp_path)
    assert data.classes == list("0123456789")
    assert not data.mirror
    assert data.test.labels.tolist() == [0, 1, 9, 0]
    for number in range(4):
        assert torch.equal(data.test.pixels[number], torch.from_numpy(pixels["test"][..., number]))


def test_svhn_without_scipy_is_refused_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setattr(torchvision_datasets, "SVHN", None)
    with refuses(UserError, "--data", "svhn", "pip install 'scipy'"):
        load_data("svhn", tmp_path)


def test_stl10_is_read_from_its_archive(tmp_path, monkeypatch):
    reader, random = torchvision_datasets.STL10, np.random.default_rng(0)
    columns = random.integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)  # of each channel, one after the other
    content = {"class_names.txt": "".join(f"thing {number}\n" for number in range(10)).encode()}
    for part in ("train", "test"):
        content |= {f"{part}_X.bin": columns.tobytes(), f"{part}_y.bin": bytes((1, 10, 3))}
    content["unlabeled_X.bin"] = b""
    folder = tmp_path / "made" / "stl10_binary"
    folder.mkdir(parents=True)
    for name, written in content.items():
        (folder / name).write_bytes(written)
    archive = tmp_path / reader.filename
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, "stl10_binary")
    for listed in ("train_list", "test_list"):
        sums = [[name, calculate_md5(folder / name)] for name, _ in getattr(reader, listed)]
        monkeypatch.setattr(reader, listed, sums)
    monkeypatch.setattr(reader, "tgz_md5", calculate_md5(archive))
    data = load_data("stl10", tmp_path, image_size=None)
    assert data.image_size == (96, 96)
    assert data.mirror
    assert data.classes[9] == "thing 9"
    for part in (data.train, data.test):
        assert part.labels.tolist() == [0, 9, 2]
        assert torch.equal(part.pixels, torch.from_numpy(columns).permute(0, 3, 2, 1))
    assert load_data("stl10", tmp_path, image_size=32).image_size == (32, 32)


@pytest.mark.parametrize("source", TORCHVISION)
def test_without_network_the_message_names_what_to_put_where(source, tmp_path, monkeypatch):
    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", offline)
    published = TORCHVISION[source]
    reader = getattr(torchvision_datasets, published.reader)
    urls = [*getattr(reader, "mirrors", []), *(split[0] for split in getattr(reader, "split_list", {}).values())]
    assert any(url.startswith(published.url) for url in [*urls, getattr(reader, "url", "")])
    names = [(tmp_path / file).name for file in published.files]
    with refuses(
        UserError, "--data", source, *names, (tmp_path / published.files[0]).parent, published.url.rstrip("/")
    ):
        load_torchvision(source, tmp_path)


@pytest.mark.parametrize("place", ["cifar-10-python.tar.gz", "MNIST/raw/t10k-labels-idx1-ubyte", "train_32x32.mat"])
def test_a_download_that_is_no_file_is_not_written_to(no_files, tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(no_files["pipe"])
    source = next(name for name, published in TORCHVISION.items() if {place, f"{place}.gz"} & set(published.files))
    with refuses(UserError, "--data", source, path):
        load_torchvision(source, tmp_path)


def test_other_sources_are_refused(tmp_path):
    with refuses(UserError, "--data", "digits", "cifar10", "cifar100", "a folder", "imagenet"):
        load_data("imagenet", tmp_path)


def test_the_path_of_a_folder_is_a_source(image_folder, tmp_path):
    plain, marked = (load_data(source, tmp_path) for source in (str(image_folder), f"folder:{image_folder}"))
    assert plain.fingerprint == marked.fingerprint
    assert plain.name == "shades"


def test_images_of_another_size_are_what_pillow_makes_of_them(tmp_path):
    original, large = load_data("digits", tmp_path), load_data("digits", tmp_path, 48)
    assert large.image_size == (48, 48)
    assert torch.equal(large.test.labels, original.test.labels)
    for place in (0, 700, 1436):
        image = Image.fromarray(original.train.pixels[place].numpy()).resize((48, 48), Image.Resampling.BILINEAR)
        assert (large.train.pixels[place].int() - torch.from_numpy(np.array(image)).int()).abs().max() <= 1


@pytest.mark.parametrize("share", [0.2, 0.5, 0.0])
def test_a_share_has_as_much_of_each_class(share):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate((100, 50, 201))])
    images = Images(torch.arange(len(labels)).view(-1, 1, 1, 1), labels)
    some = share_of(images, share, random_stream("share"))
    assert len(some) == round(share * 351)
    assert len(some.pixels.unique()) == len(some)
    for label, count in enumerate((100, 50, 201)):
        assert abs((some.labels == label).sum() - share * count) <= 1
    assert share_of(images, 1.0, random_stream("share")) is images
