/* Reading an attribute, for both extensions. */

#ifndef FASTPOS_ATTRIBUTE_H
#define FASTPOS_ATTRIBUTE_H

#include <Python.h>

/* object.name, by the one string that everybody has of that name: the interpreter's cache of lookups
 * would keep others. */
static inline PyObject *
attribute(PyObject *object, const char *name)
{
    PyObject *key = PyUnicode_InternFromString(name);
    PyObject *value = key == NULL ? NULL : PyObject_GetAttr(object, key);
    Py_XDECREF(key);
    return value;
}

#endif
