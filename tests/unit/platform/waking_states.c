/* Which threads are said to be waking (csrc/host/waking.c), with two slots in this program's own memory: no thread is
 * woken, none sleeps. test_waking.py compiles and runs it; status 1 and a line say what is wrong.
 */

#include "waking.c"

static struct info page;
static struct slot slots[2];
static struct thr threads[2];
static struct running running[2];

struct info *info = &page;
struct running *runs = running;
int run_count;

void *grow(void *array, int *room, int want, size_t size)
{
    *room = want;
    return realloc(array, want * size);
}

void run_add(struct thr *t)
{
    if (t->running)
        return;
    t->running = true;
    running[run_count++] = (struct running){t, &t->slot->state};
}

bool is_running(struct thr *t)
{
    return t->running;
}

static void check(bool is_expected, const char *what)
{
    if (is_expected)
        return;
    printf("%s\n", what);
    exit(1);
}

/* The thread makes a call, and spins or sleeps. */
static void calls(int i, uint32_t state)
{
    threads[i].running = false;
    run_count = 0;
    for (int k = 0; k < 2; k++)
        if (threads[k].running)
            running[run_count++] = (struct running){&threads[k], &slots[k].state};
    slots[i].state = state;
}

int main(void)
{
    for (int i = 0; i < 2; i++)
        threads[i] = (struct thr){.id = i, .used = true, .slot = &slots[i]};

    calls(0, ST_REQUEST);
    send_reply(&threads[0], 0);
    check(!is_somebody_waking(), "one that spun is waking");

    calls(0, ST_SLEEPING);
    send_reply(&threads[0], 0);
    check(is_somebody_waking(), "one that slept is not waking");
    check(is_somebody_waking(), "a look ends its waking");
    slots[0].state = ST_GUEST;
    check(!is_somebody_waking(), "one that runs is waking");

    calls(0, ST_SLEEPING);
    send_reply(&threads[0], 0);
    slots[0].state = ST_GUEST; /* it runs, which nobody looks at */
    calls(0, ST_REQUEST);
    send_reply(&threads[0], 0);
    check(!is_somebody_waking(), "one that was woken for an earlier reply, and spun for this one, is waking");

    calls(0, ST_REQUEST);
    calls(1, ST_SLEEPING);
    check(defer_reply(&threads[0], 0), "a reply is held back already");
    send_reply(&threads[1], 0);
    check(is_somebody_waking(), "one whose wake-up is held back is not waking");
    flush_deferred();
    check(slots[0].reply == RF_WAKE && slots[0].wakes[0] == 1, "the other one is not asked to wake it");
    check(is_somebody_waking(), "one whose wake-up was handed over is not waking");
    slots[1].state = ST_GUEST;
    check(!is_somebody_waking(), "one that another one has woken is waking");
    return 0;
}
