"""cloche-oci with systemd's driver, called without an engine: the scope, its limits, its end."""

import pytest

from tests.vm.conftest import Guest

BUNDLE = """
mkdir -p /root/b/rootfs && cd /root/b && tar -C rootfs -xf /srv/bb.tar && rm -f config.json && $CLOCHE spec
cat > edit.py <<'P'
import json, sys
data = json.load(open("config.json"))
data["process"].update(terminal=False, args=["sleep", "1000"])
data["root"]["readonly"] = True
data["linux"]["cgroupsPath"] = sys.argv[1]
data["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 9}, "cpu": {"quota": 50000, "period": 100000}}
data["annotations"] = {"org.systemd.property.TimeoutStopSec": "77", "org.systemd.property.Documentation": "['man:x(1)']"}
json.dump(data, open("config.json", "w"))
P
/usr/local/lib/agent-python edit.py PLACE
create() { $CLOCHE --systemd-cgroup create --bundle /root/b $1 </dev/null >/root/b/out 2>&1 || { cat /root/b/out; exit 1; }; }
gone() { for i in $(seq 600); do systemctl list-units --all --plain --no-legend | grep -q $1 || return 0; sleep 0.2; done; exit 1; }
"""


def in_bundle(script: str, place: str = "made.slice:test:one") -> str:
    return BUNDLE.replace("PLACE", place) + script


def test_a_scope_and_its_limits(guest: Guest) -> None:
    script = """
    create one
    systemctl show test-one.scope -p Slice -p ControlGroup -p MemoryMax -p TasksMax -p CPUQuotaPerSecUSec -p Delegate \
        -p TimeoutStopUSec -p Documentation | sort
    g=/sys/fs/cgroup/made.slice/test-one.scope
    cat $g/memory.max $g/pids.max $g/cpu.max; wc -w < $g/cgroup.subtree_control
    cat /proc/$($CLOCHE state one | sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p')/cgroup
    $CLOCHE update --memory 100m --pids-limit 20 one
    cat $g/memory.max $g/pids.max; systemctl show test-one.scope -p MemoryMax -p TasksMax | sort
    $CLOCHE start one
    $CLOCHE pause one; $CLOCHE state one | grep -o '"paused"'; $CLOCHE resume one
    $CLOCHE exec one cat /proc/self/cgroup
    $CLOCHE events --stats one | grep -o '"limit": [0-9]*' | head -1
    $CLOCHE delete --force one
    gone test-one.scope; test ! -e $g; $CLOCHE list -q
    """
    more, tasks = (64 + 256) << 20, 2 * 9 + 128
    again, many = (100 + 256) << 20, 20 + 128
    assert guest.lines(in_bundle(script)) == [
        "CPUQuotaPerSecUSec=500ms",
        "ControlGroup=/made.slice/test-one.scope",
        "Delegate=yes",
        'Documentation="man:x(1)"',
        f"MemoryMax={more}",
        "Slice=made.slice",
        f"TasksMax={tasks}",
        "TimeoutStopUSec=1min 17s",
        *(str(more), str(tasks), "50000 100000", "0"),
        "0::/made.slice/test-one.scope",
        *(str(again), str(many), f"MemoryMax={again}", f"TasksMax={many}"),
        '"paused"',
        "0::/",
        f'"limit": {again}',
    ]


@pytest.mark.parametrize("part", ["cloche-sentry", "cloche-monitor", "anchor.elf"])
def test_nothing_is_left_when_a_part_dies(guest: Guest, part: str) -> None:
    script = f"""
    create one
    g=/sys/fs/cgroup/made.slice/test-one.scope
    for pid in $(cat $g/cgroup.procs); do grep -qx {part} /proc/$pid/comm && kill -9 $pid; done
    gone test-one.scope; test ! -e $g
    $CLOCHE state one | grep -o '"stopped"'
    $CLOCHE delete one; $CLOCHE list -q
    """
    assert guest.lines(in_bundle(script)) == ['"stopped"']


def test_an_empty_slice_and_errors(guest: Guest) -> None:
    script = """
    create one; systemctl show test-one.scope -p Slice; $CLOCHE delete --force one
    $CLOCHE create --bundle /root/b two </dev/null 2>&1 | grep -o 'systemd-cgroup was not given'
    sed -i 's/TimeoutStopSec/NoSuchThing/' config.json
    $CLOCHE --systemd-cgroup create --bundle /root/b two </dev/null 2>&1 | grep -o 'error creating systemd unit.*'
    $CLOCHE list -q; systemctl list-units --all --plain --no-legend 'test-*'
    """
    shown = guest.lines(in_bundle(script, ":test:one"))
    assert shown[:2] == ["Slice=system.slice", "systemd-cgroup was not given"]
    assert "test-one.scope" in shown[2] and "NoSuchThing" in shown[2], shown
    assert len(shown) == 3


def test_an_ordinary_user(guest: Guest) -> None:
    """By the user's manager, as root of a user namespace, as Podman calls it."""
    script = in_bundle("", ":test:one").replace("/root/b", "$HOME/b").replace("PLACE", ":test:one")
    script += """
    cat > inside.sh <<'P'
    $CLOCHE --systemd-cgroup create --bundle $HOME/b one </dev/null >$HOME/b/out 2>&1 || cat $HOME/b/out
    cat /proc/$($CLOCHE state one | sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p')/cgroup
    systemctl --user show test-one.scope -p TasksMax
    $CLOCHE delete --force one
P
    podman unshare sh inside.sh
    systemctl --user list-units --all --plain --no-legend 'test-*'
    """
    place, tasks = guest.lines(script, is_user=True)
    assert place == "0::/user.slice/user-1000.slice/user@1000.service/user.slice/test-one.scope"
    assert tasks == f"TasksMax={2 * 9 + 128}"
