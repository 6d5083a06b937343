import cython
from ..model cimport primitives
from ..model.slots cimport EventSlots
from ..model.table cimport Channel, Part

cdef object loads, time_ns, _CHANNEL
cdef dict _BY_NAME
cdef Channel UNDOCUMENTED
cdef Py_ssize_t _FLAT

cpdef bytes inflate_push(data, max_size)

@cython.locals(push=dict, channel=Channel, part=Part, body=dict, event=EventSlots, exact=bint)
cpdef event_from(bytes text, received_ns, number)

@cython.locals(channel=Channel)
cdef Channel _channel_of(dict push, bytes text)

@cython.locals(exact=bint)
cdef bint _is_exact(Channel channel, Part part, dict body, bytes text) except -1

cdef bint _too_deep(push, bytes text) except -1
