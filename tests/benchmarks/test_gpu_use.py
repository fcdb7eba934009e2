"""Use of the GPU, by a script in place of nvidia-smi."""

import time

from lambdanets.benchmarks.gpu_use import GpuUse


def test_the_median_leaves_out_the_samples_of_an_idle_gpu(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\nprintf '0\\n90\\n[N/A]\\n0\\n98\\n94\\n'\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    use = GpuUse()
    with use:
        time.sleep(0.5)
    assert use.median == 94


def test_without_nvidia_smi_there_is_no_median(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with GpuUse() as use:
        pass
    assert use.median is None
