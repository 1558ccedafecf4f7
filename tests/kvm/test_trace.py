"""What is told of KVM's events before a shutdown; the machine itself: test_given.py."""

from tests.kvm.trace import last_events

TEXT = """\
# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
        kvm.elf-31      [000] ...1.    10.000001: kvm_entry: vcpu 0, rip 0x7fff00000000
    kvm.elf sub-32      [001] ...1.    10.000002: kvm_exit: vcpu 1 reason npf rip 0x401000
     khugepaged-9       [000] .....    10.000003: mm_collapse_huge_page: mm=1, isolated=1, status=succeeded
        kvm.elf-31      [000] d..1.    10.000003: kvm_exit: vcpu 0 reason shutdown rip 0x7fff00000000
    kvm.elf sub-32      [001] ...1.    10.000004: kvm_entry: vcpu 1, rip 0x401000
"""


def test_the_events_of_the_thread_come_first() -> None:
    own, _, every = "\n".join(last_events(TEXT)).partition("all events:\n")
    assert own.splitlines()[0] == "its events:"
    assert [line.split(": ")[1] for line in own.splitlines()[1:]] == ["kvm_entry", "kvm_exit"]
    runs, _, changes = every.partition("changes of memory:\n")
    lines = TEXT.splitlines()
    assert runs.splitlines() == [*lines[2:4], lines[5]]
    assert changes == lines[4]


def test_no_events() -> None:
    assert last_events("# tracer: nop\n") == []
