"""config.json is read strictly: an error gives one line, and has no other effect."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloche.oci.begin import PLATFORM_ANNOTATION
from cloche.oci.config import MAX_CONFIG_BYTES, parse_json
from cloche.oci.create import chosen_platform
from cloche.oci.errors import OciError
from cloche.oci.features import example_spec
from cloche.oci.spec import Bundle, ProcessSpec, read_bundle


def bundle(tmp_path: Path, **changes: Any) -> Bundle:
    (tmp_path / "rootfs").mkdir(exist_ok=True)
    data = example_spec()
    for name, value in changes.items():
        if value is None:
            del data[name]
        elif isinstance(value, dict) and isinstance(data.get(name), dict):
            data[name].update(value)
        else:
            data[name] = value
    return Bundle(str(tmp_path), data)


def test_what_spec_prints_is_taken(tmp_path: Path) -> None:
    made = bundle(tmp_path)
    assert made.process.argv == [b"sh"]
    assert made.rootfs == str(tmp_path / "rootfs")
    assert made.is_read_only
    # runc names the cgroup namespace only where version 2 is all that there is
    assert set(made.namespaces) - {"cgroup"} == {"pid", "network", "ipc", "uts", "mount"}
    assert [mount.destination for mount in made.mounts][:2] == ["/proc", "/dev"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"ociVersion": "2.0.0"}, "not 1.x"),
    ({"ociVersion": 1}, "ociVersion is not a string"),
    ({"root": None}, "root is missing"),
    ({"root": {"path": "nowhere"}}, "no such directory"),
    ({"root": {"path": "/"}}, "host's own root"),
    ({"root": {"readonly": "yes"}}, "root.readonly is not true or false"),
    ({"process": None}, "process is missing"),
    ({"process": {"args": []}}, "args must not be empty"),
    ({"process": {"args": ["a", 3]}}, "not a string"),
    ({"process": {"args": ["a\0b"]}}, "not a string"),
    ({"process": {"cwd": "tmp"}}, "absolute"),
    ({"process": {"user": {"uid": -1}}}, "process.user.uid is out of range"),
    ({"process": {"user": {"uid": True}}}, "process.user.uid is not a number"),
    ({"process": {"user": {"additionalGids": ["x"]}}}, "no group"),
    ({"process": {"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}}, "invalid rlimit type"),
    ({"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}}, "soft is more than hard"),
    ({"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2}}, "twice"),
    ({"process": {"oomScoreAdj": 5000}}, "out of range"),
    ({"hostname": "x" * 65}, "64 bytes"),
    ({"mounts": [{"destination": "/a/../../b", "type": "tmpfs"}]}, "leads upwards"),
    ({"mounts": [{"type": "tmpfs"}]}, "destination is missing"),
    ({"mounts": [{"destination": "/a", "options": ["bind"]}]}, "source of /a is missing"),
    ({"mounts": "x"}, "mounts is not a list"),
    ({"mounts": [3]}, "not an object"),
    ({"linux": {"namespaces": [{"type": "magic"}]}}, "unknown type"),
    ({"linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}]}}, "twice"),
    ({"linux": {"namespaces": [{"type": "pid", "path": "x"}]}}, "relative"),
    ({"linux": {"namespaces": [{"type": "user"}]}}, "no uid mappings found"),
    (
        {"linux": {"namespaces": [{"type": "user"}], "uidMappings": [{"hostID": 0, "size": 1 << 32}]}},
        "uidMappings.size is out of range",
    ),
    ({"linux": {"maskedPaths": ["x"]}}, "relative"),
    ({"linux": {"sysctl": {"kernel..x": "1"}}}, "no parameter"),
    ({"linux": {"devices": [{"path": "/dev/x", "type": "z"}]}}, "type 'z' is unknown"),
    ({"linux": {"devices": [{"path": "/dev/../x", "type": "c"}]}}, "not an absolute path"),
    ({"linux": {"resources": {"memory": {"limit": "1g"}}}}, "memory.limit is not a number"),
    (
        {"linux": {"resources": {"memory": {"disableOOMKiller": 1}}}},
        "memory.disableOOMKiller is not true or false",
    ),
    ({"linux": {"rootfsPropagation": "public"}}, "rootfsPropagation=public is not supported"),
    (
        {
            "mounts": [{"destination": "/a", "source": "/etc", "options": ["bind"]}],
            "linux": {"rootfsPropagation": "runbindable"},
        },
        "with rootfsPropagation=runbindable nothing can be bound",
    ),
    ({"hooks": {"prestart": [{"path": "true"}]}}, "not an absolute path"),
    ({"hooks": {"prestart": [{"path": "/bin/true", "timeout": 0}]}}, "timeout"),
    ({"annotations": {"a": 1}}, "annotations"),
]


@pytest.mark.parametrize("changes, text", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(OciError) as refusal:
        bundle(tmp_path, **changes)
    assert text in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_symlinked_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rootfs").symlink_to("/usr")
    with pytest.raises(OciError, match="is a symlink"):
        Bundle(str(tmp_path), example_spec())


def test_a_long_file_is_refused() -> None:
    with pytest.raises(OciError, match="longer than 16 MiB"):
        parse_json(b" " * (MAX_CONFIG_BYTES + 1), "config.json")


def test_a_deep_file_is_refused() -> None:
    with pytest.raises(OciError, match="nested too deeply|not JSON"):
        parse_json(b"[" * 200_000, "config.json")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"nul"])
def test_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(OciError):
        parse_json(raw, "config.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OciError, match=r"config\.json not found"):
        read_bundle(str(tmp_path))


def test_capability_sets() -> None:
    data = {
        "args": ["x"],
        "cwd": "/",
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_UNHEARD_OF"],
            "effective": ["CAP_CHOWN", "CAP_KILL"],
            "permitted": ["CAP_CHOWN"],
            "ambient": ["CAP_CHOWN"],
        },
    }
    # Nothing is effective that is not permitted, and nothing ambient that is not inheritable.
    assert ProcessSpec(json.loads(json.dumps(data))).cap_sets == [1, 1, 0, 0, 1 | 1 << 5]


def test_limits_without_an_end() -> None:
    data = {
        "args": ["x"],
        "cwd": "/",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": (1 << 64) - 1}],
    }
    assert ProcessSpec(data).rlimits == [(7, 5, -1)]


def test_the_platform(tmp_path: Path) -> None:
    """The runtime's flag is the administrator's: an annotation may choose only where that says nothing."""
    plain = bundle(tmp_path)
    chosen = bundle(tmp_path, annotations={PLATFORM_ANNOTATION: "systrap"})
    assert (
        chosen_platform(plain, "")
        == chosen_platform(chosen, "")
        == chosen_platform(chosen, "systrap")
        == "systrap"
    )
    for made, flag, text in (
        (plain, "none", "no platform 'none'"),
        (bundle(tmp_path, annotations={PLATFORM_ANNOTATION: "ptrace"}), "", "no platform 'ptrace'"),
        (chosen, "kvm", "was given --platform kvm"),
    ):
        with pytest.raises(OciError, match=text):
            chosen_platform(made, flag)


@pytest.mark.parametrize(
    "key, without",
    [
        ("kernel.hostname", ""),
        ("kernel/hostname", ""),
        ("kernel.domainname", "uts"),
        ("kernel.msgmax", "ipc"),
        ("fs.mqueue.queues_max", "ipc"),
    ],
)
def test_parameters_of_the_host_s_namespaces(tmp_path: Path, key: str, without: str) -> None:
    spaces = [row for row in example_spec()["linux"]["namespaces"] if row["type"] != without]
    with pytest.raises(OciError, match="sysctl"):
        bundle(tmp_path, linux={"sysctl": {key: "1"}, "namespaces": spaces})
    if without:
        assert key in bundle(tmp_path, linux={"sysctl": {key: "1"}}).sysctls
