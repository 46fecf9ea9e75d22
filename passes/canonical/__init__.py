"""The rules of `canonicalize`, by theme."""
