/* Deliverer: from the pushes of one read to the user's functions, where everything is as usual.
 *
 * What Delivery (delivery.py) and State (state.py) do with a push, in C for the pushes that nearly
 * all are: an UPDATE of a known position, the balances and the order that one knows with the same
 * keys as before, a tick that lists all positions. Of whatever else this says NO, and the Python
 * functions do all of it; so each merge here is one that can be begun and then done again by them.
 * The rules are theirs, and tests/test_delivery.py holds the two against each other.
 *
 * Threads: `deliver` is the reader's. The book's lock is held while its state is changed, and not
 * while a function is called. `muted` and `halted` are set by any thread, and only looked at. */

#include "_native.h"

#include <stddef.h>
#include <time.h>

typedef enum { NO, YES, FAILED } Answer;        /* FAILED: the exception is set */

/* Classes and their slots that are used here. */
#define SLOTS(X) \
    X(AccountUpdate, _position) X(Position, _before) X(Position, _complete) X(Position, _change) \
    X(Book, _state) X(Book, _journal) \
    X(State, base) X(State, positions) X(State, balances) X(State, orders) X(State, _closed) \
    X(PositionEntry, wire) X(PositionEntry, latest) X(PositionEntry, complete) \
    X(PositionEntry, told) X(PositionEntry, tick) X(PositionEntry, stale) \
    X(PositionEntry, missed) \
    X(Entry, wire) X(Entry, latest) X(Entry, stale) X(Handlers, functions) \
    X(Handlers, name) X(CallbackTimes, begun) X(CallbackTimes, now) X(CallbackTimes, limit)
#define CLASSES(X) \
    X(AccountUpdate) X(AdlPrice) X(Order) X(Position) X(Book) X(State) X(PositionEntry) X(Entry) \
    X(Handlers) X(CallbackTimes)
/* Keys of the wire. */
#define KEYS(X) \
    X(a) X(an) X(c) X(d) X(dealVolume) X(et) X(id) X(l) X(la) X(orderAction) X(orderId) X(p) \
    X(pn) X(volume)
#define FUNCTIONS(X) X(handle) X(raised) X(took) X(acquire) X(release) X(monotonic)
#define CALLED(X) X(on_position) X(on_account) X(on_adl_price) X(on_order)

typedef struct {
    PyObject_HEAD
    Decoder *decoder;
    PyObject *book, *times, *create, *update, *cancel, *zero;
#define X(name) *name,
    PyTypeObject CLASSES(X) *end_of_classes;
    PyObject FUNCTIONS(X) CALLED(X) *end_of_objects;
#undef X
#define X(name) *key_##name,
    PyObject KEYS(X) *end_of_keys;
#undef X
#define X(class, name) class##_##name,
    Py_ssize_t SLOTS(X) end_of_slots;
#undef X
    long long account_updates, adl_prices, orders;      /* delivered */
    char muted, halted;
} Deliverer;

/* Puts `value`, a new reference, into a slot. */
static inline void
put(PyObject *object, Py_ssize_t offset, PyObject *value)
{
    PyObject *old = SLOT(object, offset);
    SLOT(object, offset) = value;
    Py_XDECREF(old);
}

static inline int
is_text(PyObject *object, PyObject *text)
{
    return object == text
           || (PyUnicode_CheckExact(object) && PyUnicode_Compare(object, text) == 0);
}

/* Whether both have the same keys in the same order, and `news` no null: it tells all that `known`
 * does. Keys are nearly always the same objects, as the parser keeps them. */
static int
tells_all(PyObject *news, PyObject *known)
{
    if (!PyDict_CheckExact(known) || PyDict_GET_SIZE(news) != PyDict_GET_SIZE(known))
        return 0;
    PyObject *key, *value, *other;
    Py_ssize_t i = 0, j = 0;
    while (PyDict_Next(news, &i, &key, &value)) {
        if (value == Py_None || !PyDict_Next(known, &j, &other, NULL)
            || (key != other && !(PyUnicode_CheckExact(other) && is_text(key, other))))
            return 0;
    }
    return 1;
}

