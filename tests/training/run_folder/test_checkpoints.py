"""Two checkpoints: the kept one, damaged ones, and refused ones."""

import io
import os
import random
import tracemalloc
import zipfile

import pytest
import torch
from refusals import assert_names, refuses

from cifarblocks.training.errors import UserError
from cifarblocks.training.run_folder.checkpoints import (
    CHECKPOINT,
    DAMAGED,
    PREVIOUS,
    load_whole,
    read_checkpoint,
    write_checkpoint,
)

RUN = {"model": "mlp", "seed": 0, "classes": ["cat", "dog"]}


def a_checkpoint(number=0):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    return {"run": RUN, "model": model.state_dict(), "history": [], "step": number}


def loaded(content):
    return load_whole(io.BytesIO(content))


def test_the_last_two_are_kept_and_the_last_one_is_read(tmp_path):
    assert read_checkpoint(tmp_path, RUN) is None
    for number in range(4):
        write_checkpoint(tmp_path, a_checkpoint(number))
        assert read_checkpoint(tmp_path, RUN)["step"] == number
    assert loaded((tmp_path / PREVIOUS).read_bytes())["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CHECKPOINT, PREVIOUS])


def test_killed_between_the_two_renames_the_one_before_is_read(tmp_path):
    write_checkpoint(tmp_path, a_checkpoint(1))
    (tmp_path / CHECKPOINT).rename(tmp_path / PREVIOUS)
    assert read_checkpoint(tmp_path, RUN)["step"] == 1


def truncated(content):
    return content[: len(content) // 2]


def with_a_flipped_byte(content):
    """One byte of a tensor is another."""
    file = zipfile.ZipFile(io.BytesIO(content))
    entry = next(entry for entry in file.infolist() if "/data/" in entry.filename and entry.file_size > 8)
    place = content.index(file.read(entry))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("spoil", [truncated, with_a_flipped_byte, lambda _: b"", lambda _: b"hello"])
def test_a_damaged_one_is_put_aside_and_the_one_before_it_is_used(tmp_path, capsys, spoil):
    for number in (1, 2):
        write_checkpoint(tmp_path, a_checkpoint(number))
    path = tmp_path / CHECKPOINT
    path.write_bytes(spoil(path.read_bytes()))
    assert read_checkpoint(tmp_path, RUN)["step"] == 1
    assert_names(capsys.readouterr().out, path, DAMAGED)
    assert (tmp_path / DAMAGED).exists()
    # It does not take the place of the whole one when the next is written.
    write_checkpoint(tmp_path, a_checkpoint(3))
    assert [loaded((tmp_path / name).read_bytes())["step"] for name in (CHECKPOINT, PREVIOUS)] == [3, 1]


def test_two_damaged_ones_are_named(tmp_path):
    for number in (1, 2):
        write_checkpoint(tmp_path, a_checkpoint(number))
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_bytes(b"")
    with refuses(UserError, tmp_path / CHECKPOINT):
        read_checkpoint(tmp_path, RUN)


def flipped(content, place, bit):
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def is_whole(content):
    try:
        return bool(loaded(content))
    except Exception:
        return False


def test_any_flipped_bit_is_found(tmp_path):
    write_checkpoint(tmp_path, a_checkpoint())
    content = (tmp_path / CHECKPOINT).read_bytes()
    assert loaded(content)["step"] == 0
    draw = random.Random(0)
    # The last kilobytes are the zip file's directory, of which it has no checksum, and our digest.
    places = [draw.randrange(len(content)) for _ in range(300)] + list(range(len(content) - 600, len(content)))
    for place in places:
        assert not is_whole(flipped(content, place, draw.randrange(8))), place


def as_before_digests(content):
    buffer = io.BytesIO()
    torch.save({key: value for key, value in content.items() if key != "run"}, buffer)
    return buffer.getvalue()


def test_a_checkpoint_without_a_digest_still_loads_and_is_checked_as_far_as_it_can_be(tmp_path):
    content = as_before_digests(a_checkpoint(5))
    (tmp_path / CHECKPOINT).write_bytes(content)
    assert read_checkpoint(tmp_path, RUN)["step"] == 5
    whole, draw, found = loaded(content), random.Random(0), 0
    directory = content.index(b"PK\1\2")  # its names and sizes have no checksum
    places = [draw.randrange(len(content)) for _ in range(300)] + [
        draw.randrange(directory, len(content)) for _ in range(300)
    ]
    for place in places:
        try:
            other = loaded(flipped(content, place, draw.randrange(8)))
        except Exception:
            found += 1
            continue
        assert all(torch.equal(tensor, other["model"][key]) for key, tensor in whole["model"].items())
        assert other["step"] == whole["step"]
    assert found > 50


@pytest.mark.parametrize("change", [{"seed": 1}, {"classes": ["cat", "wolf"]}, {"model": "cnn"}])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    write_checkpoint(tmp_path, a_checkpoint())
    (key,) = change
    with refuses(UserError, tmp_path / CHECKPOINT, key, RUN[key], change[key], "another --name"):
        read_checkpoint(tmp_path, RUN | change)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_nobody_is_advised_to_load_it(tmp_path):
    trap = tmp_path / "caught"
    write_checkpoint(tmp_path, {**a_checkpoint(), "history": Trap(str(trap))})
    with refuses(UserError, tmp_path / CHECKPOINT) as caught:
        read_checkpoint(tmp_path, RUN)
    assert "weights_only" not in str(caught.value)
    assert "can still be loaded" not in str(caught.value)
    assert not trap.exists()
    torch.load(tmp_path / CHECKPOINT, weights_only=False)  # it would have
    assert trap.exists()


def test_neither_reading_nor_writing_takes_the_memory_of_further_copies(tmp_path):
    size = 8 * 2**20
    content = {**a_checkpoint(), "model": {"weight": torch.zeros(size, dtype=torch.uint8)}}
    peaks = []
    for work in (lambda: write_checkpoint(tmp_path, content), lambda: read_checkpoint(tmp_path, RUN)):
        tracemalloc.start()  # it sees Python's bytes, and not torch's tensors
        work()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 2.5 * size  # a growing buffer is copied once
    assert peaks[1] < 0.5 * size


def test_a_pipe_in_the_place_of_a_checkpoint_is_put_aside_unopened(tmp_path):
    write_checkpoint(tmp_path, a_checkpoint(1))
    (tmp_path / CHECKPOINT).rename(tmp_path / PREVIOUS)
    os.mkfifo(tmp_path / CHECKPOINT)
    assert read_checkpoint(tmp_path, RUN)["step"] == 1
    assert (tmp_path / DAMAGED).is_fifo()
