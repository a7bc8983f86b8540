"""The commit that rows name: of the checkout that is measured, of what was told, of CI's job, and of nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import membound
from membound.bench.machine import commit
from membound.bench.machine.commit import commit_of, versions_of


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit; returns what runs git in it."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def git(*words):
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *settings, "-C", tmp_path, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "module.py").write_text("A = 1\n")
    git("add", "module.py")
    git("commit", "--quiet", "-m", "first")
    commit._described.cache_clear()
    yield tmp_path, git
    commit._described.cache_clear()


def test_a_tracked_file_has_its_repositorys_commit(checkout):
    folder, git = checkout
    git("tag", "v1.0")  # no name but the hash counts
    assert commit_of(folder / "module.py", {}) == git("rev-parse", "HEAD")[:12]
    linked = folder / "link.py"
    linked.symlink_to(folder / "module.py")
    assert commit_of(linked, {}) == git("rev-parse", "HEAD")[:12]


def test_a_change_makes_it_dirty(checkout):
    folder, git = checkout
    (folder / "module.py").write_text("A = 2\n")
    assert commit_of(folder / "module.py", {}) == git("rev-parse", "HEAD")[:12] + "-dirty"


def test_variables_of_a_git_hook_name_no_other_repository(checkout, monkeypatch, tmp_path_factory):
    folder, git = checkout
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("other") / ".git"))
    found = commit_of(folder / "module.py", {})
    monkeypatch.delenv("GIT_DIR")
    assert found == git("rev-parse", "HEAD")[:12]


def test_what_is_installed_below_another_repository_has_no_commit_of_it(checkout):
    folder, _ = checkout
    installed = folder / "venv/lib/python3/site-packages/membound/__init__.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    assert commit_of(installed, {}) == ""


@pytest.mark.parametrize("name", commit.OF_CI)
def test_outside_a_checkout_ci_says_which_commit_it_is_about(tmp_path, name):
    sha = "0123456789abcdef0123456789abcdef01234567"
    assert commit_of(tmp_path / "module.py", {name: sha}) == sha
    assert commit_of(tmp_path / "module.py", {name: "main; rm -rf /"}) == ""
    assert commit_of(tmp_path / "module.py", {}) == ""


def test_a_checkout_is_asked_before_ci_and_who_was_told_before_both(checkout):
    folder, git = checkout
    of_ci = {"GITHUB_SHA": "f" * 40}
    assert commit_of(folder / "module.py", of_ci) == git("rev-parse", "HEAD")[:12]
    told = of_ci | {commit.VARIABLE: "ABCDEF0123"}
    assert commit_of(folder / "module.py", told) == "abcdef0123"


def test_without_git_nothing_is_known_and_nothing_fails(checkout, monkeypatch):
    folder, _ = checkout
    monkeypatch.setenv("PATH", str(folder))
    assert commit_of(folder / "module.py", {}) == ""


def test_versions_have_it_beside_the_packages(checkout, monkeypatch):
    folder, git = checkout
    for name in (commit.VARIABLE, *commit.OF_CI):
        monkeypatch.delenv(name, raising=False)
    found = versions_of(["membound", "no-such-package"], folder / "module.py")
    assert found["commit"] == git("rev-parse", "HEAD")[:12]
    assert set(found) - {"membound"} == {"commit"}
    commit._described.cache_clear()
    assert "commit" not in versions_of([], folder.parent / "nowhere.py")
    assert versions_of([]).get("commit", "") == commit_of(Path(membound.__file__))
