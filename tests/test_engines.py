"""The local engine, and what is wrong with an engine before it starts; the clusters are in test_clusters.py."""

import os
import signal
from functools import partial

import click
import pytest

from aras.engines import Engine, each_unordered, engine_of
from aras.errors import UserError

LOCAL = Engine()


def times(factor, number):
    return factor * number


def killed(number):
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_done_once_by_a_partial(workers):
    assert sorted(each_unordered(LOCAL, partial(times, 3), range(50), workers)) == list(range(0, 150, 3))
    assert list(each_unordered(LOCAL, partial(times, 3), [], workers)) == []


def test_a_killed_worker_is_one_line():
    with pytest.raises(UserError, match="a worker was killed, likely out of memory"):
        list(each_unordered(LOCAL, killed, range(4), 2))


def test_the_options_say_which_engine():
    none = {"engine": "local", "scheduler": None, "address": None}
    assert engine_of(none) == LOCAL
    assert engine_of({**none, "engine": "dask", "scheduler": "tcp://a:1"}) == Engine("dask", "tcp://a:1")
    assert engine_of({**none, "engine": "ray"}) == Engine("ray", "auto")
    assert engine_of({**none, "engine": "ray", "address": "a:1"}) == Engine("ray", "a:1")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"scheduler": "tcp://a:1"}, "add --engine dask"),
        ({"address": "a:1"}, "add --engine ray"),
        ({"engine": "dask"}, "needs --scheduler"),
        ({"engine": "dask", "scheduler": "tcp://a:1", "address": "a:1"}, "add --engine ray"),
        ({"engine": "ray", "scheduler": "tcp://a:1"}, "add --engine dask"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(more, told):
    with pytest.raises(click.UsageError, match=told):
        engine_of({"engine": "local", "scheduler": None, "address": None, **more})