/* `known` with `news` over it, a new dict; NULL without an exception where there is a null. */
static PyObject *
merged(PyObject *known, PyObject *news)
{
    PyObject *value;
    Py_ssize_t i = 0;
    while (PyDict_Next(news, &i, NULL, &value))
        if (value == Py_None)
            return NULL;
    PyObject *both = PyDict_Copy(known);
    if (both != NULL && PyDict_Update(both, news) < 0)
        Py_CLEAR(both);
    return both;
}

/* dict[key] if it is exactly of that class, a new reference; NULL without an exception. */
static PyObject *
entry_of(PyObject *dict, PyObject *key, PyTypeObject *class)
{
    PyObject *entry = PyDict_GetItemWithError(dict, key);
    return entry != NULL && Py_IS_TYPE(entry, class) ? Py_NewRef(entry) : NULL;
}

/* --- merging: under the book's lock, YES where it was done ------------------------------------ */

/* Puts `wire` in place of what is known under `key`, if it tells all of that. */
static Answer
renew(Deliverer *self, PyObject *known, PyObject *key, PyObject *wire, PyObject *event)
{
    PyObject *entry = entry_of(known, key, self->Entry);
    if (entry == NULL)
        return NO;
    int all = tells_all(wire, SLOT(entry, self->Entry_wire));
    if (all) {
        put(entry, self->Entry_wire, Py_NewRef(wire));
        put(entry, self->Entry_latest, Py_NewRef(event));
        put(entry, self->Entry_stale, Py_NewRef(Py_False));
    }
    Py_DECREF(entry);
    return all ? YES : NO;
}

static Answer
merge_balance(Deliverer *self, PyObject *balances, PyObject *wire, PyObject *event)
{
    PyObject *coin = value_of(wire, self->key_c);
    if (coin == NULL || !PyUnicode_CheckExact(coin) || value_of(wire, self->key_an) == NULL
        || value_of(wire, self->key_la) == NULL || value_of(wire, self->key_pn) == NULL)
        return NO;
    return renew(self, balances, coin, wire, event);
}

/* The merged position, a new reference; NULL without an exception where it is not as usual. */
static PyObject *
merge_position(Deliverer *self, PyObject *positions, PyObject *part, PyObject *change,
               PyObject *event)
{
    PyObject *id = value_of(part, self->key_id);
    if (id == NULL || change == NULL || !PyLong_CheckExact(id))
        return NULL;
    int is_create = is_text(change, self->create);
    if (!is_create && !is_text(change, self->update))
        return NULL;
    PyObject *entry = entry_of(positions, id, self->PositionEntry);
    if (entry == NULL)
        return NULL;
    PyObject *before = NULL, *wire = NULL, *position = NULL;
    PyObject *stale = SLOT(entry, self->PositionEntry_stale);
    PyObject *complete = SLOT(entry, self->PositionEntry_complete);
    /* Owned, as the collector may run where something is made, and in it a user's function that
     * looks at the book, which then puts the tick into the wire. */
    PyObject *tick = Py_NewRef(SLOT(entry, self->PositionEntry_tick));
    PyObject *known = Py_NewRef(SLOT(entry, self->PositionEntry_wire));
    if (!PyFrozenSet_CheckExact(stale) || PySet_GET_SIZE(stale) != 0 || !PyBool_Check(complete))
        goto done;
    if (is_create && complete == Py_True) {     /* a new position, of which all is told */
        before = PyDict_New();
        wire = Py_NewRef(part);
    }
    else {
        before = tick == Py_None ? Py_NewRef(known) : merged(known, tick);
        wire = before == NULL ? NULL : merged(before, part);
        complete = is_create ? Py_True : complete;
    }
    if (before == NULL || wire == NULL)
        goto done;
    position = self->Position->tp_alloc(self->Position, 0);
    if (position == NULL)
        goto done;
    for (int slot = 0; slot < N_SLOTS; slot++) {
        Py_ssize_t offset = self->decoder->offsets[slot];
        SLOT(position, offset) = Py_NewRef(slot == WIRE ? wire : SLOT(event, offset));
    }
    SLOT(position, self->Position__before) = Py_NewRef(before);
    SLOT(position, self->Position__complete) = Py_NewRef(complete);
    SLOT(position, self->Position__change) = Py_NewRef(change);
    put(entry, self->PositionEntry_told, Py_NewRef(wire));
    put(entry, self->PositionEntry_tick, Py_NewRef(Py_None));
    put(entry, self->PositionEntry_latest, Py_NewRef(event));
    put(entry, self->PositionEntry_complete, Py_NewRef(complete));
    put(entry, self->PositionEntry_missed, Py_NewRef(self->zero));
    put(entry, self->PositionEntry_wire, Py_NewRef(wire));
done:
    Py_XDECREF(before);
    Py_XDECREF(wire);
    Py_DECREF(known);
    Py_DECREF(tick);
    Py_DECREF(entry);
    return position;
}

