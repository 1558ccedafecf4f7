/* What the host's kernel shows of guests' processes and threads, where a guest's own word does not count (I2, I7).
 *
 * A clone that was let through is over when its thread is seen in another call: a thread makes one at a time.  Then
 * there is a child, or a thread, if the host shows one that is not known; and none else.
 */

static int proc_dir = -1; /* a procfs that counts as we do, or -1: then nothing can be shown */

struct orphan { /* a fork that was let through and not adopted before its parent's end */
    int group;  /* the parent's number, which the child's process group keeps */
    int child;  /* the process that it is to be; -1: nobody's */
    uint64_t since;
};
static struct orphan *orphans;
static int orphan_count, orphan_room;

/* A file below /proc as text: its length, -1 if it cannot be had.  `*text` stays ours. */
static ssize_t read_proc(const char *name, char **text)
{
    static char *buffer;
    static int room;
    int fd = proc_dir < 0 ? -1 : openat(proc_dir, name, O_RDONLY | O_CLOEXEC);
    ssize_t used = 0, n = -1;
    while (fd >= 0) {
        buffer = grow(buffer, &room, (int)used + 4096, 1);
        n = read(fd, buffer + used, room - used - 1);
        if (n <= 0)
            break;
        used += n;
    }
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return -1;
    buffer[used] = 0;
    *text = buffer;
    return used;
}

static struct prc *prc_by_pid(int pid)
{
    if (pid <= 0)
        return NULL;
    struct thr *t = hash_find(pid);
    if (t && prcs[t->prc]->pid == pid)
        return prcs[t->prc];
    for (int i = 0; i < prc_count; i++)
        if (prcs[i]->used && !prcs[i]->dead && prcs[i]->pid == pid)
            return prcs[i];
    return NULL;
}

/* A child of ours in the process group that is not known: its pid, 0 if there is none, -1 if that cannot be shown. */
static int unknown_child(int group)
{
    char *at;
    if (read_proc("thread-self/children", &at) < 0)
        return -1;
    for (;;) {
        char *end;
        int pid = (int)strtol(at, &end, 10);
        if (end == at)
            return 0;
        at = end;
        if (pid != group && getpgid(pid) == group && !prc_by_pid(pid))
            return pid;
    }
}

/* Threads of the process that are known, and still on the host as far as their exit was let through. */
static int known_threads(struct prc *p)
{
    int count = 0;
    for (int i = 0; i < p->slot_high; i++) {
        struct thr *t = p->slots[i];
        if (!t || !t->born)
            continue;
        if (t->exited && t->exit_tid && syscall(SYS_tgkill, p->pid, t->exit_tid, 0) < 0)
            t->exit_tid = 0;
        count += !t->exited || t->exit_tid;
    }
    return count;
}

/* Whether the process has a thread that is not known; `t` does not count.  True if that cannot be shown. */
static bool has_unknown_thread(struct prc *p, const struct thr *t)
{
    char name[32], *text;
    snprintf(name, sizeof name, "%d/stat", p->pid);
    for (int round = 0; round < 8; round++) {
        int before = known_threads(p) - (t != NULL);
        if (read_proc(name, &text) < 0 || !(text = strrchr(text, ')')))
            return true;
        for (int field = 0; field < 18 && text; field++)
            text = strchr(text + 1, ' ');
        int count = text ? (int)strtol(text, NULL, 10) : INT32_MAX;
        if (count <= before)
            return false;
        if (known_threads(p) - (t != NULL) == before)
            return true;
    }
    return true;
}

/* Whether the process waits for the child of just this clone. */
static bool adopts(const struct prc *p, const struct hop *clone)
{
    return p->adopting >= 0 && prcs[p->adopting]->ident == clone->child_ident;
}

static struct orphan *find_orphan(int group)
{
    for (int i = 0; i < orphan_count; i++)
        if (orphans[i].group == group)
            return &orphans[i];
    return NULL;
}

static struct orphan *orphan_of(const struct prc *child)
{
    for (int i = 0; i < orphan_count; i++)
        if (orphans[i].child == child->id)
            return &orphans[i];
    return NULL;
}

static void remove_orphan(struct orphan *o)
{
    *o = orphans[--orphan_count];
}

/* The process has said what is not true, or owes an answer for too long: it ends. */
static void end_liar(struct prc *p)
{
    stat_liars++;
    if (p->pid > 0 && kill(-p->pid, SIGKILL) < 0)
        kill(p->pid, SIGKILL);
}
