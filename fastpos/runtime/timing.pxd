from ..model cimport primitives

cdef class CallbackTimes:
    cdef public double _received, _max_lag_s, _slow_s, begun, limit, now, total_s
    cdef public Py_ssize_t quick
    cdef public list slow
    cdef public dict _logged
    cdef public tuple slowest
    cdef public object function, handlers, stream

    cpdef take_up(self, double received)
    cpdef took(self, slot, function, double seconds)
