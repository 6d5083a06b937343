from ..model.slots cimport EventSlots
from ..model.table cimport Channel
from .state cimport State

cdef class Book:
    cdef public object now_ns, _owner, _number, _heartbeat
    cdef readonly State _state, _held
    cdef readonly list _journal
    cdef bint _interrupted

    cpdef apply(self, EventSlots event, Channel channel)
    cdef _note(self, EventSlots event, Channel channel)
