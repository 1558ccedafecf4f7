"""Podman with `--cgroup-manager=systemd`, as root and as an ordinary user with pasta, beside crun."""

from collections.abc import Iterator

import pytest

from tests.vm.conftest import Guest

SET_UP = """
podman image exists bb:1 || podman import -q /srv/bb.tar bb:1 >/dev/null
p() { podman --cgroup-manager=systemd --runtime=RUNTIME "$@"; }
scope() { echo libpod-$(podman inspect -f '{{.Id}}' $1).scope; }
left() { for i in $(seq 300); do systemctl $1 list-units --all --plain --no-legend 'libpod-*' | grep -q . || return 0; sleep 0.2; done
    systemctl $1 list-units --all --plain --no-legend 'libpod-*'; }
"""
WHO = [pytest.param(False, id="root"), pytest.param(True, id="user")]


def script(text: str, runtime: str = "$CLOCHE") -> str:
    return SET_UP.replace("RUNTIME", runtime) + text


@pytest.fixture(autouse=True)
def tidy(guest: Guest) -> Iterator[None]:
    """No container is left by a test that has failed."""
    yield
    for is_user in (False, True):
        guest.sh("podman rm -fa -t 0", is_user=is_user)


@pytest.mark.parametrize("is_user", WHO)
def test_limits(guest: Guest, is_user: bool) -> None:
    text = """
    p run -d --name=a --network=none -m 60m --pids-limit 20 --cpus 0.5 bb:1 sleep 1000 >/dev/null
    u=$(scope a); systemctl OPTION show $u -p MemoryMax -p TasksMax -p CPUQuotaPerSecUSec -p Slice | sort
    g=/sys/fs/cgroup$(systemctl OPTION show $u -p ControlGroup --value); cat $g/memory.max $g/pids.max $g/cpu.max
    p stats --no-stream --format '{{.Name}} {{.PIDs}}' a
    p update --memory 70m a >/dev/null; cat $g/memory.max
    p exec a sh -c 'for i in $(seq 30); do sleep 100 & done; wait' 2>&1 | grep -c "can.t fork"
    p pause a >/dev/null; podman inspect -f '{{.State.Status}}' a; p unpause a >/dev/null
    p rm -f -t 0 a >/dev/null; left OPTION
    """
    shown = guest.lines(script(text.replace("OPTION", "--user" if is_user else "")), is_user=is_user)
    place = "user.slice" if is_user else "machine.slice"
    assert shown[:4] == [
        "CPUQuotaPerSecUSec=500ms",
        f"MemoryMax={316 << 20}",
        f"Slice={place}",
        "TasksMax=148",
    ]
    assert shown[4:7] == [str(316 << 20), "148", "50000 100000"]
    name, pids = shown[7].split()
    assert name == "a" and int(pids) > 1
    assert shown[8:] == [str(326 << 20), "1", "paused"]


@pytest.mark.parametrize("runtime", ["crun", "$CLOCHE"])
def test_memory(guest: Guest, runtime: str) -> None:
    """A process that wants more than there is: Podman knows why it was ended."""
    text = """
    p run --name=a --network=none -m 60m --memory-swap 60m bb:1 tail -c 250m /dev/zero || echo status $?
    podman inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' a
    p run --rm --network=none -m 60m --memory-swap 60m bb:1 sh -c 'tail -c 250m /dev/zero; echo $?' 2>/dev/null
    p rm -f -t 0 a >/dev/null; left
    """
    assert guest.lines(script(text, runtime)) == ["status 137", "true 137", "137"]


@pytest.mark.parametrize("runtime", ["crun", "$CLOCHE"])
def test_a_user_s_network(guest: Guest, runtime: str) -> None:
    """pasta: a published port, and a server of the host's."""
    text = """
    p run -d --name=a -p 127.0.0.1:8080:80 bb:1 sh -c 'echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp' >/dev/null
    for i in $(seq 200); do busybox wget -q -T 20 -O - http://127.0.0.1:8080/ && break; sleep 0.2; done
    p exec a ip -o -4 addr show scope global | wc -l
    mkdir -p w; echo outside > w/index.html; busybox httpd -f -p 127.0.0.1:8099 -h w & server=$!
    p run --rm --network=pasta:-T,8099 bb:1 wget -q -T 60 -O - http://127.0.0.1:8099/
    kill $server; p rm -f -t 0 a >/dev/null; left --user
    """
    assert guest.lines(script(text, runtime), is_user=True) == ["hello", "1", "outside"]


@pytest.mark.parametrize("is_user", WHO)
def test_cgroupfs_with_version_2_alone(guest: Guest, is_user: bool) -> None:
    text = """
    p() { podman --cgroup-manager=cgroupfs --runtime=$CLOCHE "$@"; }
    p run --name=a -d --network=none -m 60m bb:1 sleep 1000 >/dev/null
    cat /proc/$(podman inspect -f '{{.State.Pid}}' a)/cgroup; cat $(find /sys/fs/cgroup -name "*$(podman inspect -f '{{.Id}}' a)")/memory.max
    p rm -f -t 0 a >/dev/null; find /sys/fs/cgroup -name 'libpod-*'
    """
    if is_user:
        shown = guest.sh(script(text), is_user=True)
        assert b"libpod-" not in shown.stdout and shown.stdout.startswith(b"0::/"), shown
        return
    place, limit = guest.lines(script(text))
    assert place.startswith("0::/libpod_parent/libpod-") and limit == str(316 << 20)
