"""`--cap-add`, `--cap-drop`, `--privileged-inside`: what root inside has, and that the host grants none of it."""

import os
from pathlib import Path

import pytest

from cloche.abi.capability import ALL_CAPS, CAP_NAMES
from cloche.boot.spec import DEFAULT_CAPS
from tests.cli.harness import CLOCHE, Running, is_one_line, run_words, shell

SHOW = "grep ^Cap /proc/self/status"


def bit(*names: str) -> int:
    return sum(1 << CAP_NAMES.index(name) for name in names)


def sets(text: str) -> dict[str, int]:
    """CapInh CapPrm CapEff CapBnd CapAmb."""
    return {line.split(":")[0]: int(line.split()[1], 16) for line in text.splitlines()}


def expected(caps: int, *, is_root: bool = True) -> dict[str, int]:
    held = caps if is_root else 0
    return {"CapInh": 0, "CapPrm": held, "CapEff": held, "CapBnd": caps, "CapAmb": 0}


@pytest.mark.parametrize(
    ("options", "caps"),
    [
        ((), DEFAULT_CAPS),
        (
            ("--cap-add", "sys_admin", "--cap-add", "CAP_NET_ADMIN"),
            DEFAULT_CAPS | bit("SYS_ADMIN", "NET_ADMIN"),
        ),
        (("--cap-drop", "All"), 0),
        (("--cap-drop", "ALL", "--cap-add", "Cap_Chown"), bit("CHOWN")),
        (("--cap-drop", "CHOWN", "--cap-drop", "kill"), DEFAULT_CAPS & ~bit("CHOWN", "KILL")),
        (("--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"), ALL_CAPS & ~bit("SYS_ADMIN")),
        (("--privileged-inside",), ALL_CAPS),
    ],
)
def test_sets(options: tuple[str, ...], caps: int) -> None:
    done = shell(SHOW, "-u", "0", *options)
    assert sets(done.out) == expected(caps), done


def test_an_ordinary_user_inside_has_none() -> None:
    done = shell(SHOW, "-u", "1000", "--cap-add", "SYS_ADMIN")
    assert sets(done.out) == expected(DEFAULT_CAPS | bit("SYS_ADMIN"), is_root=False), done


def test_exec_has_the_same(tmp_path: Path) -> None:
    root = ["--root", str(tmp_path / "root")]
    done = run_words([*CLOCHE, *root, "run", "-d", "--rm", "--name", "box", "-u", "0", "--cap-add", "IPC_LOCK",
                      "--cap-drop", "CHOWN", "--", "sleep", "100"])  # fmt: skip
    assert done.status == 0, done
    caps = DEFAULT_CAPS & ~bit("CHOWN") | bit("IPC_LOCK")
    for user, is_root in (("0", True), ("1000", False)):
        done = run_words([*CLOCHE, *root, "exec", "-u", user, "box", "--", "sh", "-c", SHOW])
        assert sets(done.out) == expected(caps, is_root=is_root), done
    assert run_words([*CLOCHE, *root, "rm", "-f", "box"]).status == 0


@pytest.mark.parametrize("option", ["--cap-add", "--cap-drop"])
@pytest.mark.parametrize("name", ["", "SYS_NOTHING", "CAP_CAP_CHOWN", "40", "CHOWN,KILL"])
def test_names_that_are_none(option: str, name: str) -> None:
    done = shell("true", option, name)
    assert done.status == 125 and is_one_line(done.err) and option in done.err, done


def test_they_have_their_effect() -> None:
    mount = "mkdir /tmp/m && mount -t tmpfs none /tmp/m && echo mounted; chown 1 /tmp && echo given"
    assert shell(mount, "-u", "0").out == "given\n"
    assert shell(mount, "-u", "0", "--cap-add", "SYS_ADMIN", "--cap-drop", "CHOWN").out == "mounted\n"


def test_they_give_nothing_of_the_host(tmp_path: Path) -> None:
    """All capabilities of this kernel do no more to a volume than the caller of cloche allows."""
    kept, shown = tmp_path / "kept", tmp_path / "shown"
    for folder in (kept, shown):
        folder.mkdir()
        (folder / "f").write_text("host\n")
    script = (
        "mount -o remount,rw,dev,suid,exec /kept; echo guest > /kept/f; chown 7 /kept/f; chmod 777 /kept/f; rm -f /kept/f;"
        "mknod /shown/zero c 1 5; setfattr -n trusted.x -v y /shown/f; mount --bind /shown /mnt && echo x > /mnt/g;"
        "date -s 2001-01-01; hostname other; sysctl -w kernel.panic=1; reboot -f; cat /shown/g"
    )
    before = (kept / "f").stat()
    host = os.uname().nodename
    done = shell(
        script, "-u", "0", "--privileged-inside", "-v", f"{kept}:/kept:ro", "-v", f"{shown}:/shown:rw"
    )
    after = (kept / "f").stat()
    assert (kept / "f").read_text() == "host\n" and (before.st_mode, before.st_uid) == (
        after.st_mode,
        after.st_uid,
    ), done
    assert sorted(os.listdir(shown)) in (["f", "g"], ["f"]) and os.listxattr(shown / "f") == [], done
    assert os.uname().nodename == host


def test_a_running_one_shows_them() -> None:
    running = Running("sh", "-c", f"{SHOW} | tail -1; sleep 100", options=("-u", "0", "--cap-drop", "all"))
    try:
        assert running.wait_for_line().endswith("0000000000000000")
    finally:
        running.end()
