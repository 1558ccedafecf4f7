/* Lanes: threads of the sentry that can run its loop.  One has the turn and runs Python; the others wait here.
 *
 *   WAITING ──takes over──▶ TURN ──call_begins──▶ (in a call of the host) ──its turn is taken──▶ AWAY ──is over──▶ BACK
 *      ▲                     │ ▲                                                                                   │
 *      └──────stand_by───────┘ └────────────────────────────────── is given the turn by who has it ────────────────┘
 *
 * Whoever makes a call of the host that may take long says so before.  If it is not back in time a lane that waits takes
 * the turn, and with it the loop, from it; it has the turn again when that one gives it, between two events.  So no two
 * lanes ever run Python at once, and handlers are as atomic as before but for that one call.
 */
#include "parts.h"

#include <poll.h>
#include <pthread.h>

#define MAX_LANES 16
#define NAP_MS 1
#define IDLE_NAPS 16 /* without such a call, after which nobody looks until there is one */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static __thread int own; /* the number of this lane */
static int lane_count, turn, back_count, bell_fd;
static int back[MAX_LANES];
static bool waits[MAX_LANES], is_watched;
static uint64_t patience, since, calls; /* of the last call: when it began; how many there were */
static int64_t caller;                  /* the thread for whom it is, or -1 */
static uint32_t in_call, is_dozing;     /* 1 + the lane that is in such a call; whether who looks has to be woken */
static PyObject *came_back;

/* The caller is the first.  When one is back `fd`, an eventfd, is rung; it goes on by calling `callable` with its number. */
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

/* Look, with the mutex, until we have the turn: the lane from which we took it, -1 if it was given. */
static int watch(void)
{
    uint64_t seen = 0;
    int idle = 0;
    while (turn != own) {
        if (idle >= IDLE_NAPS) {
            __atomic_store_n(&is_dozing, 1, __ATOMIC_SEQ_CST);
            if (!__atomic_load_n(&in_call, __ATOMIC_SEQ_CST))
                pthread_cond_wait(&changed, &mutex);
            is_dozing = idle = 0;
        }
        pthread_mutex_unlock(&mutex);
        poll(NULL, 0, NAP_MS);
        pthread_mutex_lock(&mutex);
        uint32_t who = __atomic_load_n(&in_call, __ATOMIC_SEQ_CST);
        if (who && ticks_now() - since > patience && __atomic_compare_exchange_n(&in_call, &who, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            give_up_scratch();
            give_turn(own);
            return (int)who - 1;
        }
        idle = calls != seen ? 0 : idle + 1;
        seen = calls;
    }
    return -1;
}

/* Wait for the turn -> the lane from which it was taken, and the thread whose call that is about; -1: it was given.  Who has
 * it gives it first to a lane that is back; if there is none it goes on.  `is_new`: the caller is no lane yet. */
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
    waits[own] = true;
    while (turn != own) {
        if (is_watched) {
            pthread_cond_wait(&changed, &mutex);
            continue;
        }
        is_watched = true;
        from = watch();
        is_watched = false;
        pthread_cond_broadcast(&changed); /* another one looks */
    }
    waits[own] = false;
    int64_t thread = caller;
    pthread_mutex_unlock(&mutex);
    loop_begins();
    PyEval_RestoreThread(state);
    return Py_BuildValue("iL", from, from < 0 ? -1LL : (long long)thread);
}

/* The end: the first lane goes on, and this one does nothing more.  It returns if the first is away. */
void leave_to_first(void)
{
    pthread_mutex_lock(&mutex);
    bool is_there = waits[0];
    for (int i = 0; i < back_count; i++)
        is_there |= back[i] == 0;
    if (!is_there) {
        pthread_mutex_unlock(&mutex);
        return;
    }
    PyEval_SaveThread();
    give_turn(0);
    for (;;)
        pthread_cond_wait(&changed, &mutex);
}

/* A call of the host that may take long, for a guest thread or (-1) nobody, is about to be made. */
struct long_call call_begins(int64_t thread)
{
    struct long_call call = {NULL, turn};
    if (!lane_count)
        return call;
    since = ticks_now();
    caller = thread;
    calls++;
    call.state = PyEval_SaveThread();
    __atomic_store_n(&in_call, call.lane + 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&is_dozing, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&mutex);
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
    }
    return call;
}

/* It is over.  If others had their turn meanwhile there may be a Python exception: the thread is gone. */
void call_ended(const struct long_call *call)
{
    uint32_t mine = call->lane + 1;
    int error = errno;
    if (!call->state)
        return;
    bool is_late = !__atomic_compare_exchange_n(&in_call, &mine, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (is_late) {
        pthread_mutex_lock(&mutex);
        back[back_count++] = call->lane;
        ring();
        while (turn != call->lane)
            pthread_cond_wait(&changed, &mutex);
        for (int i = 0; i < back_count; i++) /* at the end it was not taken from the line */
            if (back[i] == call->lane)
                back[i] = back[--back_count];
        pthread_mutex_unlock(&mutex);
        loop_begins();
    }
    PyEval_RestoreThread(call->state);
    if (is_late) {
        PyObject *result = PyObject_CallFunction(came_back, "i", call->lane);
        Py_XDECREF(result);
    }
    errno = error;
}

/* ---- such calls ---- */

PyObject *read_slowly(int64_t thread, int fd, int64_t offset, uint64_t length, int flags) /* raises OSError */
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, length);
    if (!bytes)
        return NULL;
    struct long_call call = call_begins(thread);
    int64_t n = transfer(fd, offset, PyBytes_AS_STRING(bytes), length, flags, false);
    call_ended(&call);
    if (PyErr_Occurred() || n < 0) {
        Py_DECREF(bytes);
        return PyErr_Occurred() ? NULL : fail((int)-n);
    }
    if ((uint64_t)n < length)
        _PyBytes_Resize(&bytes, n);
    return bytes;
}

int64_t write_slowly(int64_t thread, int fd, int64_t offset, const Py_buffer *data, int flags) /* -> bytes or -errno */
{
    struct long_call call = call_begins(thread);
    int64_t n = transfer(fd, offset, data->buf, data->len, flags, true);
    call_ended(&call);
    return n;
}

/* Any -> its result or -errno. */
int64_t call_slowly(int64_t thread, int64_t number, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f)
{
    struct long_call call = call_begins(thread);
    int64_t n = syscall(number, a, b, c, d, e, f);
    n = n < 0 ? -errno : n;
    call_ended(&call);
    return n;
}
