/* Who may spin, and how long, by the number of threads that run and of processors (csrc/host/spinning.c).
 * test_waking.py compiles and runs it; status 1 and a line say what is wrong. The clock is a fake.
 */

#include "spinning.c"

#define SENTRY 1200
#define STUB 600

static struct info page;
static uint64_t now;

struct info *info = &page;
int run_count, ops_out, newborn, epoll_fd, listener;
bool is_sync;

uint64_t ticks_now(void)
{
    return now += 10;
}

bool scan(struct event *e)
{
    (void)e;
    return false;
}

bool poll_now(void)
{
    return false;
}

bool take_queued(struct event *e)
{
    (void)e;
    return false;
}

bool is_somebody_waking(void)
{
    return false;
}

struct event *push_event(int64_t kind, int64_t what, int64_t status)
{
    static struct event e;
    e = (struct event){{kind, -1, what, status}};
    return &e;
}

static void check(bool is_expected, const char *what, long found)
{
    if (is_expected)
        return;
    printf("%s: %ld\n", what, found);
    exit(1);
}

/* With so many running: how long stubs spin. */
static long of_stubs(int running)
{
    run_count = running;
    update_spin();
    return (long)page.spin_ticks;
}

/* How long the sentry spins in vain, -1: not at all. */
static long of_sentry(int running, bool moment)
{
    struct event e;
    run_count = running;
    if (!spin_worth())
        return -1;
    uint64_t start = now;
    check(!spin(&e, moment), "an event from nowhere", 0);
    return (long)(now - start) / 100 * 100; /* each reading of the clock takes some */
}

static void begin(int cpus)
{
    spin_penalty = spin_skip = 0;
    set_spin(SENTRY, cpus > 1 ? STUB : 0, cpus);
}

int main(void)
{
    begin(2);
    check(of_stubs(0) == STUB, "alone", of_stubs(0));
    check(of_stubs(1) == STUB / 4, "with another one", of_stubs(1));
    check(of_stubs(2) == STUB / 6 && of_stubs(50) == STUB / 6, "in a crowd", of_stubs(50));
    check(of_sentry(0, false) == -1, "the sentry, for nobody", 0);
    check(of_sentry(1, false) == SENTRY, "the sentry, for one", 0);
    begin(2);
    check(of_sentry(2, false) == SENTRY / 4, "the sentry, for two", 0);
    begin(2);
    check(of_sentry(3, false) == SENTRY / 6, "the sentry, in a crowd", 0);

    /* A moment is short, and not a failure; failures make spins rare, in a crowd too, and end those of stubs. */
    begin(2);
    for (int i = 0; i < 20; i++)
        check(of_sentry(3, true) == SENTRY / 8 / 100 * 100, "a moment", i);
    check(of_stubs(3) == STUB / 6, "stubs after moments", of_stubs(3));
    int spins = 0;
    for (int i = 0; i < 100; i++)
        spins += of_sentry(3, false) >= 0;
    check(spins < 20, "spins in vain", spins);
    check(of_stubs(3) == 0 && of_stubs(0) == 0, "stubs after spins in vain", of_stubs(3));

    begin(1);
    check(of_stubs(1) == 0 && of_stubs(9) == 0, "on one processor", of_stubs(1));
    check(of_sentry(2, false) == -1 && of_sentry(2, true) == -1, "the sentry on one processor, with two", 0);
    return 0;
}
