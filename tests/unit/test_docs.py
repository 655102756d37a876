"""The documents match the code: links, commands, modules, variables and defaults."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from webhook.cli.main import cli
from webhook.cli.store_access import GoFlagsCommand
from webhook.config.load import environment_names
from webhook.config.model import Configuration
from webhook.config.section import Duration
from webhook.config.store import EtcdSection
from webhook.duration import parse_duration
from webhook.skew.tracker import ClockState, Estimate
from webhook.telemetry.metrics import Metrics
from webhook.telemetry.signer_metrics import SignerMetrics

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "SECURITY", "CONTRIBUTING", "ARCHITECTURE")),
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
OPERATORS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "("}
# What has one value only.
NO_ROW = {"apiVersion", "kind"}


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text("utf-8"))


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(page), re.M)}


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_relative_links_resolve(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    waiting = list(reached)
    while waiting:
        page = waiting.pop()
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            below = set(target.glob("*.md")) if target.is_dir() else {target}
            new = {found for found in below if found.suffix == ".md"} - reached
            reached |= new
            waiting += new
    assert set(PAGES) <= reached


def commands_in(text: str) -> list[list[str]]:
    """Return the words of each leeway command in the console blocks of a text."""
    found = []
    for indent, language, block in BLOCK.findall(text):
        if language != "console":
            continue
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if not line.removeprefix(indent).startswith("$ "):
                continue
            command: list[str] = []
            lexer = shlex.shlex(line.removeprefix(indent)[2:], posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            for word in [*lexer, ";"]:
                if word not in OPERATORS:
                    command.append(word)
                    continue
                if command and command[0] == "leeway":
                    found.append(command[1:])
                command = []
    return found


def check_command(words: list[str]) -> None:
    """Parse a command with the parser of the command line, without running it."""
    command: click.Command = cli
    # Commands keep the help option of the first context they meet: give them what a run would.
    context = click.Context(cli, **cli.context_settings)
    while isinstance(command, click.Group) and words:
        below = command.get_command(context, words[0])
        assert below is not None, f"no command {words[0]}"
        context = click.Context(below, parent=context)
        command, words = below, words[1:]
    assert not isinstance(command, click.Group), "a group alone"
    words = command.plain_flags(list(words)) if isinstance(command, GoFlagsCommand) else list(words)
    values, left, _ = command.make_parser(context).parse_args(words)
    assert not left
    required = [parameter.name for parameter in command.params if parameter.required]
    # A value that is not given is click's own marker, not a string.
    assert not [name for name in required if name and not isinstance(values.get(name), str)]


COMMANDS = [
    pytest.param(words, id=f"{name}: leeway {' '.join(words)[:70]}")
    for name, page in zip(NAMES, PAGES, strict=True)
    for words in commands_in(page.read_text("utf-8"))
]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_of_the_documents_exist(words: list[str]) -> None:
    check_command(words)


WRONG = [
    "nope",
    "token",
    "token nope x",
    "token review --nope x",
    "token review a b",
    "token create a",
    "token create -n a",
]


def test_the_check_of_commands_can_fail() -> None:
    assert len(COMMANDS) > 10
    text = "".join(f"  ```console\n  $ true && leeway {line} > x\n  ```\n" for line in WRONG)
    assert [" ".join(words) for words in commands_in(text)] == WRONG
    for words in commands_in(text):
        with pytest.raises((AssertionError, click.UsageError)):
            check_command(words)
    check_command(["token", "create", "a", "-n", "b"])


def rooms() -> set[str]:
    """Return the folders of the two packages that hold modules."""
    return {
        f"{path.parent.relative_to(ROOT)}/"
        for package in ("keys", "webhook")
        for path in (ROOT / package).rglob("*.py")
    }


def test_architecture_names_only_what_exists() -> None:
    text = prose(ROOT / "ARCHITECTURE.md")
    paths = set(re.findall(r"`((?:keys|webhook|tests|deploy|benchmarks)/[\w./-]*)`", text))
    assert len(paths) > 20
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_architecture_has_a_paragraph_for_each_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    assert {room for room in rooms() if f"**`{room}`**" not in text} == set()


@pytest.mark.parametrize("room", sorted(rooms()))
def test_each_room_says_what_it_is_for(room: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text("utf-8")))
    assert docstring
    assert len(docstring.partition("\n")[0]) > 20


def rows() -> list[list[str]]:
    """Return the cells of the table of docs/configuration.md."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    table = text[text.index("| Field | Default |") :].split("\n\n")[0].splitlines()[2:]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert all(len(cells) == 4 for cells in found)
    return found


def test_environment_variables_of_the_configuration() -> None:
    documented = {
        cells[3].strip("`"): cells[0].strip("`") for cells in rows() if cells[3].strip("`")
    }
    assert documented == environment_names()


def test_every_field_of_the_configuration_has_a_row() -> None:
    fields = {field.encode_name for field in msgspec.structs.fields(Configuration)} - NO_ROW
    text = prose(ROOT / "docs" / "configuration.md")
    assert {name for name in fields if f"`{name}`" not in text and f"`{name}." not in text} == set()


def value_of(dotted: str) -> Any:
    """Return the value of a field that is not set."""
    value: Any = Configuration()
    for part in dotted.split("."):
        (field,) = [f for f in msgspec.structs.fields(value) if f.encode_name == part]
        name = field.name
        if name == "etcd":
            # Its endpoints have no default.
            value = EtcdSection(endpoints=("http://localhost:2379",))
            msgspec.structs.force_setattr(value, "endpoints", ())
            continue
        if getattr(value, name) is None:
            # A section that is missing, or a time that is derived from another.
            name += "_settings" if name == "signer" else "_seconds"
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("cells", rows(), ids=[cells[0].strip("`") for cells in rows()])
def test_defaults_of_the_configuration(cells: list[str]) -> None:
    value = value_of(cells[0].strip("`"))
    match = re.match(r"`([^`]*)`", cells[1])
    if match is None:
        assert cells[1].split(":")[0] in ("empty", "none")
        assert value in ("", ())
    elif isinstance(value, Duration | float):
        assert parse_duration(match[1]) == value
    elif isinstance(value, tuple):
        assert match[1] == f"[{', '.join(value)}]"
    else:
        assert match[1] == (str(value).lower() if isinstance(value, bool) else str(value))


def test_every_metric_has_a_row() -> None:
    metrics = Metrics(
        lambda: [Estimate("https://a.example", "", "iat", ClockState.IN_STEP, 0.0, 0.0, 1)]
    )
    metrics.report_issuer_keys("https://a.example", failing=False)
    metrics.report_reload("tls", failing=False)
    kept = {}
    signer = SignerMetrics({"Sign": []})
    for family in [*metrics.registry.collect(), *signer.registry.collect()]:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        kept[name] = {label for sample in samples for label in sample.labels}
    table = re.findall(
        r"^\| `(\w+)` \|([^|]*)\|", (ROOT / "docs" / "monitoring.md").read_text("utf-8"), re.M
    )
    rows = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in table}
    named = ("leeway_", "serviceaccount_")
    assert {name: labels for name, labels in rows.items() if name.startswith(named)} == kept
