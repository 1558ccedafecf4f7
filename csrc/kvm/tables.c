/* The guest's page tables: written by the loop alone, from its table of areas.
 *
 * A block of 1 GiB gets guest-physical memory when it is touched first, and then entries for all areas in it; later
 * first touches of pages are handled by the host. A table stays while anything is mapped in its range; then a sweep
 * frees it, and flushes all processors. Accessed and dirty bits are set from the start: hardware writes none.
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
#define MIN_SWEEP 64  /* blocks in use before the first sweep */
#define FOR_A_TOUCH 3 /* tables that it may need */

/* The table that an entry points to. Ring 0 can write entries, so the address is checked: it never leads out of the
 * tables. */
static uint64_t *table_at(uint64_t entry)
{
    uint64_t offset = (entry & ADDRESS) - GPA_TABLES;
    if (offset >= TABLES_SIZE)
        end_process(__LINE__);
    return (uint64_t *)(TABLES_BASE + offset);
}

static void store(uint64_t *entry, uint64_t value)
{
    __atomic_store_n(entry, value, __ATOMIC_RELEASE);
}

/* A new table, as an entry that points to it; 0: there is no room. `level`: of the entry. The tables of a block, and
 * their ranges, are remembered where ring 0 cannot write, so that a sweep can free them. */
static uint64_t new_table(uint64_t addr, int level)
{
    uint32_t table = LOOP->tables_free;
    if (!table && LOOP->tables_used == TABLES)
        return 0;
    uint64_t gpa = GPA_TABLES + (table ? table : LOOP->tables_used) * PAGE;
    if (table) {
        LOOP->tables_free = LOOP->next_table[table];
        for (int i = 0; i < 512; i++)
            table_at(gpa)[i] = 0;
    } else {
        table = LOOP->tables_used++;
    }
    LOOP->tables_live++;
    uint32_t place = addr < MAX_ADDRESS && level < 4 ? LOOP->places[addr / BLOCK] : 0;
    if (place) {
        LOOP->next_table[table] = LOOP->first_table[place - 1];
        LOOP->first_table[place - 1] = table;
        LOOP->span_of[table] = level == 2 ? addr >> 21 & 511 : WHOLE_BLOCK;
    }
    return gpa | PRESENT | WRITABLE | USER | TOUCHED;
}

/* The entry for `addr` in the table of that level (1: pages, 2: of 2 MiB, 3: of a block); NULL: it does not exist, or
 * there is no room for it. */
static uint64_t *entry_of(uint64_t addr, int level, bool makes)
{
    uint64_t *table = (uint64_t *)TABLES_BASE;
    for (int at = 4;; at--) {
        uint64_t *entry = &table[addr >> (12 + 9 * (at - 1)) & 511], value = *entry;
        if (at == level)
            return entry;
        if (!(value & PRESENT) || (at == 2 && value & LARGE)) {
            uint64_t made = makes ? new_table(addr, at) : 0;
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

/* Write entries for [start, end), which lies in one block: with `bits` 0 the present ones are cleared. */
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
            if (entry)
                store(entry, bits ? (gpa + (addr - start)) | bits : 0);
            else if (bits)
                return false;
            else
                store(large, 0); /* no room for a part of it: all of it faults anew */
        }
    }
    return true;
}

/* Map memory of the loop that stays mapped. */
void map_fixed(uint64_t addr, uint64_t gpa, uint64_t length, uint32_t prot, bool is_user)
{
    if (!LOOP->tables_used)
        new_table(addr, 4); /* the first is the root */
    if (!write_entries(addr, addr + length, gpa, bits_of(prot, is_user)))
        end_process(__LINE__);
}

static uint64_t block_gpa(uint32_t place)
{
    return GPA_BLOCKS + place * BLOCK;
}

