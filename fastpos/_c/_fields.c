/* Getter: what is behind an attribute of an event (fields.py), for the values that are usual.
 *
 * It reads wire[key] and gives it as it is, or translated, where that takes no thought: a number
 * that is a float or a string of one, an id that is an int or a string of digits, a name that is a
 * string, a code that has a name. For everything else it calls the Python function that it stands
 * for, with the same arguments.
 *
 * Threads: nothing changes in a Getter, and nobody changes the dict of a record. */

#include "_native.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

typedef enum { NUMBER_FIELD, INTEGER_FIELD, TEXT_FIELD, CHOICE_FIELD } Kind;
static const char *const KINDS[] = {"number", "integer", "text", "choice"};

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Kind kind;
    PyObject *get, *key, *names;        /* names: a dict, of a choice only */
    PyTypeObject *record;
    Py_ssize_t wire, number;            /* offsets of its slots */
} Getter;

/* A new reference; NULL without an exception where it takes more than this. */
static PyObject *
number_of(PyObject *value, PyObject *number)
{
    if (number != (PyObject *)&PyFloat_Type)
        return NULL;
    if (PyFloat_CheckExact(value))
        return Py_NewRef(value);
    double result = NAN;
    if (PyLong_CheckExact(value))
        result = PyLong_AsDouble(value);
    else if (PyUnicode_CheckExact(value) && PyUnicode_IS_COMPACT_ASCII(value)) {
        const char *text = (const char *)PyUnicode_1BYTE_DATA(value);
        size_t length = (size_t)PyUnicode_GET_LENGTH(value);
        if (strspn(text, "0123456789.+-eE") == length)
            result = PyOS_string_to_double(text, NULL, NULL);   /* of all of it, or an exception */
    }
    if (PyErr_Occurred() || !isfinite(result)) {
        PyErr_Clear();
        return NULL;
    }
    return PyFloat_FromDouble(result);
}

static PyObject *
integer_of(PyObject *value)
{
    if (PyLong_CheckExact(value))
        return Py_NewRef(value);
    if (!PyUnicode_CheckExact(value) || !PyUnicode_IS_COMPACT_ASCII(value))
        return NULL;
    const char *digits = (const char *)PyUnicode_1BYTE_DATA(value);
    Py_ssize_t length = PyUnicode_GET_LENGTH(value);
    if (length < 1 || length > 18)      /* so that it fits */
        return NULL;
    long long result = 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return NULL;
        result = 10 * result + (digits[i] - '0');
    }
    return PyLong_FromLongLong(result);
}

static PyObject *
choice_of(PyObject *value, PyObject *names)
{
    if (!PyUnicode_CheckExact(value) && !PyLong_CheckExact(value))
        return NULL;
    PyObject *name = PyDict_GetItemWithError(names, value);
    if (name == NULL && PyErr_Occurred()) {
        PyErr_Clear();
        return NULL;
    }
    return Py_NewRef(name == NULL ? value : name);
}

static PyObject *
usual_value(Getter *self, PyObject *record)
{
    PyObject *wire = SLOT(record, self->wire);
    if (wire == NULL || !PyDict_CheckExact(wire))
        return NULL;
    PyObject *value = PyDict_GetItemWithError(wire, self->key);
    if (value == NULL) {
        if (!PyErr_Occurred())
            Py_RETURN_NONE;
        PyErr_Clear();
        return NULL;
    }
    if (value == Py_None)
        Py_RETURN_NONE;
    switch (self->kind) {
    case NUMBER_FIELD:
        return number_of(value, SLOT(record, self->number));
    case INTEGER_FIELD:
        return integer_of(value);
    case TEXT_FIELD:
        return PyUnicode_CheckExact(value) ? Py_NewRef(value) : NULL;
    case CHOICE_FIELD:
        return choice_of(value, self->names);
    }
    return NULL;
}

static PyObject *
Getter_vectorcall(Getter *self, PyObject *const *args, size_t nargs, PyObject *kwnames)
{
    if (PyVectorcall_NARGS(nargs) == 1 && kwnames == NULL
        && PyObject_TypeCheck(args[0], self->record)) {
        PyObject *value = usual_value(self, args[0]);
        if (value != NULL)
            return value;
    }
    return PyObject_Vectorcall(self->get, args, nargs, kwnames);
}

/* Getter(get, kind, key, names, record, wire, number): a function that does what get(record) does,
 * sooner. `kind` is one of KINDS; `names` is the dict of a choice, else None. `record` is the class,
 * `wire` and `number` are member descriptors of its. No docstring, as a property would take it for
 * its own. */
static PyObject *
Getter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    const char *kind;
    PyObject *get, *key, *names, *record, *wire, *number;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) {
        PyErr_SetString(PyExc_TypeError, "Getter() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OsUOO!O!O!", &get, &kind, &key, &names, &PyType_Type, &record,
                          &PyMemberDescr_Type, &wire, &PyMemberDescr_Type, &number))
        return NULL;
    size_t which = 0;
    while (which < Py_ARRAY_LENGTH(KINDS) && strcmp(kind, KINDS[which]) != 0)
        which++;
    if (which == Py_ARRAY_LENGTH(KINDS) || PyDict_CheckExact(names) != (which == CHOICE_FIELD)) {
        PyErr_Format(PyExc_ValueError, "no such kind: %s", kind);
        return NULL;
    }
    Getter *self = (Getter *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->vectorcall = (vectorcallfunc)Getter_vectorcall;
    self->kind = (Kind)which;
    self->get = Py_NewRef(get);
    self->key = Py_NewRef(key);
    self->names = Py_NewRef(names);
    self->record = (PyTypeObject *)Py_NewRef(record);
    self->wire = ((PyMemberDescrObject *)wire)->d_member->offset;
    self->number = ((PyMemberDescrObject *)number)->d_member->offset;
    return (PyObject *)self;
}

static int
Getter_traverse(Getter *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->get);
    Py_VISIT(self->names);
    Py_VISIT(self->record);
    return 0;
}

static int
Getter_clear(Getter *self)
{
    Py_CLEAR(self->get);
    Py_CLEAR(self->key);
    Py_CLEAR(self->names);
    Py_CLEAR(self->record);
    return 0;
}

static void
Getter_dealloc(Getter *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Getter_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef Getter_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Getter, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot Getter_slots[] = {
    {Py_tp_new, Getter_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, Getter_members},
    {Py_tp_traverse, Getter_traverse},
    {Py_tp_clear, Getter_clear},
    {Py_tp_dealloc, Getter_dealloc},
    {0, NULL},
};

PyType_Spec Getter_spec = {
    .name = "fastpos._c._native.Getter",
    .basicsize = sizeof(Getter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = Getter_slots,
};
