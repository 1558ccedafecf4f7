"""Directories that are watched: the kernel inside reports every change, by any program."""

import asyncio
from collections.abc import Iterator

import pytest

from cloche import AsyncSandbox, Sandbox
from cloche.sdk import FileError, FileEvent, FileNotFound, SandboxEnded, WatchHandle

PATIENCE_S = 60.0


@pytest.fixture
def place(shared: Sandbox) -> Iterator[str]:
    """A directory inside."""
    shared.files.make_dir("/tmp/watched")
    yield "/tmp/watched"
    shared.files.remove("/tmp/watched")


def until(handle: WatchHandle, *wanted: tuple[str, str]) -> list[FileEvent]:
    """Events until all of `wanted`, (type, path), have come."""
    seen: list[FileEvent] = []
    left = set(wanted)
    while left:
        event = handle.next_event(PATIENCE_S)
        assert event is not None, f"{left} did not come, {seen} did"
        seen.append(event)
        left.discard((event.type, event.path))
    return seen


def test_what_programs_do_is_told(shared: Sandbox, place: str) -> None:
    with shared.files.watch_dir(place) as handle:
        assert handle.get_new_events() == []
        script = "echo a > f; chmod 600 f; mv f g; rm g; mkdir d; touch d/deep"
        shared.commands.run(script, cwd=place, check=True)
        seen = until(handle, ("create", f"{place}/d"))
        kinds = [(event.type, event.name) for event in seen if event.name in "fg"]
        assert kinds == [
            ("create", "f"),
            ("write", "f"),
            ("chmod", "f"),
            ("rename", "f"),
            ("create", "g"),
            ("remove", "g"),
        ]
        assert seen[-1].is_dir and not seen[0].is_dir
        assert handle.get_new_events() == []  # nothing of what is below
    assert handle.next_event(0) is None


def test_files_of_the_caller_are_told_too(shared: Sandbox, place: str) -> None:
    handle = shared.files.watch_dir(place)
    shared.files.write(f"{place}/new", "x")
    until(handle, ("create", f"{place}/new"))
    shared.files.remove(f"{place}/new")
    until(handle, ("remove", f"{place}/new"))
    handle.stop()
    handle.stop()


def test_directories_that_come_later(shared: Sandbox, place: str) -> None:
    shared.files.make_dir(f"{place}/old/older")
    with shared.files.watch_dir(place, recursive=True) as handle:
        shared.files.write(f"{place}/old/older/file", "x")
        until(handle, ("create", f"{place}/old/older/file"))
        shared.commands.run("mkdir -p a/b/c; echo x > a/b/c/f", cwd=place, check=True)
        until(handle, ("create", f"{place}/a/b/c/f"))
        shared.commands.run("mv a moved; echo y > moved/b/later", cwd=place, check=True)
        until(handle, ("rename", f"{place}/a"), ("create", f"{place}/moved"))
        shared.commands.run("echo z > moved/b/last", cwd=place, check=True)
        until(handle, ("create", f"{place}/moved/b/last"))


def test_the_directory_itself(shared: Sandbox) -> None:
    shared.files.make_dir("/tmp/short")
    with shared.files.watch_dir("/tmp/short") as handle:
        shared.files.remove("/tmp/short")
        assert until(handle, ("remove", "/tmp/short"))[-1].is_dir


def test_more_than_are_kept(shared: Sandbox, place: str) -> None:
    with shared.files.watch_dir(place) as handle:
        script = "import os\nfor n in range(40000): open(f'{n}', 'w').close(); os.unlink(f'{n}')"
        shared.commands.run(["python3", "-c", script], cwd=place, check=True, timeout=300)
        shared.files.write(f"{place}/last", "x")
        kinds: set[str] = set()
        for _ in range(200_000):
            event = handle.next_event(PATIENCE_S)
            assert event is not None
            kinds.add(event.type)
            if event.type == "overflow" or event.name == "last":
                break
        assert kinds & {"overflow"}, "a client that does not read is told that some are missing"


def test_who_may_not_look_may_not_watch(shared: Sandbox, place: str) -> None:
    shared.commands.run(["chmod", "711", place], check=True)
    with pytest.raises(FileError):
        shared.files.watch_dir(place, user=12345)
    with pytest.raises(FileNotFound):
        shared.files.watch_dir(f"{place}/nothing")
    shared.files.write(f"{place}/file", "")
    with pytest.raises(FileError):
        shared.files.watch_dir(f"{place}/file")


def test_async_and_the_end() -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.create()
        async with await sandbox.files.watch_dir("/tmp") as handle:
            await sandbox.files.write("/tmp/file", "x")
            async for event in handle:
                assert event.path.startswith("/tmp/")
                break
            await sandbox.kill()
            with pytest.raises(SandboxEnded):
                while await handle.next_event(PATIENCE_S) is not None:
                    pass

    asyncio.run(main())
