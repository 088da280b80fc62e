"""egoctl through typer's own test runner: its exit code, and what it printed."""

from typer.testing import CliRunner, Result

from egoctl import cli


def invoke(*args: object) -> Result:
    """A command in this process; an error that ends it is raised."""
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(*args: object) -> tuple[int, str]:
    """Exit code and standard output."""
    result = invoke(*args)
    return result.exit_code, result.stdout
