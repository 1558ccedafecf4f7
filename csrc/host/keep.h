/* Descriptors that stay with a guest process in direct mode, so that its further mappings of the same files need not
 * ask: a program's segments, the libraries that everything loads.
 *
 * Only descriptors that are open for reading alone, of files that the process maps privately: it could read them
 * anyway.  They have numbers of their own, [FIRST_KEPT, LAST_KEPT]; the filter lets private mappings of these pass.
 * A batch of operations that needs new ones begins with a notified operation that does nothing: with its
 * notification they are injected.
 */

static bool op_keeps(const uint64_t *a, int fd)
{
    if (strict_mode || (a[3] & ~KEPT_MAP_FLAGS) || (a[3] & (MAP_PRIVATE | MAP_FIXED)) != (MAP_PRIVATE | MAP_FIXED) ||
        a[0] >= MAX_ADDRESS || a[1] >> 32 || (a[2] & ~7ULL))
        return false;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & (O_ACCMODE | O_PATH)) == O_RDONLY;
}

/* The number under which the process has the file, or will have it when the operations that are queued are carried
 * out; -1: it cannot. */
static int keep_fd(struct thr *t, int fd)
{
    struct prc *p = prcs[t->prc];
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    struct kept *oldest = NULL;
    for (int i = 0; i < KEPT_FDS; i++) {
        struct kept *k = &p->kept[i];
        if (k->ino == st.st_ino && k->dev == st.st_dev && k->stamp) {
            k->stamp = ++p->kept_stamp;
            return FIRST_KEPT + i;
        }
        if ((!oldest || k->stamp < oldest->stamp) && (!k->stamp || k->owner != t->id || k->round != t->batch))
            oldest = k; /* not one that this batch still needs */
    }
    struct hop *carrier = NULL;
    for (int i = t->sent; i < t->op_count && !carrier; i++)
        if (t->ops[i].is_carrier)
            carrier = &t->ops[i];
    if (!oldest || (carrier && carrier->gift_count == KEPT_FDS))
        return -1;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return -1;
    if (!carrier) {
        carrier = add_op(t);
        carrier->op = (struct op){SYS_munmap, {MAX_ADDRESS, 4096}, 0}; /* never mapped */
        carrier->is_carrier = carrier->notified = true;
    }
    int number = FIRST_KEPT + (int)(oldest - p->kept);
    carrier->gifts[carrier->gift_count] = copy;
    carrier->gift_numbers[carrier->gift_count++] = number;
    *oldest = (struct kept){st.st_dev, st.st_ino, ++p->kept_stamp, t->id, t->batch};
    return number;
}

static void close_gifts(struct hop *h)
{
    while (h->gift_count)
        close(h->gifts[--h->gift_count]);
}

/* What was ordered may not have been done: nothing is certain about what the process has. */
static void forget_kept(struct prc *p)
{
    memset(p->kept, 0, sizeof p->kept);
}
