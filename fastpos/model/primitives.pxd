# The same as primitives.py, in C.
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.time cimport monotonic

cdef extern from *:
    """
    static inline PyObject *fastpos_new(PyTypeObject *kind)
    {
        static PyObject *nothing = NULL;
        if (nothing == NULL && (nothing = PyTuple_New(0)) == NULL)
            return NULL;
        return kind->tp_new(kind, nothing, NULL);
    }
    """
    object new "fastpos_new"(type kind)

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
