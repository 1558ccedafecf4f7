"""The layout of text files: a written file can be read again, and any other is refused."""

import random

import pytest

from cloche.wire.frame import ProtocolError
from cloche.wire.textfile import (
    MAX_PAGES,
    PAGE_BYTES,
    TextFile,
    TextSite,
    decode_header,
    encode_header,
    header_pages,
)


def sample(pages: int = 5, sites: int = 3) -> TextFile:
    text = TextFile(0x40000, 1, is_fixed=False)
    for index in range(pages):
        hole = PAGE_BYTES if index >= 3 else 0  # between the third and the fourth
        text.page_offsets.append(0x1000 + index * PAGE_BYTES + hole)
        text.page_addresses.append(0x3000 + index * PAGE_BYTES + hole)
    for index in range(sites):
        text.sites.append(TextSite(0x3100 + 32 * index, 7, 16 + 32 * index, 25, [(0, 0), (2, 6)]))
    return text


def fields(site: TextSite) -> tuple[int, int, int, int, list[tuple[int, int]]]:
    return site.address, site.window_bytes, site.tail_offset, site.length, site.steps


def test_round_trip() -> None:
    text = sample()
    data = encode_header(text)
    assert len(data) == header_pages(data) * PAGE_BYTES == PAGE_BYTES
    found = decode_header(data)
    assert (found.span_end, found.tail_pages, found.is_fixed) == (0x40000, 1, False)
    assert (found.page_offsets, found.page_addresses) == (text.page_offsets, text.page_addresses)
    assert [fields(site) for site in found.sites] == [fields(site) for site in text.sites]
    assert (found.header_pages, found.tail_index, found.total_pages) == (1, 6, 7)


def test_a_header_of_many_pages() -> None:
    text = TextFile(1 << 40, 1000, is_fixed=True)
    for index in range(3000):
        text.page_offsets.append(index * PAGE_BYTES)
        text.page_addresses.append(index * PAGE_BYTES)
        text.sites.append(TextSite(index * PAGE_BYTES + 64, 5, 16 + 24 * index, 24, [(0, 0)]))
    data = encode_header(text)
    assert len(data) == 30 * PAGE_BYTES
    assert len(decode_header(data).sites) == 3000
    with pytest.raises(ProtocolError):
        decode_header(data[:-PAGE_BYTES])


def test_runs() -> None:
    text = sample()
    encode_header(text)

    def runs(offset: int, length: int) -> list[tuple[int, int, int, int]]:
        return [(run.file_offset, run.address, run.index, run.count) for run in text.runs(offset, length)]

    assert runs(0, 1 << 40) == [(0x1000, 0x3000, 1, 3), (0x5000, 0x7000, 4, 2)]
    assert runs(0x2000, 0x1000) == [(0x2000, 0x4000, 2, 1)]
    assert runs(0x2000, 0x4000) == [(0x2000, 0x4000, 2, 2), (0x5000, 0x7000, 4, 1)]
    assert runs(0x2000, 1) == [(0x2000, 0x4000, 2, 1)]
    assert runs(0x4000, 0x1000) == runs(0x7000, 0x9000) == []


def test_pages_at_other_distances_are_other_runs() -> None:
    text = sample(2)
    text.page_addresses[1] += PAGE_BYTES
    encode_header(text)
    assert [run.count for run in text.runs(0, 1 << 30)] == [1, 1]


def test_addresses_are_translated() -> None:
    text = sample()
    site = text.sites[1]
    assert site.address == 0x3120
    for offset, found in (
        (47, None),
        (48, site),
        (48 + 24, site),
        (48 + 25, None),
        (0, None),
        (1 << 30, None),
    ):
        assert text.site_in_tail(offset) is found
    for address, found in ((0x3118, None), (0x3119, site), (0x3121, site), (0x3122, None), (0, None)):
        assert text.site_in_text(address) is found
    assert [site.original(at) for at in (0, 5, 6, 7, 24)] == [0x3119, 0x3119, 0x311B, 0x3120, 0x3120]
    assert [site.relocated(at) for at in (0x3119, 0x311A, 0x311B, 0x3120)] == [0, -1, 6, -1]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.sites.clear(),
        lambda text: text.page_offsets.clear(),
        lambda text: text.page_offsets.reverse(),
        lambda text: text.page_offsets.__setitem__(0, 0x1234),
        lambda text: text.page_addresses.__setitem__(0, 0x40000),
        lambda text: text.page_addresses.__setitem__(0, 1),
        lambda text: text.sites.reverse(),
        lambda text: text.sites.append(TextSite(0x3400, 5, 4090, 24, [(0, 0)])),
        lambda text: text.sites.append(TextSite(0x3141, 5, 1000, 24, [(0, 0)])),
        lambda text: text.sites.append(TextSite(0x3FFFF, 5, 1000, 24, [(0, 0)])),
        lambda text: text.sites.append(TextSite(0x3400, 4, 1000, 24, [(0, 0)])),
        lambda text: text.sites.append(TextSite(0x3400, 20, 1000, 24, [(0, 0)])),
        lambda text: text.sites.append(TextSite(0x3400, 5, 1000, 24, [(0, 0), (5, 4)])),
        lambda text: text.sites.append(TextSite(0x3400, 5, 1000, 24, [(0, 0), (2, 24)])),
        lambda text: text.sites.append(TextSite(0x3400, 5, 1000, 24, [(0, 0), (2, 2), (2, 4)])),
        lambda text: text.sites.append(TextSite(0x3400, 5, 1000, 24, [])),
        lambda text: setattr(text, "span_end", 0x40001),
        lambda text: setattr(text, "span_end", 1 << 47),
        lambda text: setattr(text, "tail_pages", 0),
        lambda text: setattr(text, "tail_pages", 1025),
    ],
)
def test_nonsense_is_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    text = sample()
    encode_header(text)
    spoil(text)
    with pytest.raises(ValueError):
        encode_header(text)


def test_damage_is_refused_or_harmless() -> None:
    data = encode_header(sample())
    generator = random.Random(1)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 1, 1, 8))):
            damaged[generator.randrange(48 + 5 * 16 + 3 * 24)] = generator.randrange(256)
        try:
            found = decode_header(bytes(damaged))
        except ProtocolError:
            refused += 1
            continue
        assert found.header_pages == 1 and found.total_pages <= 1 + MAX_PAGES + 1024
        assert all(run.index + run.count <= found.tail_index for run in found.runs(0, 1 << 62))
    assert refused > 1000
    for length in (0, 7, 47, 48, 4095):
        with pytest.raises(ProtocolError):
            decode_header(data[:length])
