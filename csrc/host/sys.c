/*
 * cloche.platform._sys: host system calls that the standard library of Python does not offer.
 *
 * Why it is needed: confinement (prctl, seccomp, capset, namespaces, mounts, Landlock) and race-free file service
 * (openat2, renameat2, fchmodat2, utimensat, fstatfs), holes in memfds (fallocate).  Why it is safe: every
 * function makes exactly one system call
 * with scalars and NUL-terminated copies that Python owns, keeps no state, and turns a failure into OSError(errno).
 * Nothing here parses or decides.
 *
 * Only cloche.platform.hostsys imports it.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Numbers above 423 are the same on every architecture; old headers may lack them. */
#define NR_CLOSE_RANGE 436
#define NR_OPENAT2 437
#define NR_LANDLOCK_CREATE_RULESET 444
#define NR_LANDLOCK_ADD_RULE 445
#define NR_LANDLOCK_RESTRICT_SELF 446
#define NR_FCHMODAT2 452

static PyObject *result_of(long value)
{
    if (value < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(value);
}

static PyObject *none_of(long value)
{
    if (value < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static int want(Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return 1;
    PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, given);
    return 0;
}

/* Fills `out` from the int arguments at `args`; 0 with an exception set on failure. */
static int ints(PyObject *const *args, Py_ssize_t count, int64_t *out)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        out[i] = PyLong_AsLongLong(args[i]);
        if (out[i] == -1 && PyErr_Occurred())
            return 0;
    }
    return 1;
}

/* A NUL-terminated string that `arg` (bytes without NUL) owns; NULL with an exception set on failure. */
static const char *text(PyObject *arg)
{
    char *data;
    if (PyBytes_AsStringAndSize(arg, &data, NULL) < 0)
        return NULL;
    return data;
}

static PyObject *sys_prctl(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    int64_t a[5];
    if (!want(n, 5) || !ints(args, 5, a))
        return NULL;
    return result_of(prctl((int)a[0], (unsigned long)a[1], (unsigned long)a[2], (unsigned long)a[3],
                           (unsigned long)a[4]));
}

static PyObject *sys_seccomp_filter(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    int64_t flags;
    char *code;
    Py_ssize_t size;
    if (!want(n, 2) || PyBytes_AsStringAndSize(args[0], &code, &size) < 0 || !ints(args + 1, 1, &flags))
        return NULL;
    if (size == 0 || size % sizeof(struct sock_filter) || size / sizeof(struct sock_filter) > BPF_MAXINSNS) {
        PyErr_SetString(PyExc_ValueError, "not a whole number of BPF instructions, or too many");
        return NULL;
    }
    struct sock_fprog prog = { .len = (unsigned short)(size / sizeof(struct sock_filter)),
                               .filter = (struct sock_filter *)code };
    return result_of(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, (unsigned int)flags, &prog));
}

static PyObject *sys_seccomp_has_action(PyObject *Py_UNUSED(self), PyObject *arg)
{
    uint32_t action = (uint32_t)PyLong_AsUnsignedLongMask(arg);
    if (PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0);
}

