"""``leeway completion``: what a shell needs to complete commands and options."""

import click
from click.shell_completion import get_completion_class

from webhook.cli.output import example


@click.command(
    short_help="Print a script that completes commands in a shell.",
    epilog=example(
        "source <(leeway completion bash)   # or in ~/.bashrc",
        "source <(leeway completion zsh)    # or in ~/.zshrc, after compinit",
        "leeway completion fish > ~/.config/fish/completions/leeway.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for bash 4.4 or newer, zsh or fish that completes commands and options."""
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has these three
    # Not source(), which runs bash to look at its version.
    script = found(context.find_root().command, {}, "leeway", "_LEEWAY_COMPLETE")
    click.echo(script.source_template % script.source_vars())