static Answer
merge_account(Deliverer *self, PyObject *state, PyObject *event)
{
    PyObject *body = value_of(SLOT(event, self->decoder->offsets[WIRE]), self->key_d);
    PyObject *list = value_of(body, self->key_a), *part = value_of(body, self->key_p);
    PyObject *balances = SLOT(state, self->State_balances);
    PyObject *positions = SLOT(state, self->State_positions);
    if (!PyDict_CheckExact(balances) || !PyDict_CheckExact(positions))
        return NO;
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++)
        if (merge_balance(self, balances, PyList_GET_ITEM(list, i), event) != YES)
            return NO;
    if (part == NULL || PyDict_GET_SIZE(part) == 0)
        return YES;
    PyObject *position = merge_position(self, positions, part, value_of(body, self->key_et), event);
    if (position == NULL)
        return NO;
    put(event, self->AccountUpdate__position, position);
    return YES;
}

static Answer
merge_ticks(Deliverer *self, PyObject *state, PyObject *event)
{
    PyObject *list = value_of(SLOT(event, self->decoder->offsets[WIRE]), self->key_l);
    PyObject *positions = SLOT(state, self->State_positions);
    PyObject *closed = SLOT(state, self->State__closed);
    if (list == NULL || !PyDict_CheckExact(positions) || !PyDict_CheckExact(closed))
        return NO;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *wire = PyList_GET_ITEM(list, i), *id = value_of(wire, self->key_id);
        if (id == NULL || !PyLong_CheckExact(id) || PyDict_Contains(closed, id) != 0)
            return NO;
        PyObject *entry = entry_of(positions, id, self->PositionEntry);
        if (entry == NULL)
            return NO;
        PyObject *tick = SLOT(entry, self->PositionEntry_tick);
        PyObject *stale = SLOT(entry, self->PositionEntry_stale);
        int all = SLOT(entry, self->PositionEntry_latest) != event  /* else it is listed twice */
            && (tick == Py_None || tells_all(wire, tick)) && PyFrozenSet_CheckExact(stale)
            && PySet_GET_SIZE(stale) == 0;
        if (all) {
            put(entry, self->PositionEntry_tick, Py_NewRef(wire));
            put(entry, self->PositionEntry_latest, Py_NewRef(event));
            put(entry, self->PositionEntry_missed, Py_NewRef(self->zero));
        }
        Py_DECREF(entry);
        if (!all)
            return NO;
    }
    if (PyList_GET_SIZE(list) == PyDict_GET_SIZE(positions))
        return YES;
    PyObject *entry;
    Py_ssize_t i = 0;
    while (PyDict_Next(positions, &i, NULL, &entry))
        if (!Py_IS_TYPE(entry, self->PositionEntry))
            return NO;
    for (i = 0; PyDict_Next(positions, &i, NULL, &entry);)
        if (SLOT(entry, self->PositionEntry_latest) != event) {
            PyObject *missed = SLOT(entry, self->PositionEntry_missed);
            long long times = PyLong_CheckExact(missed) ? PyLong_AsLongLong(missed) : 0;
            PyObject *more = PyLong_FromLongLong(times + 1);
            if (more != NULL)
                put(entry, self->PositionEntry_missed, more);
        }
    return YES;
}

