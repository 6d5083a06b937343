/* For model/primitives.pxd: what needs a few lines of C. */

#ifndef FASTPOS_PRIMITIVES_H
#define FASTPOS_PRIMITIVES_H

#include <Python.h>
#include <time.h>

/* The clock that clock.py reads; below 0 where that is Python's own. */
static inline double
fastpos_with_sleep(void)
{
#if defined(__APPLE__) || defined(CLOCK_BOOTTIME)
    struct timespec now;
#if defined(__APPLE__)
    if (clock_gettime(CLOCK_MONOTONIC, &now) == 0)
#else
    if (clock_gettime(CLOCK_BOOTTIME, &now) == 0)
#endif
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#endif
    return -1.0;
}

/* An object of a class with nothing in it. */
static inline PyObject *
fastpos_new(PyTypeObject *kind)
{
    static PyObject *nothing = NULL;
    if (nothing == NULL && (nothing = PyTuple_New(0)) == NULL)
        return NULL;
    return kind->tp_new(kind, nothing, NULL);
}

#endif
