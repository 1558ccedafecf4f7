"""The platforms that have to pass the conformance suite (test_conformance_*.py): a line for each."""

from collections.abc import Callable
from typing import Final

from cloche.platform.fake import FakeHost, FakePlatform
from cloche.platform.interface import Platform
from cloche.platform.kvm import Kvm
from cloche.platform.systrap import Systrap

PLATFORMS: Final[dict[str, Callable[[], Platform]]] = {
    "systrap, strict": lambda: Systrap("strict"),
    "systrap, direct": lambda: Systrap("direct"),
    "kvm, strict": lambda: Kvm("strict"),
    "kvm, direct": lambda: Kvm("direct"),
    "fake": lambda: FakePlatform(FakeHost(is_swapping=True)),
}