/* Whether the order is open by what it says itself; NO also where that takes translating. */
static Answer
is_open(Deliverer *self, PyObject *wire)
{
    PyObject *action = value_of(wire, self->key_orderAction);
    PyObject *filled = value_of(wire, self->key_dealVolume);
    PyObject *volume = value_of(wire, self->key_volume);
    if (action == NULL || filled == NULL || volume == NULL || !PyUnicode_CheckExact(action)
        || is_text(action, self->cancel))
        return NO;
    if (PyLong_CheckExact(filled) && PyLong_CheckExact(volume))
        return PyObject_RichCompareBool(filled, volume, Py_LT) == 1 ? YES : NO;
    if ((!PyLong_CheckExact(filled) && !PyFloat_CheckExact(filled))
        || (!PyLong_CheckExact(volume) && !PyFloat_CheckExact(volume)))
        return NO;
    double so_far = PyFloat_AsDouble(filled), of = PyFloat_AsDouble(volume);
    return !PyErr_Occurred() && so_far < of ? YES : NO;
}

static Answer
merge_order(Deliverer *self, PyObject *state, PyObject *event)
{
    PyObject *wire = SLOT(event, self->decoder->offsets[WIRE]);
    PyObject *orders = SLOT(state, self->State_orders), *id = value_of(wire, self->key_orderId);
    if (id == NULL || !PyUnicode_CheckExact(id) || !PyDict_CheckExact(orders)
        || is_open(self, wire) != YES)
        return NO;
    return renew(self, orders, id, wire, event);
}

/* Merges an event into the book if that is as usual; no exception is left. */
static Answer
merge(Deliverer *self, PyObject *event)
{
    PyTypeObject *class = Py_TYPE(event);
    Answer answer = NO;
    PyObject *held = PyObject_CallNoArgs(self->acquire);
    if (held == NULL)
        return FAILED;
    Py_DECREF(held);
    PyObject *state = Py_NewRef(SLOT(self->book, self->Book__state));
    if (SLOT(self->book, self->Book__journal) == Py_None && Py_IS_TYPE(state, self->State)
        && SLOT(state, self->State_base) == Py_None) {
        /* Owned, as what is dropped in a merge may run a user's code, which may load others. */
        PyObject *dicts[] = {SLOT(state, self->State_positions), SLOT(state, self->State_balances),
                             SLOT(state, self->State_orders), SLOT(state, self->State__closed)};
        for (size_t i = 0; i < Py_ARRAY_LENGTH(dicts); i++)
            Py_XINCREF(dicts[i]);
        if (class == self->AccountUpdate)
            answer = merge_account(self, state, event);
        else if (class == self->AdlPrice)
            answer = merge_ticks(self, state, event);
        else if (class == self->Order)
            answer = merge_order(self, state, event);
        for (size_t i = 0; i < Py_ARRAY_LENGTH(dicts); i++)
            Py_XDECREF(dicts[i]);
    }
    Py_DECREF(state);
    PyErr_Clear();      /* the Python function will meet it again, and tell it properly */
    PyObject *freed = PyObject_CallNoArgs(self->release);
    if (freed == NULL)
        return FAILED;
    Py_DECREF(freed);
    return answer == YES ? YES : NO;
}

/* --- calling ---------------------------------------------------------------------------------- */

/* What time.monotonic() says. */
static PyObject *
monotonic(Deliverer *self)
{
#ifdef __linux__
    struct timespec now;
    (void)self;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return PyFloat_FromDouble((double)(now.tv_sec * 1000000000LL + now.tv_nsec) / 1e9);
#else
    return PyObject_CallNoArgs(self->monotonic);
#endif
}

