import errno
import os
import resource
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from refusals import refuses

from cifarblocks.training.atomic import remove_leftovers, write_atomically


def test_writes_what_was_given_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_has_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, Path.replace

    def flushed(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    def renamed(path, target):
        events.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "file", b"content")
    assert events == ["content", "name", "folder"]


def test_others_may_read_a_file_as_the_umask_says(tmp_path):
    kept = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(kept)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_disk_that_is_full_leaves_the_old_file_and_names_it(tmp_path):
    """A limit on the size of a file stands in for the disk."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, kept[1]))
    try:
        with refuses(OSError, path, os.strerror(errno.EFBIG)) as caught:
            write_atomically(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_where_the_part_of_a_file_cannot_be_deleted_the_first_error_is_told(tmp_path, monkeypatch):
    def fails(number):
        def raise_error(*_, **__):
            raise OSError(number, os.strerror(number))

        return raise_error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails(errno.ENOSPC))
        patch.setattr(Path, "unlink", fails(errno.EROFS))
        with refuses(OSError, tmp_path / "file", os.strerror(errno.ENOSPC)):
            write_atomically(tmp_path / "file", b"new")
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(tmp_path):
    with refuses(OSError, tmp_path / "missing" / "file"):
        write_atomically(tmp_path / "missing" / "file", b"")


def test_two_writers_of_one_file_leave_one_of_their_contents_whole(tmp_path):
    contents = [bytes([number]) * 200_000 for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: write_atomically(tmp_path / "file", contents[number % 4]), range(100)))
    assert (tmp_path / "file").read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    users = {"file", ".other", ".mine.tmp", ".notes.2024.tmp"}
    for name in (".file.0123456789abcdef.tmp", *users):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == users
