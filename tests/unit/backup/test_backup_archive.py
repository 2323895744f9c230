"""Hostile archives of uploaded files: what is refused, what is left out, what is never written."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.archive import (
    BITS,
    LINK_OUT,
    LINK_TO_LEFT_OUT,
    LINK_TO_LINK,
    PIPE,
    SLACK,
    TOO_LONG,
    WHITEOUT,
    Expected,
    copy_safely,
    leads_inside,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from hypothesis import given, settings
from hypothesis import strategies as st

DIR, SYM, LNK = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
FIFO, CHAR, BLOCK = tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **more: object):
    """Return a member and its content."""
    content = bytes(more.pop("content", b""))
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(content), 0o644
    for field, value in more.items():
        setattr(info, field, value)
    return info, content


def packed(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar of these members."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=form) as writer:
        for info, content in members:
            writer.addfile(info, io.BytesIO(content))
    return archive.getvalue()


def expected(*members: tuple[tarfile.TarInfo, bytes]) -> Expected:
    """Return what an honest manifest tells of these members."""
    files = [info for info, _ in members if info.isreg() or info.islnk()]
    return Expected(len(files), sum(info.size for info in files), len(members))


def copied(*members: tuple[tarfile.TarInfo, bytes], last: str = ""):
    """Return what is left of these members, and what was left out."""
    target = io.BytesIO()
    left_out = copy_safely(io.BytesIO(packed(*members)), target, expected(*members), last)
    target.seek(0)
    with tarfile.open(fileobj=target) as reader:
        return reader.getmembers(), left_out


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("/etc/cron.d/evil")], "the name '/etc/cron.d/evil' leads out of the folder"),
        ([member("a/../../evil")], "leads out of the folder"),
        ([member("./")], "the name './' is none of a file"),
        ([member("..", DIR)], "leads out of the folder"),
        ([member("null", CHAR, devmajor=1, devminor=3)], "'null', a device"),
        ([member("sda", BLOCK, devmajor=8, devminor=0)], "'sda', a device"),
        ([member("odd", b"Z")], "'odd', a device or something unknown"),
        ([member("x", SYM, "/etc"), member("x/passwd")], "leads through a link"),
        ([member("d", DIR), member("d/up", SYM, ".."), member("d/up/x")], "leads through a link"),
        ([member("./x", SYM, "y"), member("x//./z")], "leads through a link"),
        ([member("x", LNK, "/etc/shadow")], "leads out of the folder"),
        ([member("x", LNK, "../secret")], "leads out of the folder"),
        ([member("up", SYM, "d"), member("x", LNK, "up/secret")], "leads through a link"),
        ([member(".restored/x")], "a restore uses itself"),
        ([member("n" * 256)], "is too long"),
        ([member("evil\x1b[2Jname\n/../..")], r"'evil\\x1b\[2Jname\\n/\.\./\.\.' leads out"),
    ],
)
def test_what_no_application_can_have_made_is_refused(members, said: str) -> None:
    with pytest.raises(BackupError, match=said) as caught:
        copied(*members)
    assert "No backup of this project makes such an archive" in str(caught.value)


def test_what_an_application_may_have_made_does_not_stop_a_restore() -> None:
    """A compromised application could otherwise see to it that its sets are of no use."""
    found, left_out = copied(
        member(".", DIR, mode=0o2770),
        member("root-shell", mode=0o6755, content=b"ELF", uid=0, gid=0, uname="root"),
        member("pipe", FIFO),
        member("same pipe", LNK, "pipe"),
        member("whiteout", CHAR),
        member("/".join(["n" * 200] * 21), content=b"y"),
        member("out", SYM, "/run/secrets/tls.key"),
        member("a", DIR, mode=0o1777),
        member("a/up", SYM, "../../etc"),
        member("a/fine", SYM, "../root-shell"),
        member("same", LNK, "./root-shell"),
        member("again", LNK, "a/fine"),
        member("ein Bild \udcff.jpg", content=b"x", mode=0o640),
    )
    assert [info.name for info in found] == [
        *(".", "root-shell", "a", "a/fine", "same", "ein Bild \udcff.jpg")
    ]
    assert {info.mode for info in found} == {0o770, 0o755, 0o777, 0o644, 0o640}
    assert {(info.uid, info.gid, info.uname, info.gname) for info in found} == {(0, 0, "", "")}
    assert left_out == {
        **{BITS: 3, PIPE: 1, LINK_OUT: 2, LINK_TO_LINK: 1},
        **{LINK_TO_LEFT_OUT: 1, WHITEOUT: 1, TOO_LONG: 1},
    }


def test_what_is_whole_has_its_last_file() -> None:
    assert [info.name for info in copied(member("x"), last="whole")[0]] == ["x", "whole"]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Expected(2, 5), "more than the 2 files"),
        (Expected(3, 4), "more than the 4 bytes"),
        (Expected(3, 5, 2), "more than the 2 entries"),
        (Expected(4, 5), "3 files with 5 bytes, and the manifest tells 4 with 5"),
        (Expected(3, 6), "3 files with 5 bytes, and the manifest tells 3 with 6"),
    ],
)
def test_the_manifest_bounds_an_archive(told: Expected, said: str) -> None:
    archive = packed(member("a", content=b"12345"), member("b"), member("c"))
    with pytest.raises(BackupError, match=said):
        copy_safely(io.BytesIO(archive), io.BytesIO(), told)


class Endless(io.RawIOBase):
    """A beginning, and then zeros without an end; counts what was read."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning = beginning
        self.given = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        piece = self.beginning[self.given : self.given + size]
        piece += b"\0" * (size - len(piece))
        self.given += size
        return piece


