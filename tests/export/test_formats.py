"""Graphs for other runtimes."""

import sys
import threading
import time

import onnx
import pytest
import torch

from lambdanets.errors import UserError
from lambdanets.export.formats import silence_exporters, write_graph
from lambdanets.export.portable import portable_copy
from tests.checkpoints import SHALLOW, write_checkpoint


@pytest.fixture
def network(tmp_path):
    _, network, images = write_checkpoint(tmp_path, ["mixer=lambda", *SHALLOW])
    return portable_copy(network, images)


def test_an_onnx_graph_has_standard_operators_only(network, tmp_path):
    write_graph("onnx", network, torch.randn(2, 1, 8, 8), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx"}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_an_exported_program_has_operators_of_aten_only(network, tmp_path):
    write_graph("torch_export", network, torch.randn(2, 1, 8, 8), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2")
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert targets
    assert {name.split(".")[0] for name in targets} <= {"aten", "<built-in function getitem>"}


class DataDependent(torch.nn.Module):
    def forward(self, images):
        return images if images.sum() > 0 else -images


def test_a_network_that_cannot_be_traced_leaves_no_file(tmp_path):
    file = tmp_path / "model.pt2"
    with pytest.raises(UserError, match="The network can't be exported with format=torch_export: .* Choose another"):
        write_graph("torch_export", DataDependent(), torch.randn(2, 1, 8, 8), file)
    assert not file.exists()


def test_threads_leave_the_streams_of_the_process_as_they_were():
    def load_quietly():
        with silence_exporters():
            time.sleep(0.01)

    streams = sys.stdout, sys.stderr
    threads = [threading.Thread(target=load_quietly) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sys.stdout, sys.stderr) == streams


def test_a_missing_package_is_named(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="format=onnx needs onnxscript, which is not installed: pip install"):
        write_graph("onnx", network, torch.randn(2, 1, 8, 8), tmp_path / "model.onnx")
