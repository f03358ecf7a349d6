"""Files of lines that people edit and programs change."""

import concurrent.futures
import os

import pytest
from harp.linefile import change_lines, read_lines


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"first\nsec\xffond\n")
    return path


def add(line):
    return lambda lines: [*lines, line]


def test_other_lines_stay_as_they_are(path):
    change_lines(path, add("third"))
    assert path.read_bytes() == b"first\nsec\xffond\nthird\n"
    assert read_lines(path) == ["first", "sec\udcffond", "third"]
    assert os.listdir(path.parent) == ["file"]


def test_missing_last_newline_is_supplied(path):
    path.write_text("first")
    change_lines(path, add("second"))
    assert path.read_text() == "first\nsecond\n"


def test_mode_and_owner_stay(path):
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    before = path.stat()
    change_lines(path, add("third"))
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )


def test_link_stays_one(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("file")
    change_lines(link, add("third"))
    assert link.is_symlink() and path.read_bytes().endswith(b"third\n")


def test_file_without_a_change_is_not_touched(path):
    before = path.stat()
    change_lines(path, lambda lines: lines)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_change_that_fails_leaves_the_file_alone(path):
    def fail(lines):
        lines.clear()
        raise LookupError

    with pytest.raises(LookupError):
        change_lines(path, fail)
    with pytest.raises(UnicodeEncodeError):
        change_lines(path, add("\ud800"))
    assert path.read_bytes() == b"first\nsec\xffond\n"
    assert os.listdir(path.parent) == ["file"]


def test_missing_file_is_made_for_its_owner_alone_or_is_an_error(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        change_lines(path, add("first"), create=False)
    change_lines(path, add("first"))
    assert path.read_text() == "first\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_uid == tmp_path.stat().st_uid


def test_no_change_is_lost_that_others_make_at_the_same_time(path):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: change_lines(path, add(str(n))), range(60)))
    assert sorted(read_lines(path)[2:], key=int) == [str(n) for n in range(60)]
