import cython
from .slots cimport EventSlots, Slots, position_of, view

cdef object _MISSING
cdef tuple _NO_NUMBER
cdef dict _SIDES

cpdef as_number(value, number)
@cython.locals(result=double)
cdef _as_float(value)
@cython.locals(text=str, digits=str)
cpdef as_integer(value)
cpdef as_text(value)
cpdef as_name(value, dict forms)
cpdef as_flag(value)
cdef _copied(value)

cdef class Field:
    cdef public object name, key, slot, default
    cdef public bint compared, is_text

cdef class _Number(Field): pass
cdef class _Integer(Field): pass

cdef class _Beside(Field):
    cdef public object outer

cdef class _Text(Field): pass

cdef class _Side(Field):
    cdef public object instead

cdef class _Flag(Field): pass

cdef class _Choice(Field):
    cdef public dict names

cdef class _Derived(Field):
    cdef public object function

cdef class _Listed(Field):
    cdef public object kind, source

cdef class _ByIdentity(Field):
    cdef public object kind, source, id_key

cdef class _Attached(Field):
    cdef public object kind, source, prefix
    cdef public tuple keys

cdef class _Told(Field):
    cdef public object kind, source, change
    cdef public dict names

cdef class _Own(Field): pass
cdef class _Shown(Field): pass

@cython.locals(wire=dict, by_key=dict, names=set)
cpdef differing(record, dict before)
