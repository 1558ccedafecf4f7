/* Whether to spin or to sleep, for the sentry and for stubs, and on which processor. */
#include "parts.h"

uint64_t spin_ticks;
static uint64_t stub_spin_ticks;
static int cpu_count = 1;
static int spin_skip, spin_penalty;

void set_spin(uint64_t sentry_ticks, uint64_t stub_ticks, int cpus)
{
    spin_ticks = sentry_ticks;
    stub_spin_ticks = info->spin_ticks = stub_ticks;
    cpu_count = cpus;
}

/* Stubs may spin while every thread that runs or waits, and the sentry, have a processor of their own. In a crowd they
 * do so for about as long as a wake-up takes: with the sentry's own short spin that saves most of them. */
void update_spin(void)
{
    uint64_t want = spin_penalty >= 4             ? 0
                    : run_count + 1 > cpu_count   ? stub_spin_ticks / 6
                    : run_count + 2 <= cpu_count  ? stub_spin_ticks
                                                  : stub_spin_ticks / 4;
    if (info->spin_ticks != want)
        info->spin_ticks = want;
}

/* A guest that posts from the sentry's own processor cannot run while the sentry spins, nor the sentry while it runs,
 * and as long as they take turns the scheduler sees no reason to part them: have Python go to another processor, for
 * once. */
void keep_apart(uint32_t theirs)
{
    static int together;
    static uint64_t last_move;
    uint32_t ours;
    uint64_t now = __builtin_ia32_rdtscp(&ours);
    if ((ours & 0xfff) != theirs || run_count >= cpu_count) {
        together = 0;
        return;
    }
    if (++together < 16)
        return;
    together = 0;
    if (now - last_move < 32 * spin_ticks)
        return;
    last_move = now;
    push_event(EV_TOGETHER, theirs, 0);
    spin_penalty = spin_skip = 0;
}

/* Spinning pays only if the answer comes soon and no other thread wants the processor: after failures it is tried
 * ever more rarely, after successes, and sleeps that were short, more often again. */
bool spin_worth(void)
{
    if (!run_count || (run_count > 1 && cpu_count == 1) || !spin_ticks || (ops_out && is_sync))
        return false;
    if (newborn) /* it may have been put on the sentry's processor */
        return false;
    return !(spin_skip && spin_skip--); /* each time that is left out counts */
}

static void spin_result(bool succeeded)
{
    if (succeeded)
        spin_penalty = spin_penalty > 1 ? spin_penalty / 2 : 0;
    else
        spin_penalty = spin_penalty ? (spin_penalty < 32 ? spin_penalty * 2 : 64) : 1;
    spin_skip = spin_penalty >= 4 ? spin_penalty : 0; /* a guest may compute for once */
    update_spin();
}

/* A sleep of so many ticks ended with an event: a spin instead would have succeeded, if it was that short and would have
 * held no processor that a guest needed. */
void slept(uint64_t passed)
{
    if (spin_penalty && run_count < cpu_count && passed < spin_ticks)
        spin_result(true);
}

/* Look for an event for a while, or with `moment` for a much shorter one.  False: none came, or another thread may want
 * this processor. */
bool spin(struct event *e, bool moment)
{
    uint64_t start = ticks_now();
    uint64_t budget = spin_ticks / (moment ? 8 : run_count > cpu_count ? 6 : run_count < cpu_count ? 1 : 4);
    uint64_t next_look = spin_ticks / 4;
    for (int turn = 1;; turn++) {
        if (scan(e) || (ops_out && (turn & 7) == 0 && poll_now() > 0 && take_queued(e))) {
            spin_result(true);
            return true;
        }
        uint64_t passed = ticks_now() - start;
        if (passed >= budget) {
            if (!moment)
                spin_result(false);
            return false;
        }
        if (passed >= next_look) {
            /* The scheduler may have put the thread that was woken behind this one, and leaves it there while another
             * processor idles. */
            next_look = passed + spin_ticks / 16;
            if (is_somebody_waking())
                return false;
        }
        __builtin_ia32_pause();
    }
}
