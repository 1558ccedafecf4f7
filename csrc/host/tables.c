/* The tables: processes, threads, which of them run, and the threads of host thread ids. */
#include "parts.h"

struct thr **thrs;
int thr_count;
struct prc **prcs;
int prc_count;
struct running *runs;
int run_count;
int newborn, owing;
static int thr_room, prc_room, run_room;

#define HASH_SIZE 4096
static int tid_hash[HASH_SIZE]; /* of threads' ids, plus 1 */

PyObject *fail(int error)
{
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

void *grow(void *array, int *room, int want, size_t size)
{
    if (want <= *room)
        return array;
    int next = *room ? *room : 16;
    while (next < want)
        next *= 2;
    void *bigger = realloc(array, next * size);
    if (!bigger)
        abort(); /* the sentry cannot go on without memory: the sandbox ends (I5) */
    *room = next;
    return bigger;
}

uint64_t ticks_now(void)
{
    return __builtin_ia32_rdtsc();
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* ---- which host thread is which ---- */

void hash_add(struct thr *t, int tid)
{
    int *bucket = &tid_hash[tid & (HASH_SIZE - 1)];
    t->tid = tid;
    t->hash_next = *bucket;
    *bucket = t->id + 1;
}

void hash_remove(struct thr *t)
{
    if (t->tid <= 0)
        return;
    int *link = &tid_hash[t->tid & (HASH_SIZE - 1)];
    while (*link && *link != t->id + 1)
        link = &thrs[*link - 1]->hash_next;
    if (*link)
        *link = t->hash_next;
    t->tid = 0;
}

struct thr *hash_find(int tid)
{
    for (int i = tid_hash[tid & (HASH_SIZE - 1)]; i; i = thrs[i - 1]->hash_next)
        if (thrs[i - 1]->tid == tid)
            return thrs[i - 1];
    return NULL;
}

struct prc *prc_by_pid(int pid)
{
    if (pid <= 0)
        return NULL;
    struct thr *t = hash_find(pid);
    if (t && t->prc->pid == pid)
        return t->prc;
    for (int i = 0; i < prc_count; i++)
        if (prcs[i]->used && !prcs[i]->dead && prcs[i]->pid == pid)
            return prcs[i];
    return NULL;
}

/* ---- which threads run ---- */

void run_add(struct thr *t)
{
    if (t->running)
        return;
    t->running = true;
    runs = grow(runs, &run_room, run_count + 1, sizeof *runs);
    t->run_pos = run_count;
    runs[run_count++] = (struct running){t, &t->slot->state};
}

void run_remove(struct thr *t)
{
    if (!t->running)
        return;
    t->running = false;
    runs[t->run_pos] = runs[--run_count];
    runs[t->run_pos].thr->run_pos = t->run_pos;
}

/* ---- processes ---- */

/* A process with a region, a memfd that cannot be cut off, which it takes over. NULL and errno on failure. */
struct prc *new_prc(int region_fd)
{
    int id = 0;
    char *region = mmap(NULL, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, region_fd, 0);
    if (region == MAP_FAILED)
        return NULL;
    *(volatile char *)region = 0; /* the pages that its first thread needs at once */
    for (uint64_t at = frame_offset & ~4095ULL; frame_offset && at < SLOT_SIZE; at += 4096)
        *(volatile char *)(region + at) = 0;
    while (id < prc_count && prcs[id]->used)
        id++;
    if (id == prc_count) {
        prcs = grow(prcs, &prc_room, prc_count + 1, sizeof *prcs);
        if (!(prcs[prc_count++] = malloc(sizeof **prcs)))
            abort();
    }
    struct prc *p = prcs[id];
    memset(p, 0, sizeof *p);
    p->id = id;
    p->used = true;
    p->ident = (int64_t)next_serial();
    p->region_fd = region_fd;
    p->region = region;
    return p;
}

/* The next free descriptor number for an injection; strictly rotating, so none is reused while in flight. */
int rotate_fd(struct prc *p)
{
    return FIRST_FD + (int)(p->injections++ % (LAST_FD - FIRST_FD + 1));
}

void set_cloned(struct prc *p, bool cloned)
{
    if (!p->forks_blank)
        newborn += cloned - p->cloned;
    p->cloned = cloned;
}

/* The child that the process waits for is adopted, or will not be. */
struct prc *end_adoption(struct prc *p)
{
    struct prc *child = p->adopting;
    p->adopting = NULL;
    set_cloned(p, false);
    return child;
}

/* ---- threads ---- */

static struct thr *free_thrs; /* the first of those that are not used */
static uint64_t serials;

uint64_t next_serial(void)
{
    return ++serials;
}

struct thr *new_thr(struct prc *p, int slotno)
{
    if (!free_thrs) {
        thrs = grow(thrs, &thr_room, thr_count + 1, sizeof *thrs);
        struct thr *fresh = calloc(1, sizeof *fresh);
        if (!fresh)
            abort();
        fresh->id = thr_count;
        thrs[thr_count++] = fresh;
        free_thr(fresh);
    }
    struct thr *t = free_thrs;
    free_thrs = t->next_free;
    memset((char *)t + offsetof(struct thr, used), 0, sizeof *t - offsetof(struct thr, used));
    t->used = true;
    t->serial = next_serial();
    t->clone_at = -1;
    t->prc = p;
    t->slotno = slotno;
    t->slot = (struct slot *)(p->region + slotno * SLOT_SIZE);
    t->slot->state = ST_REQUEST;
    t->slot->reply = 0;
    t->slot->ops_done = 0;
    t->slot->tid = 0;
    t->slot->bell = t->id % BELLS;
    p->slots[slotno] = t;
    if (slotno >= p->slot_high)
        p->slot_high = slotno + 1;
    return t;
}

void free_thr(struct thr *t)
{
    t->used = t->gone = false;
    t->next_free = free_thrs;
    free_thrs = t;
}

/* The thread that a clone starts; NULL: its task has ended before, and it must not be born. */
struct thr *child_of(const struct hop *h)
{
    return h->child && h->child->used && h->child->serial == h->child_serial ? h->child : NULL;
}

static bool slot_is_free(struct prc *p, int i)
{
    struct thr *t = p->slots[i];
    if (!t)
        return true;
    /* Its host thread may still be on this slot's stack: the kernel must say that it is gone. */
    if (!t->gone || !t->exited || syscall(SYS_tgkill, p->pid, t->exit_tid, 0) == 0 || errno != ESRCH)
        return false;
    p->slots[i] = NULL;
    free_thr(t);
    return true;
}

/* ---- what Python asks ---- */

PyObject *new_process(int region_fd) /* -> (process, ident): no host process yet */
{
    struct prc *p = new_prc(region_fd);
    return p ? Py_BuildValue("iL", p->id, (long long)p->ident) : fail(errno);
}

/* Its frame is pristine with `source` -1, else a copy of that thread's; of another process: in the same slot, as a fork
 * leaves it. */
int64_t new_thread(struct prc *p, int64_t source)
{
    struct thr *from = source >= 0 && source < thr_count ? thrs[source] : NULL;
    if (source >= 0 && (!from || !from->used))
        return fail(EINVAL), -1;
    int slotno = from && from->prc != p ? from->slotno : 0;
    while (slotno < SLOT_COUNT && !slot_is_free(p, slotno))
        slotno++;
    if (slotno >= SLOT_COUNT)
        return fail(EAGAIN), -1;
    struct thr *t = new_thr(p, slotno);
    fill_frame(t, from);
    return t->id;
}

/* Its id on the host, or 0. A clone result that the guest can forge names a candidate; the host is asked whether that
 * is a thread of the process. */
int64_t thread_tid(struct thr *t)
{
    int tid = t->tid, pid = t->prc->pid;
    if (tid || pid <= 0)
        return tid;
    tid = READ_ONCE(t->slot->tid);
    if (tid <= 0 || tid == pid || hash_find(tid) || syscall(SYS_tgkill, pid, tid, 0) < 0)
        return 0;
    if (t->running)
        hash_add(t, tid);
    return tid;
}

bool is_running(struct thr *t)
{
    return t->running || t->held;
}

int64_t process_pid(struct prc *p)
{
    return p->pid > 0 ? p->pid : -1;
}

uint64_t call_count(struct prc *p)
{
    return p->calls;
}

PyObject *counts(void) /* to find leaks: operations that owe a descriptor, held, owing; processes ended as liars, notifications */
{
    int descriptors = 0;
    for (int i = 0; i < thr_count; i++)
        for (int k = 0; k < thrs[i]->op_count; k++)
            descriptors += (thrs[i]->ops[k].fd >= 0) + thrs[i]->ops[k].gift_count;
    return Py_BuildValue("iiiKK", descriptors, held_total, owing + newborn + orphan_count, liar_count, notified_count);
}
