"""The root of the ``leeway`` command line.

Exit codes: 0 success or yes, 1 no, 2 wrong usage or input, 3 something cannot be reached or opened,
130 interrupted with ctrl-C. An error is one line on standard error.

>>> from click.testing import CliRunner
>>> token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"
>>> print(CliRunner().invoke(cli, ["token", "inspect", token, "-o", "yaml"]).output, end="")
unverified:
  header:
    alg: ES256
  claims:
    sub: a
"""

import os
import re
import sys
from importlib import import_module
from typing import Final

import click

from keys.errors import KeyFileError, KeysError, UnsafeStepError
from keys.messages import could_be_secret, os_error_with_advice, shown
from webhook.cli.options import example, output_option, root_data_dir_option
from webhook.cli.output import printable, show
from webhook.errors import (
    ConfiguredFileError,
    DataDirectoryError,
    DirectoryDiffersError,
    LeewayError,
    LookupUnavailableError,
    NotIssuedError,
    ServerUnreachableError,
)
from webhook.etcd.errors import EtcdError
from webhook.rbac.errors import (
    AuthError,
    OutcomeUnknownError,
    StoreChangedError,
    StoreError,
    StoreUnavailableError,
)
from webhook.telemetry.log_lines import redact
from webhook.version import COMMIT, VERSION

EXIT_NO: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as a shell reports a program that ctrl-C has ended."""
_UNREACHABLE: Final = (
    ConfiguredFileError,
    DataDirectoryError,
    EtcdError,
    KeyFileError,
    LookupUnavailableError,
    OSError,
    OutcomeUnknownError,
    ServerUnreachableError,
    StoreError,
    StoreUnavailableError,
)
_MAX_MESSAGE: Final = 1000
_QUOTED: Final = re.compile("'([^']*)'")
_EXTRA_ARGUMENTS: Final = "Got unexpected extra argument"
_VERSION_TEXT: Final = f"leeway {VERSION}" + (f" ({COMMIT})" if COMMIT else "")
# Each is a function with its own module: leeway can-i is webhook.cli.can_i.can_i.
_COMMANDS: Final = (
    *("auth", "can-i", "cert", "config", "demo", "doctor", "group", "init", "keys"),
    *("revoke", "role", "serve", "signer", "skew", "store", "token", "user"),
)


class _Root(click.Group):
    """Imports a command only when it is used, so that the others do not slow its start."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *_COMMANDS])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return super().get_command(context, name)
        function = name.replace("-", "_")
        command: click.Command = getattr(import_module(f"webhook.cli.{function}"), function)
        return command


@click.group(
    cls=_Root,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("leeway init", "leeway serve", "leeway token review --help"),
)
@click.version_option(VERSION, message=_VERSION_TEXT.replace("%", "%%"))
@root_data_dir_option
def cli() -> None:
    """Leeway: a service account token webhook for Kubernetes that says why."""


@cli.command(epilog=example("leeway version -o json"))
@output_option
def version(output: str) -> None:
    """Show the version."""
    show({"version": VERSION, "commit": COMMIT}, _VERSION_TEXT, output)


@cli.command(
    short_help="Print a script that completes commands in a shell.",
    epilog=example(
        "source <(leeway completion bash)   # or in ~/.bashrc",
        "source <(leeway completion zsh)    # or in ~/.zshrc, after compinit",
        "leeway completion fish > ~/.config/fish/completions/leeway.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script for bash 4.4 or newer, zsh or fish that completes commands and options."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has these three
    # source() would also run bash to find its version.
    script = found(cli, {}, "leeway", "_LEEWAY_COMPLETE")
    click.echo(script.source_template % script.source_vars())


def main() -> None:
    """Run the command line, and turn an error into one line and an exit code."""
    try:
        # https://no-color.org: any value but the empty one.
        color = False if os.environ.get("NO_COLOR") else None
        code = cli.main(prog_name="leeway", standalone_mode=False, color=color)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.Abort as error:
        if isinstance(error.__context__, EOFError):
            code = _fail("the input ended where an answer was expected", EXIT_USAGE)
        else:
            code = _fail("interrupted", EXIT_INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = EXIT_USAGE
    except click.ClickException as error:
        code = _fail(_usage(error), EXIT_USAGE)
    except (DirectoryDiffersError, NotIssuedError, StoreChangedError, UnsafeStepError) as error:
        code = _fail(str(error), EXIT_NO)
    except _UNREACHABLE as error:
        text = os_error_with_advice(error) if isinstance(error, OSError) else str(error)
        code = _fail(text, EXIT_UNREACHABLE)
    except AuthError as error:
        code = _fail(f"{error}; {error.advice}" if error.advice else str(error), EXIT_USAGE)
    except (LeewayError, KeysError) as error:
        code = _fail(str(error), EXIT_USAGE)
    except UnicodeError:
        code = _fail("an argument or the input is not UTF-8 text; write it in UTF-8", EXIT_USAGE)
    except RecursionError:
        code = _fail("the input is nested too deeply to be shown", EXIT_USAGE)
    sys.exit(code or 0)


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"; see `{context.command_path} --help`" if context else ""
    text = " ".join(error.format_message().split()).rstrip(".")
    if text.startswith(_EXTRA_ARGUMENTS):
        # One of them may be a password.
        text = "there are too many arguments"
    # Click repeats the argument, in quotes or not.
    text = _QUOTED.sub(lambda match: shown(match[1], len(match[1])), text)
    if could_be_secret(text):
        text = "an argument is not valid there; it could be a secret, so it is not shown"
    return text + hint


def _fail(message: str, code: int) -> int:
    # The message can repeat an argument: a token in place of a file name, or any name at all.
    text = printable(redact(message))
    if len(text) > _MAX_MESSAGE:
        # Keep the end too, which says what to do.
        text = f"{text[: _MAX_MESSAGE // 2]}...{text[-_MAX_MESSAGE // 2 :]}"
    click.echo(f"leeway: {text}", err=True)
    return code