/* Clear the entries for [start, end) in every block in use. */
void clear_entries(uint64_t start, uint64_t end)
{
    for (uint32_t i = 0; i < LOOP->blocks_used; i++) {
        uint64_t low = LOOP->used[i] * BLOCK, high = low + BLOCK;
        if (LOOP->used[i] != NO_BLOCK && low < end && start < high)
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

/* Entries for all areas in [start, end), as far as blocks are in use; false: there is no room for tables. Entries
 * that there was no room for are made by the next access. */
bool fill_entries(uint64_t start, uint64_t end)
{
    bool is_done = true;
    for (uint32_t i = 0; i < LOOP->blocks_used; i++) {
        uint64_t low = LOOP->used[i] * BLOCK;
        if (LOOP->used[i] != NO_BLOCK && low < end && start < low + BLOCK)
            is_done &= fill_block(i, start, end);
    }
    return is_done;
}

static bool has_area(uint64_t start, uint64_t end)
{
    uint32_t at = area_from(start);
    return at < LOOP->areas_used && LOOP->areas[at].start < end;
}

/* Remove the memory slot of a block without areas; its tables go to `kept`. */
static void give_back(uint32_t place, uint32_t *kept)
{
    uint64_t block = LOOP->used[place], *entry = entry_of(block * BLOCK, 3, false), old = entry ? *entry : 0;
    if (entry)
        store(entry, 0);
    if (!add_memory(SLOT_BLOCKS + place, 0, block_gpa(place), 0, block * BLOCK)) {
        if (entry)
            store(entry, old);
        return;
    }
    for (uint32_t table = LOOP->first_table[place], next; table; table = next) {
        next = LOOP->next_table[table];
        LOOP->next_table[table] = *kept;
        *kept = table;
    }
    LOOP->first_table[place] = 0;
    LOOP->used[place] = NO_BLOCK;
    LOOP->places[block] = 0;
    LOOP->blocks_live--;
}

/* The tables of a block in use that have no areas go to `kept`. */
static void give_tables_back(uint32_t place, uint32_t *kept)
{
    uint64_t base = LOOP->used[place] * BLOCK;
    uint16_t *link = &LOOP->first_table[place];
    while (*link) {
        uint32_t table = *link;
        uint64_t start = base + LOOP->span_of[table] * LARGE_SIZE;
        if (LOOP->span_of[table] == WHOLE_BLOCK || has_area(start, start + LARGE_SIZE)) {
            link = &LOOP->next_table[table];
            continue;
        }
        uint64_t *entry = entry_of(start, 2, false);
        if (entry)
            store(entry, 0);
        *link = LOOP->next_table[table];
        LOOP->next_table[table] = *kept;
        *kept = table;
    }
}

/* Free the memory slots and tables of ranges in which nothing is mapped any more; tables last, when no processor uses
 * them any more. */
static void sweep(void)
{
    uint32_t kept = 0;
    for (uint32_t place = 0; place < LOOP->blocks_used; place++) {
        uint64_t block = LOOP->used[place];
        if (block == NO_BLOCK)
            continue;
        if (has_area(block * BLOCK, block * BLOCK + BLOCK))
            give_tables_back(place, &kept);
        else
            give_back(place, &kept);
    }
    if (kept)
        flush_all();
    for (uint32_t table = kept, next; table; table = next) {
        next = LOOP->next_table[table];
        LOOP->next_table[table] = LOOP->tables_free;
        LOOP->tables_free = table;
        LOOP->tables_live--;
    }
    LOOP->sweep_at = LOOP->blocks_live * 2 > MIN_SWEEP ? LOOP->blocks_live * 2 : MIN_SWEEP;
}

static bool has_room_now(uint64_t addr)
{
    return (LOOP->places[addr / BLOCK] || LOOP->blocks_live < LOOP->blocks_max) && LOOP->tables_live + FOR_A_TOUCH <= TABLES;
}

/* Whether memory at `addr` can be touched, after a sweep if necessary. */
bool has_room(uint64_t addr)
{
    if (!has_room_now(addr))
        sweep();
    return has_room_now(addr);
}

static uint32_t free_place(void)
{
    if (LOOP->blocks_live == LOOP->blocks_used)
        return LOOP->blocks_used++;
    uint32_t place = 0;
    while (LOOP->used[place] != NO_BLOCK)
        place++;
    return place;
}

/* Give the block of `addr` memory if it has none: false if that fails. */
bool touch_block(uint64_t addr)
{
    uint64_t block = addr / BLOCK;
    if (LOOP->places[block])
        return true;
    if (LOOP->blocks_live >= LOOP->sweep_at)
        sweep();
    if (!has_room(addr))
        return false;
    uint32_t place = free_place();
    LOOP->used[place] = NO_BLOCK;
    if (!add_memory(SLOT_BLOCKS + place, 0, block_gpa(place), BLOCK, block * BLOCK))
        return false;
    LOOP->used[place] = block;
    LOOP->places[block] = place + 1;
    LOOP->blocks_live++;
    /* Entries without room now are made when they are touched. */
    fill_block(place, block * BLOCK, block * BLOCK + BLOCK);
    return true;
}
