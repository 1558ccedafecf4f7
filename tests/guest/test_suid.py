"""Set-user-ID programs and file capabilities: as on the host with --allow-suid, without effect otherwise."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest.harness import TIMEOUT_S, cloche_command, run_native, strict

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(void)
{
    uid_t r, e, s;
    char line[200];
    getresuid(&r, &e, &s);
    printf("%d %d %d %d secure %ld dumpable %d\n", r, e, s, getegid(), getauxval(AT_SECURE), prctl(PR_GET_DUMPABLE));
    FILE *f = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "CapPrm", 6) || !strncmp(line, "CapEff", 6) || !strncmp(line, "CapAmb", 6))
            fputs(line, stdout);
    return 0;
}
"""

# The bounding set is made a sandbox's first, so that both sides begin alike.
SCRIPT = """
caps=chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod,audit_write
all=-all; for c in $(echo $caps | tr , ' ') setfcap; do all=$all,+$c; done
user="setpriv --bounding-set $all --reuid 1000 --regid 1000 --clear-groups"
cp show suid; chown 0:0 suid; chmod 4755 suid
cp show sgid; chown 0:2 sgid; chmod 2755 sgid
cp show other; chown 1234:1234 other; chmod 4755 other
cp show caps; chmod 755 caps; setcap cap_net_raw,cap_chown+ep caps
cp show legacy; chmod 755 legacy; setcap cap_net_raw+p legacy
cp show wants; chmod 755 wants; setcap cap_sys_admin+ep wants
for f in suid sgid other caps legacy wants; do
  echo "- $f"; $user ./$f; echo $?
  echo "- $f, no_new_privs"; $user --no-new-privs ./$f
done
echo "- less in the bounding set";
setpriv --bounding-set $all,-chown --reuid 1000 --regid 1000 --clear-groups ./caps; echo $?
echo "- ambient"; $user --inh-caps +net_raw --ambient-caps +net_raw ./show
echo "- ambient, then capabilities of the file"; $user --inh-caps +net_raw --ambient-caps +net_raw ./caps
echo "- in a user namespace"; $user unshare -U ./caps; $user unshare -Ur ./suid; $user unshare -Ur ./caps
echo "- written to"; cp suid again; chmod 4755 again; chown 1000 again; $user sh -c 'echo >> again'; stat -c %a again
$user sh -c 'cat /dev/null > caps' 2>/dev/null; chmod 777 caps; $user sh -c 'cat show >> caps'; getcap caps
"""


def prepare(folder: Path) -> None:
    folder.mkdir()
    for above in [folder, *list(folder.parents)[:4]]:
        above.chmod(above.stat().st_mode | 0o711)
    (folder / "show.c").write_text(PROGRAM)
    subprocess.run(["gcc", "-w", "-o", "show", "show.c"], cwd=folder, check=True, timeout=TIMEOUT_S)


def in_cloche(folder: Path, *options: str) -> bytes:
    env = strict()
    command = [*cloche_command(*options), "sh", "-c", SCRIPT]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=100, check=False).stdout


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setcap") is None, reason="needs root and libcap2-bin")
def test_as_on_the_host(tmp_path: Path) -> None:
    prepare(tmp_path / "native")
    prepare(tmp_path / "cloche")
    native = run_native(["sh", "-c", SCRIPT], tmp_path / "native")
    assert b"1000 0 0" in native.stdout, native
    assert in_cloche(tmp_path / "cloche", "--allow-suid").decode() == native.stdout.decode(), native


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setcap") is None, reason="needs root and libcap2-bin")
def test_without_effect_by_default(tmp_path: Path) -> None:
    prepare(tmp_path / "cloche")
    shown = in_cloche(tmp_path / "cloche").split(b"- ambient")[0]
    assert shown.count(b"1000 1000 1000 1000 secure 0 dumpable 1") == 13
    assert shown.count(b"CapPrm:\t0000000000000000") == 13
