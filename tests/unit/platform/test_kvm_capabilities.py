"""A feature of the host that the platform kvm needs is named in one line when it is missing."""

import os
import re
from pathlib import Path

import pytest

from cloche.platform import kvm_capabilities as kvm

HEADER = Path("/usr/include/linux/kvm.h")


class Answers:
    """A KVM that has everything, but for what a test takes away."""

    def __init__(self) -> None:
        self.version = kvm.API_VERSION
        self.values = {each.number: max(each.at_least, each.bits, 1) for each in kvm.CAPABILITIES}
        self.cpuid = dict.fromkeys((1, 7, 2147483649), (4294967295,) * 4) | {0x80000008: (40, 0, 0, 0)}
        self.flags = frozenset({"svm"})

    def ask(self, command: int, argument: int) -> int:
        return self.version if command == kvm.KVM_GET_API_VERSION else self.values.get(argument, 0)

    def lacks(self) -> list[str]:
        host = kvm.Host(self.ask, self.cpuid)
        host.flags = self.flags
        return [found.what for found in host.findings() if not found.is_there]


def test_everything_is_there() -> None:
    assert Answers().lacks() == []


def test_each_lack_is_named() -> None:
    for capability in kvm.CAPABILITIES:
        answers = Answers()
        answers.values[capability.number] = (
            capability.bits << 1 if capability.bits else capability.at_least - 1
        )
        assert answers.lacks() == [f"KVM_CAP_{capability.name}"]
    for feature in kvm.FEATURES:
        answers = Answers()
        registers = list(answers.cpuid[feature.leaf])
        registers[feature.register] ^= 1 << feature.bit
        answers.cpuid[feature.leaf] = tuple(registers)  # type: ignore[assignment]
        assert answers.lacks() == [feature.name]


def test_version_addresses_and_hardware() -> None:
    answers = Answers()
    answers.version = 11
    answers.cpuid[0x80000008] = (32, 0, 0, 0)
    answers.flags = frozenset({"hypervisor"})
    assert answers.lacks() == ["API version 12", "hardware virtualisation", "physical addresses"]


def test_both_kinds_of_processors_need_the_same() -> None:
    """VMX's pages for real mode, in which no virtual processor runs, are not asked for."""
    answers = Answers()
    for unused in (4, 37):  # SET_TSS_ADDR, SET_IDENTITY_MAP_ADDR
        answers.values.pop(unused, None)
    answers.flags = frozenset({"vmx"})
    assert answers.lacks() == []


def test_nested_is_told_from_bare_metal() -> None:
    host = kvm.Host(Answers().ask, {})
    for flags, is_nested, words in (({"svm"}, False, "bare metal"), ({"vmx", "hypervisor"}, True, "nested")):
        host.flags = frozenset(flags)
        assert host.is_nested() is is_nested
        assert words in next(
            found.detail for found in host.findings() if found.what == "hardware virtualisation"
        )


def test_no_device(tmp_path: Path) -> None:
    assert "it is not there" in kvm.problem(str(tmp_path / "none"))


def test_something_else_than_kvm(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problem = kvm.problem(str(tmp_path / "file"))
    assert "answers as KVM does not" in problem and "\n" not in problem


def test_a_device_that_may_not_be_opened(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may open everything")
    (tmp_path / "file").touch(0)
    assert "may not open it" in kvm.problem(str(tmp_path / "file"))


def test_the_numbers_are_the_headers() -> None:
    if not HEADER.exists():
        pytest.skip(f"needs {HEADER}")
    text = HEADER.read_text()
    for each in kvm.CAPABILITIES:
        found = re.search(rf"^#define KVM_CAP_{each.name}\s+(\d+)", text, re.M)
        assert found is not None and int(found[1]) == each.number, each.name