static PyObject *sys_capget(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct d[2];
    if (syscall(SYS_capget, &head, d) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("KKK", (unsigned long long)d[1].effective << 32 | d[0].effective,
                         (unsigned long long)d[1].permitted << 32 | d[0].permitted,
                         (unsigned long long)d[1].inheritable << 32 | d[0].inheritable);
}

static PyObject *sys_capset(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct d[2];
    int64_t a[3];
    if (!want(n, 3) || !ints(args, 3, a))
        return NULL;
    for (int i = 0; i < 2; i++) {
        d[i].effective = (uint32_t)(a[0] >> (32 * i));
        d[i].permitted = (uint32_t)(a[1] >> (32 * i));
        d[i].inheritable = (uint32_t)(a[2] >> (32 * i));
    }
    return none_of(syscall(SYS_capset, &head, d));
}

static PyObject *sys_unshare(PyObject *Py_UNUSED(self), PyObject *arg)
{
    int64_t flags;
    if (!ints(&arg, 1, &flags))
        return NULL;
    return none_of(unshare((int)flags));
}

static PyObject *sys_setns(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    int64_t a[2];
    if (!want(n, 2) || !ints(args, 2, a))
        return NULL;
    return none_of(setns((int)a[0], (int)a[1]));
}

static PyObject *sys_mount(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    const char *source, *target, *kind, *data;
    int64_t flags;
    if (!want(n, 5) || !(source = text(args[0])) || !(target = text(args[1])) || !(kind = text(args[2])) ||
        !ints(args + 3, 1, &flags) || !(data = text(args[4])))
        return NULL;
    return none_of(mount(source, target, kind, (unsigned long)flags, data));
}

static PyObject *sys_umount2(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    const char *target;
    int64_t flags;
    if (!want(n, 2) || !(target = text(args[0])) || !ints(args + 1, 1, &flags))
        return NULL;
    return none_of(umount2(target, (int)flags));
}

static PyObject *sys_pivot_root(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    const char *new_root, *put_old;
    if (!want(n, 2) || !(new_root = text(args[0])) || !(put_old = text(args[1])))
        return NULL;
    return none_of(syscall(SYS_pivot_root, new_root, put_old));
}

static PyObject *sys_openat2(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    /* struct open_how of linux/openat2.h */
    struct {
        uint64_t flags, mode, resolve;
    } how;
    int64_t dirfd, a[3];
    const char *path;
    if (!want(n, 5) || !ints(args, 1, &dirfd) || !(path = text(args[1])) || !ints(args + 2, 3, a))
        return NULL;
    how.flags = (uint64_t)a[0];
    how.mode = (uint64_t)a[1];
    how.resolve = (uint64_t)a[2];
    return result_of(syscall(NR_OPENAT2, (int)dirfd, path, &how, sizeof how));
}

static PyObject *sys_close_range(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    int64_t a[3];
    if (!want(n, 3) || !ints(args, 3, a))
        return NULL;
    return none_of(syscall(NR_CLOSE_RANGE, (unsigned int)a[0], (unsigned int)a[1], (unsigned int)a[2]));
}

static PyObject *sys_renameat2(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    int64_t from_fd, to_fd, flags;
    const char *from, *to;
    if (!want(n, 5) || !ints(args, 1, &from_fd) || !(from = text(args[1])) || !ints(args + 2, 1, &to_fd) ||
        !(to = text(args[3])) || !ints(args + 4, 1, &flags))
        return NULL;
    return none_of(syscall(SYS_renameat2, (int)from_fd, from, (int)to_fd, to, (unsigned int)flags));
}

static PyObject *sys_fallocate(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    int64_t a[4];
    if (!want(n, 4) || !ints(args, 4, a))
        return NULL;
    return none_of(fallocate((int)a[0], (int)a[1], a[2], a[3]));
}

static PyObject *sys_fchmodat2(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    int64_t dirfd, a[2];
    const char *path;
    if (!want(n, 4) || !ints(args, 1, &dirfd) || !(path = text(args[1])) || !ints(args + 2, 2, a))
        return NULL;
    return none_of(syscall(NR_FCHMODAT2, (int)dirfd, path, (unsigned int)a[0], (unsigned int)a[1]));
}

static PyObject *sys_utimensat(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    int64_t dirfd, a[5];
    const char *path;
    if (!want(n, 7) || !ints(args, 1, &dirfd) || !(path = text(args[1])) || !ints(args + 2, 5, a))
        return NULL;
    struct timespec times[2] = { { a[0], a[1] }, { a[2], a[3] } };
    return none_of(utimensat((int)dirfd, path, times, (int)a[4]));
}

static PyObject *sys_fstatfs(PyObject *Py_UNUSED(self), PyObject *arg)
{
    struct statfs s;
    int64_t fd;
    if (!ints(&arg, 1, &fd))
        return NULL;
    if (fstatfs((int)fd, &s) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    /* f_type is signed in glibc: magic numbers are 32 unsigned bits */
    return Py_BuildValue("kkKKKKKkk", (unsigned long)(uint32_t)s.f_type, (unsigned long)s.f_bsize,
                         (unsigned long long)s.f_blocks, (unsigned long long)s.f_bfree,
                         (unsigned long long)s.f_bavail, (unsigned long long)s.f_files,
                         (unsigned long long)s.f_ffree, (unsigned long)s.f_namelen, (unsigned long)s.f_flags);
}

static PyObject *sys_syncfs(PyObject *Py_UNUSED(self), PyObject *arg)
{
    int64_t fd;
    if (!ints(&arg, 1, &fd))
        return NULL;
    return none_of(syncfs((int)fd));
}

static PyObject *sys_landlock_abi(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return result_of(syscall(NR_LANDLOCK_CREATE_RULESET, NULL, (size_t)0, 1 /* _VERSION */));
}

static PyObject *sys_landlock_create_ruleset(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    int64_t a[4];
    if (!want(n, 4) || !ints(args, 4, a))
        return NULL;
    /* struct landlock_ruleset_attr: fs, net (ABI 4), scoped (ABI 6); a shorter size hides the later fields */
    uint64_t attr[3] = { (uint64_t)a[0], (uint64_t)a[1], (uint64_t)a[2] };
    if (a[3] != 8 && a[3] != 16 && a[3] != 24) {
        PyErr_SetString(PyExc_ValueError, "size is 8, 16 or 24 bytes");
        return NULL;
    }
    return result_of(syscall(NR_LANDLOCK_CREATE_RULESET, attr, (size_t)a[3], 0));
}

static PyObject *sys_landlock_add_path(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t n)
{
    /* struct landlock_path_beneath_attr */
    struct {
        uint64_t allowed;
        int32_t fd;
    } __attribute__((packed)) rule;
    int64_t a[3];
    if (!want(n, 3) || !ints(args, 3, a))
        return NULL;
    rule.fd = (int32_t)a[1];
    rule.allowed = (uint64_t)a[2];
    return none_of(syscall(NR_LANDLOCK_ADD_RULE, (int)a[0], 1 /* LANDLOCK_RULE_PATH_BENEATH */, &rule, 0));
}

static PyObject *sys_landlock_restrict_self(PyObject *Py_UNUSED(self), PyObject *arg)
{
    int64_t fd;
    if (!ints(&arg, 1, &fd))
        return NULL;
    return none_of(syscall(NR_LANDLOCK_RESTRICT_SELF, (int)fd, 0));
}

static PyObject *sys_setfsuid(PyObject *Py_UNUSED(self), PyObject *arg)
{
    int64_t uid;
    if (!ints(&arg, 1, &uid))
        return NULL;
    /* It reports no error; the second call tells what the user is now. */
    syscall(SYS_setfsuid, (uid_t)uid);
    if ((uid_t)syscall(SYS_setfsuid, (uid_t)uid) != (uid_t)uid) {
        errno = EPERM;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

#define FAST(name) { #name, (PyCFunction)(void (*)(void))sys_##name, METH_FASTCALL, NULL }
#define ONE(name) { #name, sys_##name, METH_O, NULL }
#define NOARGS(name) { #name, sys_##name, METH_NOARGS, NULL }

static PyMethodDef methods[] = {
    FAST(prctl),
    FAST(seccomp_filter),
    ONE(seccomp_has_action),
    NOARGS(capget),
    FAST(capset),
    ONE(unshare),
    FAST(setns),
    ONE(setfsuid),
    FAST(mount),
    FAST(umount2),
    FAST(pivot_root),
    FAST(openat2),
    FAST(close_range),
    FAST(renameat2),
    FAST(fchmodat2),
    FAST(fallocate),
    FAST(utimensat),
    ONE(fstatfs),
    ONE(syncfs),
    NOARGS(landlock_abi),
    FAST(landlock_create_ruleset),
    FAST(landlock_add_path),
    ONE(landlock_restrict_self),
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "cloche.platform._sys", "Host system calls; see csrc/host/sys.c.", 0, methods, NULL, NULL,
    NULL, NULL,
};

PyMODINIT_FUNC PyInit__sys(void)
{
    return PyModule_Create(&module);
}
