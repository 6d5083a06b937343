import cython
from ..model cimport primitives
from ..model.slots cimport EventSlots
from ..model.table cimport Channel, Part

cdef object loads, time_ns, _CHANNEL
cdef dict _BY_NAME
cdef Channel UNDOCUMENTED
cdef Py_ssize_t _FLAT

@cython.locals(text=bytes)
cpdef bint all_begin(list texts, tuple heads) except -1

@cython.locals(
    push=dict, body=dict, thing=dict, items=list, odd=tuple, channel=Channel, part=Part, event=EventSlots,
    exact=bint)
cpdef event_from(bytes text, received_ns, number, stream=*)

cdef Channel _channel_of(parsed, bytes text)
cdef bint _too_deep(push, bytes text) except -1
