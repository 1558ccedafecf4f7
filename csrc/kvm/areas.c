/* The guest's mappings, in the loop's own table: sorted, equal neighbours are merged. */
#include "kvm.h"

/* The first area that ends behind `addr`. */
uint32_t area_from(uint64_t addr)
{
    uint32_t low = 0, high = LOOP->areas_used;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (LOOP->areas[middle].end > addr)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Whether there is room for any one change. */
bool areas_have_room(void)
{
    return LOOP->areas_used + 3 <= MAX_AREAS;
}

/* `count` entries from `at` on become `wanted`. */
static void resize(uint32_t at, uint32_t count, uint32_t wanted)
{
    struct area *areas = LOOP->areas;
    uint32_t used = LOOP->areas_used;
    if (wanted < count)
        for (uint32_t i = at + count; i < used; i++)
            areas[i - count + wanted] = areas[i];
    else
        for (uint32_t i = used; i-- > at + count && wanted > count;)
            areas[i + wanted - count] = areas[i];
    LOOP->areas_used = used + wanted - count;
}

/* Let an area begin at `addr` if one goes through it: the first that begins there or behind. */
static uint32_t cut(uint64_t addr)
{
    uint32_t at = area_from(addr);
    struct area *a = &LOOP->areas[at];
    if (at == LOOP->areas_used || a->start >= addr)
        return at;
    resize(at, 1, 2);
    a[1] = a[0];
    a[0].end = a[1].start = addr;
    return at + 1;
}

static void merge(uint32_t from, uint32_t to)
{
    for (uint32_t at = from ? from : 1; at <= to && at < LOOP->areas_used;) {
        struct area *a = &LOOP->areas[at];
        if (a[-1].end == a[0].start && a[-1].bits == a[0].bits) {
            a[-1].end = a[0].end;
            resize(at, 1, 0);
            to--;
        } else {
            at++;
        }
    }
}

void areas_remove(uint64_t start, uint64_t end)
{
    uint32_t first = cut(start), last = cut(end);
    resize(first, last - first, 0);
}

void areas_set(uint64_t start, uint64_t end, uint32_t bits)
{
    uint32_t first = cut(start), last = cut(end);
    resize(first, last - first, 1);
    LOOP->areas[first] = (struct area){start, end, bits, 0};
    merge(first, first + 1);
}

/* Set the bits in `mask` of all areas in the range to `bits`. */
void areas_change(uint64_t start, uint64_t end, uint32_t mask, uint32_t bits)
{
    uint32_t first = cut(start), last = cut(end);
    for (uint32_t i = first; i < last; i++)
        LOOP->areas[i].bits = (LOOP->areas[i].bits & ~mask) | bits;
    merge(first, last);
}

/* In a forked child: remove the areas that only the parent keeps. */
void areas_forked(void)
{
    for (uint32_t i = 0; i < LOOP->areas_used;) {
        const struct area *a = &LOOP->areas[i];
        if (a->bits & AREA_NO_FORK) {
            clear_entries(a->start, a->end);
            resize(i, 1, 0);
        } else {
            i++;
        }
    }
}
