/*
 * cloche.platform._sys: host system calls that the standard library of Python does not offer.
 *
 * Why it is needed: confinement (prctl, seccomp, capset, namespaces, mounts, Landlock) and race-free file service
 * (openat2, renameat2, fchmodat2, utimensat, fstatfs), holes in memfds (fallocate), pages shared anew (madvise).  Why it is safe: hostsys.py alone
 * imports it, where each call has a function that packs the structs and says how large they are; this code decides
 * nothing (but for `choose_protocol`, of egress's OpenSSL).
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <sys/syscall.h>
#include <unistd.h>

#define MAX_VALUES 7 /* a number and six arguments */

/* call(number, arguments ...): an integer as it is, bytes or a bytearray as its address; the host writes only into
 * bytearrays, which must be large enough. Raises OSError. */
static PyObject *call(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    long values[MAX_VALUES] = {0}, result = 0;
    Py_buffer buffers[MAX_VALUES];
    int held = 0;
    if (count < 1 || count > MAX_VALUES)
        PyErr_SetString(PyExc_TypeError, "a number and at most six arguments are wanted");
    for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++) {
        if (PyLong_Check(args[i]))
            values[i] = PyLong_AsLong(args[i]);
        else if (PyObject_GetBuffer(args[i], &buffers[held], PyBUF_SIMPLE) == 0)
            values[i] = (long)buffers[held++].buf;
    }
    if (!PyErr_Occurred())
        result = syscall(values[0], values[1], values[2], values[3], values[4], values[5], values[6]);
    if (result < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    while (held)
        PyBuffer_Release(&buffers[--held]);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(result);
}

/* call_if_same(address, address, bytes of both, number, arguments ...): the call, if these two pieces of memory are the
 * same; None if not. Nothing of Python's runs in between, so its objects are as they were compared. Raises OSError. */
static PyObject *call_if_same(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (memcmp(PyLong_AsVoidPtr(args[0]), PyLong_AsVoidPtr(args[1]), PyLong_AsSize_t(args[2])))
        Py_RETURN_NONE;
    return call(self, args + 3, count - 3);
}

/* address(bytes or bytearray): for a struct that points to them; they must live, and stay as large, until the call is over. */
static PyObject *address(PyObject *Py_UNUSED(self), PyObject *bytes)
{
    char *at = PyByteArray_Check(bytes) ? PyByteArray_AS_STRING(bytes) : PyBytes_AsString(bytes);
    return at ? PyLong_FromVoidPtr(at) : NULL;
}

/*
 * For SSL_CTX_set_alpn_select_cb(3): `arg` is the one protocol that may be chosen, its length first.  In C, because a
 * callback that is made at run time needs memory that is written and executed, which no process of cloche may have.
 */
static int choose_protocol(void *Py_UNUSED(ssl), const unsigned char **out, unsigned char *out_length,
                           const unsigned char *offered, unsigned int length, void *arg)
{
    const unsigned char *wanted = arg;
    for (unsigned int at = 0, size; at < length && (size = offered[at++], size <= length - at); at += size)
        if (size && size == wanted[0] && !memcmp(offered + at, wanted + 1, size)) {
            *out = wanted + 1;
            *out_length = wanted[0];
            return 0; /* SSL_TLSEXT_ERR_OK */
        }
    return 3; /* SSL_TLSEXT_ERR_NOACK */
}

/* make_module(capsule): the module of the library that mypyc made whose initialisation that is (cloche/library.py). */
static PyObject *make_module(PyObject *Py_UNUSED(self), PyObject *capsule)
{
    PyObject *(*make)(void) = (PyObject * (*)(void)) PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
    return make ? make() : NULL;
}

static PyMethodDef methods[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, NULL},
    {"call_if_same", (PyCFunction)(void (*)(void))call_if_same, METH_FASTCALL, NULL},
    {"address", address, METH_O, NULL},
    {"make_module", make_module, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_sys", "See csrc/host/sys.c.", -1, methods};

PyMODINIT_FUNC PyInit__sys(void)
{
    PyObject *m = PyModule_Create(&module);
    if (m && PyModule_AddIntConstant(m, "protocol_chooser", (long)choose_protocol) < 0)
        Py_CLEAR(m);
    return m;
}
