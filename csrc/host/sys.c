/*
 * cloche.platform._sys: host system calls that the standard library of Python does not offer.
 *
 * Why it is needed: confinement (prctl, seccomp, capset, namespaces, mounts, Landlock) and race-free file service
 * (openat2, renameat2, fchmodat2, utimensat, fstatfs), holes in memfds (fallocate).  Why it is safe: every function is
 * a row of a table, makes exactly its one system call, keeps no state, and turns a failure into OSError(errno).
 * Nothing here parses or decides (but `choose_protocol`, of egress's OpenSSL); structs are packed in hostsys.py, which alone imports it.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <linux/filter.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Numbers above 423 are the same on every architecture; old headers may lack them. */
#define NR_CLOSE_RANGE 436
#define NR_OPENAT2 437
#define NR_LANDLOCK_CREATE_RULESET 444
#define NR_LANDLOCK_ADD_RULE 445
#define NR_LANDLOCK_RESTRICT_SELF 446
#define NR_FCHMODAT2 452
#define MAX_ARGS 6

static const struct row {
    const char *name;
    long nr;
    /* A letter for each argument of the call.  i: an integer; s: bytes without NUL; w: a buffer that the host writes;
     * r and a digit: a buffer that it reads, of at least so many times 4 bytes; n: the length of the one before, no
     * argument of Python's; p: a BPF program, of which a struct sock_fprog is made. */
    const char *kinds;
} rows[] = {
    {"prctl", SYS_prctl, "iiiii"},
    {"seccomp_filter", SYS_seccomp, "iip"},
    {"capget", SYS_capget, "w2w6"},
    {"capset", SYS_capset, "r2r6"},
    {"unshare", SYS_unshare, "i"},
    {"setns", SYS_setns, "ii"},
    {"setfsuid", SYS_setfsuid, "i"},
    {"mount", SYS_mount, "sssis"},
    {"umount2", SYS_umount2, "si"},
    {"pivot_root", SYS_pivot_root, "ss"},
    {"openat2", NR_OPENAT2, "isr6n"},
    {"close_range", NR_CLOSE_RANGE, "iii"},
    {"renameat2", SYS_renameat2, "isisi"},
    {"fchmodat2", NR_FCHMODAT2, "isii"},
    {"fallocate", SYS_fallocate, "iiii"},
    {"utimensat", SYS_utimensat, "isr8i"},
    {"fstatfs", SYS_fstatfs, "iw30"},
    {"syncfs", SYS_syncfs, "i"},
    {"landlock_abi", NR_LANDLOCK_CREATE_RULESET, "iii"},
    {"landlock_create_ruleset", NR_LANDLOCK_CREATE_RULESET, "r2ni"},
    {"landlock_add_rule", NR_LANDLOCK_ADD_RULE, "iir3i"},
    {"landlock_restrict_self", NR_LANDLOCK_RESTRICT_SELF, "ii"},
};
#define ROWS (sizeof rows / sizeof *rows)

/* The buffer's address, if it has `words` times 4 bytes; 0 with an exception. */
static long address(PyObject *o, Py_buffer *buffer, long words, bool is_written)
{
    if (PyObject_GetBuffer(o, buffer, is_written ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
        return 0;
    if (buffer->len >= words * 4)
        return (long)buffer->buf;
    PyBuffer_Release(buffer);
    PyErr_SetString(PyExc_ValueError, "too short");
    return 0;
}

static PyObject *call(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    const struct row *row = &rows[PyLong_AsSize_t(self)];
    long values[MAX_ARGS] = {0}, result = 0;
    Py_buffer buffers[MAX_ARGS];
    int at = 0, held = 0;
    struct sock_fprog program;
    const char *kind = row->kinds;
    for (; *kind && !PyErr_Occurred(); at++) {
        char *string = NULL, letter = *kind++;
        long words = strtol(kind, (char **)&kind, 10);
        if (letter == 'n') {
            values[at] = buffers[held - 1].len;
            continue;
        }
        if (!count--) {
            PyErr_Format(PyExc_TypeError, "too few arguments for %s", row->name);
        } else if (letter == 'i') {
            values[at] = PyLong_AsLong(*args++);
        } else if (letter == 's') {
            PyBytes_AsStringAndSize(*args++, &string, NULL);
            values[at] = (long)string;
        } else if ((values[at] = address(*args++, &buffers[held], words, letter == 'w'))) {
            size_t steps = buffers[held].len / sizeof(struct sock_filter);
            program = (struct sock_fprog){steps, buffers[held].buf};
            if (letter == 'p')
                values[at] = (long)&program;
            if (letter == 'p' && (steps * sizeof(struct sock_filter) != (size_t)buffers[held].len || steps > BPF_MAXINSNS))
                PyErr_SetString(PyExc_ValueError, "not a whole number of BPF instructions, or too many");
            held++;
        }
    }
    if (!PyErr_Occurred() && count)
        PyErr_Format(PyExc_TypeError, "too many arguments for %s", row->name);
    if (!PyErr_Occurred()) {
        result = syscall(row->nr, values[0], values[1], values[2], values[3], values[4], values[5]);
        if (result < 0)
            PyErr_SetFromErrno(PyExc_OSError);
    }
    while (held)
        PyBuffer_Release(&buffers[--held]);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(result);
}

/*
 * For SSL_CTX_set_alpn_select_cb(3): `arg` is the one protocol that may be chosen, its length first.  In C, because a
 * callback that is made at run time needs memory that is written and executed, which no process of cloche may have.
 */
static int choose_protocol(void *Py_UNUSED(ssl), const unsigned char **out, unsigned char *out_length,
                           const unsigned char *offered, unsigned int length, void *arg)
{
    const unsigned char *wanted = arg;
    unsigned int at = 0;
    while (at < length) {
        unsigned int size = offered[at++];
        if (size > length - at)
            break;
        if (size && size == wanted[0] && !memcmp(offered + at, wanted + 1, size)) {
            *out = wanted + 1;
            *out_length = wanted[0];
            return 0; /* SSL_TLSEXT_ERR_OK */
        }
        at += size;
    }
    return 3; /* SSL_TLSEXT_ERR_NOACK */
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_sys", .m_doc = "See csrc/host/sys.c.", .m_size = -1};

PyMODINIT_FUNC PyInit__sys(void)
{
    static PyMethodDef methods[ROWS];
    PyObject *m = PyModule_Create(&module);
    for (size_t i = 0; m && i < ROWS; i++) {
        methods[i] = (PyMethodDef){rows[i].name, (PyCFunction)(void (*)(void))call, METH_FASTCALL, NULL};
        PyObject *index = PyLong_FromSize_t(i), *function = index ? PyCFunction_New(&methods[i], index) : NULL;
        Py_XDECREF(index);
        if (!function || PyModule_AddObject(m, rows[i].name, function) < 0)
            Py_CLEAR(m);
    }
    PyObject *chooser = m ? PyLong_FromVoidPtr((void *)(uintptr_t)choose_protocol) : NULL;
    if (m && (!chooser || PyModule_AddObject(m, "protocol_chooser", chooser) < 0))
        Py_CLEAR(m);
    return m;
}
