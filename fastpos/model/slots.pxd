import cython
from . cimport primitives

cdef class Slots:
    cdef public dict _raw, _wire
    cdef public object _copy, _number

cdef class EventSlots(Slots):
    cdef public object _part, _received_ns, _stream

cdef class PositionSlots(EventSlots):
    cdef public dict _before
    cdef public object _change, _complete

@cython.locals(record=Slots)
cpdef view(kind, dict wire, number)

@cython.locals(position=PositionSlots)
cpdef position_of(kind, EventSlots push, dict wire, dict before, complete, change)
