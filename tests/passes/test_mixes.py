"""Samples and their mixes: what `round` learns from."""

import numpy as np

from ptq_opt.ir import DType, Graph
from ptq_opt.ir.samples import Samples, open_samples
from ptq_opt.ir.tensor import Array
from ptq_opt.passes.mixes import with_mixes


def samples(*arrays: Array) -> Samples:
    graph = Graph("g")
    value = graph.input("x", DType.of(arrays[0]), ("n", 2))
    return open_samples([{"x": array} for array in arrays], [value])


def test_as_many_mixes_follow_the_samples() -> None:
    given = samples(*(np.full((1, 2), value, np.float32) for value in (0, 10, 1000)))
    found = [feeds["x"] for feeds in with_mixes(given, [0, 1], seed=0)]
    assert [array[0, 0] for array in found[:3]] == [0, 10, 1000]
    assert len(found) == 6 and all(array.dtype == np.float32 for array in found)
    assert all(0 <= array[0, 0] <= 10 and array[0, 0] == array[0, 1] for array in found[3:])


def test_every_seed_has_its_own() -> None:
    given = samples(*np.arange(12, dtype=np.float32).reshape(6, 1, 2))
    first, again, other = (
        np.concatenate([feeds["x"] for feeds in with_mixes(given, range(6), seed)])
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_integers_are_not_mixed() -> None:
    given = samples(np.zeros((1, 2), np.int64), np.ones((1, 2), np.int64))
    assert len(list(with_mixes(given, [0, 1], seed=0))) == 2


def test_of_unlike_shapes_the_first_stays() -> None:
    given = samples(np.zeros((1, 2), np.float32), np.ones((3, 2), np.float32))
    for feeds in list(with_mixes(given, [0, 1], seed=0))[2:]:
        assert len(np.unique(feeds["x"])) == 1
