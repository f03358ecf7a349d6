"""Files that are read again when they change."""

import logging
import os

import pytest
from harp.watched import WatchedFile


def read(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return file.read().split()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    return path


def test_content_stays_the_same_object_until_the_file_changes(file):
    watched = WatchedFile(str(file), read)
    first = watched.content()
    assert first == ["one"] and watched.content() is first
    file.write_text("one two")
    assert watched.content() == ["one", "two"]


def test_file_with_another_time_of_change_alone_is_read_again(file):
    watched = WatchedFile(str(file), read)
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watched.content() == ["two"]


def test_what_a_file_held_counts_while_it_can_not_be_read_which_is_told_once(
    file, caplog
):
    watched = WatchedFile(str(file), read)
    aside = file.with_name("aside")
    file.rename(aside)
    with caplog.at_level(logging.ERROR):
        assert watched.content() == watched.content() == ["one"]
    (record,) = caplog.records
    assert "what it held before counts" in record.getMessage()
    aside.write_text("two")
    aside.rename(file)
    assert watched.content() == ["two"]


def test_file_that_could_not_be_read_is_tried_again_without_a_change(file):
    faults = [OSError(24, "Too many open files")]

    def read_late(path: str) -> list[str]:
        if path_is_new and faults:
            raise faults.pop()
        return read(path)

    path_is_new = False
    watched = WatchedFile(str(file), read_late)
    path_is_new = True
    file.write_text("two three")
    assert watched.content() == ["one"]
    assert watched.content() == ["two", "three"]


def test_file_that_is_not_there_at_first_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        WatchedFile(str(tmp_path / "none"), read)
