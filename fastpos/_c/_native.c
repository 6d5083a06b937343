/* fastpos._c._native: a push to its event, without letting go of the GIL.
 *
 * `Inflater` inflates gzip members (RFC 1952) through ISA-L, alone or as they stand in a receive
 * buffer; `Decoder` makes events of them. Both are short cuts for what is as usual: what is not is
 * left to the Python code beside them.
 *
 * A push takes 1 to 2 us to inflate. A busy thread that is handed the GIL meanwhile keeps it for
 * 5 ms. So input of up to 64 KiB is inflated with the GIL held, by an ISA-L state that an Inflater
 * keeps (it has 85 KiB, and no need to be cleared between members). Larger input, which nobody
 * should wait for, gets a state of its own and the GIL is released. A push as they usually are is
 * taken by _deflate.h, in two thirds of the time.
 *
 * Plan: the last four bytes of a member are the length of its content, so the bytes object is made
 * at its final size. What those bytes claim is only believed within bounds: no more room is made
 * than max_size, or than deflate can fill from so much input. Little content is inflated into a
 * scratch buffer and copied: ISA-L's fast loop stops 288 bytes before the end of the room it has,
 * which costs a push 20 % if that is its own end.
 *
 * Not the limited API: it has buffers from CPython 3.11 on, and critical sections not at all. */

#include "_native.h"

#include <isa-l.h>
#include <time.h>

#include "_deflate.h"

#define GIL_KEPT_UP_TO (64 * 1024)      /* bytes of input */
#define SPLIT_UP_TO (16 * 1024)         /* bytes of output of one split(): the first cache's */
#define SCRATCH_SIZE (16 * 1024)
#define USUAL_SIZE 1024                 /* of a push, bytes; above, ISA-L's tables pay */
#define SPARE_ROOM 512                  /* that ISA-L is given beyond what it should write */
#define MAX_RATIO 1032                  /* of deflate: 258 bytes from two bits */
#define FINAL_BINARY 0x82               /* RFC 6455: FIN, no RSV bit, opcode 2 */

struct Inflater {
    PyObject_HEAD
    struct inflate_state state;         /* all used inside inflate_small() alone */
    DeflateTables tables;
    uint8_t scratch[SCRATCH_SIZE];
};

typedef enum {
    SOUND,
    NOT_GZIP,
    CUT_SHORT,
    BAD_DEFLATE,
    WRONG_TRAILER,
    TRAILING_BYTES,
    TOO_LARGE,
    PYTHON_ERROR,                       /* the exception is set */
} Verdict;

/* SOUND if the content has exactly `length` bytes, else why not. */
static Verdict
inflate_with(struct inflate_state *state, const uint8_t *in, uint32_t size, uint8_t *out,
             uint32_t room, uint32_t length)
{
    isal_inflate_init(state);
    state->crc_flag = ISAL_GZIP;
    state->next_in = (uint8_t *)in;
    state->avail_in = size;
    state->next_out = out;
    state->avail_out = room;
    switch (isal_inflate_stateless(state)) {
    case ISAL_DECOMP_OK:
        break;
    case ISAL_END_INPUT:
        return CUT_SHORT;
    case ISAL_OUT_OVERFLOW:
        return TOO_LARGE;
    case ISAL_INVALID_WRAPPER:
    case ISAL_UNSUPPORTED_METHOD:
        return NOT_GZIP;
    case ISAL_INCORRECT_CHECKSUM:
        return WRONG_TRAILER;
    default:
        return BAD_DEFLATE;
    }
    if (state->avail_in != 0)
        return TRAILING_BYTES;
    return state->total_out == length ? SOUND : WRONG_TRAILER;
}

