# The same as primitives.py, in C.
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.time cimport monotonic as _without_sleep

cdef extern from "_primitives.h":
    object new "fastpos_new"(type kind)
    double _with_sleep "fastpos_with_sleep"() noexcept

cdef inline double monotonic() except -1.0:
    cdef double now = _with_sleep()
    return now if now >= 0.0 else _without_sleep()

cdef inline bint tells_all(dict news, dict known) except -1:
    cdef Py_ssize_t i = 0, j = 0
    cdef PyObject *key, *value, *other
    if len(news) != len(known):
        return False
    while PyDict_Next(news, &i, &key, &value):
        if value == <PyObject *>None or not PyDict_Next(known, &j, &other, NULL):
            return False
        if key != other and <object>key != <object>other:
            return False
    return True
