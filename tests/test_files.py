"""Files that are written whole or not at all, and JSON."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtp.errors import UserError
from vtp.files import existing, read_json, replacing, write_json, write_text

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Interrupted(BaseException):
    """As KeyboardInterrupt, no Exception."""


@pytest.mark.parametrize("kind", [ValueError, Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_is_replaced_whole_or_not_at_all(
    kind: type[BaseException], before: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    if before is not None:
        path.write_bytes(before)

    def write_half() -> None:
        with replacing(path) as temporary:
            assert temporary.parent == path.parent  # so that the renaming is atomic
            temporary.write_bytes(b"half of the n")
            raise kind

    with pytest.raises(kind):
        write_half()
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == (
        [] if before is None else [("file.bin", before)]
    )


def test_the_old_content_stands_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "ηλπ\n")
    assert (tmp_path / "file").read_bytes() == "ηλπ\n".encode()


@settings(max_examples=50)
@given(value=PLAIN)
def test_json_comes_back_as_it_was_and_equal_values_give_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_json(folder / "first.json", value)
    read = read_json(folder / "first.json")
    assert read == value
    assert repr(read) == repr(value)  # 1 and 1.0 and True, and every bit of a float
    write_json(folder / "second.json", read)
    assert (folder / "first.json").read_bytes() == (folder / "second.json").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"{'a': 1}", b"\xff\xfe{}", b"\0\0"])
def test_a_file_that_is_no_json_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: not a JSON file") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):  # a folder is no file
        for read in (read_json, existing):
            with pytest.raises(UserError, match=f"^{re.escape(str(path))}: no such file"):
                read(path)
    write_json(tmp_path / "there.json", math.pi)
    assert existing(tmp_path / "there.json") == tmp_path / "there.json"