static uint32_t
little_endian(const uint8_t *at)
{
    return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Whether it is a push as they are, of `length` bytes; it is in the scratch buffer then. */
static int
is_usual(Inflater *self, const uint8_t *in, uint32_t size, uint32_t length)
{
    if (!inflate_usual(&self->tables, in, size, self->scratch, length))
        return 0;
    const uint8_t *trailer = in + size - GZIP_TRAILER;
    return little_endian(trailer) == crc32_gzip_refl(0, self->scratch, length)
        && little_endian(trailer + 4) == length;        /* not so where max_size has cut it */
}

static Verdict
inflate_small(Inflater *self, const uint8_t *in, uint32_t size, uint8_t *out, uint32_t length,
              uint32_t limit)
{
    Verdict verdict;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (size <= USUAL_SIZE && length <= SCRATCH_SIZE - SPARE_ROOM
        && is_usual(self, in, size, length)) {
        memcpy(out, self->scratch, length);
        verdict = SOUND;
    }
    else if (length <= SCRATCH_SIZE - SPARE_ROOM) {
        uint32_t room = limit < SCRATCH_SIZE ? limit : SCRATCH_SIZE;
        verdict = inflate_with(&self->state, in, size, self->scratch, room, length);
        if (verdict == SOUND)
            memcpy(out, self->scratch, length);
    }
    else
        verdict = inflate_with(&self->state, in, size, out, length, length);
    Py_END_CRITICAL_SECTION();
    return verdict;
}

static Verdict
inflate_large(const uint8_t *in, uint32_t size, uint8_t *out, uint32_t length)
{
    Verdict verdict;
    struct inflate_state *state = PyMem_RawMalloc(sizeof(*state));
    if (state == NULL) {
        PyErr_NoMemory();
        return PYTHON_ERROR;
    }
    Py_BEGIN_ALLOW_THREADS
    verdict = inflate_with(state, in, size, out, length, length);
    Py_END_ALLOW_THREADS
    PyMem_RawFree(state);
    return verdict;
}

static Verdict
inflate_member(Inflater *self, const uint8_t *in, uint32_t size, Py_ssize_t max_size,
               PyObject **result)
{
    uint64_t limit = (uint64_t)size * MAX_RATIO;
    if (limit > (uint64_t)max_size)
        limit = (uint64_t)max_size;
    if (limit > UINT32_MAX)
        limit = UINT32_MAX;
    uint32_t length = 0;
    if (size >= 4) {
        length = little_endian(in + size - 4);
        if (length > limit)
            length = (uint32_t)limit;
    }
    for (;;) {
        PyObject *content = PyBytes_FromStringAndSize(NULL, length);
        if (content == NULL)
            return PYTHON_ERROR;
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(content);
        Verdict verdict = size <= GIL_KEPT_UP_TO
                              ? inflate_small(self, in, size, out, length, (uint32_t)limit)
                              : inflate_large(in, size, out, length);
        if (verdict == SOUND) {
            *result = content;
            return SOUND;
        }
        Py_DECREF(content);
        if (verdict != TOO_LARGE || length == limit)
            return verdict;
        length = (uint32_t)limit;       /* the claim was too low: look for what is really wrong */
    }
}

static PyObject *
refusal(Verdict verdict, Py_ssize_t max_size)
{
    const char *reason = NULL;
    switch (verdict) {
    case NOT_GZIP:
        reason = "not gzip";
        break;
    case CUT_SHORT:
        reason = "cut short";
        break;
    case BAD_DEFLATE:
        reason = "bad deflate data";
        break;
    case WRONG_TRAILER:
        reason = "wrong checksum or length";
        break;
    case TRAILING_BYTES:
        reason = "trailing bytes";
        break;
    case TOO_LARGE:
        return PyErr_Format(PyExc_ValueError, "inflates to more than %zd bytes", max_size);
    case SOUND:
    case PYTHON_ERROR:
        return NULL;
    }
    PyErr_SetString(PyExc_ValueError, reason);
    return NULL;
}

/* -1, with the exception set, unless `object` is an int of at least `least`. */
static Py_ssize_t
size_argument(PyObject *object, Py_ssize_t least, const char *name)
{
    Py_ssize_t value = PyNumber_AsSsize_t(object, PyExc_OverflowError);
    if (value >= least)
        return value;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "%s must be at least %zd", name, least);
    return -1;
}

int
check_count(const char *name, Py_ssize_t expected, Py_ssize_t given)
{
    if (given == expected)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", name, expected, given);
    return -1;
}

PyDoc_STRVAR(inflate_doc,
"inflate($self, data, max_size, /)\n--\n\n"
"Return the content of `data`, which must be one gzip member and nothing else.\n\n"
"Raises ValueError for anything else, and for a content of more than `max_size` bytes; no more\n"
"than these are ever written. Keeps the GIL for up to 64 KiB of `data`.");

static PyObject *
Inflater_inflate(Inflater *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("inflate", 2, nargs) < 0)
        return NULL;
    Py_ssize_t max_size = size_argument(args[1], 1, "max_size");
    if (max_size < 0)
        return NULL;
    Py_buffer data;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *content = NULL;
    if ((uint64_t)data.len > UINT32_MAX)        /* ISA-L counts in 32 bits */
        PyErr_SetString(PyExc_ValueError, "more than 4 GiB of input");
    else {
        Verdict verdict = inflate_member(self, data.buf, (uint32_t)data.len, max_size, &content);
        if (verdict != SOUND)
            content = refusal(verdict, max_size);
    }
    PyBuffer_Release(&data);
    return content;
}

PyDoc_STRVAR(split_doc,
"split($self, buffer, start, end, max_size, out, /)\n--\n\n"
"Take the pushes at the head of ``buffer[start:end]`` and append their contents to `out`.\n\n"
"Takes complete, unfragmented, unmasked binary frames (RFC 6455) with a payload of less than\n"
"64 KiB that is one gzip member of at most `max_size` bytes, compressed or not. Stops at the\n"
"first thing that is anything else, which it leaves to the caller to judge, and when it has\n"
"appended 16 KiB. Returns the position after the last frame taken. Never lets go of the GIL.");

