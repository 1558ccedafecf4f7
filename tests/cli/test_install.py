"""`cloche install`: the configuration of engines, with everything else in it kept, and taken back."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.cli.harness import CLOCHE, Outcome, is_one_line, run_words

CONTAINERD_1 = """\
version = 2
# a remark
root = "/var/lib/containerd"

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "pause:3" # another
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
"""
CONTAINERD_2 = 'version = 3\n\n[plugins."io.containerd.cri.v1.runtime"]\nenable_selinux = false\n'
BEFORE = {
    "docker": ["", '{\n    "log-driver": "json-file",\n    "runtimes": {\n        "x": {\n            "path": "/x"\n        }\n    }\n}\n'],
    "containerd": ["", CONTAINERD_1, CONTAINERD_2],
    "podman": ["", '[engine]\n# mine\nruntime = "crun"\n\n[engine.runtimes]\nother = ["/usr/bin/other"]\n'],
    "crio": ["", '[crio.runtime]\ndefault_runtime = "crun"\n'],
}  # fmt: skip
CASES = [(engine, text) for engine, texts in BEFORE.items() for text in texts]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """What the entries lead to."""
    path = tmp_path / "cloche-oci"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def install(engine: str, file: Path, *options: str) -> Outcome:
    return run_words([*CLOCHE, "install", "--runtime", engine, "--config", str(file), *options])


def entry_of(engine: str, text: str) -> object:
    data = json.loads(text) if engine == "docker" else tomllib.loads(text)
    if engine == "docker":
        return data["runtimes"]["cloche"]["path"]
    if engine == "podman":
        return data["engine"]["runtimes"]["cloche"][0]
    if engine == "crio":
        return data["crio"]["runtime"]["runtimes"]["cloche"]["runtime_path"]
    plugin = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}[data["version"]]
    return data["plugins"][plugin]["containerd"]["runtimes"]["cloche"]["options"]["BinaryName"]


@pytest.mark.parametrize(("engine", "before"), CASES)
def test_there_and_back(tmp_path: Path, program: Path, engine: str, before: str) -> None:
    file = tmp_path / "folder" / "config"
    if before:
        file.parent.mkdir()
        file.write_text(before)
        file.chmod(0o640)
    done = install(engine, file, "--path", str(program))
    assert done.status == 0, done
    text = file.read_text()
    assert entry_of(engine, text) == str(program)
    for line in before.splitlines():
        assert line.strip().rstrip(",") in text, (line, text)
    assert not before or file.stat().st_mode & 0o777 == 0o640
    again = install(engine, file, "--path", str(program))
    assert again.status == 0 and "already" in again.out and file.read_text() == text, again
    done = install(engine, file, "--path", str(program), "--undo")
    assert done.status == 0, done
    assert file.read_text() == before if before else not file.exists()
    assert sorted(path.name for path in file.parent.iterdir()) == (["config"] if before else [])


def test_a_dry_run_changes_nothing(tmp_path: Path, program: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"debug": true}\n')
    done = install("docker", file, "--path", str(program), "--dry-run")
    assert done.status == 0 and f'+      "path": "{program}"' in done.out, done
    assert file.read_text() == '{"debug": true}\n'


def test_a_link_stays_a_link(tmp_path: Path, program: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    file = tmp_path / "daemon.json"
    file.symlink_to("real.json")
    assert install("docker", file, "--path", str(program)).status == 0
    assert file.is_symlink() and entry_of("docker", (tmp_path / "real.json").read_text()) == str(program)


@pytest.mark.parametrize(
    ("engine", "text", "words"),
    [
        ("docker", "{", "cannot be read"),
        ("docker", "[1]", "not an object"),
        ("docker", '{"runtimes": 7}', "not what docker reads"),
        ("docker", '{"runtimes": {"cloche": {"path": "/usr/bin/other"}}}', "is /usr/bin/other"),
        ("containerd", "version = 9\n", "version 9 is not known"),
        ("containerd", "version = [", "cannot be read"),
        ("containerd", "version = 2\nplugins = 3\n", "not what containerd reads"),
        ("podman", "\x00", "cannot be read"),
    ],
)
def test_what_cannot_be_written_is_left(
    tmp_path: Path, program: Path, engine: str, text: str, words: str
) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    done = install(engine, file, "--path", str(program))
    assert done.status == 125 and is_one_line(done.err) and words in done.err, done
    assert file.read_text() == text


def test_bad_words(tmp_path: Path, program: Path) -> None:
    for words in (["--path", "/nothing"], ["--path", str(program), "--name", "Not/One"]):
        done = install("docker", tmp_path / "daemon.json", *words)
        assert done.status == 125 and is_one_line(done.err), done
    assert list(tmp_path.iterdir()) == [program]


def test_another_s_entry_is_not_undone(tmp_path: Path, program: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"runtimes": {"cloche": {"path": "/usr/bin/other"}}}')
    done = install("docker", file, "--undo")
    assert done.status == 125 and "not ours" in done.err, done


def test_containerd_reads_it(tmp_path: Path, program: Path) -> None:
    containerd = shutil.which("containerd")
    if containerd is None:
        pytest.skip("needs containerd")
    file = tmp_path / "config.toml"
    file.write_bytes(
        subprocess.run([containerd, "config", "default"], capture_output=True, check=True).stdout
    )
    before = file.read_text()
    assert install("containerd", file, "--path", str(program)).status == 0
    dumped = subprocess.run(
        [containerd, "--config", str(file), "config", "dump"], capture_output=True, text=True, check=True
    )
    assert entry_of("containerd", dumped.stdout) == str(program)
    assert install("containerd", file, "--undo").status == 0 and file.read_text() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_without_permission(program: Path) -> None:
    done = install("docker", Path("/etc/docker-of-nobody/daemon.json"), "--path", str(program))
    assert done.status == 125 and is_one_line(done.err) and "cannot be written" in done.err, done
