"""Measure ptq-opt beside other quantizers, in one run on one machine."""
