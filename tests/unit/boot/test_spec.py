"""The spec's way to the keeper: nothing is lost."""

from cloche.boot.spec import HOST, MountSpec, PublishSpec, SandboxSpec, dump, load


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
    for name in ("mounts", "published"):
        del wanted[name], got[name]
    assert got == wanted
