"""The words and the environment of a command whose interpreter began with neither (`csrc/launcher`): it forks others
while it is empty, and then takes them from a file in memory.
"""

import os
import sys

__all__ = ["forget", "take"]


def forget() -> None:
    """In a process that was forked before: close the file unread."""
    os.close(int(sys.argv[2]))


def take(name: str) -> None:
    """Take them; `name` becomes the first word."""
    given, count = int(sys.argv[2]), int(sys.argv[3])
    items = os.pread(given, os.fstat(given).st_size, 0).split(b"\0")[:-1]
    os.close(given)
    _show_words(items[:count])
    sys.argv[:] = [name, *map(os.fsdecode, items[:count])]
    os.environ.clear()
    for item in items[count:]:
        key, equals, value = item.partition(b"=")
        if key and equals:
            os.environb[key] = value


def _show_words(words: list[bytes]) -> None:
    """Have `ps` show the user's arguments: write them over this process's last argument, which the launcher made long
    enough.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            end = int(file.read().rpartition(b")")[2].split()[46])  # arg_end, the 49th field
        text = b"\0".join(words)[: len(sys.argv[4])]
        with open("/proc/self/mem", "r+b", buffering=0) as file:
            file.seek(end - 1 - len(sys.argv[4]))
            file.write(text)
    except OSError:
        pass  # no /proc, or not that of this pid namespace
