"""Only devices.py knows kinds of devices, and a back end of another vendor is a line in its table."""

from __future__ import annotations

import ast
import ctypes
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from tests.tiny_run import MODEL, PROJECT, arguments, run_config, stage
from tests.trainer.test_mistakes import one_line
from trainer import devices

ROOMS = ("trainer", "objectives", "inference", "evaluation")
VENDORS = {"cuda", "npu", "xpu", "mps", "nccl", "hccl", "xccl", "torch_npu", "cudnn"}


def asked_by_name(path: Path) -> list[str]:
    """Where a file's syntax tree names a vendor's module, attribute or device, docstrings and help texts aside."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in VENDORS:
            found.append(f"{path.name}:{node.lineno}: .{node.attr}")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(":")[0] in VENDORS:
            found.append(f"{path.name}:{node.lineno}: {node.value!r}")
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        found += [f"{path.name}:{node.lineno}: import {name}" for name in names if set(name.split(".")) & VENDORS]
    return found


def test_no_file_but_one_asks_for_a_vendor_by_name() -> None:
    files = [path for room in ROOMS for path in sorted((PROJECT / room).glob("*.py")) if path.name != "devices.py"]
    assert len(files) > 30
    assert [place for path in files for place in asked_by_name(path)] == []


def test_the_test_above_sees_what_it_should(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text('import torch\nimport torch_npu\nx = torch.cuda.is_available()\ny = torch.device("cuda:0")\n')
    assert len(asked_by_name(bad)) == 3


def test_an_unknown_device_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"devices\.device: expected auto or one of cpu, cuda"):
        devices.choose_device("tpu")
    if not torch.accelerator.is_available():
        with pytest.raises(ValueError, match="this machine has no accelerator"):
            devices.choose_device("cuda")
        assert devices.choose_device("auto").type == "cpu"


def test_what_a_device_or_a_number_of_processes_cannot_give(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half = run_config(stage(steps=1), model={**MODEL, "compute_dtype": "float16"})
    message = one_line(capsys, arguments(workspace, tmp_path / "half", half))
    assert message == "error: model.compute_dtype: float16 is not offered on cpu; give bfloat16 or float32"
    alone = run_config(stage(steps=1), devices={"device": "cpu", "distributed": "none"})
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = one_line(capsys, arguments(workspace, tmp_path / "alone", alone))
    assert message == "error: devices.distributed: none is for one process and there are 2; give fsdp"


def test_ascend_asks_for_its_own_package_and_hccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub that records: the package is imported, the device set, HCCL asked for; the chip itself was never tried."""
    calls: list[object] = []
    monkeypatch.setitem(sys.modules, "torch_npu", types.ModuleType("torch_npu"))
    real_device = torch.device
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: types.SimpleNamespace(type="npu"))
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda device: calls.append(("index", device)))
    monkeypatch.setattr(torch, "device", lambda *words: types.SimpleNamespace(type=words[0], index=words[-1]))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    device = devices.choose_device("npu", local_rank=3)
    with pytest.raises(ValueError, match=r"npu:8 was asked for, but this machine has 8 of them"):
        devices.choose_device("npu", local_rank=8)
    monkeypatch.setattr(torch, "device", real_device)
    monkeypatch.setattr(devices.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(devices.dist, "init_process_group", lambda name, **_: calls.append(("group", name)))
    devices.join_processes(device, devices.World(rank=3, size=8, local_rank=3, local_size=8))
    assert (device.type, device.index) == ("npu", 3)
    assert [name for what, name in calls if what == "group"] == ["hccl"]
    assert not devices.back_end(device).fused_adamw


def test_threads_are_shared_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(8)))
    try:
        assert devices.set_threads(0, devices.World(size=4, local_size=4)) == 2
        assert torch.get_num_threads() == 2
        assert devices.set_threads(3, devices.World()) == 3
        monkeypatch.delattr(devices.os, "sched_getaffinity")
        monkeypatch.setattr(devices.os, "cpu_count", lambda: 6)
        assert devices.set_threads(0, devices.World(size=2, local_size=2)) == 3, "macOS has no such call"
    finally:
        torch.set_num_threads(before)


FREED_TWICE = """
import resource, torch
from trainer.devices import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(1 << 24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory(torch.device("cpu"))
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_blocks_stay_in_the_process() -> None:
    """Page faults of asking eight times for a large block, which is freed each time; in a process of its own, since
    the setting is the whole process's."""
    found = subprocess.run([sys.executable, "-c", FREED_TWICE], cwd=PROJECT, capture_output=True, text=True, check=True)
    given_back, kept = map(int, found.stdout.split())
    assert kept < given_back / 4
