"""Two checkpoints: what is kept, what is found damaged, and what is refused."""

import io
import os
import pickle
import random
import zipfile

import pytest
import torch
from refusals import assert_names, refuses
from run_folders import assert_same
from torch import nn

from cifarblocks.training.distributed import ALONE, Processes
from cifarblocks.training.errors import UserError
from cifarblocks.training.saving import (
    CHECKPOINT,
    DAMAGED,
    PREVIOUS,
    load_whole,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from cifarblocks.training.state import State, moving_average

RUN = {"model": "mlp", "seed": 0, "classes": ["cat", "dog"]}


def a_state(width=3):
    model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
    return State(model, torch.optim.AdamW(model.parameters()), moving_average(model, 0.9), torch.zeros(3).double())


def a_checkpoint(number=0):
    return {"run": RUN, **a_state().state_dict(ALONE), "step": number}


def step_of(content):
    return torch.load(io.BytesIO(content), weights_only=True)["step"]


def test_the_last_two_are_kept_and_the_last_one_is_read(tmp_path):
    assert read_checkpoint(tmp_path, RUN) is None
    for number in range(4):
        write_checkpoint(tmp_path, a_checkpoint(number))
        assert step_of(read_checkpoint(tmp_path, RUN)) == number
    assert step_of((tmp_path / PREVIOUS).read_bytes()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CHECKPOINT, PREVIOUS])


def test_killed_between_the_two_renames_the_one_before_is_read(tmp_path):
    write_checkpoint(tmp_path, a_checkpoint(1))
    (tmp_path / CHECKPOINT).rename(tmp_path / PREVIOUS)
    assert step_of(read_checkpoint(tmp_path, RUN)) == 1


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
    assert step_of(read_checkpoint(tmp_path, RUN)) == 1
    assert_names(capsys.readouterr().out, path, DAMAGED)
    assert (tmp_path / DAMAGED).exists()
    # It does not take the place of the whole one when the next is written.
    write_checkpoint(tmp_path, a_checkpoint(3))
    assert [step_of((tmp_path / name).read_bytes()) for name in (CHECKPOINT, PREVIOUS)] == [3, 1]


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
        return bool(load_whole(content))
    except Exception:
        return False


def test_any_flipped_bit_is_found(tmp_path):
    write_checkpoint(tmp_path, a_checkpoint())
    content = (tmp_path / CHECKPOINT).read_bytes()
    assert load_whole(content)["step"] == 0
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
    assert step_of(read_checkpoint(tmp_path, RUN)) == 5
    whole, draw, found = load_whole(content), random.Random(0), 0
    for _ in range(300):
        try:
            loaded = load_whole(flipped(content, draw.randrange(len(content)), draw.randrange(8)))
        except Exception:
            found += 1
            continue
        assert all(torch.equal(tensor, loaded["model"][key]) for key, tensor in whole["model"].items())
        assert loaded["step"] == whole["step"]
    assert found > 50


@pytest.mark.parametrize("change", [{"seed": 1}, {"classes": ["cat", "wolf"]}, {"model": "cnn"}])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    write_checkpoint(tmp_path, a_checkpoint())
    (key,) = change
    with refuses(UserError, tmp_path / CHECKPOINT, key, RUN[key], change[key]):
        read_checkpoint(tmp_path, RUN | change)


def test_a_state_comes_back_as_it_was(tmp_path):
    state = a_state()
    for _ in range(3):
        state.model(torch.randn(8, 2)).square().sum().backward()
        state.optimizer.step()
        state.average.update_parameters(state.model)
    state.step, state.history, state.waited = 3, [{"epoch": 1}], 0.5
    state.sums += torch.tensor([1.5, 2, 3])
    write_checkpoint(tmp_path, state.state_dict(ALONE))
    other = a_state()
    restore(read_checkpoint(tmp_path, RUN), other, ALONE)
    ours, theirs = state.state_dict(ALONE), other.state_dict(ALONE)
    for part in ("model", "average", "optimizer", "sums"):
        assert_same(ours[part], theirs[part])
    assert (other.step, other.history, other.waited) == (3, [{"epoch": 1}], 0.5)


def test_other_processes_count_what_was_seen_once(tmp_path):
    content = {**a_checkpoint(), "sums": torch.tensor([[1.0, 2, 3], [10, 20, 30]]).double()}
    write_checkpoint(tmp_path, content)
    sums = []
    for rank in range(3):
        state = a_state()
        restore(read_checkpoint(tmp_path, RUN), state, Processes(rank, 3, torch.device("cpu")))
        sums.append(state.sums)
    assert torch.stack(sums).tolist() == [[11, 22, 33], [0, 0, 0], [0, 0, 0]]
    state = a_state()
    restore(read_checkpoint(tmp_path, RUN), state, Processes(1, 2, torch.device("cpu")))
    assert state.sums.tolist() == [10, 20, 30]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    write_checkpoint(tmp_path, a_checkpoint())
    with refuses(UserError, CHECKPOINT):
        restore(read_checkpoint(tmp_path, RUN), a_state(width=4), ALONE)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    trap = str(tmp_path / "caught")
    write_checkpoint(tmp_path, {**a_checkpoint(), "history": Trap(trap)})
    content = (tmp_path / CHECKPOINT).read_bytes()
    with refuses(UserError, tmp_path / CHECKPOINT):
        read_checkpoint(tmp_path, RUN)
    with pytest.raises(pickle.UnpicklingError):
        restore(content, a_state(), ALONE)
    assert not os.path.exists(trap)
    torch.load(io.BytesIO(content), weights_only=False)  # it would have
    assert os.path.exists(trap)