static PyObject *
Inflater_split(Inflater *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("split", 5, nargs) < 0)
        return NULL;
    Py_ssize_t start = size_argument(args[1], 0, "start");
    if (start < 0)
        return NULL;
    Py_ssize_t end = size_argument(args[2], start, "end");
    if (end < 0)
        return NULL;
    Py_ssize_t max_size = size_argument(args[3], 1, "max_size");
    if (max_size < 0)
        return NULL;
    PyObject *out = args[4];
    if (!PyList_Check(out)) {
        PyErr_Format(PyExc_TypeError, "out must be a list, not %.100s", Py_TYPE(out)->tp_name);
        return NULL;
    }
    Py_buffer buffer;
    if (PyObject_GetBuffer(args[0], &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    if (end > buffer.len) {
        PyErr_Format(PyExc_ValueError, "end is %zd, the buffer has %zd bytes", end, buffer.len);
        PyBuffer_Release(&buffer);
        return NULL;
    }
    Py_ssize_t taken = 0;
    while (end - start >= 2 && taken < SPLIT_UP_TO) {
        const uint8_t *frame = (const uint8_t *)buffer.buf + start;
        Py_ssize_t header = 2, length = frame[1];
        if (frame[0] != FINAL_BINARY || length > 126)   /* of the lengths, masked ones too */
            break;
        if (length == 126) {
            header = 4;
            if (end - start < header)
                break;
            length = frame[2] << 8 | frame[3];
            if (length < 126)                           /* not the shortest form */
                break;
        }
        if (length > end - start - header || length > max_size)
            break;
        PyObject *content = NULL;
        if (inflate_member(self, frame + header, (uint32_t)length, max_size, &content) != SOUND)
            break;
        int failed = PyList_Append(out, content);
        Py_ssize_t size = PyBytes_GET_SIZE(content);
        Py_DECREF(content);
        if (failed)
            break;
        taken += size;
        start += header + length;
    }
    PyErr_Clear();      /* out of memory: the caller will meet it at the frame that is left */
    PyBuffer_Release(&buffer);
    return PyLong_FromSsize_t(start);
}

static PyMethodDef Inflater_methods[] = {
    METHOD(Inflater, inflate),
    METHOD(Inflater, split),
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Inflater_doc,
"Inflater()\n--\n\n"
"Inflates gzip members with a state that it keeps between calls; any thread may call.");

static PyType_Slot Inflater_slots[] = {
    {Py_tp_doc, (void *)Inflater_doc},
    {Py_tp_methods, Inflater_methods},
    {0, NULL},
};

static PyType_Spec Inflater_spec = {
    .name = "fastpos._c._native.Inflater",
    .basicsize = sizeof(Inflater),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Inflater_slots,
};

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
    Py_buffer data;
    PyObject *text = NULL;
    if (args[1] == (PyObject *)&PyFloat_Type
        && PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) == 0) {
        struct timespec now;
        timespec_get(&now, TIME_UTC);
        if ((uint64_t)data.len <= UINT32_MAX)
            inflate_member(self->inflater, data.buf, (uint32_t)data.len, self->max_size, &text);
        PyBuffer_Release(&data);
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
    PyObject *module = PyType_GetModule(type);
    PyObject *own = module == NULL ? NULL : attribute(module, "Inflater");
    if (own == NULL)
        return NULL;
    int fits = PyObject_TypeCheck(inflater, (PyTypeObject *)own)
               && PyTuple_GET_SIZE(slots) == N_SLOTS && max_size > 0;
    Py_DECREF(own);
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
    self->inflater = (Inflater *)Py_NewRef(inflater);
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
    Py_VISIT(self->inflater);
    Py_VISIT(self->loads);
    Py_VISIT(self->kinds);
    Py_VISIT(self->decode);
    Py_VISIT(self->event_from);
    return 0;
}

static int
Decoder_clear(Decoder *self)
{
    Py_CLEAR(self->inflater);
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
    PyType_Spec *const specs[] = {&Inflater_spec, &Decoder_spec, &Getter_spec, &Deliverer_spec};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(specs); i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        int failed = type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0;
        Py_XDECREF(type);
        if (failed)
            return -1;
    }
#define TEXT_OF(number) #number
#define VERSION(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)
    return PyModule_AddStringConstant(
        module, "ISAL_VERSION",
        VERSION(ISAL_MAJOR_VERSION, ISAL_MINOR_VERSION, ISAL_PATCH_VERSION));
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
    .m_doc = "Gzip members inflated through ISA-L; see fastpos.inflate.",
    .m_slots = native_slots,            /* no state: the type is all there is, and it has none */
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}
