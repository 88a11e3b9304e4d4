import pytest


@pytest.fixture
def told_by(capsys):
    """What a command's `main` does with arguments: exit code, stdout, stderr."""

    def of(main):
        def run(*arguments):
            code = main([str(argument) for argument in arguments])
            out, err = capsys.readouterr()
            return code, out, err

        return run

    return of
