"""Which errors say that a file could not be written; on several processes: tests/distributed."""

import errno

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from llm_unlearn.errors import InputError, StorageError
from llm_unlearn.files.all_processes import failing_together, why_not_written

ZIP = "no space left, or a folder that may not be written to ({})"
NOT_WRITTEN = [
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    (
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "No space left on device (os error 28)",
    ),
    (Exception("No space left on device (os error 28)"), "No space left on device (os error 28)"),  # of tokenizers
    *(
        (RuntimeError(text), ZIP.format(text))
        for text in (
            "[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 598",
            "PytorchStreamWriter failed writing file data/0: file write failed",
            "basic_ios::clear: iostream error",
            "Parent directory out/checkpoint-2 does not exist.",
        )
    ),
]


@pytest.mark.parametrize(("error", "reason"), NOT_WRITTEN)
def test_files_that_could_not_be_written(error, reason):
    assert why_not_written(error) == reason
    with pytest.raises(StorageError) as raised, failing_together("out/model"):
        raise error
    assert str(raised.value) == f"out/model could not be written: {reason}"


OTHER = [
    RuntimeError("CUDA error: device-side assert triggered at file Indexing.cu"),
    torch.OutOfMemoryError("CUDA out of memory: see the file memory_snapshot"),
    SafetensorError("Error while deserializing header: header too large"),
    ValueError("a file"),
    Exception("a file"),
]


@pytest.mark.parametrize("error", OTHER)
def test_other_errors_stay_what_they_are(error):
    assert why_not_written(error) is None
    with pytest.raises(type(error)) as raised, failing_together("out/model"):
        raise error
    assert raised.value is error


def test_errors_of_libraries_as_they_come(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "none" / "weights", tmp_path / "file" / "weights", tmp_path):
        for save in (lambda path: torch.save({"a": torch.zeros(9)}, path), lambda path: path.write_text("a")):
            with pytest.raises((OSError, RuntimeError)) as raised:
                save(place)
            assert why_not_written(raised.value)
        with pytest.raises((SafetensorError, OSError)) as raised:
            save_file({"a": torch.zeros(9)}, place)
        assert why_not_written(raised.value)


def test_bad_input_is_raised_as_it_is():
    with pytest.raises(InputError, match=r"^no rows$"), failing_together():
        raise InputError("no rows")
