/* fastpos._c._tls: every TLS record that is at hand, in one call, without letting go of the GIL.
 *
 * `SSLObject.read` gives one record, and lets go of the GIL around SSL_read: beside a busy thread
 * each record of a burst can cost the 5 ms for which that thread then keeps it. A push takes 1 us
 * to decrypt. So a `Reader` calls SSL_read on the SSL that Python's `ssl` made, until the buffer is
 * full or no whole record is left, and keeps the GIL.
 *
 * Whose SSL_read: the one of the libssl that `_ssl` itself is linked to, looked up at run time
 * through `_ssl` (no header, no library is needed to build this). A process may have several; that
 * this is the right one is checked for every SSL: its table of methods must lie in the same image.
 *
 * Which SSL: the second field of `_ssl._SSLSocket`, which is nobody's interface. It was so in every
 * CPython of the versions below. The fields before and behind it are compared with what they must
 * be before it is used at all, and then OpenSSL is asked about it (see `check_ssl`). Where anything
 * does not fit there is an ImportError or a ValueError, and the caller reads as `ssl` does.
 *
 * Threads: OpenSSL's connections are not for two threads at once, and other methods of the SSLObject
 * let go of the GIL while they use it. The caller must keep a lock around every use of it and of
 * its Reader; for fastpos that is `_lock` in transport.py.
 *
 * What SSL_read calls back (`_ssl` writes key logs and tells of messages) takes the GIL with
 * PyGILState_Ensure, for which it does no harm that it is held; but before CPython 3.12 that knows
 * the main interpreter alone, so there is no Reader in any other. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>

#include "_attribute.h"

#if PY_VERSION_HEX < 0x030A0000 || PY_VERSION_HEX >= 0x030F0000
#error "_ssl._SSLSocket is known from CPython 3.10 to 3.14"
#endif
#if defined(PYPY_VERSION) || defined(Py_GIL_DISABLED)
#error "there is no GIL to keep"
#endif

typedef struct ssl SSL;
typedef struct bio BIO;

/* How `_ssl`'s objects begin. */
typedef struct {
    PyObject_HEAD
    PyObject *socket;                   /* NULL: it reads from memory */
    SSL *ssl;
    PyObject *context;
} SSLSocket;

typedef struct {
    PyObject_HEAD
    BIO *bio;
} MemoryBIO;

/* OpenSSL's names and numbers. The numbers are part of its ABI, and Python's `ssl` has them too. */
#define FUNCTIONS(F) \
    F(int, SSL_read_ex, (SSL *, void *, size_t, size_t *)) \
    F(int, SSL_get_error, (const SSL *, int)) \
    F(void, SSL_set_read_ahead, (SSL *, int)) \
    F(void *, SSL_get_ex_data, (const SSL *, int)) \
    F(const void *, SSL_get_ssl_method, (const SSL *)) \
    F(const char *, SSL_get_version, (const SSL *)) \
    F(BIO *, SSL_get_rbio, (const SSL *)) \
    F(unsigned long, ERR_peek_last_error, (void)) \
    F(const char *, ERR_reason_error_string, (unsigned long)) \
    F(void, ERR_clear_error, (void)) \
    F(const char *, OpenSSL_version, (int))

enum { ERROR_NONE = 0, ERROR_SSL = 1, ERROR_SYSCALL = 5, ERROR_EOF = 8 };  /* EOF is Python's own */

#define APP_DATA 0                      /* the ex_data where _ssl puts the _SSLSocket */
#define LIB_SSL 20
#define UNEXPECTED_EOF 294              /* OpenSSL 3; before, SSL_ERROR_SYSCALL without an error */
#define LIB_OF(code) ((code) >> 23 & 0xFF)              /* as OpenSSL 3 has them */
#define REASON_OF(code) ((code) & 0x7FFFFF)

typedef struct {
#define DECLARE(type, name, arguments) type (*name) arguments;
    FUNCTIONS(DECLARE)
#undef DECLARE
    const void *image;                  /* where libssl is loaded */
    PyTypeObject *socket_type, *bio_type;               /* _ssl._SSLSocket, _ssl.MemoryBIO */
} State;

/* --- Reader ---------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    const State *openssl;               /* the module's, which the type keeps */
    PyObject *socket;                   /* which keeps the SSL */
    SSL *ssl;
} Reader;

static const void *
image_of(const void *address)
{
    Dl_info info;
    return dladdr(address, &info) ? info.dli_fbase : NULL;
}

/* Why the SSL of `socket` can't be used, NULL if it can: then it is in `*result`. An exception may
 * be set besides. */
