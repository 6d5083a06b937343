from ..model cimport primitives

cdef class CallbackTimes:
    cdef public double _received, _max_lag_s, _slow_s, begun, limit, now
    cdef public dict _logged
    cdef public tuple slowest
    cdef public object function, handlers, stream

    cpdef take_up(self, double received)
    cpdef took(self, slot, function, double seconds)
