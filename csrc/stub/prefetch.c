/* The bytes that are copied along with a system call. Ring 0 of the KVM platform has this, too, with its own copy
 * functions. */
#include "stub.h"

/* Copy the arguments that the sentry will read, as the table has them. */
void prefetch(volatile struct slot *slot, uint64_t nr, const int64_t *args)
{
    uint32_t used = 0, count = 0;
    if (nr < MAX_CALLS) {
        for (int i = 0; i < MAX_PREFETCH; i++) {
            const volatile struct prefetch *entry = &INFO->prefetch[nr][i];
            if (entry->kind == PF_NONE)
                break;
            uint64_t addr = args[entry->arg];
            uint64_t length = entry->value;
            char *to = (char *)slot + DATA_OFFSET + used;
            long result;
            if (!addr || addr >= MAX_ADDRESS) /* where the stub and its like have their own */
                continue;
            if (entry->kind == PF_CSTRING) {
                result = stub_copy_string(to, (void *)addr, length);
                length = result;
            } else {
                if (entry->kind == PF_ARG) {
                    uint64_t n = args[entry->count_arg];
                    if (n > entry->cap)
                        continue;
                    length = n * entry->value;
                    if (length > entry->cap)
                        continue;
                }
                result = -(int64_t)stub_copy(to, (void *)addr, length);
            }
            if (result < 0)
                continue;
            slot->prefetch[count].addr = addr;
            slot->prefetch[count].length = length;
            slot->prefetch[count].offset = used;
            count++;
            used += (length + 7) & ~7UL;
        }
    }
    slot->prefetch_count = count;
}
