/* The module cloche.platform._native, one translation unit: its parts call each other on the way of every system call.
 * Each part can be compiled by itself, too (tests/style/test_csrc.py).  What Python calls is declared in
 * platform/_native.pyi; the code between is made by csrc/generate.py. */
#include "parts.h"

#include "tables.c"
#include "frames.c"
#include "waking.c"
#include "memory.c"
#include "lanes.c"
#include "windows.c"
#include "sharing.c"
#include "orders.c"
#include "proof.c"
#include "notify.c"
#include "teardown.c"
#include "requests.c"
#include "spinning.c"
#include "loop.c"
#include "zygote.c"

static bool wrong_count(Py_ssize_t wanted)
{
    PyErr_Format(PyExc_TypeError, "%zd arguments are wanted", wanted);
    return true;
}

static struct thr *thread_of(PyObject *o)
{
    long id = PyLong_AsLong(o);
    if (id >= 0 && id < thr_count && thrs[id]->used && !thrs[id]->gone)
        return thrs[id];
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "no such thread");
    return NULL;
}

static struct thr *stopped_of(PyObject *o)
{
    struct thr *t = thread_of(o);
    if (t && is_running(t))
        return PyErr_Format(PyExc_RuntimeError, "thread %d is not stopped", t->id), NULL;
    return t;
}

static struct thr *framed_of(PyObject *o)
{
    struct thr *t = stopped_of(o);
    if (t && !t->has_frame)
        return PyErr_Format(PyExc_RuntimeError, "thread %d has no signal frame", t->id), NULL;
    return t;
}

static struct prc *process_of(PyObject *o)
{
    long id = PyLong_AsLong(o);
    if (id >= 0 && id < prc_count && prcs[id]->used)
        return prcs[id];
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "no such process");
    return NULL;
}

#include "wrappers.h"

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", "See _native.pyi.", -1, methods};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&module);
}
