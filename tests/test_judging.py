"""Per-row records under the field's names, each value computed again directly."""

import json
import math

import pytest
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn.data import encode_dataset, encode_prompt, split_row
from llm_unlearn.finetuning import finetune
from llm_unlearn.judging import judge_rows, summarize
from llm_unlearn.metrics import recompute_summary
from llm_unlearn.scoring import generate_answers, score_answers

COUNT = 6


@pytest.fixture(scope="module")
def model():
    """Knows the first four rows."""
    model = tiny_model()
    finetune(model, encoded_rows(4), learning_rate=5e-3, steps=40, batch_size=4, seed=0)
    return model


@pytest.fixture(scope="module")
def perturbed():
    rows = [
        row
        | {
            "paraphrased_answer": f"of {row['answer']}",
            "perturbed_answer": ["in Oslo", "bread", "a red cat"][: 2 + i % 2],
        }
        for i, row in enumerate(qa_rows(COUNT))
    ]
    return Dataset.from_list(rows)


def values(records, metric):
    by_index = records[metric]["value_by_index"]
    assert list(by_index) == [str(i) for i in range(COUNT)]
    return list(by_index.values())


def loss(model, question, answer):
    """Mean negative log-likelihood per answer token."""
    row = encode_dataset([{"question": question, "answer": answer}], tiny_tokenizer(), None, "row")
    score = score_answers(model, row)[0]
    return score.nll / score.length


def test_plain_rows(model):
    records = judge_rows(model, tiny_tokenizer(), qa_rows(COUNT), "forget", max_new_tokens=8)
    assert set(records) == {"forget_Q_A_Prob", "forget_exact_match", "forget_Q_A_ROUGE"}
    scores = score_answers(model, encoded_rows(COUNT))
    for record, score in zip(values(records, "forget_Q_A_Prob"), scores, strict=True):
        assert record == {
            "prob": pytest.approx(score.probability, rel=1e-5),
            "avg_loss": pytest.approx(score.nll / score.length, rel=1e-5),
        }
    exact = [record["score"] for record in values(records, "forget_exact_match")]
    assert exact == [float(score.exact_match) for score in scores]
    assert exact[:4] == [1.0] * 4 and 0.0 in exact[4:]
    assert records["forget_exact_match"]["agg_value"] == pytest.approx(sum(exact) / COUNT)
    assert records["forget_Q_A_Prob"]["agg_value"] == pytest.approx(
        sum(s.probability for s in scores) / COUNT, rel=1e-5
    )

    prompts = [encode_prompt(tiny_tokenizer(), split_row(row, "question/answer")[0]) for row in qa_rows(COUNT)]
    texts = generate_answers(model, tiny_tokenizer(), prompts, max_new_tokens=8)
    rouge = values(records, "forget_Q_A_ROUGE")
    assert [record["generation"] for record in rouge] == texts
    assert [record["ground_truth"] for record in rouge] == qa_rows(COUNT)["answer"][:]
    for record, exactly in zip(rouge, exact, strict=True):
        if exactly:
            assert record["rougeL_recall"] == record["rouge1_recall"] == record["rougeL_f1"] == 1.0
    assert records["forget_Q_A_ROUGE"]["agg_value"] == pytest.approx(sum(r["rougeL_recall"] for r in rouge) / COUNT)


def test_without_generation_there_is_no_rouge(model):
    records = judge_rows(model, tiny_tokenizer(), qa_rows(COUNT), "retain", generate=False)
    assert set(records) == {"retain_Q_A_Prob", "retain_exact_match"}


