"""Which of the host's directories show in /var, /run and /srv: the rules, and a gofer that keeps to them."""

import os
import stat
from pathlib import Path

import pytest

from cloche.abi import errno
from cloche.fs.gofer_client import GoferClient
from cloche.gofer.launch import spawn_gofer
from cloche.gofer.nodes import AttachPoint
from cloche.gofer.skeleton import Skeleton
from cloche.wire.gofer import Entry

from .test_files import errno_of

PEOPLE = frozenset([b"alice"])


def of(mode: int, uid: int = 0) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 2, uid, 0, 0, 0, 0, 0))


SHOWN = {
    "var": """lib lib/nginx lib/nginx/body lib/apt/lists/partial cache/apt/archives cache/apt/archives/partial log/nginx
        spool/postfix/active tmp www/html lib/docker lib/systemd mail opt""",
    "run": "lock nginx user screen systemd",
    "srv": "www ftp",
}
HIDDEN = {
    "var": """customers lib/git/project/x log/nginx/shop tmp/x www/shop mail/bob opt/x lib/docker/overlay2 lib/alice
        lib/shop.example.org lib/user@1000 lib/0123456789abcdef lib/machines/web log/journal/0123456789abcdef
        lib/AccountsService/users spool/cron/crontabs lib/apt/lists/partial/x""",
    "run": "lock/x user/0 screen/S-bob cloche systemd/users alice",
    "srv": "shop www/html git/project",
}


@pytest.mark.parametrize("kind", SHOWN)
def test_rules(kind: str) -> None:
    rules = Skeleton(kind, PEOPLE)
    for text, expected in ((SHOWN[kind], True), (HIDDEN[kind], False)):
        for path in text.encode().split():
            *above, name = path.split(b"/")
            shows = rules.is_open(above, 0o40755) and rules.shows(above, name, of(0o40755))
            assert shows == expected, path


def test_only_public_directories_of_system_accounts() -> None:
    rules = Skeleton("var", PEOPLE)
    for mode in (0o100644, 0o120777, 0o140777, 0o10644):
        assert not rules.shows([b"lib"], b"x", of(mode))
    assert rules.shows([b"lib"], b"x", of(0o40700)) and rules.shows([b"lib"], b"x", of(0o40755, 999))
    assert not rules.shows([b"lib"], b"x", of(0o40755, 1000)) and rules.shows(
        [b"lib"], b"x", of(0o40755, 65534)
    )
    for mode in (0o40700, 0o40750, 0o40751, 0o41733):
        assert not rules.is_open([b"lib", b"x"], mode)


def test_what_packages_made_of_usr_shows_whole() -> None:
    rules = Skeleton("var", PEOPLE)
    deep = [b"lib", b"ghc", b"package.conf.d"]
    for mode, expected in ((0o100644, True), (0o120777, True), (0o40755, True), (0o100640, False), (0o40750, False),
                           (0o140777, False), (0o10666, False), (0o20666, False)):  # fmt: skip
        assert rules.shows(deep, b"base-4.18.2.1.conf", of(mode)) == expected
        assert rules.shows([b"lib"], b"ghc", of(mode)) == stat.S_ISDIR(mode)
    assert rules.is_open([*deep, b"a", b"b"], 0o40755) and not rules.is_open(deep, 0o40750)
    assert not rules.shows(deep, b"x", of(0o100644, 1000)) and rules.shows(deep, b"x", of(0o100644, 999))
    assert not rules.shows([b"lib", b"ghci"], b"x", of(0o100644)) and not rules.shows(
        [b"lib"], b"x", of(0o100644)
    )
    assert not Skeleton("run", PEOPLE).shows(deep, b"x", of(0o100644))


@pytest.mark.skipif(os.geteuid() != 0, reason="a directory of one's own is a person's")
def test_a_gofer_shows_nothing_else(tmp_path: Path) -> None:
    for path in ("lib/nginx/body/deep", "lib/private/of-root", "lib/alice", "log/nginx", "customers"):
        (tmp_path / path).mkdir(parents=True)
    packages = tmp_path / "lib/ghc/package.conf.d"
    packages.mkdir(parents=True)
    (packages / "base.conf").write_text("base")
    (packages / "secret.conf").write_text("secret")
    (packages / "secret.conf").chmod(0o600)
    tmp_path.chmod(0o755)
    (tmp_path / "lib/private").chmod(0o700)
    (tmp_path / "lib/file").write_text("secret")
    (tmp_path / "lib/link").symlink_to("file")
    point = AttachPoint(str(tmp_path), is_writable=False)
    point.show_directories("var", [b"alice"])
    process = spawn_gofer([point])
    client = GoferClient(process.sock)
    try:
        root = client.attach(0).fid
        assert {each.name for each in client.relist(root).entries()} == {b"lib", b"log"}
        lib = client.opendir(root, b"lib")
        assert {each.name for each in lib.entries()} == {b"nginx", b"private", b"ghc"}
        for name in (b"file", b"link", b"alice"):
            assert client.stat(lib.fid, name) == -errno.ENOENT
            assert errno_of(client.open, lib.fid, name, os.O_RDONLY) == errno.ENOENT
        private = client.opendir(lib.fid, b"private")
        assert private.is_listed and not private.entries()
        assert client.stat(private.fid, b"of-root") == -errno.ENOENT
        nginx = client.opendir(lib.fid, b"nginx")
        body = client.opendir(nginx.fid, b"body")
        assert isinstance(client.stat(nginx.fid, b"body"), Entry) and not body.entries()
        assert errno_of(client.walk, body.fid, b"deep") == errno.ENOENT
        shown = client.opendir(client.opendir(lib.fid, b"ghc").fid, b"package.conf.d")
        assert [each.name for each in shown.entries()] == [b"base.conf"]
        assert errno_of(client.open, shown.fid, b"secret.conf", os.O_RDONLY) == errno.ENOENT
        with os.fdopen(client.open(shown.fid, b"base.conf", os.O_RDONLY)[0], "rb") as file:
            assert file.read() == b"base"
    finally:
        client.close()
        os.waitpid(process.pid, 0)
