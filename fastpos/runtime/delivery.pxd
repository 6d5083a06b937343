import cython
from ..account.book cimport Book
from ..model cimport primitives
from ..model.slots cimport EventSlots
from ..model.table cimport Channel
from ..wire.decoder cimport event_from
from .timing cimport CallbackTimes

cdef class Route:
    cdef readonly Channel channel
    cdef public Py_ssize_t count
    cdef readonly tuple parts
    cdef readonly object whole
    cdef readonly list cell

cdef class Delivery:
    cdef readonly object _callbacks, _counters, _number, _dispatcher, _hide, _stream
    cdef readonly dict _routes
    cdef readonly Book _book
    cdef readonly CallbackTimes _times
    cdef readonly double _received
    cdef public bint _muted, _halted, _background, silent
    cdef public Py_ssize_t begun

    @cython.locals(closes=bint)
    cpdef bint pushes(self, list texts, received_ns) except -1
    @cython.locals(route=Route, cell=list, functions=tuple)
    cdef _deliver(self, EventSlots event)
    cpdef received(self, double at)
    cpdef call(self, handlers, event, bint queued=*)
    @cython.locals(times=CallbackTimes, now=double, begun=double, seconds=double)
    cdef _call(self, handlers, tuple functions, event, bint queued)
