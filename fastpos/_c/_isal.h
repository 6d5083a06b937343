/* ISA-L as the isal package brings it, found when this is imported and tried before it is trusted.
 *
 * The package's module `isal.isal_zlib` has ISA-L inside and lets its functions be seen, or is
 * linked to a library that does (conda, distributions). So nothing but a compiler is needed to
 * build this, and one ISA-L is in the process. Python's loader has the module open already; here
 * its handle is asked for, and the functions by their names.
 *
 * What no header tells us then, the layout of ISA-L's state, stands below; it was so from ISA-L
 * 2.24 to 2.32 on x86-64 and on AArch64. That it is so in this one is seen by trying: a state is
 * filled with a pattern and used for members that are sound, altered, cut short and too large. All
 * that ISA-L says of each must be as expected, and nothing behind the state or behind the room for
 * the content may have been written. Whatever does not fit is an ImportError that says what, and
 * the package's own Python functions inflate instead. */

#ifndef FASTPOS_ISAL_H
#define FASTPOS_ISAL_H

#include <Python.h>
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

#include "_attribute.h"

/* `struct inflate_state` of igzip_lib.h: what is used of it by name, between that as much room. */
typedef struct {
    uint8_t *next_out;
    uint32_t avail_out, total_out;
    const uint8_t *next_in;
    uint64_t read_in;
    uint32_t avail_in;
    int32_t read_in_length;
    uint8_t tables[21132];
    uint32_t crc_flag;                  /* what is around the deflate data */
    uint8_t others[66192];
} IsalState;

_Static_assert(sizeof(void *) == 8 && offsetof(IsalState, tables) == 40
                   && offsetof(IsalState, crc_flag) == 21172 && sizeof(IsalState) == 87368,
               "ISA-L's layout on 64-bit machines");

enum { ISAL_GZIP = 1 };                 /* crc_flag: a gzip member, its trailer to be checked */

/* What isal_inflate_stateless returns; below these: bad deflate data. */
enum { ISAL_OK = 0, ISAL_END_INPUT = 1, ISAL_OUT_OVERFLOW = 2, ISAL_INVALID_WRAPPER = -4,
       ISAL_UNSUPPORTED_METHOD = -5, ISAL_INCORRECT_CHECKSUM = -6 };

typedef struct {
    void (*init)(IsalState *);
    int (*inflate)(IsalState *);
} Isal;

/* One gzip member, or what may be one, from `in` into `room` bytes at `out`. */
static inline int
isal_inflate(const Isal *isal, IsalState *state, const uint8_t *in, uint32_t size, uint8_t *out,
             uint32_t room)
{
    isal->init(state);
    state->crc_flag = ISAL_GZIP;
    state->next_in = in;
    state->avail_in = size;
    state->next_out = out;
    state->avail_out = room;
    return isal->inflate(state);
}

/* What the probe holds, and the probe, by zlib at level 9: a dynamic block. */
#define PROBE_TEXT \
    "A probe of the inflater: one member with a dynamic block, whose literals, lengths and " \
    "distances are of several kinds; abababababababababababababababababababababababababab, " \
    "0123456789 0123456789 9876543210, a member, a dynamic block, and the end of the probe.\n"

static const uint8_t probe[] = {
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x95, 0x8f, 0x4d, 0x0a, 0xc2, 0x30,
    0x10, 0x85, 0xf7, 0x9e, 0xe2, 0x1d, 0x20, 0x48, 0x6b, 0xff, 0x75, 0xe5, 0x51, 0x26, 0xcd, 0xd4,
    0x84, 0xa6, 0x89, 0x24, 0xc1, 0xe2, 0xed, 0x4d, 0xab, 0x0b, 0xc1, 0x95, 0xcc, 0x62, 0xe6, 0xc1,
    0x63, 0xf8, 0xbe, 0x2b, 0xee, 0xc1, 0x4b, 0x86, 0x9f, 0x90, 0x34, 0xc3, 0xb8, 0xc9, 0x52, 0xe2,
    0x70, 0x86, 0x77, 0x8c, 0x85, 0x17, 0xc9, 0x01, 0xab, 0x49, 0x1a, 0x04, 0xf5, 0x74, 0xb4, 0x98,
    0x11, 0xd2, 0xfa, 0x71, 0x16, 0x58, 0xb5, 0x8f, 0x0c, 0x6b, 0x72, 0x9b, 0x6c, 0x14, 0xb0, 0xec,
    0x6e, 0x49, 0x47, 0x90, 0x53, 0x50, 0x26, 0x26, 0x72, 0x23, 0xe7, 0x14, 0xf6, 0xdf, 0x91, 0x1f,
    0x5b, 0x0d, 0xb3, 0x71, 0x2a, 0x5e, 0x40, 0xf2, 0xff, 0x11, 0x28, 0xca, 0x53, 0x55, 0x37, 0x6d,
    0xd7, 0x0f, 0xdf, 0xe7, 0xd0, 0x77, 0x6d, 0x53, 0x57, 0xa7, 0xb2, 0x10, 0x19, 0xf2, 0x8d, 0x2c,
    0x7e, 0x71, 0x37, 0xac, 0xcd, 0x90, 0xf3, 0xfe, 0xc8, 0xee, 0xe6, 0xc7, 0xc3, 0x0b, 0x64, 0x61,
    0x7b, 0xb2, 0x03, 0x01, 0x00, 0x00,
};

enum { PROBE_SIZE = sizeof(probe), TEXT_SIZE = sizeof(PROBE_TEXT) - 1, GUARD = 4096,
       PATTERN = 0xA5, BEHIND = 3 };    /* bytes behind the member, which ISA-L must leave */

