"""Files that are none: refused by their kind, and not opened."""

import pytest
from refusals import refuses

import cifarblocks
from cifarblocks.checkpoints.files import reading
from cifarblocks.checkpoints.images import read_image
from cifarblocks.checkpoints.own import load_weights


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
