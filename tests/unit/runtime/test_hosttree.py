"""HostTree: what it remembers of directories."""

from pathlib import Path

from cloche.runtime.hosttree import HostTree, make_directory


def test_a_directory_that_was_not_there_is_found_once_it_is(tmp_path: Path) -> None:
    tree = HostTree(bytes(tmp_path))
    for _time in range(2):
        assert tree.stat(b"a/b/file") is None and tree.stat(b"a/b/other") is None
    assert make_directory(tree, b"a/b")
    (tmp_path / "a" / "b" / "file").write_text("x")
    assert tree.stat(b"a/b/file") is not None and tree.stat(b"a/b/other") is None
    assert tree.stat(b"a/b/c/file") is None
    (tmp_path / "a" / "b" / "c").mkdir()
    (tmp_path / "a" / "b" / "c" / "file").write_text("x")
    tree.forget()
    assert tree.stat(b"a/b/c/file") is not None and tree.stat(b"a/b/cc") is None
    assert tree.stat(b"a/b/file") is not None
    tree.close()
