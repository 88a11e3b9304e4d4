import pickle

from segtrain.errors import ConfigError, DataError, TrainingError, did_you_mean


def test_several_messages_are_lines():
    assert str(ConfigError("first", "second")) == "first\nsecond"


def test_errors_cross_a_process_boundary_whole():
    error = pickle.loads(pickle.dumps(DataError("a.png is empty", "b.png is empty")))
    assert isinstance(error, DataError)
    assert error.messages == ("a.png is empty", "b.png is empty")


def test_mistakes_of_usage_and_failures_of_training_have_their_exit_codes():
    assert (ConfigError.exit_code, DataError.exit_code, TrainingError.exit_code) == (2, 2, 1)


def test_the_nearest_word_is_suggested():
    assert did_you_mean("resnet81", ["resnet18", "vgg11"]) == "; did you mean 'resnet18'?"


def test_without_a_near_word_the_allowed_ones_are_listed_and_cut():
    assert did_you_mean("zzz", ["b", "a"]) == "; allowed: a, b"
    assert did_you_mean("zzz", map(str, range(20)), limit=2) == "; allowed: 0, 1, … (20 in all)"
