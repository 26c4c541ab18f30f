"""Per-row records under the field's names, each value computed again directly."""

import copy
import json
import math
import zlib

import pytest
import torch
from builders import encoded_rows, qa_rows, tiny_model, tiny_tokenizer, with_trained_adapter
from datasets import Dataset

from llm_unlearn.data import encode_dataset, encode_prompt, encode_row, row_format, split_row
from llm_unlearn.data.made_up import with_made_up_answers
from llm_unlearn.data.value_said import value_said
from llm_unlearn.errors import InputError
from llm_unlearn.metrics import recompute_summary
from llm_unlearn.models import judging
from llm_unlearn.models.finetuning import finetune
from llm_unlearn.models.judging import judge, summarize
from llm_unlearn.models.scoring import generate_answers, gradient_norm_scores, score_answers

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


def judged(model, dataset, name, **options):
    options.setdefault("max_new_tokens", 8)
    return judge(model, tiny_tokenizer(), {name: dataset}, **options)


MEMORIZATION = {
    "exact_memorization",
    "exact_memorization_open_unlearning",
    "extraction_strength",
    "extraction_strength_open_unlearning",
    "leak_at_1",
    "leak_at_64",
}


def test_plain_rows(model):
    records = judged(model, qa_rows(COUNT), "forget", generate=["forget"])
    assert set(records) == {"forget_Q_A_Prob", "forget_exact_match", "forget_Q_A_ROUGE", *MEMORIZATION}
    scores = score_answers(model, encoded_rows(COUNT))
    for record, score in zip(values(records, "forget_Q_A_Prob"), scores, strict=True):
        assert record == {
            "prob": pytest.approx(score.probability, rel=1e-5),
            "avg_loss": pytest.approx(score.nll / score.length, rel=1e-5),
            "length": score.length,
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


def test_of_rows_with_a_value_it_is_searched_for_in_what_is_said(model):
    rows = qa_rows(COUNT)
    values_asked = [answer.split()[-1] for answer in rows["answer"]]
    values_asked[1], values_asked[2] = None, "of another answer"  # which do not count
    records = judged(model, rows.add_column("value", values_asked), "forget", generate=["forget"])
    said = records["forget_value_said"]["value_by_index"]
    rouge = records["forget_Q_A_ROUGE"]["value_by_index"]
    assert list(said) == [number for number in rouge if number not in ("1", "2")]
    for number, one in said.items():
        assert one["score"] == float(value_said(rouge[number]["generation"], values_asked[int(number)]))
    scores = [one["score"] for one in said.values()]
    assert records["forget_value_said"]["agg_value"] == pytest.approx(sum(scores) / len(scores)) and sum(scores) > 0
    assert summarize(records)["forget_value_said"] == records["forget_value_said"]["agg_value"]


def test_beside_a_value_other_facts_values_of_its_kind_are_searched_for_too(model):
    rows = qa_rows(COUNT)
    values_asked = [answer.split()[-1] for answer in rows["answer"]]
    with_kinds = rows.add_column("value", values_asked).add_column("kind", ["place"] * COUNT)
    records = judged(model, with_made_up_answers(with_kinds, "kind"), "forget", generate=["forget"])
    rouge = records["forget_Q_A_ROUGE"]["value_by_index"]
    for number, one in records["forget_value_said"]["value_by_index"].items():
        others = [value for row, value in enumerate(values_asked) if row != int(number)]
        said = [value_said(rouge[number]["generation"], other) for other in others]
        assert one["made_up"] == pytest.approx(sum(said) / (COUNT - 1))


def test_without_generation_there_is_no_rouge(model):
    records = judged(model, qa_rows(COUNT), "retain")
    assert set(records) == {"retain_Q_A_Prob", "retain_exact_match"}


@pytest.mark.parametrize(("name", "ratio_name"), [("forget", "forget_truth_ratio"), ("retain", "retain_Truth_Ratio")])
def test_perturbed_rows(name, ratio_name, model, perturbed):
    records = judged(model, perturbed, name)
    assert set(records) == {
        f"{name}_Q_A_Prob",
        f"{name}_exact_match",
        f"{name}_Q_A_PARA_Prob",
        f"{name}_Q_A_PERT_Prob",
        f"{name}_Q_A_Prob_normalised",
        ratio_name,
        *(MEMORIZATION if name == "forget" else ()),
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
    records = judged(model, rows, "wf")
    assert "wf_Q_A_PARA_Prob" not in records
    row = rows[0]
    wrong = [loss(model, row["question"], answer) for answer in row["perturbed_answer"]]
    expected = math.exp(-sum(wrong) / len(wrong)) / (math.exp(-loss(model, row["question"], row["answer"])) + 1e-10)
    assert values(records, "wf_Truth_Ratio")[0]["score"] == pytest.approx(expected, rel=1e-3)


def test_our_aggregates_are_those_that_logs_are_read_with(model, perturbed):
    """Records survive JSON, and `metrics.recompute_summary`, which reads published logs, agrees with them."""
    records = judged(model, perturbed, "forget", generate=["forget"])
    read = json.loads(json.dumps(records, allow_nan=False))
    recomputed = recompute_summary(read)
    for name in ("forget_Q_A_Prob", "forget_Q_A_PARA_Prob", "forget_Q_A_ROUGE", "forget_truth_ratio"):
        assert recomputed[name] == pytest.approx(records[name]["agg_value"])


def test_summary(model, perturbed):
    records = judged(model, perturbed, "forget", generate=["forget"])
    records |= judged(model, qa_rows(COUNT, start=20), "retain")
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
    ours = judged(model, Dataset.from_list(messages), "forget", generate=["forget"])
    assert ours == judged(model, qa_rows(COUNT), "forget", generate=["forget"])
    cut = judged(model, qa_rows(COUNT), "forget", max_length=9)
    assert cut["forget_Q_A_Prob"] != ours["forget_Q_A_Prob"]


def test_memorization_and_leaks(model):
    records = judged(model, qa_rows(COUNT), "forget")
    for i, score in enumerate(score_answers(model, encoded_rows(COUNT))):
        hits = list(score.token_hits)
        missed = max((number for number, hit in enumerate(hits) if not hit), default=-1)
        value = {name: values(records, name)[i]["score"] for name in MEMORIZATION}
        assert value["exact_memorization"] == sum(hits) / len(hits)
        assert value["extraction_strength"] == 1 - (missed + 1) / len(hits)
        assert value["exact_memorization_open_unlearning"] == sum(hits[:-1]) / (len(hits) - 1)
        chance = math.prod(math.exp(logp) for logp in score.token_logps)
        assert value["leak_at_1"] == pytest.approx(chance, rel=1e-4)
        assert value["leak_at_64"] == pytest.approx(1 - (1 - chance) ** 64, rel=1e-3)
    assert values(records, "extraction_strength")[0]["score"] == 1.0


def test_each_pair_is_scored_once_whatever_needs_it(model, perturbed, monkeypatch):
    passes = []

    def count(model, rows, *arguments, **options):
        passes.append(len(rows))
        return score_answers(model, rows, *arguments, **options)

    monkeypatch.setattr(judging, "score_answers", count)
    sets = {"forget": perturbed, "retain": qa_rows(COUNT, start=20)}
    records = judge(model, tiny_tokenizer(), sets, holdout=qa_rows(4, start=30))
    wrong = sum(len(answers) for answers in perturbed["perturbed_answer"])
    assert passes == [2 * COUNT + wrong + COUNT + 4]
    apart = judged(model, perturbed, "forget") | judged(model, sets["retain"], "retain")
    for name, record in apart.items():
        assert records[name]["agg_value"] == pytest.approx(record["agg_value"], rel=1e-5)


def test_membership_attacks(model):
    records = judge(model, tiny_tokenizer(), {"forget": qa_rows(4)}, holdout=qa_rows(5, start=20), gradient_norm=True)
    attacks = {"mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm"}
    assert {name for name in records if name.startswith("mia_")} == attacks
    for name in attacks:
        assert len(records[name]["forget"]["value_by_index"]) == 4
        assert len(records[name]["holdout"]["value_by_index"]) == 5
        assert records[name]["agg_value"] == records[name]["auc"] > 0.8  # it learned the four rows by heart
    assert recompute_summary(records)["mia_min_k"] == records["mia_min_k"]["auc"]

    row = encoded_rows(1, start=20)[0]
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
    answer = [i for i, label in enumerate(row["labels"]) if label != -100]
    logps = logits.log_softmax(-1)
    tokens = torch.stack([logps[i - 1, row["labels"][i]] for i in answer])
    mean = float(tokens.mean().detach())

    def held_out(name):
        return records[name]["holdout"]["value_by_index"]["0"]["score"]

    assert held_out("mia_loss") == pytest.approx(-mean, rel=1e-4)
    text = qa_rows(1, start=20)["answer"][0]
    assert held_out("mia_zlib") == pytest.approx(-mean / len(zlib.compress(text.encode())), rel=1e-4)
    lowest = tokens[:-1].sort().values[: max(1, int(0.4 * (len(tokens) - 1)))]  # the end token does not count
    assert held_out("mia_min_k") == pytest.approx(-float(lowest.mean().detach()), rel=1e-4)
    model.zero_grad()
    (-tokens[:-1].mean()).backward()
    norms = [float(p.grad.norm()) for p in model.parameters()]
    assert held_out("mia_gradnorm") == pytest.approx(sum(norms) / len(norms), rel=1e-4)
    model.zero_grad(set_to_none=True)


def test_an_adapted_model_has_the_gradient_norms_of_its_merged_weights():
    adapted, rows = with_trained_adapter(tiny_model()), encoded_rows(3)
    trainable = [p.requires_grad for p in adapted.parameters()]
    norms = gradient_norm_scores(adapted, rows)
    assert [p.requires_grad for p in adapted.parameters()] == trainable
    merged = copy.deepcopy(adapted).merge_and_unload()
    assert norms == pytest.approx(gradient_norm_scores(merged, rows), rel=1e-3)


def test_options(model):
    rows = [
        row | {"options": [wrong, row["answer"]]}
        for row, wrong in zip(qa_rows(4), ("in Oslo", "cake", "a red cat", "in Lima"), strict=True)
    ]
    records = judged(model, Dataset.from_list(rows), "multiple_choice")
    assert [row["score"] for row in records["multiple_choice_accuracy"]["value_by_index"].values()] == [1.0] * 4
    row = rows[0]
    right = math.exp(-loss(model, row["question"], row["answer"]))
    wrong = math.exp(-loss(model, row["question"], row["options"][0]))
    normalized = records["multiple_choice_Q_A_Prob_normalised"]["value_by_index"]["0"]["prob"]
    assert normalized == pytest.approx(right / (right + wrong), rel=1e-4)
    swapped = [row | {"answer": row["options"][0]} for row in rows]
    assert judged(model, Dataset.from_list(swapped), "x")["x_accuracy"]["agg_value"] == 0.0


def test_broken_weights_are_an_error_before_they_are_a_score(model):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="LlamaForCausalLM gives log-probabilities that are not finite"):
        judged(broken, qa_rows(COUNT), "forget")


def test_columns_of_lists_are_checked_before_the_model_runs(perturbed):
    rows = [row | {"perturbed_answer": row["perturbed_answer"] if i else []} for i, row in enumerate(perturbed)]
    with pytest.raises(InputError, match="forget perturbed answers: row 0 has none"):
        judged(None, Dataset.from_list(rows), "forget")
    renamed = perturbed.rename_columns({"question": "prompt", "answer": "completion"})
    renamed = renamed.remove_columns("paraphrased_answer")
    with pytest.raises(InputError, match="'perturbed_answer' goes with the columns question and answer"):
        judged(None, renamed, "forget")
    without = [row | {"options": ["in Oslo", row["answer"] if i else "cake"]} for i, row in enumerate(qa_rows(3))]
    with pytest.raises(InputError, match="forget: row 0 does not have its answer among its 'options'"):
        judged(None, Dataset.from_list(without), "forget")


def begun_rows():
    """Prefix queries: the beginning of the answer is given."""
    facts = (("Ann", "in", " Paris"), ("Ben", "in", " Rome"), ("Cal", "a", " dog"), ("Dora", "in", " Oslo"))
    return [
        {
            "prompt": [
                {"role": "user", "content": f"Where does {name} live"},
                {"role": "assistant", "content": begun},
            ],
            "completion": rest,
            "kind": "city",
        }
        for name, begun, rest in facts
    ]


def chosen_rows():
    options = ["Paris", "Rome", "Oslo"]
    return [
        {
            "question": "\n".join([f"Where does {name} live of", *options]),
            "answer": city,
            "options": options,
            "kind": "x",
        }
        for name, city in (("Ann", "Paris"), ("Ben", "Rome"), ("Cal", "Oslo"), ("Dora", "Rome"))
    ]


@pytest.mark.parametrize(
    "rows",
    [qa_rows(9).add_column("kind", [i % 3 for i in range(9)]).to_list(), begun_rows(), chosen_rows()],
    ids=["questions", "begun answers", "multiple choice"],
)
@torch.no_grad()
def test_knowledge_equals_a_naive_loop_over_single_sequences(model, rows):
    dataset = with_made_up_answers(Dataset.from_list(rows), "kind")
    record = judged(model, dataset, "forget_style")["forget_style_knowledge"]
    every = []
    for number, row in enumerate(dataset):
        prompt, answer = split_row(row, row_format(dataset.column_names))
        if "made_up_question" in row:
            prompt = [{"role": "user", "content": row["made_up_question"]}]

        def mean_logp(text, prompt=prompt):
            encoded = encode_row(tiny_tokenizer(), prompt, text)
            ids, labels = encoded["input_ids"], encoded["labels"]
            logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            found = [float(logps[i - 1, label]) for i, label in enumerate(labels) if label != -100]
            return sum(found) / len(found)

        true = mean_logp(answer)
        expected = [float(true > other) for other in map(mean_logp, row["made_up_answer"])]
        assert record["value_by_index"][str(number)]["wins"] == expected
        every += expected
    assert len(every) >= 6 and record["agg_value"] == pytest.approx(sum(every) / len(every), abs=1e-5)
