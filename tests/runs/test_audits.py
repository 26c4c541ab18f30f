"""Audits as a command, in this process, on models and rows from files."""

import json
from functools import partial

from planted import FORGOTTEN, RETAINED, planted_data, planted_model, planted_tokenizer

from llm_unlearn.audits import audit_names
from llm_unlearn.runs.audits import audits_benchmark

probes_benchmark = partial(audits_benchmark, audits=["probes"], name="probes")


def test_probes_from_files_to_figures(tmp_path, capsys):
    known = {"original": {*RETAINED, *FORGOTTEN}, "oracle": RETAINED, "unlearned": RETAINED}
    for name, people in known.items():
        planted_model(people, blocks=1).save_pretrained(tmp_path / name)
        planted_tokenizer().save_pretrained(tmp_path / name)
    data = planted_data()
    for name in ("forget", "retain"):
        rows = [json.dumps(row) + "\n" for row in getattr(data, name) if row["kind"] == "pet"]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    flags = [f"--{name}_file={tmp_path / name}.jsonl" for name in ("forget", "retain")]
    flags += [f"--model_name_or_path={tmp_path / 'original'}", f"--oracle_model_name_or_path={tmp_path / 'oracle'}"]
    flags += [f"--unlearned_model_name_or_path={tmp_path / 'unlearned'}", f"--output_dir={tmp_path / 'out'}"]
    found = probes_benchmark("", flags)
    assert json.loads((tmp_path / "out" / "probes.json").read_text()) == found
    assert list(found["probes"]) == [*known] and found["not_measured"] == {}
    assert found["probes"]["original"]["notes"] == [
        "membership is not measured: 0 people were never trained, 5 are needed"
    ]
    assert found["probes"]["unlearned"]["reading"]["share"] == 0.0
    assert (tmp_path / "out" / "probes.png").stat().st_size > 500
    table = (tmp_path / "out" / "table.md").read_text()
    printed = capsys.readouterr().out
    for title in ("is the value in the hidden state?", "what is left of the original's", "cosine of a value's states"):
        assert title in table and title in printed
    assert "membership: who" not in table and "…" not in printed


def test_which_audits_are_made(tmp_path, capsys):
    assert audits_benchmark("", ["--data=fictional:tiny", "--dry_run", f"--output_dir={tmp_path}"]) == {}
    printed = capsys.readouterr().out
    assert all(f"- {name}\n" in printed for name in audit_names())
    assert probes_benchmark("", ["--data=fictional:tiny", "--dry_run"]) == {}
    printed = capsys.readouterr().out
    assert "audits:\n  - probes\n" in printed and "output_dir: outputs/probes" in printed
