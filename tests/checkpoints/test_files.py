"""Files that cannot be read are refused in one sentence; folders, pipes and devices are refused without opening."""

import os

import pytest
import torch
from refusals import refuses

import cifarblocks
from cifarblocks.checkpoints.files import reading, sha256_of
from cifarblocks.checkpoints.images import read_image
from cifarblocks.checkpoints.own import load_weights
from cifarblocks.checkpoints.published import read_published


def load_timm(path):
    cifarblocks.load_published(cifarblocks.create_model("mlp"), path, "timm")


@pytest.mark.parametrize("read", [read_image, load_weights, load_timm])
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_file_is_refused_unopened(no_files, kind, read):
    with refuses(ValueError, no_files[kind], f"a {kind}"):
        read(no_files[kind])


def test_the_block_is_not_entered_for_what_is_no_file(no_files):
    entered = []
    with refuses(ValueError, no_files["pipe"], "a pipe"), reading(no_files["pipe"], "read"):
        entered.append(True)
    assert not entered


def test_a_link_to_a_file_is_a_file(tmp_path):
    (tmp_path / "file").write_text("1")
    (tmp_path / "link").symlink_to("file")
    with reading(tmp_path / "link", "read"):
        assert (tmp_path / "link").read_text() == "1"


@pytest.fixture
def unreadable(tmp_path):
    """A file that this process must not read."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"secret")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read every file
    yield path
    os.seteuid(user)


def test_a_file_that_may_not_be_read_is_not_called_missing(unreadable):
    for read in (load_weights, lambda path: read_published(path, "timm")):
        with refuses(ValueError, unreadable, "Permission denied"):
            read(unreadable)


def test_what_is_no_file_of_tensors_is_refused(tmp_path):
    for name, content in (
        ("a.pth", b""),
        ("empty.safetensors", b""),
        ("text.pth", b"hello"),
        ("j.pth", b"jkl"),
        ("zip.pth", b"PK\3\4"),
    ):
        (tmp_path / name).write_bytes(content)
        with refuses(ValueError, tmp_path / name):
            read_published(tmp_path / name, "timm")
    with refuses(ValueError, tmp_path / "a.pth", "empty"):
        read_published(tmp_path / "a.pth", "timm")
    for name in ("text.pth", "j.pth", "zip.pth"):
        with refuses(ValueError, tmp_path / name, "damaged"):
            read_published(tmp_path / name, "timm")


def test_a_cut_or_flipped_file_of_torch_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    place = content.index(bytes(4000)) + 2000
    for damaged in (content[:-100], content[:place], content[:place] + b"\1" + content[place + 1 :]):
        (tmp_path / "b.pth").write_bytes(damaged)
        with refuses(ValueError, tmp_path / "b.pth", "damaged"):
            read_published(tmp_path / "b.pth", "timm")
    assert torch.equal(read_published(tmp_path / "a.pth", "timm")["a"], torch.zeros(1000))


def test_nobody_is_advised_to_load_what_may_run_code(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.nn.Linear(1, 1)}, path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "b.pth")
    for file in (path, tmp_path / "b.pth"):
        with refuses(ValueError, file) as caught:
            read_published(file, "timm")
        error = caught.value
        while error is not None:
            assert "weights_only" not in str(error)
            error = error.__cause__ if error.__suppress_context__ else error.__context__


def test_brackets_without_end_are_named(tmp_path):
    path = tmp_path / "a"
    path.write_text("[")
    with refuses(ValueError, path, "brackets"), reading(path, "read"):
        raise RecursionError("maximum recursion depth exceeded")


def test_the_hash_is_of_the_first_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abcd")
    with (tmp_path / "a").open("rb") as file:
        assert sha256_of(file, 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