def long_name(size: int) -> bytes:
    """Return the header of a GNU long name that says it has `size` bytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("beginning", "told"),
    [
        (packed(member("x")), Expected(1, 0)),  # zeros behind the end
        (long_name(8 * 2**30), Expected(1, 0)),  # a header that would be held in memory
        (member("big", size=8 * 2**30)[0].tobuf(), Expected(1, 5)),
    ],
)
def test_an_archive_that_does_not_end_is_given_up_early(beginning: bytes, told: Expected) -> None:
    source = Endless(beginning)
    with pytest.raises(BackupError, match="more than"):
        copy_safely(source, io.BytesIO(), told)  # type: ignore[arg-type]
    assert source.given < len(beginning) + 4 * SLACK


def test_a_file_with_holes_is_refused() -> None:
    """One of 8 EB needs 1 kB of archive."""
    info = tarfile.TarInfo("holes")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"00000000000\0", b"00000001000\0"
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    with pytest.raises(BackupError, match=r"not as large as it says|more than the"):
        copy_safely(io.BytesIO(bytes(header) + bytes(2048)), io.BytesIO(), Expected(1, 2**40))


@pytest.mark.parametrize("kept", [0, 100, 512, 1024, 1400, 1536, 2048])
def test_an_archive_that_breaks_off_is_refused(kept: int) -> None:
    """Regression: GNU tar takes one that ends between two members for a whole one."""
    archive = packed(member("a", content=b"x" * 600), member("b", content=b"y"))
    with pytest.raises(BackupError, match=r"cannot be read|the manifest tells"):
        copy_safely(io.BytesIO(archive[:kept]), io.BytesIO(), Expected(2, 601))


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=4000) | st.binary(max_size=600).map(lambda x: packed(member("a")) + x))
def test_anything_is_copied_or_told(text: bytes) -> None:
    try:
        copy_safely(io.BytesIO(text), io.BytesIO(), Expected(1, 100))
        said = ""
    except BackupError as error:
        said = str(error)
    assert said.isprintable()


NAME = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c"]), min_size=1, max_size=4).map(
    "/".join
)
MEMBERS = st.lists(
    st.tuples(NAME, st.sampled_from([b"0", DIR, SYM, SYM, LNK, FIFO, CHAR]), NAME), max_size=7
)


@settings(deadline=None, max_examples=200)
@given(MEMBERS)
def test_whatever_is_let_through_stays_in_its_folder(tmp_path_factory, names) -> None:
    """Unpacked without any protection, nothing that is left leads out of the folder."""
    members = [member(name, kind, link) for name, kind, link in names]
    try:
        found, _ = copied(*members)
    except BackupError:
        return
    root = Path(os.path.realpath(tmp_path_factory.mktemp("root")))
    for info in found:
        path = root / info.name
        assert path == root or Path(os.path.realpath(path.parent)).is_relative_to(root)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if info.isdir():
                path.mkdir(exist_ok=True)
            elif info.issym():
                path.symlink_to(info.linkname)
            elif info.islnk():
                os.link(root / info.linkname, path, follow_symlinks=False)
            else:
                path.write_bytes(b"")
        except OSError:
            continue  # two members that cannot both be there
    for path in root.rglob("*"):
        try:
            path.stat()
        except OSError as error:
            if error.errno == errno.ELOOP:
                continue  # it leads nowhere, and nobody can tell where that is
        assert Path(os.path.realpath(path)).is_relative_to(root), (path, names)


@pytest.mark.parametrize(
    ("name", "target", "inside"),
    [
        ("a", "b", True),
        ("a", "..", False),
        ("a/b", "..", True),
        ("a/b", "../..", False),
        ("a/b/c", "../../d/e", True),
        ("a/b", "x/../../..", False),
        ("a/b", "x/..", False),
        ("a", "/etc/passwd", False),
        ("a", "", False),
        ("a", ".restored/x", False),
        ("a", "./b", True),
    ],
)
def test_links_are_judged_without_following_any(name: str, target: str, inside: bool) -> None:
    assert leads_inside(name, target) is inside
