"""unshare, nsenter and bwrap of an unprivileged user have the same results in cloche as on the host."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest.harness import Outcome, cloche_command, run_native, strict

UID = "1000"

SCRIPTS = {
    "unshare_ids": "unshare -Ur sh -c 'id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups'",
    "unshare_other_ids": "unshare -U --map-user=5 --map-group=6 sh -c 'id -u; id -g'",
    "unshare_unmapped": "unshare -U sh -c 'id -u; stat -c %u:%g /'",
    "unshare_pid": "unshare -Urpf --mount-proc ps -o pid,ppid,pgid,args",
    "unshare_net": "unshare -Urn ip -o a; unshare -Urn sh -c 'ip link set lo up; ip -o -4 a; ip r'",
    "unshare_uts": "unshare -Uru sh -c 'hostname inner; hostname; uname -n'",
    "unshare_ipc": "unshare -Urip --fork sh -c 'ipcmk -Q >/dev/null; ipcs -q | wc -l'",
    "unshare_mount": (
        "mkdir d; unshare -Urm sh -c 'mount -t tmpfs none d; touch d/x; ls d; findmnt -n -o FSTYPE d; umount d; ls d'"
    ),
    "unshare_cgroup": "unshare -UrC true; echo $?",
    "unshare_refused": "unshare -n true; unshare -p true; unshare -m true; unshare -Ur --setgid=0 --setuid=0 id",
    "unshare_kill_child": (
        "unshare -Urpf --mount-proc --kill-child sh -c 'sleep 98.76 & until grep -q ^sleep /proc/$!/comm; do sleep 0.02; done; "
        "exec ps -o pid,ppid,args'; pgrep -f '^sleep 98.76' | wc -l"
    ),
    "unshare_many": (
        "f=0; for i in $(seq 280); do unshare -Urpfm --mount-proc true || f=$((f+1)); done; echo failures $f"
    ),
    "nsenter": """
unshare -Urpfu --mount-proc sh -c 'hostname deep; mkfifo f; read x <f' &
while [ ! -p f ]; do sleep 0.02; done
for p in $(pgrep -f 'hostname deep'); do
  [ "$(readlink /proc/$p/ns/uts)" = "$(readlink /proc/self/ns/uts)" ] || t=$p
done
nsenter -t $t -U -u --preserve-credentials hostname
nsenter -t $t -U -u -m -p --preserve-credentials sh -c 'id -u; hostname; ls -d /proc/1; echo $$'
lsns -t uts -n -o TYPE -p $t
echo > f; wait
""",
    "bwrap": "bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev true; echo $?",
    "bwrap_inside": (
        "bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev sh -c "
        '\'id -u; ls /dev | tr "\\n" " "; ls -d /proc/1; ip -o link; touch /x; exit 7\'; echo $?'
    ),
    "bwrap_root": (
        "bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev --hostname h --uid 0 --gid 0 sh -c 'id -u; hostname'"
    ),
    "bwrap_tree": (
        "bwrap --unshare-user --ro-bind /usr /usr --symlink usr/lib /lib --symlink usr/lib64 /lib64 "
        "--symlink usr/bin /bin --tmpfs /tmp --dir /home/x --chdir /home/x --setenv A b "
        "sh -c 'pwd; echo $A; ls /; touch /tmp/y; ls /tmp; touch /usr/z'"
    ),
    "bwrap_bind": (
        "mkdir m; bwrap --unshare-net --dev-bind / / --bind \"$PWD/m\" /mnt sh -c 'echo data > /mnt/x'; cat m/x"
    ),
    "bwrap_caps": (
        "bwrap --ro-bind / / --unshare-user --cap-add CAP_SYS_ADMIN --uid 0 sh -c 'mount -t tmpfs none /tmp && echo y'"
    ),
    "bwrap_nested": (
        "bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev "
        "bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev sh -c 'id -u; echo $$'"
    ),
}


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user natively")
@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for above in list(tmp_path.parents)[:3]:
        above.chmod(above.stat().st_mode | 0o711)
    script = SCRIPTS[name]
    if "bwrap" in script and shutil.which("bwrap") is None:
        pytest.skip("no bubblewrap")
    outcomes = []
    for kind in ("native", "cloche"):
        folder = tmp_path / kind
        folder.mkdir()
        os.chown(folder, int(UID), int(UID))
        if kind == "native":
            command = ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", "sh", "-c", script]
            outcomes.append(run_native(command, folder))
        else:
            env = strict()
            command = [*cloche_command("-u", f"{UID}:{UID}"), "sh", "-c", script]
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=100, check=False)
            outcomes.append(Outcome(done))
    native, cloche = outcomes
    assert cloche == native, f"\nNATIVE {native!r}\nCLOCHE {cloche!r}"
