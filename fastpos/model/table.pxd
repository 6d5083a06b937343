from .fields cimport as_integer, as_name, as_number, as_text

cdef class Resting:
    cdef object _action, _filled, _kind, _volume
    cdef frozenset _immediate
    cdef dict _names

    cpdef bint is_open(self, dict wire, number) except -1
    cpdef bint may_rest(self, dict wire, number) except -1
    cdef bint _is_filled(self, dict wire, number) except -1

cdef class Part:
    cdef readonly object record, key, expires, store, change, callback, attribute, line, id_key
    cdef readonly tuple exact
    cdef readonly bint many, id_is_text
    cdef readonly int merge
    cdef readonly Resting resting
    cdef readonly dict names

    cpdef id_of(self, dict wire)

cdef class Channel:
    cdef readonly object name, event, body, callback, line
    cdef readonly tuple only, exact, body_exact, parts, inner, merged
    cdef readonly bint conflated