static const char *
check_ssl(const State *openssl, PyObject *socket, PyObject *incoming, SSL **result)
{
    if (Py_TYPE(socket) != openssl->socket_type || Py_TYPE(incoming) != openssl->bio_type)
        return "not a TLS connection of ssl's over memory";
    if (openssl->socket_type->tp_basicsize < (Py_ssize_t)sizeof(SSLSocket)
        || openssl->bio_type->tp_basicsize < (Py_ssize_t)sizeof(MemoryBIO))
        return "_ssl's objects are too small";
    const SSLSocket *fields = (const SSLSocket *)socket;
    PyObject *context = attribute(socket, "context");
    Py_XDECREF(context);                /* `socket` has another reference, if it is what it seems */
    if (fields->socket != NULL || fields->context != context || context == NULL)
        return "_SSLSocket has another layout";
    SSL *ssl = fields->ssl;
    if (ssl == NULL || image_of(openssl->SSL_get_ssl_method(ssl)) != openssl->image)
        return "the connection is not this OpenSSL's";
    if (openssl->SSL_get_ex_data(ssl, APP_DATA) != (void *)socket)
        return "the connection is not this object's";

    PyObject *method = attribute(socket, "version");
    PyObject *version = method == NULL ? NULL : PyObject_CallNoArgs(method);
    Py_XDECREF(method);
    int same = version != NULL && PyUnicode_Check(version)
               && PyUnicode_CompareWithASCIIString(version, openssl->SSL_get_version(ssl)) == 0;
    Py_XDECREF(version);
    if (!same)
        return "the handshake is not over";

    if (openssl->SSL_get_rbio(ssl) != ((const MemoryBIO *)incoming)->bio)
        return "the connection reads from elsewhere";
    *result = ssl;
    return NULL;
}

PyDoc_STRVAR(Reader_doc,
"Reader(tls, incoming, /)\n--\n\n"
"Reads what `tls` (ssl.SSLObject) decrypts from `incoming` (ssl.MemoryBIO), after the handshake.\n\n"
"Raises ValueError if it can't be made sure that the OpenSSL object found is the right one.\n"
"The caller keeps other threads away from `tls` meanwhile.");

static PyObject *
Reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *tls, *incoming;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) {
        PyErr_SetString(PyExc_TypeError, "Reader() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OO:Reader", &tls, &incoming))
        return NULL;
    const State *openssl = PyType_GetModuleState(type);
    if (openssl == NULL)
        return NULL;
    SSL *ssl = NULL;
    PyObject *socket = attribute(tls, "_sslobj");
    const char *refusal = socket == NULL ? "not an SSLObject"
                                         : check_ssl(openssl, socket, incoming, &ssl);
    Reader *self = refusal == NULL ? (Reader *)type->tp_alloc(type, 0) : NULL;
    if (self == NULL) {
        Py_XDECREF(socket);
        if (refusal != NULL)            /* in place of what it comes of */
            PyErr_SetString(PyExc_ValueError, refusal);
        return NULL;
    }
    self->openssl = openssl;
    self->socket = socket;
    self->ssl = ssl;
    openssl->SSL_set_read_ahead(ssl, 1);        /* many records in one look into the BIO */
    return (PyObject *)self;
}

static int
Reader_traverse(Reader *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->socket);
    return 0;
}

static int
Reader_clear(Reader *self)
{
    self->ssl = NULL;
    Py_CLEAR(self->socket);
    return 0;
}

