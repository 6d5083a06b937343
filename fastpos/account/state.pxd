import cython
from ..model cimport primitives
from ..model.fields cimport as_integer, as_name
from ..model.slots cimport EventSlots, PositionSlots, Slots, position_of, view
from ..model.table cimport Channel, Part, Resting

cdef int _PATCH, _REPLACE, _TICK
cdef str _CREATE, _DELETE
cdef dict _CHANGES
cdef frozenset _NOTHING

cdef class Entry:
    cdef readonly dict wire, published, tick
    cdef readonly EventSlots latest
    cdef readonly frozenset stale
    cdef readonly bint complete
    cdef readonly Py_ssize_t missed

@cython.locals(entry=Entry)
cpdef Entry entry_of(
    dict wire, EventSlots latest, frozenset stale=*, bint complete=*, dict published=*, dict tick=*,
    Py_ssize_t missed=*)
cpdef dict whole(Entry entry)
@cython.locals(both=dict)
cpdef dict merged(dict known, dict news)

cdef class State:
    cdef readonly dict stores
    cdef public State base
    cdef public bint contradicted
    cdef object _number
    cdef readonly dict _closed, _ended
    cdef readonly set _crowded

    @cython.locals(body=dict, part=Part)
    cpdef apply(self, EventSlots event, Channel channel)
    cdef Entry _known(self, name, dict store, id)
    @cython.locals(store=dict, known=Entry, stale=frozenset)
    cdef _keep(self, Part part, dict wire, EventSlots event)
    @cython.locals(store=dict, known=Entry, stale=frozenset, before=dict, wire=dict, complete=bint)
    cdef _patch_and_tell(self, Part part, dict news, EventSlots event, change)
    @cython.locals(store=dict, known=Entry, stale=frozenset, wire=dict, tick=dict, listed=Py_ssize_t)
    cdef _tick(self, Part part, list ticks, EventSlots event)
    cpdef note_closed(self, id)
    @cython.locals(ended=dict)
    cdef _end(self, name, id)
    cdef bint _is_late(self, id) except -1
    @cython.locals(part=Part, entry=Entry, wire=dict)
    cpdef show(self, name, stale, now_ms)

cdef frozenset _told(dict wire)
