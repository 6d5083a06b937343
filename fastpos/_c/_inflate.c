/* fastpos._c._inflate: gzip members (RFC 1952) inflated by ISA-L, alone or as they stand in a receive
 * buffer, without letting go of the GIL.
 *
 * A push takes 1 to 2 us to inflate. A busy thread that is handed the GIL meanwhile keeps it for
 * 5 ms. So input of up to 64 KiB is inflated with the GIL held, by an ISA-L state that an Inflater
 * keeps (it has 85 KiB, and no need to be cleared between members). Larger input, which nobody
 * should wait for, gets a state of its own and the GIL is released.
 *
 * Plan: the last four bytes of a member are the length of its content, so the bytes object is made
 * at its final size. What those bytes claim is only believed within bounds: no more room is made
 * than max_size, or than deflate can fill from so much input. Little content is inflated into a
 * scratch buffer and copied: ISA-L's fast loop stops 288 bytes before the end of the room it has,
 * which costs a push 13 % if that is its own end.
 *
 * Not the limited API: it has buffers from CPython 3.11 on. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_isal.h"

#if defined(PYPY_VERSION) || defined(Py_GIL_DISABLED)
#error "there is no GIL to keep"
#endif

#define GIL_KEPT_UP_TO (64 * 1024)      /* bytes of input */
#define SPLIT_UP_TO (32 * 1024)         /* bytes of output of one split(): about the first cache */
#define SCRATCH_SIZE (16 * 1024)
#define SPARE_ROOM 512                  /* that ISA-L is given beyond what it should write */
#define MAX_RATIO 1032                  /* of deflate: 258 bytes from two bits */
#define FINAL_BINARY 0x82               /* RFC 6455: FIN, no RSV bit, opcode 2 */

typedef struct {
    PyObject_HEAD
    Isal isal;
    IsalState state;                    /* this and the scratch buffer: inflate_small()'s alone */
    uint8_t scratch[SCRATCH_SIZE];
} Inflater;

typedef struct {
    Isal isal;
} ModuleState;

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
inflate_with(const Isal *isal, IsalState *state, const uint8_t *in, uint32_t size, uint8_t *out,
             uint32_t room, uint32_t length)
{
    switch (isal_inflate(isal, state, in, size, out, room)) {
    case ISAL_OK:
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

/* With the GIL held, by the state that is kept. */
static Verdict
inflate_small(Inflater *self, const uint8_t *in, uint32_t size, uint8_t *out, uint32_t length,
              uint32_t limit)
{
    if (length > SCRATCH_SIZE - SPARE_ROOM)
        return inflate_with(&self->isal, &self->state, in, size, out, length, length);
    uint32_t room = limit < SCRATCH_SIZE ? limit : SCRATCH_SIZE;
    Verdict verdict = inflate_with(&self->isal, &self->state, in, size, self->scratch, room, length);
    if (verdict == SOUND)
        memcpy(out, self->scratch, length);
    return verdict;
}

static Verdict
inflate_large(const Isal *isal, const uint8_t *in, uint32_t size, uint8_t *out, uint32_t length)
{
    Verdict verdict;
    IsalState *state = PyMem_RawMalloc(sizeof(*state));
    if (state == NULL) {
        PyErr_NoMemory();
        return PYTHON_ERROR;
    }
    Py_BEGIN_ALLOW_THREADS
    verdict = inflate_with(isal, state, in, size, out, length, length);
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
                              : inflate_large(&self->isal, in, size, out, length);
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

static int
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
"appended 32 KiB. Returns the position after the last frame taken. Never lets go of the GIL.");

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

static PyObject *
Inflater_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) != 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0)) {
        PyErr_SetString(PyExc_TypeError, "Inflater() takes no arguments");
        return NULL;
    }
    ModuleState *module = PyType_GetModuleState(type);
    Inflater *self = module == NULL ? NULL : (Inflater *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->isal = module->isal;
    return (PyObject *)self;
}

#define METHOD(name) \
    {#name, (PyCFunction)(void (*)(void))Inflater_##name, METH_FASTCALL, name##_doc}

static PyMethodDef Inflater_methods[] = {
    METHOD(inflate),
    METHOD(split),
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Inflater_doc,
"Inflater()\n--\n\n"
"Inflates gzip members with a state that it keeps between calls; any thread may call.");

static PyType_Slot Inflater_slots[] = {
    {Py_tp_doc, (void *)Inflater_doc},
    {Py_tp_new, Inflater_new},
    {Py_tp_methods, Inflater_methods},
    {0, NULL},
};

static PyType_Spec Inflater_spec = {
    .name = "fastpos._c._inflate.Inflater",
    .basicsize = sizeof(Inflater),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Inflater_slots,
};

static int
inflate_exec(PyObject *module)
{
    PyObject *version = find_isal(&((ModuleState *)PyModule_GetState(module))->isal);
    PyObject *type = version == NULL ? NULL
        : PyType_FromModuleAndSpec(module, &Inflater_spec, NULL);
    int failed = type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0
                 || PyModule_AddObjectRef(module, "ISAL_VERSION", version) < 0;
    Py_XDECREF(type);
    Py_XDECREF(version);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot inflate_slots[] = {
    {Py_mod_exec, (void *)inflate_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef inflate_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastpos._c._inflate",
    .m_doc = "Gzip members inflated by ISA-L; see fastpos.wire.inflate.",
    .m_size = sizeof(ModuleState),
    .m_slots = inflate_slots,
};

PyMODINIT_FUNC
PyInit__inflate(void)
{
    return PyModuleDef_Init(&inflate_module);
}
