"""Sealed checkpoints: no flipped byte and no cut goes unnoticed, the one before serves, and it is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from balred.files.sealing import damaged, earlier, read_checkpoint, sealed, unsealed, write_checkpoint


def test_every_damage_is_found() -> None:
    rng = np.random.default_rng(0)
    data = rng.bytes(500)
    whole = sealed(data)
    assert unsealed(whole) == data
    for at in range(len(whole)):
        for broken in (whole[:at], whole[:at] + bytes([whole[at] ^ (1 << rng.integers(8))]) + whole[at + 1 :]):
            with pytest.raises(ValueError, match="a checkpoint must"):
                unsealed(broken)
    for foreign in (b"", b"PK\x03\x04", data, whole + b"\n", whole + whole):
        with pytest.raises(ValueError, match="a checkpoint must"):
            unsealed(foreign)


def test_the_one_before_serves_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    told: list[str] = []
    assert read_checkpoint(path, bytes.decode, told.append) is None
    for text in (b"1", b"2", b"3"):
        write_checkpoint(path, text)
    assert (read_checkpoint(path, bytes.decode, told.append), told) == ("3", [])
    path.write_bytes(path.read_bytes()[:-1])
    assert read_checkpoint(path, bytes.decode, told.append) == "2"
    assert f"{path}: a checkpoint must end with its seal" in told[0]
    assert "goes on from an earlier checkpoint, x.earlier.pt" in told[0]
    write_checkpoint(path, b"4")  # the damaged one does not take the good one's place
    assert unsealed(earlier(path).read_bytes()) == b"2"
    assert damaged(path).exists()
    path.unlink()  # killed between two renamings
    assert read_checkpoint(path, bytes.decode, told.append) == "2"
    assert "is missing" in told[1]
    earlier(path).write_bytes(b"")
    path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"x\.pt: .*; .*x\.earlier\.pt: .*: no earlier checkpoint is whole, delete these"
    ):
        read_checkpoint(path, bytes.decode, told.append)


def test_torch_reads_past_the_seal(tmp_path: Path) -> None:
    import io

    torch = pytest.importorskip("torch")
    stream = io.BytesIO()
    torch.save({"x": torch.arange(5)}, stream)
    write_checkpoint(tmp_path / "x.pt", stream.getvalue())
    assert torch.load(tmp_path / "x.pt", weights_only=True)["x"].tolist() == [0, 1, 2, 3, 4]
