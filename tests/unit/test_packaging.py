"""What is shipped: the wheel, and the image made from it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from fnmatch import fnmatchcase
from pathlib import Path

import click
import pytest

from tests.e2e.harness import RunningServer, free_port, start_server
from webhook.cli.main import cli
from webhook.version import VERSION

ROOT = Path(__file__).parents[2]
# pip's error if it cannot get the build backend; any other error is our defect.
OFFLINE = re.compile(
    r"No matching distribution|Failed to establish|ConnectionError|Name or service"
)


def instructions() -> list[tuple[str, str]]:
    """Return each instruction of the Dockerfile with its arguments."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, rest = line.partition(" ")
        found.append((name.upper(), " ".join(rest.split())))
    return found


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage."""
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        if found:  # instructions before the first stage are its arguments
            found[-1].append((name, rest))
    return found


def only(stage: list[tuple[str, str]], name: str) -> str:
    """Return the arguments of the only instruction with a name."""
    (rest,) = [rest for found, rest in stage if found == name]
    return rest


def copied() -> list[str]:
    """Return the sources that the image takes from the checkout."""
    rests = [rest.split() for stage in stages() for name, rest in stage if name == "COPY"]
    return [source for words in rests if "--from=" not in words[0] for source in words[:-1]]


def is_let_through(path: str) -> bool:
    """Return whether .dockerignore includes a path: the last matching line decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = line.removeprefix("!")
        parts = path.split("/")
        for length in range(1, len(parts) + 1):
            start = "/".join(parts[:length])
            anywhere = pattern.startswith("**/") and fnmatchcase(parts[length - 1], pattern[3:])
            same_depth = pattern.count("/") == length - 1
            if anywhere or (same_depth and fnmatchcase(start, pattern)):
                ignored = not line.startswith("!")
                break
    return not ignored


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from what the Dockerfile copies, as the Dockerfile does, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--wheel-dir", folder / "wheels", "."],
        cwd=folder,
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip("pip cannot get the build backend: " + done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    (built,) = (folder / "wheels").glob("*.whl")
    return built


def test_wheel_holds_exactly_both_packages(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    modules = [
        str(path.relative_to(ROOT))
        for package in ("keys", "webhook")
        for path in (ROOT / package).rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    ]
    assert sorted(names) == sorted(modules)


def test_name_and_entry_point_of_the_wheel(wheel: Path) -> None:
    assert wheel.name == f"leeway_webhook-{VERSION}-py3-none-any.whl"
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    parser = ConfigParser()
    parser.read_string(archive.read(entry_points).decode())
    assert {name: dict(parser[name]) for name in parser.sections()} == {
        "console_scripts": {"leeway": "webhook.cli.main:main"}
    }
    (licence,) = [name for name in archive.namelist() if name.endswith("LICENSE")]
    assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", target, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "LEEWAY_COMMIT": ""}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    where = run(
        sys.executable, "-c", "import keys, webhook; print(keys.__file__, webhook.__file__)"
    )
    assert where.split() == [str(target / name / "__init__.py") for name in ("keys", "webhook")]
    assert run(sys.executable, "-m", "webhook", "version") == f"leeway {VERSION}\n"
    assert run(sys.executable, str(target / "bin" / "leeway"), "version") == f"leeway {VERSION}\n"


def test_image_has_two_stages_and_the_second_takes_one_folder_of_the_first() -> None:
    build, run = stages()
    assert only(build, "FROM").endswith(" AS build")
    assert only(build, "FROM").split()[0] == only(run, "FROM")
    assert only(run, "COPY") == "--from=build /opt/leeway /opt/leeway"
    assert "pip uninstall" in only(build, "RUN")


def test_image_does_not_run_as_root_and_says_how_it_does() -> None:
    run = stages()[-1]
    user = only(run, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    volume = only(run, "VOLUME")
    assert f"LEEWAY_DATA_DIR={volume} " in only(run, "ENV") + " "
    assert f"install -d -m 0700 -o {user.split(':')[0]} -g {user.split(':')[1]} {volume}" in only(
        run, "RUN"
    )
    order = [name for name, _ in run]
    assert order.index("RUN") < order.index("USER")


def test_image_holds_no_secret_and_fetches_nothing_unnamed() -> None:
    names = {name for name, _ in instructions()}
    assert "ADD" not in names
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"secret|password|token|\.key|\.pem|curl|wget", text, re.I)
    assert "*" not in copied()
    assert "." not in copied()


def test_image_has_a_health_check_and_a_command_that_exist() -> None:
    run = stages()[-1]
    check = json.loads(only(run, "HEALTHCHECK").partition("CMD ")[2])
    assert check == ["python", "-m", "webhook.health_probe"]
    assert (ROOT / "webhook" / "health_probe.py").is_file()
    assert json.loads(only(run, "ENTRYPOINT")) == ["leeway"]
    name, *arguments = json.loads(only(run, "CMD"))
    root = click.Context(cli, **cli.context_settings)
    command = cli.get_command(root, name)
    assert command is not None
    given, _, _ = command.make_parser(click.Context(command, parent=root)).parse_args(arguments)
    port = only(run, "EXPOSE")
    assert given["bind"] == f"0.0.0.0:{port}"


@pytest.mark.parametrize("source", copied())
def test_files_copied_into_the_image_exist_and_are_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    assert is_let_through(source)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "leeway-data/keys/a.pem",
        "tests/support.py",
        "token",
        "webhook/__pycache__/a.pyc",
        "webhook/server/__pycache__/a.pyc",
    ],
)
def test_files_that_the_image_must_not_have_are_ignored(path: str) -> None:
    assert not is_let_through(path)
    assert is_let_through("webhook/server/reload/live_application.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run a server for the container's health check."""
    running = start_server(tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


def probe(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "webhook.health_probe"],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )


def test_health_probe_of_a_server_that_runs(server: RunningServer) -> None:
    done = probe(LEEWAY_DATA_DIR=str(server.data_dir))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_health_probe_of_a_server_that_does_not_run(server: RunningServer) -> None:
    bind = f"127.0.0.1:{free_port()}"
    done = probe(LEEWAY_DATA_DIR=str(server.data_dir), LEEWAY_SERVER_BIND=bind)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_health_probe_without_a_data_directory(tmp_path: Path) -> None:
    done = probe(LEEWAY_DATA_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{tmp_path / 'leeway.yaml'} is missing; create it with ")
    assert done.stderr.endswith(" or LEEWAY_DATA_DIR\n")


class Image:
    """The image's instructions, run outside a container with a folder as its root.

    Both stages share the folder, so that what the second copies from the first is there already.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # As in python:*-slim: this interpreter, and nothing of ours on its path.
        self.environment = {
            "HOME": str(root),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            # False for compile, not for no-compile: most of it is never run here.
            "PIP_NO_COMPILE": "0",
        } | {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        self._folder = root
        for stage in stages():
            for name, rest in stage:
                getattr(self, f"_{name.lower()}", lambda _rest: None)(rest)

    def put(self, text: str) -> str:
        """Move absolute paths below the folder, and replace the image's user by ours."""
        text = re.sub(r"(?<![\w./}])/(?=(?:opt|src|wheels|var)\b)", f"{self.root}/", text)
        return text.replace("-o 65532 -g 65532", f"-o {os.getuid()} -g {os.getgid()}")

    def run(self, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **more}
        return subprocess.run(
            command,
            cwd=self._folder,
            env=environment,
            capture_output=True,
            check=False,
            text=True,
        )

    def _workdir(self, rest: str) -> None:
        self._folder = Path(self.put(rest))
        self._folder.mkdir(parents=True)

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            assert sources[1:] == [target]
            self._folder = self.root
            return
        for source in sources:
            place = self._folder / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)

    def _run(self, rest: str) -> None:
        done = self.run(["sh", "-c", self.put(rest)])
        if done.returncode and OFFLINE.search(done.stderr):
            pytest.skip("pip cannot get what it needs: " + done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr

    def _env(self, rest: str) -> None:
        for word in rest.split():
            name, _, value = word.partition("=")
            value = value.replace("${COMMIT}", "0123abc").replace("${PATH}", "/usr/bin:/bin")
            self.environment[name] = self.put(value)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"))


def test_steps_of_the_image_make_a_self_contained_leeway(image: Image) -> None:
    done = image.run(["leeway", "version"])
    assert (done.returncode, done.stdout) == (0, f"leeway {VERSION} (0123abc)\n"), done.stderr
    code = "import keys, webhook; print(keys.__file__, webhook.__file__)"
    done = image.run(["python", "-c", code])
    places = [Path(word) for word in done.stdout.split()]
    assert len(places) == 2, done.stderr
    assert all(place.is_relative_to(image.root / "opt" / "leeway") for place in places)
    assert "No module named pip" in image.run(["python", "-m", "pip"]).stderr
    volume = image.root / "var" / "lib" / "leeway"
    assert volume.stat().st_mode & 0o777 == 0o700
    assert not list(volume.iterdir())


def test_commands_of_the_image_serve_and_report_health(image: Image) -> None:
    run = stages()[-1]
    done = image.run(["leeway", "init"])
    assert (done.returncode, done.stderr) == (0, "")
    port = free_port()
    command = [*json.loads(only(run, "ENTRYPOINT")), *json.loads(only(run, "CMD"))]
    command = [word.replace("0.0.0.0:8443", f"127.0.0.1:{port}") for word in command]
    probe_command = json.loads(only(run, "HEALTHCHECK").partition("CMD ")[2])
    # The port only: in the image it is 8443 in the file and in the command.
    bind = {"LEEWAY_SERVER_BIND": f"127.0.0.1:{port}"}
    log_file = image.root / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [shutil.which(command[0], path=image.environment["PATH"]) or "", *command[1:]],
            cwd=image.root,
            env=image.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 30
        while image.run(probe_command, **bind).returncode and time.monotonic() < deadline:
            assert process.poll() is None, log_file.read_text()
        assert image.run(probe_command, **bind).returncode == 0
        process.terminate()
        assert process.wait(30) == 0, log_file.read_text()
        assert image.run(probe_command, **bind).returncode == 1
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
