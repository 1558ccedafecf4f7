"""Named volumes and tmpfs mounts."""

import errno
import json
from pathlib import Path

from tests.cli.harness import is_one_line, wait_until
from tests.cli.images import Images


def sh(images: Images, script: str, *options: str) -> str:
    done = images("run", *options, "--", "sh", "-ec", script)
    assert done.status == 0 and not done.err, done
    return done.out


def test_a_volume_outlives_its_sandboxes(images: Images) -> None:
    sh(images, "echo kept >/data/file; mkdir /data/d", "-v", "stuff:/data")
    assert sh(images, "cat /other/file; ls /other", "-v", "stuff:/other") == "kept\nd\nfile\n"
    refused = images("run", "-v", "stuff:/data:ro", "--", "sh", "-c", "echo x >/data/file")
    assert refused.status != 0 and "Read-only" in refused.err
    assert sh(images, "echo mine >/data/file; cat /data/file", "-v", "stuff:/data:cow") == "mine\n"
    assert sh(images, "cat /data/file", "--read-only", "-v", "stuff:/data") == "kept\n"
    row = json.loads(images("volume", "ls", "--json").out)[0]
    assert row["name"] == "stuff" and Path(row["path"], "file").read_text() == "kept\n"
    assert images("volume", "rm", "stuff").status == 0
    assert images("volume", "ls", "-q").out == ""
    missing = images("volume", "rm", "stuff")
    assert missing.status == 125 and is_one_line(missing.err)


def test_sandboxes_share_a_volume_coherently(images: Images) -> None:
    started = images("run", "-d", "--name", "server", "-v", "shared:/data", "--", "sh", "-c",
                     "until test -e /data/ask; do sleep 0.05; done; cat /data/ask >/data/answer; sleep 1000")  # fmt: skip
    assert started.status == 0, started
    try:
        used = images("volume", "rm", "shared")
        assert used.status == 125 and is_one_line(used.err) and "in use" in used.err
        script = "echo hello >/data/new; mv /data/new /data/ask; until test -s /data/answer; do sleep 0.05; done; cat /data/answer"
        assert sh(images, script, "-v", "shared:/data") == "hello\n"
    finally:
        images("rm", "-f", "server")
    wait_until(lambda: images("volume", "rm", "shared").status == 0, "the volume is free")


def test_what_is_here_is_not_taken_for_a_volume(images: Images) -> None:
    (images.top / "src").mkdir()
    refused = images("run", "-v", "src:/src", "--", "true")
    assert refused.status == 125 and is_one_line(refused.err) and "./src" in refused.err
    assert images("run", "-v", "./src:/src", "--", "true").status == 0
    assert images("volume", "create", "src").status == 0
    sh(images, "touch /src/x", "-v", "src:/src")
    assert not list((images.top / "src").iterdir())
    assert images("volume", "prune").out == "src\n"


def test_tmpfs_mounts_have_options(images: Images) -> None:
    script = (
        "stat -c %a /scratch /more; echo x >/scratch/x; cp /bin/true /scratch; /scratch/true 2>/dev/null || echo noexec; "
        'python3 -c \'import os\ntry:\n    open("/scratch/big", "wb").write(bytes(2 << 20))\nexcept OSError as e: print(e.errno)\''
    )
    out = sh(
        images, script, "--tmpfs", "/scratch:size=1m,mode=700,noexec", "-v", "tmpfs:/more", "--read-only"
    )
    assert [line for line in out.splitlines() if "denied" not in line] == [
        "700",
        "1777",
        "noexec",
        str(errno.ENOSPC),
    ]
    for bad in ("relative", "/x:size=many", "/x:nosuch=1", "/"):
        refused = images("run", "--tmpfs", bad, "--", "true")
        assert refused.status == 125 and is_one_line(refused.err), refused
