"""The support of all tests for the two builds.

A fake that derives from a class of the sentry exists in the interpreted build only, since a compiled class takes no
interpreted subclass.  Its tests are skipped in the compiled build; a fake that should run in both stands in `src/`
(`cloche.platform.fake`, `cloche.vfs.listing`).
"""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

try:
    import hypothesis
except ImportError:
    pass  # a machine that runs only tests of other kinds
else:
    # A machine may stand still for seconds at any moment.  CI tries the same examples each time, so that what fails there
    # is a change's own; a developer's run tries new ones.
    hypothesis.settings.register_profile(
        "no clock",
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        derandomize="CLOCHE_SAME_EXAMPLES" in os.environ,
    )
    hypothesis.settings.load_profile("no clock")

TESTS = Path(__file__).parent


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The platform needs a process without other threads: SIGCHLD and the seccomp listener are the process's."""
    path = item.path.relative_to(TESTS)
    is_platform = path.is_relative_to("unit/platform") or path.match("security/test_platform_*.py")
    if is_platform and "PYTEST_XDIST_WORKER" in os.environ:
        pytest.fail("run the platform's tests without -n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    try:
        return (yield)
    except TypeError as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        # Only where a test made the object: the same error from the sentry's own code is a failure.
        is_ours = traceback is not None and Path(traceback.tb_frame.f_code.co_filename).is_relative_to(TESTS)
        if is_ours and "interpreted classes cannot inherit from compiled" in str(error):
            pytest.skip("a fake that derives from a compiled class")
        raise
