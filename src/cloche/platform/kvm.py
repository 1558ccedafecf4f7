"""The `kvm` platform: guest code runs in virtual machines, one for each guest process on the host.

All else is systrap's: host processes that are forks of a zygote, slots, ordered operations.  What differs is in the
guest's host process (`kvm.elf`, csrc/kvm): where systrap's stub returns to guest code, its loop enters a virtual CPU.
Guest memory is executable in the machine's page tables only, nowhere on the host.
"""

import errno
import os
from typing import Final

from cloche.platform.interface import HostNeeds
from cloche.platform.kvm_capabilities import KvmError, open_device, require
from cloche.platform.layout import EXIT_REASONS
from cloche.platform.systrap import Systrap

_REASONS: Final = {
    0: "signals and errors",
    5: "questions of ring 0",
    7: "windows for interrupts",
}  # KVM_EXIT_*


STUB: Final = "kvm.elf"


class Kvm(Systrap):
    """The platform: one per host process at a time."""

    def __init__(self, mm: str = "strict", stub_fd: int = -1) -> None:
        # Slots are out of reach of guest code: there are no patched calls
        super().__init__(mm, False, stub_fd)
        self._stub_name = STUB
        # KVM may add a thread of its own to a process with a machine (kvm_nx_huge_page_recovery_worker). So at most
        # one unknown thread is tolerated; it could also be a guest's.
        self._proc.hosts_threads = 1
        self._guests.returns = [0] * EXIT_REASONS

    def take_device(self, fd: int) -> None:
        self._kvm_fd = fd

    def prepare(self) -> HostNeeds:
        try:
            if self._kvm_fd < 0:
                self._kvm_fd = open_device()
            require(self._kvm_fd)
        except KvmError as error:
            raise OSError(errno.ENODEV, f"--platform kvm: {error}") from error
        return super().prepare()

    def start(self) -> None:
        if self._kvm_fd < 0:
            self.prepare()
        try:
            super().start()
        finally:
            os.close(self._kvm_fd)  # the zygote has its own
            self._kvm_fd = -1

    def summary(self) -> list[str]:
        """Also the reasons for which KVM_RUN returned, as the guest processes report them."""
        lines = super().summary()
        told = [
            f"{count} for {_REASONS.get(reason, f'reason {reason}')}"
            for reason, count in enumerate(self._guests.returns)
            if count
        ]
        return [*lines, f"returns of KVM_RUN: {', '.join(told) or 'none'}"]
