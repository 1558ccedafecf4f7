/* Descriptors that stay with a guest process in direct mode, so that its further mappings of the same files need not
 * ask: a program's segments, the libraries that everything loads.
 *
 * Only descriptors that are open for reading alone, of files that the process maps privately: it could read them
 * anyway.  They have numbers of their own, [FIRST_KEPT, LAST_KEPT]; the filter lets private mappings of these pass.
 * A batch of operations that needs new ones begins with a notified operation that does nothing: with its
 * notification they are injected.
 *
 * An injection costs two wake-ups across processors, 90 us for a mapping of one file.  What is injected again and again
 * the zygote gets, too, so that blanks are born with it; execve closes what the new program has no right to
 * (queue_keep_only).  Only files of a disk: a descriptor must not keep a guest's deleted file in memory.
 */

static struct hot hots[HOT_FILES];
static uint32_t hot_stamp;

static struct hot *find_hot(dev_t dev, ino_t ino)
{
    for (int i = 0; i < HOT_FILES; i++)
        if (hots[i].count && hots[i].ino == ino && hots[i].dev == dev)
            return &hots[i];
    return NULL;
}

static void note_injection(int fd, const struct stat *st)
{
    struct hot *h = find_hot(st->st_dev, st->st_ino);
    if (!h) {
        h = &hots[0];
        for (int i = 1; i < HOT_FILES; i++)
            if (hots[i].stamp < h->stamp)
                h = &hots[i];
        if (h->count && h->fd >= 0)
            close(h->fd);
        *h = (struct hot){st->st_dev, st->st_ino, 0, 0, -1};
    }
    h->stamp = ++hot_stamp;
    if (++h->count == HOT_COUNT && fcntl(fd, F_GET_SEALS) < 0)
        h->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static bool op_keeps(const uint64_t *a, int fd)
{
    if (strict_mode || (a[3] & ~KEPT_MAP_FLAGS) || (a[3] & (MAP_PRIVATE | MAP_FIXED)) != (MAP_PRIVATE | MAP_FIXED) ||
        a[0] >= MAX_ADDRESS || a[1] >> 32 || (a[2] & ~7ULL))
        return false;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & (O_ACCMODE | O_PATH)) == O_RDONLY;
}

static bool shows(const struct kept *k, const struct stat *st)
{
    return k->state != NONE && k->ino == st->st_ino && k->dev == st->st_dev;
}

/* The number under which the process has the file, or will have it when the operations that are queued are carried
 * out; -1: it cannot.  `t` holds it then. */
static int keep_fd(struct thr *t, int fd, bool is_zygote)
{
    struct prc *p = prcs[t->prc];
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    for (int i = 0; i < KEPT_FDS; i++) {
        struct kept *k = &p->kept[i];
        if (!shows(k, &st))
            continue;
        if (k->state != USABLE && k->owner != t->id)
            return -1;
        k->stamp = ++p->kept_stamp;
        t->holds |= HOLD_KEPT(i);
        struct hot *h = find_hot(k->dev, k->ino);
        if (h)
            h->stamp = ++hot_stamp;
        return FIRST_KEPT + i;
    }
    uint64_t taken = held_by_others(p, NULL);
    int place = -1;
    for (int i = 0; i < KEPT_FDS; i++)
        if (!(taken & HOLD_KEPT(i)) && (place < 0 || p->kept[i].stamp < p->kept[place].stamp))
            place = i;
    struct hop *carrier = NULL;
    for (int i = t->sent; i < t->op_count && !carrier; i++)
        if (t->ops[i].is_carrier)
            carrier = &t->ops[i];
    if (place < 0 || (carrier && carrier->gift_count == KEPT_FDS))
        return -1;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return -1;
    if (!carrier) {
        carrier = add_op(t);
        carrier->op = (struct op){SYS_munmap, {MAX_ADDRESS, 4096}, 0}; /* never mapped */
        carrier->is_carrier = carrier->notified = true;
    }
    carrier->gifts[carrier->gift_count] = copy;
    carrier->gift_numbers[carrier->gift_count++] = FIRST_KEPT + place;
    if (!is_zygote)
        note_injection(fd, &st);
    p->kept[place] = (struct kept){st.st_dev, st.st_ino, ++p->kept_stamp, COMING, t->id, true};
    t->holds |= HOLD_KEPT(place) | OWNS_COMING;
    return FIRST_KEPT + place;
}

/* A descriptor has been injected. */
static void is_given(struct prc *p, int number)
{
    struct kept *k = &p->kept[number - FIRST_KEPT];
    if (k->state == COMING)
        k->state = USABLE;
}

/* Before the zygote forks: give it what it lacks of the files that are mapped again and again, if need be in the place of
 * one that has not been for long. */
static void keep_hot(struct thr *t)
{
    struct prc *p = prcs[t->prc];
    bool has_replaced = false;
    for (int i = 0; i < HOT_FILES; i++) {
        struct hot *h = &hots[i];
        if (h->count < HOT_COUNT || h->fd < 0)
            continue;
        struct kept *place = NULL;
        uint32_t last_use = UINT32_MAX;
        bool has_it = false;
        for (int k = 0; k < KEPT_FDS && !has_it; k++) {
            struct kept *kept = &p->kept[k];
            struct hot *other = kept->state != NONE ? find_hot(kept->dev, kept->ino) : NULL;
            uint32_t used = other ? other->stamp : 0;
            has_it = kept->state != NONE && kept->ino == h->ino && kept->dev == h->dev;
            if (used < last_use) {
                last_use = used;
                place = kept;
            }
        }
        if (has_it || (place->state != NONE && (has_replaced || last_use + HOT_REST > hot_stamp)))
            continue;
        has_replaced = has_replaced || place->state != NONE;
        lose_kept(place); /* keep_fd takes the oldest */
        keep_fd(t, h->fd, true);
    }
}

/* The operations from number `from` on have not been done: what they were to close may be there. */
static void fail_closing(struct thr *t, int from)
{
    for (int i = from; i < t->op_count; i++) {
        const struct op *op = &t->ops[i].op;
        if (op->nr == SYS_close && op->args[0] >= FIRST_KEPT && op->args[0] <= LAST_KEPT)
            prcs[t->prc]->kept[op->args[0] - FIRST_KEPT].is_open = true;
    }
}