/* One altered byte of the probe, how much of it there is, the room, and what ISA-L must say. */
static const struct {
    int at, flipped, size, room, result;
} trials[] = {
    {0, 0, PROBE_SIZE + BEHIND, TEXT_SIZE + 100, ISAL_OK},
    {0, 0, PROBE_SIZE, TEXT_SIZE, ISAL_OK},
    {0, 0, PROBE_SIZE, TEXT_SIZE - 1, ISAL_OUT_OVERFLOW},
    {0, 0, PROBE_SIZE - 12, TEXT_SIZE + 100, ISAL_END_INPUT},
    {0, 0, PROBE_SIZE - 4, TEXT_SIZE + 100, ISAL_END_INPUT},
    {0, 0xFF, PROBE_SIZE, TEXT_SIZE + 100, ISAL_INVALID_WRAPPER},
    {2, 0xFF, PROBE_SIZE, TEXT_SIZE + 100, ISAL_UNSUPPORTED_METHOD},
    {10, 0x02, PROBE_SIZE, TEXT_SIZE + 100, -1},        /* a block of the reserved type */
    {PROBE_SIZE - 8, 0x01, PROBE_SIZE, TEXT_SIZE + 100, ISAL_INCORRECT_CHECKSUM},
    {PROBE_SIZE - 4, 0x01, PROBE_SIZE, TEXT_SIZE + 100, ISAL_INCORRECT_CHECKSUM},
};

static int
is_untouched(const uint8_t *at, size_t size)
{
    while (size > 0)
        if (at[--size] != PATTERN)
            return 0;
    return 1;
}

/* Why the functions can't be trusted; NULL if they can. `memory` is for a state, the content, and a
 * guard behind each. */
static const char *
try_isal(const Isal *isal, uint8_t *memory)
{
    IsalState *state = (IsalState *)memory;
    uint8_t *out = memory + sizeof(IsalState) + GUARD;
    uint8_t member[PROBE_SIZE + BEHIND] = {0};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(trials); i++) {
        memcpy(member, probe, PROBE_SIZE);
        member[trials[i].at] ^= trials[i].flipped;
        memset(memory, PATTERN, sizeof(IsalState) + GUARD + TEXT_SIZE + GUARD);
        int room = trials[i].room;
        int result = isal_inflate(isal, state, member, trials[i].size, out, room);
        if (result != trials[i].result)
            return "its ISA-L judges otherwise than expected";
        if (!is_untouched(memory + sizeof(IsalState), GUARD)
            || !is_untouched(out + room, TEXT_SIZE + GUARD - room))
            return "its ISA-L writes where it should not";
        int left = trials[i].size - PROBE_SIZE;
        if (result == ISAL_OK
            && (state->avail_in != (uint32_t)left || state->next_in != member + PROBE_SIZE
                || state->total_out != TEXT_SIZE || state->next_out != out + TEXT_SIZE
                || state->avail_out != (uint32_t)(room - TEXT_SIZE)
                || memcmp(out, PROBE_TEXT, TEXT_SIZE) != 0))
            return "its ISA-L inflates otherwise than expected";
    }
    return NULL;
}

/* The address of a function; NULL unless all that are found lie in one image. */
static void *
find_function(void *library, const char *name, const void **image)
{
    Dl_info info;
    void *function = dlsym(library, name);
    if (function == NULL || !dladdr(function, &info)
        || (*image != NULL && info.dli_fbase != *image))
        return NULL;
    *image = info.dli_fbase;
    return function;
}

/* Why there is no ISA-L to be used; NULL if there is, in `isal`. */
static const char *
bind_isal(Isal *isal, const char *path, const char *version)
{
    if (strncmp(version, "2.", 2) != 0 || atoi(version + 2) < 24)
        return "its ISA-L is not known here";
    /* Never closed where it is of use: the functions must stay. */
    void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (library == NULL)
        return "its library is not to be found";
    const char *reason = "its ISA-L is hidden";
    const void *image = NULL;
    *(void **)&isal->init = find_function(library, "isal_inflate_init", &image);
    *(void **)&isal->inflate = find_function(library, "isal_inflate_stateless", &image);
    if (isal->init != NULL && isal->inflate != NULL) {
        uint8_t *memory = PyMem_RawMalloc(sizeof(IsalState) + GUARD + TEXT_SIZE + GUARD);
        reason = memory == NULL ? "no memory" : try_isal(isal, memory);
        PyMem_RawFree(memory);
    }
    if (reason != NULL)
        dlclose(library);
    return reason;
}

/* Find ISA-L, and what version it says to be: a new reference; NULL with an ImportError. */
static PyObject *
find_isal(Isal *isal)
{
    const char *text, *reason;
    PyObject *file = NULL, *path = NULL, *version = NULL;
    PyObject *package = PyImport_ImportModule("isal");
    PyObject *module = package == NULL ? NULL : PyImport_ImportModule("isal.isal_zlib");
    if (module == NULL || (file = attribute(module, "__file__")) == NULL
        || !PyUnicode_FSConverter(file, &path)
        || (version = attribute(package, "ISAL_VERSION")) == NULL
        || (text = PyUnicode_AsUTF8(version)) == NULL)
        reason = "it does not say what it is";
    else
        reason = bind_isal(isal, PyBytes_AS_STRING(path), text);
    Py_XDECREF(package);
    Py_XDECREF(module);
    Py_XDECREF(file);
    Py_XDECREF(path);
    if (reason != NULL) {
        PyErr_Format(PyExc_ImportError, "the isal package: %s", reason);
        Py_CLEAR(version);
    }
    return version;
}

#endif
