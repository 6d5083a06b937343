/* fastpos._c._native: a push's JSON to its event. `Decoder` is a short cut for what is as usual: what is
 * not is left to the Python code beside it. */

#include "_native.h"

#include <time.h>

int
check_count(const char *name, Py_ssize_t expected, Py_ssize_t given)
{
    if (given == expected)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", name, expected, given);
    return -1;
}

/* --- Decoder ----------------------------------------------------------------------------------
 *
 * From a push to its event where everything is as usual: the JSON is parsed by orjson, its shape is
 * what the table of kinds says, and the event's slots are filled in place. Whatever is not as usual
 * is handed to the Python functions of decoder.py, which decide what it is. */

/* What the table says of one channel, in the order of its tuples: see _Kind in decoder.py. */
enum { KIND_CLASS, KIND_BODY, KIND_WIRE_IS_BODY, KIND_LIST, KIND_OBJECT, KIND_PUSH_IDS,
       KIND_BODY_IDS, KIND_LIST_IDS, KIND_OBJECT_IDS, N_KIND };

/* An id beyond 64 bits, which orjson gives as a double: not as usual. */
static int
ids_are_exact(PyObject *dict, PyObject *keys)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(keys); i++) {
        PyObject *id = value_of(dict, PyTuple_GET_ITEM(keys, i));
        if (id != NULL && PyFloat_CheckExact(id))
            return 0;
    }
    return 1;
}

/* The object that the fields are read from, borrowed; NULL if the shape is not as usual. */
static PyObject *
check_shape(PyObject *push, PyObject *kind)
{
#define KIND(item) PyTuple_GET_ITEM(kind, KIND_##item)
    PyObject *body = KIND(BODY) == Py_None ? push : value_of(push, KIND(BODY));
    if (body == NULL || !PyDict_CheckExact(body) || !ids_are_exact(push, KIND(PUSH_IDS))
        || !ids_are_exact(body, KIND(BODY_IDS)))
        return NULL;
    PyObject *list = value_of(body, KIND(LIST));
    if (list != NULL) {
        if (!PyList_CheckExact(list))
            return NULL;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
            PyObject *item = PyList_GET_ITEM(list, i);
            if (!PyDict_CheckExact(item) || !ids_are_exact(item, KIND(LIST_IDS)))
                return NULL;
        }
    }
    PyObject *object = value_of(body, KIND(OBJECT));
    if (object != NULL && (!PyDict_CheckExact(object)
                           || !ids_are_exact(object, KIND(OBJECT_IDS))))
        return NULL;
    return KIND(WIRE_IS_BODY) == Py_True ? body : push;
}

/* Whether `text` has as many opening brackets as it would take to nest too deeply. */
static int
may_be_deep(PyObject *text, Py_ssize_t max_depth)
{
    const char *chars = PyBytes_AS_STRING(text);
    Py_ssize_t size = PyBytes_GET_SIZE(text), brackets = 0;
    if (size <= 2 * max_depth)          /* they want closing */
        return 0;
    while (size > 0) {                  /* in pieces, which count in bytes, which is quick */
        unsigned char some = 0;
        int length = size < 128 ? (int)size : 128;
        for (int i = 0; i < length; i++)
            some += chars[i] == '[' || chars[i] == '{';
        brackets += some;
        chars += length;
        size -= length;
    }
    return brackets > max_depth;
}

PyObject *
make_event(Decoder *self, PyObject *text, PyObject *received_ns)
{
    if (!PyBytes_CheckExact(text) || may_be_deep(text, self->max_depth))
        return NULL;
    PyObject *event = NULL, *push = PyObject_CallOneArg(self->loads, text);
    if (push == NULL || !PyDict_CheckExact(push))
        goto done;
    PyObject *channel = value_of(push, self->channel);
    if (channel == NULL || !PyUnicode_CheckExact(channel))
        goto done;
    PyObject *kind = PyDict_GetItemWithError(self->kinds, channel);
    PyObject *wire = kind == NULL ? NULL : check_shape(push, kind);
    if (wire == NULL)
        goto done;
    PyTypeObject *type = (PyTypeObject *)KIND(CLASS);
    event = type->tp_alloc(type, 0);
    if (event == NULL)
        goto done;
    PyObject *values[N_SLOTS] = {push, wire, (PyObject *)&PyFloat_Type, received_ns};
    for (int slot = 0; slot < N_SLOTS; slot++)
        SLOT(event, self->offsets[slot]) = Py_NewRef(values[slot]);
done:
    Py_XDECREF(push);
    PyErr_Clear();      /* the Python function will meet it again, and tell it properly */
    return event;
}

PyDoc_STRVAR(event_from_doc,
"event_from($self, text, received_ns, number, /)\n--\n\n"
"The same as `fastpos.wire.decoder.event_from`.");

static PyObject *
Decoder_event_from(Decoder *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("event_from", 3, nargs) < 0)
        return NULL;
    if (args[2] == (PyObject *)&PyFloat_Type) {
        PyObject *event = make_event(self, args[0], args[1]);
        if (event != NULL)
            return event;
    }
    return PyObject_Vectorcall(self->event_from, args, nargs, NULL);
}

PyDoc_STRVAR(decode_doc,
"decode($self, data, number, /)\n--\n\n"
"The same as `fastpos.wire.decoder.decode`.");

