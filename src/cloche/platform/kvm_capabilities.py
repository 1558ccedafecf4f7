"""The needs of the platform kvm: a /dev/kvm that may be opened, KVM's capabilities, the processor's features.

One list, used by the platform, by the code that starts it (which reports the first lack in one line) and by `cloche
doctor`. Sources: Documentation/virt/kvm/api.rst, linux/kvm.h.
"""

import fcntl
import os
from collections.abc import Callable
from typing import Final

DEVICE: Final = "/dev/kvm"
API_VERSION: Final = 12  # since Linux 2.6.22, and never to change
KVM_GET_API_VERSION: Final = 0xAE00
KVM_CHECK_EXTENSION: Final = 0xAE03
KVM_GET_SUPPORTED_CPUID: Final = 0xC008AE05
MAX_CPUID_ENTRIES: Final = 256

KVM_CAP_USER_MEMORY: Final = 3
KVM_CAP_EXT_CPUID: Final = 7
KVM_CAP_NR_MEMSLOTS: Final = 10
KVM_CAP_SYNC_MMU: Final = 16
KVM_CAP_DESTROY_MEMORY_REGION_WORKS: Final = 21
KVM_CAP_JOIN_MEMORY_REGIONS_WORKS: Final = 30
KVM_CAP_XCRS: Final = 56
KVM_CAP_MAX_VCPUS: Final = 66
KVM_CAP_READONLY_MEM: Final = 81
KVM_CAP_VCPU_ATTRIBUTES: Final = 127
KVM_CAP_IMMEDIATE_EXIT: Final = 136
KVM_CAP_X86_DISABLE_EXITS: Final = 143

DISABLE_EXITS_PAUSE: Final = 1 << 2  # of KVM_CAP_X86_DISABLE_EXITS: which exits can be had without
MIN_MEMSLOTS: Final = 512  # blocks of 1 GiB that a program touches, and the platform's own
MIN_VCPUS: Final = 64  # threads of one process
MIN_PHYSICAL_BITS: Final = 36  # MAXPHYADDR

AMD: Final = "SVM"
INTEL: Final = "VMX"


class Finding:
    """A requirement, and whether it is met."""

    def __init__(self, what: str, is_there: bool, detail: str = "", remedy: str = "") -> None:
        self.what: str = what
        self.is_there: bool = is_there
        self.detail: str = detail
        self.remedy: str = remedy


class KvmError(Exception):
    """The platform kvm cannot run here; the text says why in one line."""

    def __init__(self, text: str, finding: Finding) -> None:
        super().__init__(text)
        self.finding: Finding = finding


class Capability:
    """One answer of KVM_CHECK_EXTENSION."""

    def __init__(self, name: str, number: int, why: str, at_least: int = 1, bits: int = 0) -> None:
        self.name: str = name
        self.number: int = number
        self.why: str = why
        self.at_least: int = at_least
        self.bits: int = bits  # if not 0: those that the answer must have

    def holds(self, answer: int) -> bool:
        """Whether that answer is enough."""
        return answer & self.bits == self.bits if self.bits else answer >= self.at_least


class Feature:
    """One bit of KVM_GET_SUPPORTED_CPUID: what the guest's processor can have."""

    def __init__(self, name: str, leaf: int, register: int, bit: int, why: str) -> None:
        self.name: str = name
        self.leaf: int = leaf  # index 0 of it
        self.register: int = register  # 0 to 3: eax, ebx, ecx, edx
        self.bit: int = bit
        self.why: str = why


