import cython
from ..model cimport primitives
from ..model.fields cimport as_integer, as_name
from ..model.slots cimport EventSlots, PositionSlots, Slots, position_of, view
from ..model.table cimport Channel, Part, Resting

cdef int _PATCH, _REPLACE, _TICK
cdef str _CREATE, _DELETE
cdef dict _CHANGES, _UNKNOWN
cdef frozenset _NOTHING

cdef class Entry:
    cdef readonly dict wire, published, tick
    cdef readonly EventSlots latest
    cdef readonly frozenset stale
    cdef readonly bint complete
    cdef readonly Py_ssize_t heard

@cython.locals(entry=Entry)
cpdef Entry entry_of(
    dict wire, EventSlots latest, frozenset stale=*, bint complete=*, dict published=*, dict tick=*,
    Py_ssize_t heard=*)
cpdef dict whole(Entry entry)
@cython.locals(both=dict)
cpdef dict merged(dict known, dict news)

cdef class Store:
    cdef public Store base
    cdef readonly dict entries, ended
    cdef readonly bint crowded
    cdef readonly Py_ssize_t limit
    cdef readonly object name

    cdef Entry known(self, id)
    cdef keep(self, id, Entry entry)
    cdef end(self, id)

cdef class State:
    cdef readonly dict stores
    cdef public State base
    cdef public bint contradicted
    cdef public Py_ssize_t ticks
    cdef object _number
    cdef readonly dict _closed, _untold

    @cython.locals(body=dict, part=Part, store=Store)
    cpdef apply(self, EventSlots event, Channel channel)
    @cython.locals(known=Entry, stale=frozenset)
    cdef _keep(self, Part part, Store store, dict wire, EventSlots event)
    @cython.locals(store=Store, known=Entry, stale=frozenset, before=dict, wire=dict, complete=bint)
    cdef _patch_and_tell(self, Part part, dict news, EventSlots event, change)
    @cython.locals(store=Store, known=Entry, stale=frozenset, wire=dict, tick=dict, number=Py_ssize_t)
    cdef _tick(self, Part part, list ticks, EventSlots event)
    cpdef note_closed(self, id)
    cdef bint _is_late(self, Store store, id) except -1
    @cython.locals(part=Part, entry=Entry, wire=dict)
    cpdef show(self, name, stale, now_ms)

cdef frozenset _told(dict wire)
