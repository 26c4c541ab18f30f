"""Token ids and labels, worked by hand on word-level tokenizers in the styles of the chat templates in use."""

import logging

import pytest
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llm_unlearn.data import encode_dataset, encode_prompt, encode_row, end_token_ids, split_row
from llm_unlearn.errors import InputError

LLAMA3 = (  # trims, and has a header with the date
    "{{ bos_token }}"
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{{- '<|start|>system<|end|>\n\nToday Date: ' + date_string + '<|eot|>' }}"
    "{%- for m in messages %}{{- '<|start|>' + m.role + '<|end|>\n\n' + m.content | trim + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\n\n' }}{%- endif %}"
)
CHATML = (  # a newline after the end of turn
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = (  # an empty think block before the last answer, in the generation prompt only where thinking is off
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
ALWAYS_THINKS = (  # the full rendering has a think block, the generation prompt never
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{{ '<think>\n</think>\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI3 = (  # the whole text's end after the end of turn
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SPACED = (  # Llama 2 and Vicuna: a space between the generation prompt and the answer; no system role
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content.strip() + ' ASSISTANT:' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant roles') }}{% endif %}{% endfor %}"
)
PLAIN_END = (  # no special token ends a turn
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
HIDES_ANSWERS = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"

SPECIAL = [
    "<bos>",
    "<eos>",
    "<|eot|>",
    "<|start|>",
    "<|end|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
]


def build_tokenizer(chat_template=None, eos="<eos>", adds_bos=False, **special_tokens):
    """One token per word (with the space before it), line-break run or punctuation mark."""
    words = (
        "system user assistant Today Date Where is Is Ann Paris In Answer Question USER ASSISTANT think end Be brief"
    )
    numbers = "26 Jul 2024"
    vocabulary = ["<unk>", *SPECIAL, "\n", "\n\n", ":", "?", ".", "<", "</", ">", " "]
    vocabulary += [space + word for word in f"{words} {numbers}".split() for space in ("", " ")]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|\n+|</|[^\w\s]| "), "isolated")
    tokenizer.decoder = decoders.Fuse()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token=eos,
        additional_special_tokens=[token for token in SPECIAL if token not in ("<bos>", eos)],
        **special_tokens,
    )
    wrapped.chat_template = chat_template
    return wrapped


PROMPT = [{"role": "user", "content": "Where is Ann?"}]


def parts(tokenizer, row):
    """(prompt, answer) of an encoded row as text; labels are checked on the way."""
    ids, labels = row["input_ids"], row["labels"]
    assert len(ids) == len(labels)
    start = next(i for i, label in enumerate(labels) if label != -100)
    assert labels == [-100] * start + ids[start:]
    assert tokenizer.unk_token_id not in ids
    return tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])


@pytest.mark.parametrize(
    ("template", "eos", "prompt", "answer", "end_tokens"),
    [
        (
            LLAMA3,
            "<eos>",
            "<bos><|start|>system<|end|>\n\nToday Date: 26 Jul 2024<|eot|><|start|>user<|end|>\n\nWhere is Ann?<|eot|>"
            "<|start|>assistant<|end|>\n\n",
            "In Paris.<|eot|>",
            ["<|eot|>", "<eos>"],
        ),
        (
            CHATML,
            "<|im_end|>",
            "<|im_start|>user\nWhere is Ann?<|im_end|>\n<|im_start|>assistant\n",
            "In Paris.<|im_end|>",
            ["<|im_end|>"],
        ),
        (
            QWEN3,
            "<|im_end|>",
            "<|im_start|>user\nWhere is Ann?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "In Paris.<|im_end|>",
            ["<|im_end|>"],
        ),
        (
            ALWAYS_THINKS,
            "<eos>",
            "<|im_start|>user\nWhere is Ann?<|im_end|>\n<|im_start|>assistant\n<think>\n</think>\n",
            "In Paris.<|im_end|>",
            ["<|im_end|>", "<eos>"],
        ),
        (PHI3, "<eos>", "<|user|>\nWhere is Ann?<|end|>\n<|assistant|>\n", "In Paris.<|end|>", ["<|end|>", "<eos>"]),
        (SPACED, "<eos>", "USER: Where is Ann? ASSISTANT:", " In Paris. <eos>", ["<eos>"]),
        (PLAIN_END, "<eos>", "user: Where is Ann?\nassistant: ", "In Paris.<eos>", ["<eos>"]),
        (None, "<eos>", "Question: Where is Ann?\nAnswer:", " In Paris.<eos>", ["<eos>"]),
    ],
    ids=["llama3", "chatml", "qwen3", "always-thinks", "phi3", "spaced", "plain-end", "no-template"],
)
def test_prompt_answer_and_end_token(template, eos, prompt, answer, end_tokens):
    tokenizer = build_tokenizer(template, eos)
    row = encode_row(tokenizer, PROMPT, " In Paris.\n", None)
    assert parts(tokenizer, row) == (prompt, answer)
    prompt_ids = encode_prompt(tokenizer, PROMPT)
    assert tokenizer.decode(prompt_ids) == prompt
    assert row["input_ids"][: len(prompt_ids)] == prompt_ids
    assert end_token_ids(tokenizer) == tokenizer.convert_tokens_to_ids(end_tokens)
    assert row["labels"][-1] == end_token_ids(tokenizer)[0]


def test_ids_and_labels_in_numbers():
    tokenizer = build_tokenizer(None, adds_bos=True)
    numbers = tokenizer.get_vocab()
    prompt = [numbers[t] for t in ("<bos>", "Question", ":", " Where", " is", " Ann", "?", "\n", "Answer", ":")]
    answer = [numbers[t] for t in (" In", " Paris", ".", "<eos>")]
    assert encode_prompt(tokenizer, PROMPT) == prompt
    assert encode_row(tokenizer, PROMPT, "In Paris.", None) == {
        "input_ids": prompt + answer,
        "labels": [-100] * 10 + answer,
    }


def test_an_answer_that_occurs_inside_the_end_token():
    tokenizer = build_tokenizer(PHI3)
    assert parts(tokenizer, encode_row(tokenizer, PROMPT, "end", None))[1] == "end<|end|>"


def test_where_pad_is_eos_every_end_token_keeps_its_label():
    tokenizer = build_tokenizer(CHATML, "<|im_end|>", pad_token="<|im_end|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    row = encode_row(tokenizer, PROMPT, "In Paris.", None)
    assert parts(tokenizer, row)[1] == "In Paris.<|im_end|>"
    assert row["input_ids"].count(tokenizer.pad_token_id) == 2  # one ends the question, one the answer
    assert row["labels"].count(tokenizer.pad_token_id) == 1


def test_turns_and_system_messages_reach_the_prompt_with_and_without_a_template():
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is Ann?"},
        {"role": "assistant", "content": "In Paris."},
        {"role": "user", "content": "Where is Ann?"},
    ]
    tokenizer = build_tokenizer(None)
    assert tokenizer.decode(encode_prompt(tokenizer, prompt)) == (
        "Be brief.\nQuestion: Is Ann?\nAnswer: In Paris.\nQuestion: Where is Ann?\nAnswer:"
    )
    tokenizer = build_tokenizer(CHATML)
    assert tokenizer.decode(encode_prompt(tokenizer, prompt)).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


BEGUN = [*PROMPT, {"role": "assistant", "content": "In"}]


@pytest.mark.parametrize("template", [LLAMA3, CHATML, QWEN3, ALWAYS_THINKS, PHI3, SPACED, None])
def test_an_answer_that_the_prompt_begins_is_the_whole_answer_with_fewer_labels(template):
    tokenizer = build_tokenizer(template)
    whole, begun = encode_row(tokenizer, PROMPT, "In Paris."), encode_row(tokenizer, BEGUN, " Paris.\n")
    assert begun["input_ids"] == whole["input_ids"]
    prompt_ids = encode_prompt(tokenizer, BEGUN)
    assert prompt_ids == whole["input_ids"][: len(encode_prompt(tokenizer, PROMPT)) + 1]
    assert tokenizer.decode(prompt_ids).endswith("In")
    assert begun["labels"] == [-100] * len(prompt_ids) + whole["input_ids"][len(prompt_ids) :]


@pytest.mark.parametrize("template", [None, CHATML])
def test_plain_text_has_no_prompt_and_no_template(template):
    tokenizer = build_tokenizer(template)
    row = encode_row(tokenizer, "", "Ann is In Paris.", None)
    assert parts(tokenizer, row) == ("Ann", " is In Paris.<eos>")
    assert encode_prompt(tokenizer, "") == []
    tokenizer = build_tokenizer(template, adds_bos=True)
    row = encode_row(tokenizer, "", "Ann is In Paris.", None)
    assert parts(tokenizer, row) == ("<bos>", "Ann is In Paris.<eos>")
    assert encode_prompt(tokenizer, "") == [tokenizer.bos_token_id]


def test_a_sentencepiece_answer_gets_one_space_and_not_two():
    vocabulary = ["<unk>", "<eos>", "▁", "▁Question:", "▁Who?\nAnswer:", "▁Ann"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")
    assert wrapped(" Ann", add_special_tokens=False)["input_ids"] == [2, 5]  # what the answer alone would become
    row = encode_row(wrapped, [{"role": "user", "content": "Who?"}], "Ann", None)
    assert row == {"input_ids": [3, 4, 5, 1], "labels": [-100, -100, 5, 1]}


def test_an_answer_that_would_merge_with_the_prompt_leaves_the_prompt_ids_alone():
    tokenizer = build_tokenizer(PLAIN_END)  # the prompt ends in a space, which would go to the next word
    prompt_ids = encode_prompt(tokenizer, PROMPT)
    assert tokenizer.convert_ids_to_tokens(prompt_ids)[-1] == " "
    assert (
        tokenizer.convert_ids_to_tokens(tokenizer("assistant: In", add_special_tokens=False)["input_ids"])[-1] == " In"
    )
    row = encode_row(tokenizer, PROMPT, "In Paris.", None)
    assert tokenizer.convert_ids_to_tokens(row["input_ids"][len(prompt_ids) :]) == ["In", " Paris", ".", "<eos>"]


QA = [
    {"question": "Where is Ann?", "answer": "In Paris."},
    {"question": "Where is Ann?", "answer": "Paris Paris Paris."},
]


def test_encode_dataset_is_encode_row_over_every_row_in_every_format():
    tokenizer = build_tokenizer(CHATML)
    message = {"role": "assistant", "content": "In Paris."}
    for rows, format_name in (
        (QA, "question/answer"),
        ([{"prompt": "Where is Ann?", "completion": "In Paris."}], "prompt/completion"),
        ([{"messages": [*PROMPT, message]}], "messages"),
        ([{"text": "Ann is In Paris."}], "text"),
    ):
        expected = [encode_row(tokenizer, *split_row(row, format_name), None) for row in rows]
        assert encode_dataset(Dataset.from_list(rows), tokenizer, None, "forget set") == expected
        assert encode_dataset(rows, tokenizer, None, "forget set") == expected


def test_truncation_cuts_the_end_of_answers_and_warns_once(caplog):
    tokenizer = build_tokenizer(None)  # prompt of 9 tokens, answers of 4 and 5
    with caplog.at_level(logging.WARNING, logger="llm_unlearn"):
        rows = encode_dataset(QA * 2, tokenizer, 12, "forget set")
    assert [parts(tokenizer, row)[1] for row in rows] == [" In Paris.", " Paris Paris Paris"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "forget set: 4 of 4 rows were cut to max_length=12 and lost the end of their answer; the longest has 14 tokens"
    ]


def test_rows_that_fit_exactly_are_not_reported(caplog):
    rows = encode_dataset(QA, build_tokenizer(None), 14, "forget set")
    assert [len(row["input_ids"]) for row in rows] == [13, 14]
    assert not caplog.records


def test_a_row_without_any_answer_token_left_is_an_error():
    tokenizer = build_tokenizer(None)
    longer = {"question": "Where is Ann Ann Ann?", "answer": "In Paris."}
    with pytest.raises(InputError) as caught:
        encode_dataset([*QA, longer], tokenizer, 11, "retain set")
    assert str(caught.value) == (
        "retain set row 2: max_length=11 cuts off the whole answer: the prompt alone has 11 tokens; "
        "shorten or drop this row, or, if the model has so many positions, raise max_length to at least 12 "
        "(15 keeps the whole answer)"
    )
    with pytest.raises(InputError, match=r"^max_length=9 cuts off the whole answer: the prompt alone has 9 tokens"):
        encode_row(tokenizer, PROMPT, "In Paris.", 9)
    with pytest.raises(InputError, match="max_length=1 cuts off the whole answer: the prompt alone has 1 tokens"):
        encode_row(tokenizer, "", "Ann is In Paris.", 1)
    with pytest.raises(
        InputError, match="max_length=-3 leaves no tokens; give a positive number, or None for no limit"
    ):
        encode_row(tokenizer, PROMPT, "In Paris.", -3)


@pytest.mark.parametrize("template", [None, CHATML])
def test_no_eos_token_is_an_error(template):
    tokenizer = build_tokenizer(template, eos=None)
    for encode in (end_token_ids, lambda t: encode_prompt(t, PROMPT), lambda t: encode_row(t, PROMPT, "x", None)):
        with pytest.raises(InputError, match=r"has no end token: name one of its tokens in its tokenizer_config\.json"):
            encode(tokenizer)


def test_template_errors_become_one_line_with_the_row():
    row = {"messages": [{"role": "system", "content": "Be brief."}, *PROMPT, {"role": "assistant", "content": "In."}]}
    with pytest.raises(InputError) as caught:
        encode_dataset([row], build_tokenizer(SPACED), None, "forget set")
    assert str(caught.value) == (
        "forget set row 0: the tokenizer's chat template rejects the messages: only user and assistant roles"
    )
    with pytest.raises(InputError, match=r"the chat template of '\w+' does not show the assistant's message"):
        encode_prompt(build_tokenizer(HIDES_ANSWERS), PROMPT)
    with pytest.raises(InputError, match="rejects the messages: This model has multiple chat templates"):
        encode_prompt(build_tokenizer({"tool_use": CHATML}), PROMPT)


def test_a_string_prompt_is_refused():
    with pytest.raises(InputError, match="prompt 'Where\\?' is a string; give chat messages"):
        encode_prompt(build_tokenizer(CHATML), "Where?")


def test_a_data_set_is_tokenized_once_for_each_tokenizer_template_and_length(monkeypatch):
    from llm_unlearn.data import encoding

    calls, real = [], encoding._encode_pairs
    monkeypatch.setattr(encoding, "_encode_pairs", lambda *given: calls.append(given) or real(*given))
    tokenizer = build_tokenizer(CHATML)
    dataset = Dataset.from_list(QA)
    first = encode_dataset(dataset, tokenizer, None, "forget set")
    first_row = dict(first[0])
    first.clear()  # a caller's list is its own
    assert encode_dataset(Dataset.from_list(QA), tokenizer, None, "other name")[0] == first_row and len(calls) == 1
    encode_dataset(dataset.select([0]), tokenizer, None, "forget set")
    encode_dataset(dataset, tokenizer, 200, "forget set")
    tokenizer.chat_template = None
    assert encode_dataset(dataset, tokenizer, None, "forget set")[0] != first_row
    encode_dataset(dataset, build_tokenizer(CHATML), None, "forget set")
    assert len(calls) == 5
    tokenizer.add_tokens(["Ann is"])  # then the same text is cut in another way
    encode_dataset(dataset, tokenizer, None, "forget set")
    assert len(calls) == 6
