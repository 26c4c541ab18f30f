"""Logs read from disk: small ones of both formats, and every way that a file can be bad."""

import json

import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.files.logs import read_log, read_retain_log, recompute_file


def ratios(*scores):
    return {"forget_truth_ratio": {"value_by_index": {str(i): {"score": score} for i, score in enumerate(scores)}}}


LEGACY_PART = {
    name: {"0": value, "1": value, "2": value}
    for name, value in (
        ("avg_gt_loss", 0.5),
        ("avg_paraphrased_loss", 1.0),
        ("average_perturb_loss", [1.0, 1.0]),
        ("rougeL_recall", 1.0),
    )
}
LEGACY = {
    f"{name}.json": LEGACY_PART
    for name in ("eval_log", "eval_log_forget", "eval_real_author_wo_options", "eval_real_world_wo_options")
}


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write_file


def test_a_log_is_recomputed_alone_and_against_a_retain_log(write):
    path, retain_path = write("model.json", ratios(1, 2, 3, 4)), write("retain.json", ratios(5, 6, 7, 8))
    alone = recompute_file(path)
    assert alone.summary == {"forget_truth_ratio": pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, rel=1e-9)}
    assert alone.remarks["forget_quality"].startswith("needs --retain_logs")
    assert recompute_file(path, retain_path).summary["forget_quality"] == pytest.approx(2 / 70, rel=1e-12)


def test_a_legacy_log_is_recognized(write):
    path = write("eval_log_aggregated.json", LEGACY)
    summary = recompute_file(path, path).summary
    assert summary["forget_quality"] == 1.0
    assert summary["forget_truth_ratio"] == pytest.approx(1.0, rel=1e-9)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(ratios(1.0)), encoding="utf-8-sig")
    assert read_log(tmp_path / "model.json") == ratios(1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "model.json is empty"),
        ('{\n  "forget_truth_ratio": {"value_by_index": {"0": ', "model.json, line 2, column .*: not valid JSON"),
        ("[1, 2]", "model.json holds a list, not an object of metrics: give a TOFU_EVAL.json"),
        ({"forget_truth_ratio": 0.6}, "model.json: forget_truth_ratio has no 'value_by_index', got 0.6: .*SUMMARY"),
        ({"forget_truth_ratio": {"agg_value": 0.6}}, "model.json: forget_truth_ratio has no 'value_by_index'"),
        ({"forget_verbmem_ROUGE_": {}}, "model.json holds no metric of TOFU's, only 'forget_verbmem_ROUGE_'"),
        ({}, "model.json holds no metric of TOFU's"),
        (
            '{"forget_truth_ratio": {"value_by_index": {"7": {"score": NaN}}}}',
            "model.json: forget_truth_ratio, row 7, score must be finite and >= 0, got nan",
        ),
        (
            '{"forget_truth_ratio": {"value_by_index": {"7": {"score": Infinity}}}}',
            "model.json: forget_truth_ratio, row 7, score must be finite and >= 0, got inf",
        ),
        (ratios("high"), "model.json: forget_truth_ratio, row 0, score must hold numbers, got 'high'"),
        (ratios(None), "model.json: forget_truth_ratio, row 0, score must hold numbers, got None"),
        (LEGACY_PART, "model.json is one of four parts of a TOFU evaluation"),
        ({**LEGACY, "eval_log_forget.json": {}}, "model.json: eval_log_forget.json has no rows in avg_gt_loss"),
    ],
)
def test_a_bad_log_is_named(write, content, message):
    path = write("model.json", content)
    with pytest.raises(InputError, match=message) as raised:
        recompute_file(path, flags=("--recompute", "--retain_logs"))
    assert str(raised.value).startswith(f"--recompute {path}")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json cannot be read \(No such file"):
        recompute_file(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        recompute_file(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"model\.safetensors is not a text file"):
        recompute_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"forget_Q_A_Prob": {"value_by_index": {"0": {"prob": 1.0}}}}, "retain.json has no forget_truth_ratio"),
        (ratios(1.0, float("nan")), "retain.json: forget_truth_ratio, row 1, score must be finite and >= 0, got nan"),
        (LEGACY, "retain.json is a log of the TOFU repository, but the model's own is one of open-unlearning"),
    ],
)
def test_a_bad_retain_log_is_named(write, content, message):
    path, retain_path = write("model.json", ratios(1.0, 2.0)), write("retain.json", content)
    with pytest.raises(InputError, match=message) as raised:
        recompute_file(path, retain_path, flags=("--recompute", "--retain_logs"))
    assert str(raised.value).startswith(f"--retain_logs {retain_path}")
    with pytest.raises(InputError, match=message):
        read_retain_log(retain_path)


def test_both_files_are_named_where_their_rows_differ(write):
    path, retain_path = write("model.json", ratios(1.0, 2.0)), write("retain.json", ratios(1.0))
    with pytest.raises(InputError, match=r"forget_truth_ratio has 2 rows and .*forget_truth_ratio has 1") as raised:
        recompute_file(path, retain_path)
    assert str(path) in str(raised.value)
    assert str(retain_path) in str(raised.value)