CAPABILITIES: Final[tuple[Capability, ...]] = (
    Capability("USER_MEMORY", KVM_CAP_USER_MEMORY, "guest memory is memory of the process"),
    Capability("SYNC_MMU", KVM_CAP_SYNC_MMU, "what the host unmaps is gone from the guest"),
    Capability("READONLY_MEM", KVM_CAP_READONLY_MEM, "the text of ring 0 cannot be written"),
    Capability(
        "DESTROY_MEMORY_REGION_WORKS", KVM_CAP_DESTROY_MEMORY_REGION_WORKS, "memory is taken away again"
    ),
    Capability("JOIN_MEMORY_REGIONS_WORKS", KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, "blocks lie side by side"),
    Capability("NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS, "a block of addresses is one slot", MIN_MEMSLOTS),
    Capability("MAX_VCPUS", KVM_CAP_MAX_VCPUS, "a thread is one virtual processor", MIN_VCPUS),
    Capability("EXT_CPUID", KVM_CAP_EXT_CPUID, "programs see the host's processor"),
    Capability("XCRS", KVM_CAP_XCRS, "vector registers are switched on"),
    Capability("VCPU_ATTRIBUTES", KVM_CAP_VCPU_ATTRIBUTES, "programs' clock is the host's"),
    Capability("IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT, "a thread can be interrupted without a race"),
    Capability(
        "X86_DISABLE_EXITS",
        KVM_CAP_X86_DISABLE_EXITS,
        "waiting awake costs no exits",
        bits=DISABLE_EXITS_PAUSE,
    ),
)
FEATURES: Final[tuple[Feature, ...]] = (
    Feature("xsave", 1, 2, 26, "vector registers are saved for signals"),
    Feature("fsgsbase", 7, 1, 0, "threads have their own storage"),
    Feature("smep", 7, 1, 7, "ring 0 executes nothing of the program's"),
    Feature("smap", 7, 1, 20, "ring 0 reads nothing of the program's by mistake"),
    Feature("syscall", 0x80000001, 3, 11, "programs make system calls"),
    Feature("nx", 0x80000001, 3, 20, "data is not executed"),
    Feature("lm", 0x80000001, 3, 29, "programs have 64 bits"),
)


class Host:
    """The properties of the host's KVM; tests make others."""

    def __init__(self, ask: Callable[[int, int], int], cpuid: dict[int, tuple[int, int, int, int]]) -> None:
        self.ask: Callable[[int, int], int] = ask  # ioctl(2) on the device: command, argument
        self.cpuid: dict[int, tuple[int, int, int, int]] = cpuid  # supported for guests: leaf -> eax … edx
        self.flags: frozenset[str] = frozenset()  # of /proc/cpuinfo
        self.modules: list[str] = []  # kvm's, of /sys/module

    def processor(self) -> str:
        """AMD, INTEL, or empty: guests run without either, emulated or paravirtual."""
        return AMD if "svm" in self.flags else INTEL if "vmx" in self.flags else ""

    def is_nested(self) -> bool:
        """Whether this host is itself a virtual machine (CPUID leaf 1, ecx bit 31).

        What kvm_amd and kvm_intel call "nested" in /sys/module is something else: whether guests may have guests.
        """
        return "hypervisor" in self.flags

    def findings(self) -> list[Finding]:
        """All requirements, each after those that it depends on."""
        version = self.ask(KVM_GET_API_VERSION, 0)
        is_known = version == API_VERSION
        detail = "" if is_known else str(version)
        found = [Finding(f"API version {API_VERSION}", is_known, detail, "there is no other")]
        found.append(self._hardware())
        for each in CAPABILITIES:
            answer = self.ask(KVM_CHECK_EXTENSION, each.number)
            is_counted = each.at_least > 1 or each.bits != 0
            found.append(
                Finding(
                    f"KVM_CAP_{each.name}",
                    each.holds(answer),
                    str(answer) if is_counted or not each.holds(answer) else "",
                    f"needs {_needed(each)}, so that {each.why}; a newer kernel has it",
                )
            )
        for feature in FEATURES:
            registers = self.cpuid.get(feature.leaf, (0, 0, 0, 0))
            is_there = registers[feature.register] >> feature.bit & 1 == 1
            detail = "" if is_there else "not given to guests"
            found.append(Finding(feature.name, is_there, detail, f"needed so that {feature.why}"))
        bits = self.cpuid.get(0x80000008, (0, 0, 0, 0))[0] & 0xFF
        found.append(
            Finding(
                "physical addresses",
                bits >= MIN_PHYSICAL_BITS,
                f"{bits} bits",
                f"needs {MIN_PHYSICAL_BITS} of them",
            )
        )
        return found

    def _hardware(self) -> Finding:
        """SVM or VMX, nested or not."""
        processor = self.processor()
        if not processor:
            detail = f"neither {AMD} nor {INTEL}; modules: {' '.join(self.modules) or 'none'}"
            remedy = "KVM emulates guests then, or runs them beside the host's programs (kvm_pvm): no such boundary"
            return Finding("hardware virtualisation", False, detail, remedy)
        where = "nested: this host is a virtual machine itself" if self.is_nested() else "on bare metal"
        return Finding("hardware virtualisation", True, f"{processor}, {where}")


def _needed(capability: Capability) -> str:
    if capability.bits:
        return f"bits {capability.bits:#x}"
    return f"at least {capability.at_least}" if capability.at_least > 1 else "it"


def open_device(path: str = DEVICE) -> int:
    """A descriptor of it, for the platform.  Raises KvmError."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        reason, remedy = (
            "it is not there",
            "load kvm_amd or kvm_intel; in a virtual machine its owner must allow it",
        )
    except PermissionError:
        reason, remedy = "this user may not open it", "become a member of its group, as a rule kvm"
    except OSError as error:
        reason, remedy = error.strerror or str(error), "look at the kernel's log"
    raise _no_device(path, reason, remedy)


def _no_device(path: str, reason: str, remedy: str) -> KvmError:
    text = f"the platform kvm needs {path}, and {reason}: {remedy}"
    return KvmError(text, Finding(path, False, reason, remedy))


def host(fd: int) -> Host:
    """Ask the device for the properties of KVM. Raises KvmError if it is another device."""
    try:
        fcntl.ioctl(fd, KVM_GET_API_VERSION, 0)
        found = Host(lambda command, argument: fcntl.ioctl(fd, command, argument), supported_cpuid(fd))
    except OSError as error:
        raise _no_device(DEVICE, "it answers as KVM does not", error.strerror or str(error)) from None
    found.flags = processor_flags()
    found.modules = loaded_modules()
    return found


def supported_cpuid(fd: int) -> dict[int, tuple[int, int, int, int]]:
    """Leaf -> registers, index 0 of each.  Raises OSError."""
    # struct kvm_cpuid2: a count, padding, entries of function, index, flags, eax, ebx, ecx, edx and padding.
    buffer = bytearray(8 + 40 * MAX_CPUID_ENTRIES)
    buffer[:4] = MAX_CPUID_ENTRIES.to_bytes(4, "little")
    fcntl.ioctl(fd, KVM_GET_SUPPORTED_CPUID, buffer)
    found: dict[int, tuple[int, int, int, int]] = {}
    for number in range(min(int.from_bytes(buffer[:4], "little"), MAX_CPUID_ENTRIES)):
        start = 8 + 40 * number
        words = [int.from_bytes(buffer[start + 4 * i : start + 4 * i + 4], "little") for i in range(7)]
        if words[1] == 0:
            found.setdefault(words[0], (words[3], words[4], words[5], words[6]))
    return found


def processor_flags() -> frozenset[str]:
    """Of the first processor, as /proc/cpuinfo names them."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def loaded_modules() -> list[str]:
    """KVM's own, sorted."""
    try:
        return sorted(name for name in os.listdir("/sys/module") if name.startswith("kvm"))
    except OSError:
        return []


def findings(path: str = DEVICE) -> list[Finding]:
    """The device, and its capabilities; only the device if that cannot be opened."""
    try:
        fd = open_device(path)
        try:
            return [Finding(path, True, "this user may open it"), *host(fd).findings()]
        finally:
            os.close(fd)
    except KvmError as error:
        return [error.finding]


def require(fd: int) -> None:
    """Raises KvmError for the first thing that is missing."""
    missing = [found for found in host(fd).findings() if not found.is_there]
    if missing:
        first = missing[0]
        others = f" (and {len(missing) - 1} more, see cloche doctor)" if len(missing) > 1 else ""
        text = f"this host's KVM is too weak for the platform kvm: {first.what}: {first.detail}{others}"
        raise KvmError(text, first)


def problem(path: str = DEVICE) -> str:
    """Why the platform cannot run here, in one line; empty if it can."""
    try:
        fd = open_device(path)
        try:
            require(fd)
        finally:
            os.close(fd)
    except KvmError as error:
        return str(error)
    return ""
