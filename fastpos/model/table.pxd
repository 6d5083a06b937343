cdef class Resting:
    cdef object _action, _filled, _volume
    cdef tuple _codes

    cpdef bint is_open(self, dict wire, number) except -1
    cpdef bint is_filled(self, dict wire, number) except -1

cdef class Part:
    cdef readonly object record, key, store, change, callback, attribute, line, id_key
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
