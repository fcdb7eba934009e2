"""Compilation of C sources."""

import os
import shutil

import pytest

from lambdanets.ops import kernel
from lambdanets.ops.compiler import CompilerError, compile_library
from tests.methods import needs_compiler


@needs_compiler
def test_only_the_library_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_library(kernel.SOURCE, REAL="float")
    (library,) = (tmp_path / "lambdanets").iterdir()
    written = library.stat().st_mtime_ns
    compile_library(kernel.SOURCE, REAL="float")
    assert library.stat().st_mtime_ns == written
    compile_library(kernel.SOURCE, REAL="double")
    assert len(list((tmp_path / "lambdanets").iterdir())) == 2


def test_a_missing_compiler_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompilerError, match="no-such-compiler can't be used"):
        compile_library(kernel.SOURCE, REAL="float")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerError, match="no C compiler"):
        compile_library(kernel.SOURCE, REAL="float")


@needs_compiler
def test_cc_may_have_arguments(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")))
    monkeypatch.setenv("CC", f"env {compiler}")
    assert compile_library(kernel.SOURCE, REAL="float").lanes() > 1


@needs_compiler
def test_a_source_that_does_not_compile_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wrong = tmp_path / "wrong.c"
    wrong.write_text("int forward(void) { return }")
    with pytest.raises(CompilerError, match=r"fails: .*wrong\.c"):
        compile_library(wrong)
    assert not list((tmp_path / "lambdanets").iterdir())