@pytest.mark.parametrize(("name", "ratio_name"), [("forget", "forget_truth_ratio"), ("retain", "retain_Truth_Ratio")])
def test_perturbed_rows(name, ratio_name, model, perturbed):
    records = judge_rows(model, tiny_tokenizer(), perturbed, name, generate=False)
    assert set(records) == {
        f"{name}_Q_A_Prob",
        f"{name}_exact_match",
        f"{name}_Q_A_PARA_Prob",
        f"{name}_Q_A_PERT_Prob",
        f"{name}_Q_A_Prob_normalised",
        ratio_name,
    }
    ratios = []
    for i, row in enumerate(perturbed):
        right = loss(model, row["question"], row["answer"])
        paraphrased = loss(model, row["question"], row["paraphrased_answer"])
        wrong = [loss(model, row["question"], answer) for answer in row["perturbed_answer"]]
        ratios.append(math.exp(-sum(wrong) / len(wrong)) / (math.exp(-paraphrased) + 1e-10))
        chances = [math.exp(-value) for value in wrong]
        assert values(records, f"{name}_Q_A_PARA_Prob")[i]["avg_loss"] == pytest.approx(paraphrased, rel=1e-4)
        assert values(records, f"{name}_Q_A_PERT_Prob")[i]["avg_loss"] == pytest.approx(wrong, rel=1e-4)
        assert values(records, f"{name}_Q_A_PERT_Prob")[i]["prob"] == pytest.approx(chances, rel=1e-4)
        assert values(records, ratio_name)[i]["score"] == pytest.approx(ratios[-1], rel=1e-3)
        normalised = math.exp(-right) / (math.exp(-right) + sum(chances) + 1e-10)
        assert values(records, f"{name}_Q_A_Prob_normalised")[i]["prob"] == pytest.approx(normalised, rel=1e-4)
    aggregated = [min(r, 1 / (r + 1e-10)) if name == "forget" else max(0, 1 - r) for r in ratios]
    assert records[ratio_name]["agg_value"] == pytest.approx(sum(aggregated) / COUNT, rel=1e-3)


def test_without_a_paraphrase_the_truth_ratio_is_that_of_the_answer_itself(model, perturbed):
    rows = perturbed.remove_columns("paraphrased_answer")
    records = judge_rows(model, tiny_tokenizer(), rows, "wf", generate=False)
    assert "wf_Q_A_PARA_Prob" not in records
    row = rows[0]
    wrong = [loss(model, row["question"], answer) for answer in row["perturbed_answer"]]
    expected = math.exp(-sum(wrong) / len(wrong)) / (math.exp(-loss(model, row["question"], row["answer"])) + 1e-10)
    assert values(records, "wf_Truth_Ratio")[0]["score"] == pytest.approx(expected, rel=1e-3)


def test_our_aggregates_are_those_that_logs_are_read_with(model, perturbed):
    """Records survive JSON, and `metrics.recompute_summary`, which reads published logs, agrees with them."""
    records = judge_rows(model, tiny_tokenizer(), perturbed, "forget", max_new_tokens=8)
    read = json.loads(json.dumps(records, allow_nan=False))
    recomputed = recompute_summary(read)
    for name in ("forget_Q_A_Prob", "forget_Q_A_PARA_Prob", "forget_Q_A_ROUGE", "forget_truth_ratio"):
        assert recomputed[name] == pytest.approx(records[name]["agg_value"])


def test_summary(model, perturbed):
    records = judge_rows(model, tiny_tokenizer(), perturbed, "forget", max_new_tokens=8)
    records |= judge_rows(model, tiny_tokenizer(), qa_rows(COUNT, start=20), "retain", generate=False)
    assert summarize(records) == {
        "forget_exact_match": records["forget_exact_match"]["agg_value"],
        "forget_probability": records["forget_Q_A_Prob"]["agg_value"],
        "retain_exact_match": records["retain_exact_match"]["agg_value"],
        "retain_probability": records["retain_Q_A_Prob"]["agg_value"],
        "forget_rouge_l": records["forget_Q_A_ROUGE"]["agg_value"],
        "forget_truth_ratio": records["forget_truth_ratio"]["agg_value"],
    }
    assert summarize({"forget_exact_match": {"agg_value": 0.5}}) == {"forget_exact_match": 0.5}


def test_rows_in_other_formats_and_cut_rows(model):
    messages = [
        {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
        for row in qa_rows(COUNT)
    ]
    ours = judge_rows(model, tiny_tokenizer(), Dataset.from_list(messages), "forget", max_new_tokens=8)
    assert ours == judge_rows(model, tiny_tokenizer(), qa_rows(COUNT), "forget", max_new_tokens=8)
    cut = judge_rows(model, tiny_tokenizer(), qa_rows(COUNT), "forget", max_length=9, generate=False)
    assert cut["forget_Q_A_Prob"] != ours["forget_Q_A_Prob"]