/* Takes the time that `function` took, which began at `begun`: 0, or -1 with an exception. */
static int
take_time(Deliverer *self, PyObject *handlers, PyObject *function, PyObject *begun)
{
    PyObject *now = monotonic(self);
    if (now == NULL)
        return -1;
    put(self->times, self->CallbackTimes_now, now);
    PyObject *limit = SLOT(self->times, self->CallbackTimes_limit);
    double seconds = PyFloat_AsDouble(now) - PyFloat_AsDouble(begun);
    if (seconds <= PyFloat_AsDouble(limit))
        return PyErr_Occurred() ? -1 : 0;
    PyObject *result = PyErr_Occurred() ? NULL
        : PyObject_CallFunction(self->took, "OOd", SLOT(handlers, self->Handlers_name), function,
                                seconds);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Hands what `function` has raised to Python; 0, or -1 with an exception where that ends the
 * stream. */
static int
report(Deliverer *self, PyObject *handlers, PyObject *function, PyObject *event, PyObject *begun)
{
    PyObject *type, *error, *traceback, *result = NULL;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    /* As within `except`, for who asks which exception is being handled. */
    PyObject *outer[3];
    PyErr_GetExcInfo(&outer[0], &outer[1], &outer[2]);
    PyErr_SetExcInfo(Py_XNewRef(type), Py_XNewRef(error), Py_XNewRef(traceback));
    if (take_time(self, handlers, function, begun) == 0)
        result = PyObject_CallFunctionObjArgs(self->raised, handlers, function, event, error, NULL);
    PyErr_SetExcInfo(outer[0], outer[1], outer[2]);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Calls the functions of `handlers` with `event`: 0, or -1 with an exception where that ends the
 * stream. */
static int
call(Deliverer *self, PyObject *handlers, PyObject *event)
{
    PyObject *functions = Py_XNewRef(SLOT(handlers, self->Handlers_functions));
    if (functions == NULL || !PyTuple_CheckExact(functions)) {
        PyErr_SetString(PyExc_TypeError, "functions is no tuple");
        Py_XDECREF(functions);
        return -1;
    }
    int failed = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(functions) && !self->muted && !failed; i++) {
        PyObject *function = PyTuple_GET_ITEM(functions, i);
        PyObject *begun = Py_NewRef(SLOT(self->times, self->CallbackTimes_now));
        put(self->times, self->CallbackTimes_begun, Py_NewRef(begun));
        PyObject *result = PyObject_CallOneArg(function, event);
        failed = result == NULL ? report(self, handlers, function, event, begun)
                                : take_time(self, handlers, function, begun);
        Py_XDECREF(result);
        Py_DECREF(begun);
    }
    Py_DECREF(functions);
    return failed;
}

/* Counts, merges and hands out an event; -1 where that ends the stream. */
static int
deliver_event(Deliverer *self, PyObject *event)
{
    Answer answer = merge(self, event);
    if (answer == FAILED)
        return -1;
    if (answer == NO) {
        PyObject *result = PyObject_CallOneArg(self->handle, event);
        Py_XDECREF(result);
        return result == NULL ? -1 : 0;
    }
    PyTypeObject *class = Py_TYPE(event);
    if (class == self->Order) {
        self->orders++;
        return call(self, self->on_order, event);
    }
    if (class == self->AdlPrice) {
        self->adl_prices++;
        return call(self, self->on_adl_price, event);
    }
    self->account_updates++;
    /* Looked at before a function may change it. */
    PyObject *list = value_of(value_of(SLOT(event, self->decoder->offsets[WIRE]), self->key_d),
                              self->key_a);
    int has_balances = list != NULL && PyList_GET_SIZE(list) != 0;
    PyObject *position = SLOT(event, self->AccountUpdate__position);
    if (position != NULL && call(self, self->on_position, position) < 0)
        return -1;
    return has_balances ? call(self, self->on_account, event) : 0;
}

PyDoc_STRVAR(deliver_doc,
"deliver($self, texts, start, received_ns, /)\n--\n\n"
"Deliver the pushes whose JSON is in ``texts[start:]``, received at `received_ns`.\n\n"
"Stops before the first that is not as usual, and when `halted` is set. Returns the position of\n"
"the first that was not delivered.");

static PyObject *
Deliverer_deliver(Deliverer *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("deliver", 3, nargs) < 0)
        return NULL;
    PyObject *texts = args[0];
    if (!PyList_CheckExact(texts)) {
        PyErr_SetString(PyExc_TypeError, "texts must be a list");
        return NULL;
    }
    Py_ssize_t i = PyLong_AsSsize_t(args[1]);
    if (i < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "start must not be negative");
        return NULL;
    }
    for (; i < PyList_GET_SIZE(texts) && !self->halted; i++) {
        PyObject *text = Py_NewRef(PyList_GET_ITEM(texts, i));
        PyObject *event = make_event(self->decoder, text, args[2]);
        Py_DECREF(text);
        if (event == NULL)
            break;
        int failed = deliver_event(self, event);
        Py_DECREF(event);
        if (failed)
            return NULL;
    }
    return PyLong_FromSsize_t(i);
}

