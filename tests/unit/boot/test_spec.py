"""The spec's way to the keeper: no field is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche.boot.spec import HOST, MountSpec, PublishSpec, SandboxSpec, dump, from_fields, load, to_fields
from cloche.wire.protocol import ProtocolError


def fields(thing: object) -> dict[str, object]:
    return {name: getattr(thing, name) for name in dir(thing) if not name.startswith("_")}


def spoil(thing: object) -> None:
    """Give every field another value than it begins with."""
    for name, value in fields(thing).items():
        if isinstance(value, bool):
            setattr(thing, name, not value)
        elif isinstance(value, (int, float)):
            setattr(thing, name, value + 7)
        elif isinstance(value, str):
            setattr(thing, name, value + "x\udcff")
        elif isinstance(value, bytes):
            setattr(thing, name, value + b"x\xff")
        elif isinstance(value, dict):
            setattr(thing, name, {b"k": b"v"})


def test_every_field_arrives() -> None:
    spec = SandboxSpec([b"a", b"\xff"])
    spoil(spec)
    spec.groups = [1, 2]
    spec.symlinks, spec.files = [(b"a", b"b")], [(b"a", b"b", 1)]
    spec.directories, spec.late_directories = [(b"a", 1, 2, 3)], [(b"b", 1, 2, 3)]
    mount, port = MountSpec(b"/x", HOST, "/y\udcff"), PublishSpec("t", "127.0.0.1", 0, 80)
    spoil(mount)
    spoil(port)
    mount.only, mount.people = [b"only"], [b"people"]
    spec.mounts, spec.published = [mount], [port]
    found = load(dump(spec))
    assert fields(found.mounts[0]) == fields(mount) and fields(found.published[0]) == fields(port)
    wanted, got = fields(spec), fields(found)
    for name in (
        "mounts",
        "published",
        "oom_fd",
        "strace_fd",
        "device_fd",
        "network_fd",
        "user_ns_fd",
        "egress",
    ):  # descriptors go another way
        del wanted[name], got[name]
    assert got == wanted


def good() -> dict[str, object]:
    spec = SandboxSpec([b"a"])
    spec.mounts = [MountSpec(b"/x", HOST, "/y")]
    spec.published = [PublishSpec("t", "127.0.0.1", 0, 80)]
    return to_fields(spec)


ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=3) | st.text(max_size=3)


@given(st.sampled_from(sorted(good())), ODD | st.lists(ODD | st.lists(ODD, max_size=4), max_size=3))
def test_fields_of_anybody(name: str, value: object) -> None:
    """Any value of a field gives a spec with the right types, or an error."""
    fields = good()
    fields[name] = value
    try:
        spec = from_fields(fields)
    except ProtocolError:
        return
    assert listed(to_fields(spec)[name]) == value or value is None or value != value  # (not a number)


def listed(value: object) -> object:
    """A field's value with lists in place of tuples, which a specification has where a caller may give lists."""
    return [listed(each) for each in value] if isinstance(value, list | tuple) else value


def test_links_may_be_lists() -> None:
    fields = {**good(), "symlinks": [[b"a", b"b"]]}
    assert listed(to_fields(from_fields(fields))["symlinks"]) == [[b"a", b"b"]]


@pytest.mark.parametrize("name", sorted(good()))
def test_a_field_is_missing(name: str) -> None:
    fields = good()
    del fields[name]
    if name in ("env", "mounts", "published"):
        from_fields(fields)  # lists that are empty
    else:
        with pytest.raises(ProtocolError):
            from_fields(fields)
