"""Measure what each technique gains, alone and in the default pipeline."""