/* --- the type --------------------------------------------------------------------------------- */

PyDoc_STRVAR(Deliverer_doc,
"Deliverer(decoder, book, lock, callbacks, times, keys, classes, handle, raised)\n--\n\n"
"Delivers pushes.\n\n"
"`lock` is the book's. `callbacks` has the handlers as attributes, `keys` and `classes` have\n"
"the keys of the wire and the classes that are used, by name.\n"
"`times` takes the functions' time. ``handle(event)`` does all that there is to do with an event,\n"
"which is not as usual.\n"
"``raised(handlers, function, event, error)`` is told of what a function raised, and may raise to\n"
"end the stream.");

/* The offset of a slot, -1 with an exception where there is none. */
static Py_ssize_t
offset_of(PyTypeObject *class, const char *name)
{
    PyObject *member = attribute((PyObject *)class, name);
    Py_ssize_t offset = -1;
    if (member != NULL && Py_IS_TYPE(member, &PyMemberDescr_Type))
        offset = ((PyMemberDescrObject *)member)->d_member->offset;
    else if (!PyErr_Occurred())
        PyErr_Format(PyExc_TypeError, "%s.%s is no slot", class->tp_name, name);
    Py_XDECREF(member);
    return offset;
}

static int
Deliverer_fill(Deliverer *self, PyObject *lock, PyObject *callbacks, PyObject *keys,
               PyObject *classes)
{
#define X(name) \
    self->name = (PyTypeObject *)Py_XNewRef(PyDict_GetItemString(classes, #name)); \
    if (self->name == NULL || !PyType_Check(self->name)) { \
        PyErr_SetString(PyExc_TypeError, "classes has no class " #name); \
        return -1; \
    }
    CLASSES(X)
#undef X
#define X(class, name) \
    if ((self->class##_##name = offset_of(self->class, #name)) < 0) \
        return -1;
    SLOTS(X)
#undef X
#define X(name) \
    self->key_##name = Py_XNewRef(PyDict_GetItemString(keys, #name)); \
    if (self->key_##name == NULL || !PyUnicode_CheckExact(self->key_##name)) { \
        PyErr_SetString(PyExc_TypeError, "keys has no " #name); \
        return -1; \
    }
    KEYS(X)
#undef X
#define X(name) \
    if ((self->name = attribute(callbacks, #name)) == NULL) \
        return -1; \
    if (!Py_IS_TYPE(self->name, self->Handlers)) { \
        PyErr_SetString(PyExc_TypeError, #name " is no Handlers"); \
        return -1; \
    }
    CALLED(X)
#undef X
    self->acquire = attribute(lock, "acquire");
    self->release = attribute(lock, "release");
    self->create = PyUnicode_InternFromString("CREATE");
    self->update = PyUnicode_InternFromString("UPDATE");
    self->cancel = PyUnicode_InternFromString("2");
    self->zero = PyLong_FromLong(0);
    if (self->acquire == NULL || self->release == NULL || self->create == NULL
        || self->update == NULL || self->cancel == NULL || self->zero == NULL)
        return -1;
    if (!Py_IS_TYPE(self->book, self->Book) || !Py_IS_TYPE(self->times, self->CallbackTimes)) {
        PyErr_SetString(PyExc_TypeError, "book is no Book, or times is no CallbackTimes");
        return -1;
    }
    PyObject *time = PyImport_ImportModule("time");
    self->monotonic = time == NULL ? NULL : attribute(time, "monotonic");
    Py_XDECREF(time);
    self->took = attribute(self->times, "took");
    if (self->monotonic == NULL || self->took == NULL)
        return -1;
    return 0;
}

static PyObject *
Deliverer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *decoder, *book, *lock, *callbacks, *times, *keys, *classes, *handle,
        *raised;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) {
        PyErr_SetString(PyExc_TypeError, "Deliverer() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOOOOO!O!OO", &decoder, &book, &lock, &callbacks, &times,
                          &PyDict_Type, &keys, &PyDict_Type, &classes, &handle, &raised))
        return NULL;
    PyObject *module = PyType_GetModule(type);
    PyObject *own = module == NULL ? NULL : attribute(module, "Decoder");
    if (own == NULL)
        return NULL;
    int fits = Py_IS_TYPE(decoder, (PyTypeObject *)own);
    Py_DECREF(own);
    if (!fits) {
        PyErr_SetString(PyExc_TypeError, "decoder must be a Decoder");
        return NULL;
    }
    Deliverer *self = (Deliverer *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->decoder = (Decoder *)Py_NewRef(decoder);
    self->book = Py_NewRef(book);
    self->times = Py_NewRef(times);
    self->handle = Py_NewRef(handle);
    self->raised = Py_NewRef(raised);
    if (Deliverer_fill(self, lock, callbacks, keys, classes) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
Deliverer_traverse(Deliverer *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->decoder);
    Py_VISIT(self->book);
    Py_VISIT(self->times);
#define X(name) Py_VISIT(self->name);
    CLASSES(X)
    FUNCTIONS(X)
    CALLED(X)
#undef X
    return 0;
}

static int
Deliverer_clear(Deliverer *self)
{
    Py_CLEAR(self->decoder);
    Py_CLEAR(self->book);
    Py_CLEAR(self->times);
    Py_CLEAR(self->create);
    Py_CLEAR(self->update);
    Py_CLEAR(self->cancel);
    Py_CLEAR(self->zero);
#define X(name) Py_CLEAR(self->name);
    CLASSES(X)
    FUNCTIONS(X)
    CALLED(X)
#undef X
#define X(name) Py_CLEAR(self->key_##name);
    KEYS(X)
#undef X
    return 0;
}

static void
Deliverer_dealloc(Deliverer *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Deliverer_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef Deliverer_methods[] = {
    METHOD(Deliverer, deliver),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Deliverer_members[] = {
    {"account_updates", T_LONGLONG, offsetof(Deliverer, account_updates), READONLY,
     "How many were delivered."},
    {"adl_prices", T_LONGLONG, offsetof(Deliverer, adl_prices), READONLY,
     "How many were delivered."},
    {"orders", T_LONGLONG, offsetof(Deliverer, orders), READONLY, "How many were delivered."},
    {"muted", T_BOOL, offsetof(Deliverer, muted), 0, "No function may be called any more."},
    {"halted", T_BOOL, offsetof(Deliverer, halted), 0, "No push may be begun any more."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot Deliverer_slots[] = {
    {Py_tp_doc, (void *)Deliverer_doc},
    {Py_tp_new, Deliverer_new},
    {Py_tp_methods, Deliverer_methods},
    {Py_tp_members, Deliverer_members},
    {Py_tp_traverse, Deliverer_traverse},
    {Py_tp_clear, Deliverer_clear},
    {Py_tp_dealloc, Deliverer_dealloc},
    {0, NULL},
};

PyType_Spec Deliverer_spec = {
    .name = "fastpos._c._native.Deliverer",
    .basicsize = sizeof(Deliverer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = Deliverer_slots,
};