static void
Reader_dealloc(Reader *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Reader_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(read_doc,
"read($self, buffer, /)\n--\n\n"
"Decrypt into `buffer` until it is full or there is no whole record left.\n\n"
"Returns how many bytes were put there, which always count; what ended it, a number of\n"
"ssl.SSLErrorNumber's, 0 if the buffer is full; and OpenSSL's reason, None if it gives none.\n"
"OpenSSL tells an error only once. Never lets go of the GIL.");

static PyObject *
Reader_read(Reader *self, PyObject *target)
{
    const State *openssl = self->openssl;
    Py_buffer buffer;
    if (self->ssl == NULL) {            /* the garbage collector was here */
        PyErr_SetString(PyExc_ValueError, "the connection is gone");
        return NULL;
    }
    if (PyObject_GetBuffer(target, &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    size_t size = (size_t)buffer.len, total = 0, count = 0;
    int end = ERROR_NONE;
    unsigned long code = 0;
    openssl->ERR_clear_error();         /* SSL_get_error goes by what is in the thread's queue */
    while (total < size) {
        int done = openssl->SSL_read_ex(self->ssl, (char *)buffer.buf + total, size - total, &count);
        if (done != 1) {
            end = openssl->SSL_get_error(self->ssl, done);
            code = openssl->ERR_peek_last_error();
            openssl->ERR_clear_error();
            break;
        }
        total += count;
    }
    PyBuffer_Release(&buffer);
    if ((end == ERROR_SYSCALL && code == 0)
        || (end == ERROR_SSL && LIB_OF(code) == LIB_SSL && REASON_OF(code) == UNEXPECTED_EOF))
        end = ERROR_EOF;
    return Py_BuildValue("niz", (Py_ssize_t)total, end,
                         code == 0 ? NULL : openssl->ERR_reason_error_string(code));
}

static PyMethodDef Reader_methods[] = {
    {"read", (PyCFunction)(void (*)(void))Reader_read, METH_O, read_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Reader_slots[] = {
    {Py_tp_doc, (void *)Reader_doc},
    {Py_tp_new, Reader_new},
    {Py_tp_methods, Reader_methods},
    {Py_tp_traverse, Reader_traverse},
    {Py_tp_clear, Reader_clear},
    {Py_tp_dealloc, Reader_dealloc},
    {0, NULL},
};

static PyType_Spec Reader_spec = {
    .name = "fastpos._c._tls.Reader",
    .basicsize = sizeof(Reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Reader_slots,
};

/* --- the module ------------------------------------------------------------------------------ */

/* A handle through which `_ssl` and what it is linked to is searched; NULL with an exception. */
static void *
open_ssl(PyObject *ssl_module)
{
    PyObject *path = NULL, *file = PyObject_GetAttrString(ssl_module, "__file__");
    if (file == NULL)                   /* built into the interpreter */
        PyErr_Clear();
    else {
        path = PyUnicode_EncodeFSDefault(file);
        Py_DECREF(file);
        if (path == NULL)
            return NULL;
    }
    void *handle = path == NULL ? dlopen(NULL, RTLD_LAZY)
                                : dlopen(PyBytes_AS_STRING(path), RTLD_LAZY | RTLD_NOLOAD);
    Py_XDECREF(path);
    if (handle == NULL)
        PyErr_SetString(PyExc_ImportError, "_ssl is not where it says that it is");
    return handle;
}

static int
load(State *state, void *handle)
{
    void *symbol;
#define LOAD(type, name, arguments) \
    symbol = dlsym(handle, #name); \
    if (symbol == NULL) { \
        PyErr_SetString(PyExc_ImportError, "_ssl's OpenSSL does not show " #name); \
        return -1; \
    } \
    memcpy(&state->name, &symbol, sizeof(symbol));
    FUNCTIONS(LOAD)
#undef LOAD
    memcpy(&symbol, &state->SSL_read_ex, sizeof(symbol));
    state->image = image_of(symbol);
    if (state->image != NULL)
        return 0;
    PyErr_SetString(PyExc_ImportError, "it can't be told where OpenSSL is loaded");
    return -1;
}

/* Whether libcrypto is the one that `_ssl` names: OpenSSL, which others only resemble. */
static int
check_version(const State *state, PyObject *ssl_module)
{
    const char *version = state->OpenSSL_version(0);
    PyObject *expected = PyObject_GetAttrString(ssl_module, "OPENSSL_VERSION");
    int same = expected != NULL && PyUnicode_Check(expected)
               && PyUnicode_CompareWithASCIIString(expected, version) == 0
               && strncmp(version, "OpenSSL ", 8) == 0;
    Py_XDECREF(expected);
    if (same)
        return 0;
    PyErr_Format(PyExc_ImportError, "_ssl's OpenSSL is not known: %s", version);
    return -1;
}

static PyTypeObject *
find_type(PyObject *ssl_module, const char *name)
{
    PyObject *type = PyObject_GetAttrString(ssl_module, name);
    if (type != NULL && PyType_Check(type))
        return (PyTypeObject *)type;
    Py_XDECREF(type);
    PyErr_Format(PyExc_ImportError, "_ssl has no type %s", name);
    return NULL;
}

static int
tls_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "not the main interpreter");
        return -1;
    }
    int failed = -1;
    PyObject *type = NULL, *ssl_module = PyImport_ImportModule("_ssl");
    void *handle = ssl_module == NULL ? NULL : open_ssl(ssl_module);
    if (handle != NULL && load(state, handle) == 0 && check_version(state, ssl_module) == 0
        && (state->socket_type = find_type(ssl_module, "_SSLSocket")) != NULL
        && (state->bio_type = find_type(ssl_module, "MemoryBIO")) != NULL)
        type = PyType_FromModuleAndSpec(module, &Reader_spec, NULL);
    if (type != NULL)
        failed = PyModule_AddType(module, (PyTypeObject *)type);
    if (handle != NULL)
        dlclose(handle);                /* _ssl itself stays: Python unloads nothing */
    Py_XDECREF(type);
    Py_XDECREF(ssl_module);
    return failed;
}

static int
tls_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->socket_type);
    Py_VISIT(state->bio_type);
    return 0;
}

static int
tls_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->socket_type);
    Py_CLEAR(state->bio_type);
    return 0;
}

static void
tls_free(void *module)
{
    tls_clear(module);
}

static PyModuleDef_Slot tls_slots[] = {
    {Py_mod_exec, (void *)tls_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef tls_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastpos._c._tls",
    .m_doc = "TLS records decrypted without letting go of the GIL; see fastpos.net.tls.",
    .m_size = sizeof(State),
    .m_slots = tls_slots,
    .m_traverse = tls_traverse,
    .m_clear = tls_clear,
    .m_free = tls_free,
};

PyMODINIT_FUNC
PyInit__tls(void)
{
    return PyModuleDef_Init(&tls_module);
}
