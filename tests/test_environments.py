"""The environments that the Makefile sets up agree with each other and with CI."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def pins(name):
    """Return package -> version of a requirements file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    pinned = r"^([\w-]+)(?:\[\w+\])?==([\w.]+)"
    return dict(re.findall(pinned, text, flags=re.MULTILINE))


def test_packages_of_both_environments_have_one_version():
    main = pins("requirements.txt") | pins("requirements-dev.txt")
    compilers = pins("requirements-compile.txt")
    shared = main.keys() & compilers.keys()
    assert {"jax", "pytest", "hypothesis"} <= shared
    assert {name: compilers[name] for name in shared} == {
        name: main[name] for name in shared
    }


def test_compilers_come_with_all_that_a_training_step_needs():
    text = (ROOT / "requirements-compile.txt").read_text(encoding="utf-8")
    assert "\n-r requirements.txt\n" in text


def test_the_compilers_of_gpus_are_those_of_this_jax():
    compilers = pins("requirements-compile.txt")
    assert compilers["jax-cuda13-plugin"] == compilers["jax"]
    assert compilers["jax-cuda13-pjrt"] == compilers["jax"]


def test_libtpu_is_never_pinned():
    for file in ROOT.glob("requirements*.txt"):
        assert "libtpu" not in pins(file.name)


def test_every_target_has_a_line_of_help_and_ci_runs_both_tests():
    (phony,) = re.findall(r"^\.PHONY: (.*) FORCE$", MAKEFILE, flags=re.MULTILINE)
    helped = re.findall(r"^([a-z-]+):.*## .", MAKEFILE, flags=re.MULTILINE)
    assert helped == phony.split()
    commands = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert re.findall(r"make [a-z-]+$", commands, flags=re.MULTILINE) == [
        "make test",
        "make test-compile",
    ]


def test_clean_removes_every_environment_and_git_ignores_it():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    for folder in re.findall(r"\$\(call install,(\.\S+?),", MAKEFILE):
        assert f"{folder}/" in ignored
        assert re.search(rf"rm -rf .*{re.escape(folder)} ", MAKEFILE)
