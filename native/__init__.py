"""The C kernel library and its Python binding."""
