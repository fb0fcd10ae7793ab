"""The command line as a whole: every command is there, is documented, and fails with a sentence."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import COMMANDS, hybrid
from tests.cli.ended import ends

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(command, capsys):
    code, text, _ = ends(capsys, command, "--help")
    assert code == 0 and text.startswith(f"Usage: hybrid {command}")
    assert f"| `hybrid {command}" in (PROJECT / "README.md").read_text()


def test_every_command_module_is_listed():
    modules = {path.stem for path in (PROJECT / "cli" / "commands").glob("[a-z]*.py")}
    assert modules == set(COMMANDS) == set(hybrid.list_commands(None))


def test_version(capsys):
    assert ends(capsys, "--version")[:2] == (0, "hybrid, version 0.1.0\n")


def test_a_full_disk_is_a_sentence_whatever_was_written():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "cli.main", "completion", "bash"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    sentence = "Error: The disk that is written to is full: make room there, then run the same"
    assert done.returncode == 1 and done.stderr.startswith(sentence), done.stderr


@pytest.mark.parametrize("most_bytes", [2_000, 20_000])
def test_a_disk_that_fills_up_while_training_is_a_sentence(home, most_bytes):
    data = home / "events.csv"
    data.write_text("user,item\n" + "".join(f"u{n // 5},i{n % 7}\n" for n in range(50)))
    options = ["--data", str(data), "--epochs", "1", "--dimension", "16"]
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "train", *options], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)),
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.endswith("is full: make room there, then run the same command again.\n")


def test_a_place_that_cannot_be_written_is_a_sentence(home, capsys):
    data, file = home / "events.csv", home / "file"
    data.write_text("user,item\nu1,i1\n")
    file.write_text("")
    code, _, error = ends(capsys, "data", "convert", str(data), str(file / "folder"))
    assert code == 1
    assert error.startswith(f"Error: {file / 'folder'} cannot be read or written (Not a directory)")


def test_a_model_that_does_not_fit_into_memory_is_a_sentence(home, capsys):
    data = home / "events.csv"
    data.write_text("user,item\n" + "".join(f"u{n // 5},i{n % 7}\n" for n in range(50)))
    recipe = home / "recipe.yaml"
    recipe.write_text("dimension: 1000000000000\n")
    code, _, error = ends(capsys, "train", "--data", str(data), "--recipe", str(recipe))
    assert code == 1 and error.splitlines()[-1].startswith("Error: There is not enough memory for")


def test_an_unknown_command_is_named(capsys):
    code, _, error = ends(capsys, "upp")
    assert code == 2 and "No such command 'upp'" in error


def test_an_unknown_environment_is_named_with_the_known_ones(home, capsys):
    code, _, error = ends(capsys, "preview", "moon")
    assert code == 2
    assert "no environment 'moon'" in error and "local" in error


def test_a_broken_settings_file_is_named_with_its_key(home, capsys):
    file = home / "environments" / "shop.yaml"
    file.parent.mkdir()
    file.write_text("kind: cluod\n")
    code, _, error = ends(capsys, "up", "shop")
    assert code == 2
    assert str(file) in error and "kind is 'cluod'" in error and "'local', 'cloud'" in error


def test_a_bad_row_of_data_is_named_with_file_and_line(home, capsys):
    data = home / "events.csv"
    data.write_text("user,item\nu1,i1\nu1\n")
    code, _, error = ends(capsys, "train", "--data", str(data))
    assert code == 1
    assert str(data) in error and "line 3" in error


def test_completion_is_a_script_for_the_shell(capsys):
    code, script, _ = ends(capsys, "completion", "bash")
    assert code == 0 and "_HYBRID_COMPLETE=bash_complete" in script


def test_down_of_an_environment_that_never_was_says_so(home, capsys):
    code, text, _ = ends(capsys, "down", "local")
    assert code == 0 and "Nothing to end" in text


@pytest.mark.parametrize(
    ("answer", "code", "sentence"),
    [("n\n", 1, "Error: Nothing was destroyed: the answer was no."),
     ("", 2, "nobody is there to give one: say --yes")],
)  # fmt: skip
def test_what_destroys_asks_first(home, capsys, monkeypatch, answer, code, sentence):
    (home / "local").mkdir()
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    found, _, error = ends(capsys, "down", "local", "--purge")
    assert found == code and sentence in error
    assert (home / "local").is_dir()


def test_a_recipe_file_is_checked_field_by_field(home, capsys):
    recipe = home / "recipe.yaml"
    recipe.write_text("dimensions: 8\n")
    code, _, error = ends(capsys, "train", "--recipe", str(recipe))
    assert code == 2 and "unknown key 'dimensions'" in error
    recipe.write_text("dimension: 8\nheads: 2\n")
    code, _, error = ends(capsys, "train", "--recipe", str(recipe), "--dimension", "7")
    assert code == 2 and "a divisor of dimension 7" in error
    recipe.write_text("[dimension")
    code, _, error = ends(capsys, "train", "--recipe", str(recipe))
    assert code == 2 and str(recipe) in error
