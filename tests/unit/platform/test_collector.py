"""The time that the collector of cycles takes is told apart."""

import gc

from cloche.platform.collector import CollectorTime


def test_collections_are_counted() -> None:
    collector = CollectorTime()
    collector.install()
    collector.install()
    try:
        before = len(gc.callbacks)
        kept = [[number] for number in range(50_000)]
        gc.collect()
        first = collector.used_ns
        gc.collect()
        assert 0 < first < collector.used_ns and len(kept) == 50_000
    finally:
        gc.callbacks.pop()
    assert len(gc.callbacks) == before - 1
