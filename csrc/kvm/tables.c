/* The guest's page tables: written by the loop alone, from its table of areas.
 *
 * A block of 1 GiB gets guest-physical memory when it is touched first, and then entries for all areas in it; later first
 * touches of pages are the host's affair.  Tables stay where they are once they are needed, so that nothing that a
 * processor has cached of their places is ever wrong.  Accessed and dirty bits are set from the start: hardware writes none.
 */
#include "kvm.h"

#define PRESENT 1ULL
#define WRITABLE 2ULL
#define USER 4ULL
#define TOUCHED 0x60ULL /* accessed, dirty */
#define LARGE 0x80ULL
#define NO_EXECUTE (1ULL << 63)
#define ADDRESS 0xffffffffff000ULL
#define LARGE_SIZE (1ULL << 21)

static uint64_t *table_at(uint64_t entry)
{
    return (uint64_t *)(TABLES_BASE + (entry & ADDRESS) - GPA_TABLES);
}

static void store(uint64_t *entry, uint64_t value)
{
    __atomic_store_n(entry, value, __ATOMIC_RELEASE);
}

/* A new table, as an entry that points to it; 0: there is no room. */
static uint64_t new_table(void)
{
    if (LOOP->tables_used + PAGE > TABLES_SIZE)
        return 0;
    uint64_t gpa = GPA_TABLES + LOOP->tables_used;
    LOOP->tables_used += PAGE;
    return gpa | PRESENT | WRITABLE | USER | TOUCHED;
}

/* The entry for `addr` in the table of that level (1: pages, 2: of 2 MiB); NULL: there is none, or no room for one. */
static uint64_t *entry_of(uint64_t addr, int level, bool makes)
{
    uint64_t *table = (uint64_t *)TABLES_BASE;
    for (int at = 4;; at--) {
        uint64_t *entry = &table[addr >> (12 + 9 * (at - 1)) & 511], value = *entry;
        if (at == level)
            return entry;
        if (!(value & PRESENT) || (at == 2 && value & LARGE)) {
            uint64_t made = makes ? new_table() : 0;
            if (!made)
                return 0;
            for (uint64_t i = 0; value & PRESENT && i < 512; i++)
                table_at(made)[i] = (value & ~LARGE) + i * PAGE;
            store(entry, made);
            value = made;
        }
        table = table_at(value);
    }
}

static uint64_t bits_of(uint32_t prot, bool is_user)
{
    return PRESENT | TOUCHED | (is_user ? USER : 0) | (prot & PROT_WRITE ? WRITABLE : 0) |
           (prot & PROT_EXEC ? 0 : NO_EXECUTE);
}

/* Write entries for [start, end), which lies in one block: `bits` 0 clears those that there are. */
static bool write_entries(uint64_t start, uint64_t end, uint64_t gpa, uint64_t bits)
{
    for (uint64_t addr = start; addr < end;) {
        uint64_t next = (addr | (LARGE_SIZE - 1)) + 1;
        next = next < end ? next : end;
        uint64_t *large = entry_of(addr, 2, bits != 0);
        if (!large && bits)
            return false;
        bool is_table = large && *large & PRESENT && !(*large & LARGE);
        if (!large || (!bits && !(*large & PRESENT))) {
            addr = next;
            continue;
        }
        if (!is_table && next - addr == LARGE_SIZE) {
            store(large, bits ? (gpa + (addr - start)) | bits | LARGE : 0);
            addr = next;
            continue;
        }
        for (; addr < next; addr += PAGE) {
            uint64_t *entry = entry_of(addr, 1, true);
            if (!entry)
                return false;
            store(entry, bits ? (gpa + (addr - start)) | bits : 0);
        }
    }
    return true;
}

/* Memory of ours that is always there. */
void map_fixed(uint64_t addr, uint64_t gpa, uint64_t length, uint32_t prot, bool is_user)
{
    if (!LOOP->tables_used)
        new_table(); /* the first is the root */
    if (!write_entries(addr, addr + length, gpa, bits_of(prot, is_user)))
        end_process(__LINE__);
}

static uint64_t block_gpa(uint32_t place)
{
    return GPA_BLOCKS + place * BLOCK;
}

/* Of every block in use: what of it lies in [start, end) loses its entries. */
void clear_entries(uint64_t start, uint64_t end)
{
    for (uint32_t i = 0; i < LOOP->blocks_used; i++) {
        uint64_t low = LOOP->used[i] * BLOCK, high = low + BLOCK;
        if (low < end && start < high)
            write_entries(start > low ? start : low, end < high ? end : high, 0, 0);
    }
}

static bool fill_block(uint32_t place, uint64_t start, uint64_t end)
{
    uint64_t base = LOOP->used[place] * BLOCK;
    start = start > base ? start : base;
    end = end < base + BLOCK ? end : base + BLOCK;
    for (uint32_t i = area_from(start); i < LOOP->areas_used && LOOP->areas[i].start < end; i++) {
        const struct area *a = &LOOP->areas[i];
        uint64_t low = a->start > start ? a->start : start, high = a->end < end ? a->end : end;
        uint32_t prot = a->bits & PROT_ALL;
        if (prot && !write_entries(low, high, block_gpa(place) + (low - base), bits_of(prot, true)))
            return false;
    }
    return true;
}

/* Entries for all areas in [start, end), as far as blocks are in use; false: there is no room for tables.  What an operation
 * could not have then, the next access asks for again. */
bool fill_entries(uint64_t start, uint64_t end)
{
    bool is_done = true;
    for (uint32_t i = 0; i < LOOP->blocks_used; i++) {
        uint64_t low = LOOP->used[i] * BLOCK;
        if (low < end && start < low + BLOCK)
            is_done &= fill_block(i, start, end);
    }
    return is_done;
}

/* The block is touched: false if it cannot have memory.  Nothing happens if it has. */
bool touch_block(uint64_t addr)
{
    uint64_t block = addr >> 30;
    if (LOOP->places[block])
        return true;
    uint32_t place = LOOP->blocks_used;
    if (place >= LOOP->blocks_max || !add_memory(SLOT_BLOCKS + place, 0, block_gpa(place), BLOCK, block * BLOCK))
        return false;
    LOOP->used[place] = block;
    LOOP->places[block] = place + 1;
    LOOP->blocks_used++;
    return fill_block(place, block * BLOCK, block * BLOCK + BLOCK);
}