static PyObject *
Decoder_decode(Decoder *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("decode", 2, nargs) < 0)
        return NULL;
    PyObject *text = NULL;
    if (args[1] == (PyObject *)&PyFloat_Type) {
        struct timespec now;
        timespec_get(&now, TIME_UTC);
        text = PyObject_CallFunction(self->inflate, "On", args[0], self->max_size);
        PyObject *event = NULL, *received_ns = text == NULL ? NULL
            : PyLong_FromLongLong(now.tv_sec * 1000000000LL + now.tv_nsec);
        if (received_ns != NULL)
            event = make_event(self, text, received_ns);
        Py_XDECREF(received_ns);
        Py_XDECREF(text);
        if (event != NULL)
            return event;
    }
    PyErr_Clear();
    return PyObject_Vectorcall(self->decode, args, nargs, NULL);
}

PyDoc_STRVAR(Decoder_doc,
"Decoder(inflater, loads, channel, kinds, slots, decode, event_from, max_size, max_depth)\n--\n\n"
"Decodes pushes.\n\n"
"`loads` parses JSON. `channel` is the key of a push's channel. `kinds` maps a channel to what\n"
"decoder.py calls a _Kind, as a tuple. `slots` are the member descriptors of an event's raw, wire,\n"
"number and received_ns. `decode` and `event_from` are the\n"
"Python functions that take what is not as usual, as are JSON of more than `max_size` bytes and\n"
"of more than `max_depth` opening brackets.");

static PyObject *
Decoder_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *inflater, *loads, *channel, *kinds, *slots, *decode, *event_from;
    Py_ssize_t max_size, max_depth;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) {
        PyErr_SetString(PyExc_TypeError, "Decoder() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOUO!O!OOnn", &inflater, &loads, &channel, &PyDict_Type, &kinds,
                          &PyTuple_Type, &slots, &decode, &event_from, &max_size, &max_depth))
        return NULL;
    int fits = PyTuple_GET_SIZE(slots) == N_SLOTS && max_size > 0;
    Py_ssize_t position = 0;
    PyObject *kind;
    while (fits && PyDict_Next(kinds, &position, NULL, &kind)) {
        fits = PyTuple_CheckExact(kind) && PyTuple_GET_SIZE(kind) == N_KIND
               && PyType_Check(PyTuple_GET_ITEM(kind, KIND_CLASS));
        for (Py_ssize_t item = KIND_PUSH_IDS; fits && item < N_KIND; item++)
            fits = PyTuple_CheckExact(PyTuple_GET_ITEM(kind, item));
    }
    for (int slot = 0; fits && slot < N_SLOTS; slot++)
        fits = Py_TYPE(PyTuple_GET_ITEM(slots, slot)) == &PyMemberDescr_Type;
    if (!fits) {
        PyErr_SetString(PyExc_TypeError, "Decoder() got something that it can't use");
        return NULL;
    }
    Decoder *self = (Decoder *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->inflate = attribute(inflater, "inflate");
    if (self->inflate == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    self->loads = Py_NewRef(loads);
    self->channel = Py_NewRef(channel);
    self->kinds = Py_NewRef(kinds);
    self->decode = Py_NewRef(decode);
    self->event_from = Py_NewRef(event_from);
    self->max_size = max_size;
    self->max_depth = max_depth;
    for (int slot = 0; slot < N_SLOTS; slot++)
        self->offsets[slot] =
            ((PyMemberDescrObject *)PyTuple_GET_ITEM(slots, slot))->d_member->offset;
    return (PyObject *)self;
}

static int
Decoder_traverse(Decoder *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->inflate);
    Py_VISIT(self->loads);
    Py_VISIT(self->kinds);
    Py_VISIT(self->decode);
    Py_VISIT(self->event_from);
    return 0;
}

static int
Decoder_clear(Decoder *self)
{
    Py_CLEAR(self->inflate);
    Py_CLEAR(self->loads);
    Py_CLEAR(self->kinds);
    Py_CLEAR(self->decode);
    Py_CLEAR(self->event_from);
    Py_CLEAR(self->channel);
    return 0;
}

static void
Decoder_dealloc(Decoder *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Decoder_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef Decoder_methods[] = {
    METHOD(Decoder, decode),
    METHOD(Decoder, event_from),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Decoder_slots[] = {
    {Py_tp_doc, (void *)Decoder_doc},
    {Py_tp_new, Decoder_new},
    {Py_tp_methods, Decoder_methods},
    {Py_tp_traverse, Decoder_traverse},
    {Py_tp_clear, Decoder_clear},
    {Py_tp_dealloc, Decoder_dealloc},
    {0, NULL},
};

static PyType_Spec Decoder_spec = {
    .name = "fastpos._c._native.Decoder",
    .basicsize = sizeof(Decoder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = Decoder_slots,
};

/* --- the module ------------------------------------------------------------------------------ */

static int
native_exec(PyObject *module)
{
    PyType_Spec *const specs[] = {&Decoder_spec, &Getter_spec, &Deliverer_spec};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(specs); i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        int failed = type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0;
        Py_XDECREF(type);
        if (failed)
            return -1;
    }
    return 0;
}

static PyModuleDef_Slot native_slots[] = {
    {Py_mod_exec, (void *)native_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED},      /* Deliverer looks at what other threads may replace */
#endif
    {0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastpos._c._native",
    .m_doc = "Pushes decoded.",
    .m_slots = native_slots,            /* no state: the type is all there is, and it has none */
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}
