"""User namespaces without a kernel: id maps, capabilities across namespaces, file capabilities."""

import pytest

from cloche.abi.capability import CAP_FULL_SET, CAP_SYS_ADMIN
from cloche.abi.errno import EINVAL, EOVERFLOW, EPERM, LinuxError
from cloche.vfs.credentials import Credentials
from cloche.vfs.file_caps import owns_namespace, parse, shown_value
from cloche.vfs.userns import IdMap, UserNamespace, lower_map, map_text, map_uid, parse_map


def child_of(parent: UserNamespace | None, owner: int, text: bytes) -> UserNamespace:
    made = UserNamespace(parent, owner, owner, 1)
    made.uids.extents = lower_map(parse_map(text), parent.uids if parent is not None else None)
    made.gids.extents = made.uids.extents
    return made


def creds_in(ns: UserNamespace | None, uid: int, caps: int) -> Credentials:
    made = Credentials(uid, uid, [], caps)
    made.user_ns = ns
    return made


def test_ids_are_translated_both_ways() -> None:
    outer = child_of(None, 1000, b"0 1000 1\n1 100000 65536\n")
    inner = child_of(outer, 1000, b"0 5 10")
    assert map_uid(outer, 0) == 1000 and map_uid(outer, 65536) == 165535 and map_uid(outer, 65537) == -1
    assert map_uid(inner, 3) == 100007
    assert inner.show_uid(100007) == 3 and inner.show_uid(1000) == 65534
    assert map_uid(None, 7) == 7 and map_uid(None, 0xFFFFFFFF) == -1 and map_uid(outer, -5) == -1
    assert map_text(inner.uids.extents, outer.uids) == b"         0          5         10\n"
    assert map_text(inner.uids.extents, None) == b"         0     100004         10\n"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"0 1", b"0 1 0", b"a 1 1", b"0 1 1 1", b"4294967295 1 1", b"0 4294967295 1",
        b"4294967290 0 6", b"0 0 2\n1 9 1", b"0 0 2\n5 1 1", b"-1 0 1",
    ],
)  # fmt: skip
def test_bad_maps(text: bytes) -> None:
    with pytest.raises(LinuxError) as caught:
        parse_map(text)
    assert caught.value.errno == EINVAL


def test_too_many_extents() -> None:
    assert len(parse_map(b"".join(b"%d %d 1\n" % (n, n) for n in range(340)))) == 340
    with pytest.raises(LinuxError):
        parse_map(b"".join(b"%d %d 1\n" % (n, n) for n in range(341)))


def test_a_range_must_lie_in_one_extent_of_the_parent() -> None:
    parent = IdMap()
    parent.extents = lower_map(parse_map(b"0 1000 5\n5 2000 5"), None)
    assert lower_map(parse_map(b"0 5 5"), parent)[0].lower == 2000
    with pytest.raises(LinuxError) as caught:
        lower_map(parse_map(b"0 4 2"), parent)
    assert caught.value.errno == EPERM


def test_capabilities_hold_in_the_own_namespace_and_below() -> None:
    outer = child_of(None, 1000, b"0 1000 1")
    inner = child_of(outer, 1000, b"0 0 1")
    sibling = child_of(None, 2000, b"0 2000 1")
    root = creds_in(None, 0, CAP_FULL_SET)
    owner = creds_in(None, 1000, 0)
    inside = creds_in(outer, 1000, CAP_FULL_SET)
    bare = creds_in(outer, 1000, 0)
    for ns in (None, outer, inner, sibling):
        assert root.capable_in(ns, CAP_SYS_ADMIN)
    assert [owner.capable_in(ns, CAP_SYS_ADMIN) for ns in (None, outer, inner, sibling)] == [
        False,
        True,
        True,
        False,
    ]
    assert [inside.capable_in(ns, CAP_SYS_ADMIN) for ns in (None, outer, inner, sibling)] == [
        False,
        True,
        True,
        False,
    ]
    # Without capabilities, but the creator of the inner one.
    assert [bare.capable_in(ns, CAP_SYS_ADMIN) for ns in (None, outer, inner, sibling)] == [
        False,
        False,
        True,
        False,
    ]
    assert not inside.capable(CAP_SYS_ADMIN) and root.capable(CAP_SYS_ADMIN)
    assert inside.capable_over(1000, 1000, 1) and not inside.capable_over(0, 1000, 1)
    assert not inside.capable_over(1000, 0, 1) and root.capable_over(0, 5, 1)


def test_file_capabilities_belong_to_a_namespace() -> None:
    outer = child_of(None, 1000, b"0 1000 1")
    v2 = (0x02000001).to_bytes(4, "little") + (1 << 10).to_bytes(4, "little") + bytes(12)
    v3 = (0x03000001).to_bytes(4, "little") + v2[4:20] + (1000).to_bytes(4, "little")
    found, scoped = parse(v2), parse(v3)
    assert found is not None and scoped is not None
    assert (found.permitted, found.root_uid, found.is_effective) == (1 << 10, 0, True)
    assert owns_namespace(found.root_uid, None) and owns_namespace(found.root_uid, outer)
    assert not owns_namespace(scoped.root_uid, None) and owns_namespace(scoped.root_uid, outer)
    assert parse(b"") is None and parse(v2[:-1]) is None and parse(b"\0\0\0\4" + v2[4:]) is None
    assert shown_value(creds_in(outer, 1000, 0), v3) == v2
    assert shown_value(creds_in(None, 0, 0), v3) == v3
    other = child_of(None, 2000, b"0 2000 1")
    with pytest.raises(LinuxError) as caught:
        shown_value(creds_in(other, 2000, 0), v3)
    assert caught.value.errno == EOVERFLOW
