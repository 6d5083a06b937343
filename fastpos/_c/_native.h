/* What the files of fastpos._c._native share. */

#ifndef FASTPOS_NATIVE_H
#define FASTPOS_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "_attribute.h"

#define METHOD(type, name) \
    {#name, (PyCFunction)(void (*)(void))type##_##name, METH_FASTCALL, name##_doc}

/* What is in a slot of an object, borrowed, NULL where nothing was put. */
#define SLOT(object, offset) (*(PyObject **)((char *)(object) + (offset)))

/* Of the slots that every event has. */
enum { RAW, WIRE, NUMBER, RECEIVED_NS, N_SLOTS };

typedef struct {
    PyObject_HEAD
    PyObject *inflate, *loads, *channel, *kinds, *decode, *event_from;    /* see Decoder_doc */
    Py_ssize_t offsets[N_SLOTS];                                /* of the slots in every event class */
    Py_ssize_t max_size, max_depth;
} Decoder;

/* dict[key]: borrowed, NULL without an exception where it is missing or null; key may be None. */
static inline PyObject *
value_of(PyObject *dict, PyObject *key)
{
    PyObject *value = key == Py_None ? NULL : PyDict_GetItemWithError(dict, key);
    return value == Py_None ? NULL : value;
}

/* The event of a push, from its JSON: a new reference; NULL without an exception where something is
 * not as usual. */
PyObject *make_event(Decoder *self, PyObject *text, PyObject *received_ns);

int check_count(const char *name, Py_ssize_t expected, Py_ssize_t given);

extern PyType_Spec Deliverer_spec, Getter_spec;

#endif
