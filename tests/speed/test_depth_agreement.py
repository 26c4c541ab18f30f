"""The comparison with the published code of the unlearning depth score, with a made-up checkout."""

import pytest

from llm_unlearn import InputError
from llm_unlearn.speed.depth_agreement import depth_agreement, depth_table

SCRIPT = """
import json, sys
from pathlib import Path

flags = dict(zip(sys.argv[1::1], sys.argv[2::1]))
assert all(Path(flags[f"--{name}_model"], "config.json").is_file() for name in ("full", "retain", "unlearn"))
assert len(json.loads(Path(flags["--data_path"]).read_text())) == 24 and flags["--dtype"] == "float32"
folder = Path(flags["--out_dir"])
folder.mkdir()
(folder / "summary.json").write_text(json.dumps({"avg_uds": 0.25 if flags["--layers"] == "0-2" else 0.5}))
"""


def test_their_numbers_stand_beside_ours(tmp_path):
    with pytest.raises(InputError, match=r"has no compute_uds\.py; give a checkout of"):
        depth_agreement(str(tmp_path))
    (tmp_path / "compute_uds.py").write_text(SCRIPT)
    found = depth_agreement(str(tmp_path))
    assert [theirs for theirs, _ in found.values()] == [0.25, 0.5, 0.5]
    # What the published code (commit fc31639) gave: the first without its last block, the last as it is.
    assert [ours for _, ours in found.values()] == pytest.approx([0.496135, 0.529327, 0.524308], abs=1e-4)
    assert depth_table(found).splitlines()[2] == "| without the last block | 0.250000 | 0.496135 | 2.5e-01 |"
    (tmp_path / "compute_uds.py").write_text("raise SystemExit('no such file')")
    with pytest.raises(InputError, match=r"ended with status 1 \(no such file\)"):
        depth_agreement(str(tmp_path))
