/* fastpos._c._compiled: names the modules that Cython compiled into this library; __init__.py loads
 * them from it, by their own init functions. */

#include <Python.h>

static int
compiled_exec(PyObject *module)
{
    if (PyModule_AddStringConstant(module, "MODULES", MODULES) < 0)     /* both from setup.py */
        return -1;
    return PyModule_AddStringConstant(module, "SOURCES", SOURCES);
}

static PyModuleDef_Slot compiled_slots[] = {
    {Py_mod_exec, (void *)compiled_exec},
    {0, NULL},
};

static struct PyModuleDef compiled_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastpos._c._compiled",
    .m_doc = "MODULES: names of the compiled modules, those that others import first;\n"
             "SOURCES: the files that they were made of.",
    .m_slots = compiled_slots,
};

PyMODINIT_FUNC
PyInit__compiled(void)
{
    return PyModuleDef_Init(&compiled_module);
}
