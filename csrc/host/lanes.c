/* Lanes: threads of the sentry that can run its loop.  One has the turn and runs Python; the others wait here.
 *
 *   WAITING ──takes over──▶ TURN ──call_slowly──▶ (in a call of the host) ──its turn is taken──▶ AWAY ──is over──▶ BACK
 *      ▲                     │ ▲                                                                                   │
 *      └──────stand_by───────┘ └────────────────────────────────── is given the turn by who has it ────────────────┘
 *
 * A lane announces a call of the host that may take long. If the call does not return in time, a waiting lane takes
 * the turn, and with it the loop; the first lane has the turn again when the other one gives it back, between two
 * events. So no two lanes ever run Python at once, and handlers are atomic but for that one call.
 */
#include "parts.h"

#include <poll.h>
#include <pthread.h>

#define MAX_LANES 16
#define NAP_MS 1

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static __thread int own; /* the number of this lane */
static int lane_count, turn, back_count, bell_fd;
static int back[MAX_LANES];
static bool is_watched;
static uint32_t away;                   /* a bit for each lane whose turn was taken in a call that is not over */
static uint64_t patience, since;        /* how long to wait for a call, and when the last one began */
static int64_t caller;                  /* the guest thread that the call is for, or -1 */
static uint32_t in_call, is_dozing;     /* 1 + the lane that is in such a call; whether the watcher has to be woken */
static PyObject *came_back;

/* The caller becomes the first lane. When a lane is back `fd`, an eventfd, is written to; the lane goes on by calling
 * `callable` with its number. */
void open_lanes(int fd, uint64_t ticks, PyObject *callable)
{
    bell_fd = fd;
    patience = ticks;
    came_back = Py_NewRef(callable);
    lane_count = 1;
}

static void ring(void)
{
    uint64_t one = 1;
    if (write(bell_fd, &one, sizeof one) < 0)
        abort();
}

static void give_turn(int lane)
{
    turn = lane;
    pthread_cond_broadcast(&changed);
}

/* Watch, with the mutex, until this lane has the turn -> the lane from which it was taken, -1 if it was given. */
static int watch(void)
{
    while (turn != own) {
        __atomic_store_n(&is_dozing, 1, __ATOMIC_SEQ_CST); /* until there is a call */
        if (!__atomic_load_n(&in_call, __ATOMIC_SEQ_CST))
            pthread_cond_wait(&changed, &mutex);
        is_dozing = 0;
        pthread_mutex_unlock(&mutex);
        poll(NULL, 0, NAP_MS);
        pthread_mutex_lock(&mutex);
        uint32_t who = __atomic_load_n(&in_call, __ATOMIC_SEQ_CST);
        if (who && ticks_now() - since > patience && __atomic_compare_exchange_n(&in_call, &who, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            away |= 1u << (who - 1);
            give_turn(own);
            return (int)who - 1;
        }
    }
    return -1;
}

/* Wait for the turn -> the lane from which it was taken, and the guest thread that its call is for; -1: it was given.
 * The lane that has the turn gives it to a lane that is back; without one it goes on itself. `is_new`: the caller is
 * no lane yet. */
PyObject *stand_by(int is_new)
{
    int from = -1;
    PyThreadState *state = PyEval_SaveThread();
    pthread_mutex_lock(&mutex);
    if (is_new) {
        own = lane_count++;
    } else if (back_count) {
        give_turn(back[0]);
        memmove(back, back + 1, --back_count * sizeof *back);
        if (back_count)
            ring();
    }
    while (turn != own) {
        if (is_watched) {
            pthread_cond_wait(&changed, &mutex);
            continue;
        }
        is_watched = true;
        from = watch();
        is_watched = false;
        pthread_cond_broadcast(&changed); /* another lane watches */
    }
    int64_t thread = caller;
    pthread_mutex_unlock(&mutex);
    PyEval_RestoreThread(state);
    return Py_BuildValue("iL", from, from < 0 ? -1LL : (long long)thread);
}

/* The end: the first lane goes on, and this one does nothing more. Returns only if the first is away. */
void leave_to_first(void)
{
    pthread_mutex_lock(&mutex);
    if (away & 1) {
        pthread_mutex_unlock(&mutex);
        return;
    }
    PyEval_SaveThread();
    give_turn(0);
    for (;;)
        pthread_cond_wait(&changed, &mutex);
}

/* The lane's call is over, but its turn was taken: wait until it has the turn again. */
static void come_back(int lane)
{
    pthread_mutex_lock(&mutex);
    away &= ~(1u << lane);
    back[back_count++] = lane;
    ring();
    while (turn != lane)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

/* A call of the host that may take long, for a guest thread or for none (-1) -> its result or -errno. If other lanes
 * had the turn meanwhile a Python exception may be set: the guest thread is gone. */
int64_t call_slowly(int64_t thread, int64_t number, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f)
{
    uint32_t mine = 1 + turn;
    since = ticks_now();
    caller = thread;
    PyThreadState *state = PyEval_SaveThread();
    __atomic_store_n(&in_call, mine, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&is_dozing, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&mutex);
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    int64_t result = syscall(number, a, b, c, d, e, f);
    result = result < 0 ? -errno : result;
    int lane = (int)mine - 1;
    /* Where there are no lanes several threads of Python may be here. */
    bool is_late = !__atomic_compare_exchange_n(&in_call, &mine, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) && lane_count;
    if (is_late)
        come_back(lane);
    PyEval_RestoreThread(state);
    if (is_late)
        Py_XDECREF(PyObject_CallFunction(came_back, "i", lane));
    return result;
}
