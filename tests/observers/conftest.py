import resource
import signal
import warnings

import pytest
from reports import make_probe, make_report, make_task


@pytest.fixture
def task():
    return make_task()


@pytest.fixture
def report():
    return make_report(tuple(make_probe(seed) for seed in range(2)))


@pytest.fixture
def full_disk():
    """Files can grow by a few bytes more than `path` has, then writing fails as on a full disk."""
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # as Python sets it

    class Limit:
        def __init__(self, path):
            self.size = path.stat().st_size + 5

        def __enter__(self):
            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

        def __exit__(self, *_):
            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)

    return Limit


@pytest.fixture
def told(recwarn):
    """Every warning of the test, repeated ones too; none of them fails it."""
    warnings.simplefilter("always")
    return recwarn.list
