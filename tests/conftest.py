"""What all tests share: how they meet the two builds.

A fake that derives from a class of the sentry exists in the interpreted build only, since a compiled class takes no
interpreted subclass.  Its tests are skipped in the compiled build; a fake that should run in both stands in `src/`
(`cloche.platform.fake`, `cloche.vfs.listing`).
"""

from collections.abc import Generator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


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
