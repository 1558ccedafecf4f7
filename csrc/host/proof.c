/* The host kernel's view of guests' processes and threads, for cases in which a guest's report does not count (I2, I7).
 *
 * Python reads it (Systrap._shown); this file knows which process it is about.
 *
 * A clone that was let through is over when its thread is seen in another call: a thread makes one at a time. Then it
 * has made a child, or a thread, if and only if the host shows an unknown one.
 */
#include "parts.h"

static PyObject *reader; /* of /proc: (pid) -> (how many threads it has), (0) -> the sentry's children, None: it
                            cannot be read */

void use_proc(PyObject *function)
{
    Py_XINCREF(function);
    Py_XSETREF(reader, function);
}

/* The result of the reader, a tuple or NULL. The reader must not call this module. */
static PyObject *ask(int pid)
{
    PyObject *told = reader ? PyObject_CallFunction(reader, "i", pid) : NULL;
    if (told && !PyTuple_Check(told))
        Py_CLEAR(told);
    PyErr_Clear();
    return told;
}

/* An unknown child of the sentry in the process group: its pid, 0 if there is none, -1 if that cannot be shown. */
int unknown_child(int group)
{
    PyObject *children = ask(0);
    int unknown = children ? 0 : -1;
    for (Py_ssize_t i = 0; children && i < PyTuple_GET_SIZE(children); i++) {
        int pid = (int)PyLong_AsLong(PyTuple_GET_ITEM(children, i));
        if (pid != group && getpgid(pid) == group && !prc_by_pid(pid))
            unknown = pid;
    }
    Py_XDECREF(children);
    return unknown;
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
    for (int round = 0; round < 8; round++) {
        int before = known_threads(p);
        PyObject *told = ask(p->pid);
        long count = told ? PyLong_AsLong(PyTuple_GET_ITEM(told, 0)) : 0;
        Py_XDECREF(told);
        if (told && count <= before - (t != NULL))
            return false;
        if (!told || known_threads(p) == before)
            return true;
    }
    return true;
}

/* Whether the process waits for the child of just this clone. */
bool adopts(const struct prc *p, const struct hop *clone)
{
    return p->adopting && p->adopting->ident == clone->child_ident;
}

/* The thread makes another call, so its clone is over: whether it has made nothing. */
bool is_unborn(struct thr *t, const struct hop *h)
{
    struct prc *p = t->prc;
    if (h->op.args[0] & CLONE_VM)
        return !has_unknown_thread(p, child_of(h));
    return adopts(p, h) && p->cloned && unknown_child(p->pid) == 0;
}
