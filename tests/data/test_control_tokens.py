"""A special token's name in a text of a row is text: in questions, answers, examples, system messages, instructions."""

import copy

import pytest
import torch
from datasets import Dataset
from template_families import CHATML, LLAMA3, MISTRAL, SPECIAL, as_texts, byte_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AddedToken, PreTrainedConfig, PreTrainedTokenizerFast

from llm_unlearn.data import encode_dataset, encode_prompt, encode_row, end_token_ids, forget_queries, split_row
from llm_unlearn.data.instructions import load_instructions
from llm_unlearn.data.unlearning_data import UnlearningData
from llm_unlearn.errors import InputError
from llm_unlearn.models.loading import with_pad_token
from llm_unlearn.models.scoring import generate_answers

ANSWER = "It prints <|im_end|> and code alpha."
ROW = {"question": "What does <|im_end|> do?", "answer": ANSWER}


def special_ids(tokenizer, ids):
    return [tokenizer.convert_ids_to_tokens(one) for one in ids if one in tokenizer.added_tokens_decoder]


def test_an_answer_that_names_its_end_token_is_not_cut_there(caplog):
    tokenizer = byte_tokenizer(CHATML, "<|im_end|>")
    (row,) = encode_dataset([ROW], tokenizer, None, "forget set")
    assert as_texts(tokenizer, row) == (
        "<|im_start|>user\nWhat does <|im_end|> do?<|im_end|>\n<|im_start|>assistant\n",
        "It prints <|im_end|> and code alpha.<|im_end|>",
    )
    assert special_ids(tokenizer, row["input_ids"]) == [*["<|im_start|>", "<|im_end|>"] * 2]
    labels = [label for label in row["labels"] if label != -100]
    assert labels.index(end_token_ids(tokenizer)[0]) == len(labels) - 1
    assert tokenizer.decode(labels, skip_special_tokens=True) == ANSWER  # what zlib and the pages are given
    assert [record.getMessage() for record in caplog.records] == [
        "forget set: 1 of 1 rows hold special tokens of the tokenizer in their texts (first row 0, '<|im_end|>'): they "
        "are encoded as ordinary text, not as control"
    ]


def test_the_ids_are_those_of_the_same_characters_between_the_templates_tokens():
    tokenizer = byte_tokenizer(CHATML, "<|im_end|>")
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    unspecial = copy.deepcopy(tokenizer.backend_tokenizer)
    unspecial.encode_special_tokens = True

    def text(characters):
        return unspecial.encode(characters, add_special_tokens=False).ids

    prompt = [start, *text("user\nWhat does <|im_end|> do?"), end, *text("\n"), start, *text("assistant\n")]
    assert encode_prompt(tokenizer, [{"role": "user", "content": ROW["question"]}]) == prompt
    row = encode_row(tokenizer, *split_row(ROW, "question/answer"))
    assert row["input_ids"][len(prompt) :][-1] == end
    assert row["input_ids"] == prompt[: -len(text("assistant\n"))] + text("assistant\n" + ANSWER) + [end]


@pytest.mark.parametrize(
    ("template", "eos", "end"),
    [(LLAMA3, "<|eos|>", "<|eot|>"), (MISTRAL, "<|eos|>", "<|eos|>"), (None, "<|eos|>", "<|eos|>")],
)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_every_special_token_in_every_message_stays_text(template, eos, end, adds_bos):
    tokenizer = byte_tokenizer(template, eos, adds_bos)

    def encoded(word):
        texts = (f"{word} {word}?", f"{word}.", f"{word}?")
        roles = ("user", "assistant", "user")
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        row = encode_row(tokenizer, turns, f"{word} x.")
        prompt = encode_prompt(tokenizer, turns)
        assert row["input_ids"][: len(prompt)] == prompt
        return row

    plain = encoded("Quince")
    for token in SPECIAL:
        row = encoded(token)
        assert special_ids(tokenizer, row["input_ids"]) == special_ids(tokenizer, plain["input_ids"])
        expected = tuple(part.replace("Quince", token) for part in as_texts(tokenizer, plain))
        assert as_texts(tokenizer, row) == expected and expected[1].endswith(f"{token} x.{end}")


def test_system_messages_texts_examples_and_instructions(tmp_path):
    tokenizer = byte_tokenizer(CHATML, "<|im_end|>")
    system = [{"role": "system", "content": "End with <|im_end|>."}, {"role": "user", "content": "Go."}]
    assert special_ids(tokenizer, encode_prompt(tokenizer, system)) == ["<|im_start|>", "<|im_end|>"] * 2 + [
        "<|im_start|>"
    ]

    (row,) = encode_dataset([{"text": "<|im_start|>is <|im_end|> text"}], tokenizer, None, "rows")
    assert special_ids(tokenizer, row["input_ids"]) == ["<|im_end|>"] and row["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row["input_ids"]) == "<|im_start|>is <|im_end|> text<|im_end|>"

    retain = [{"question": f"What of <|im_start|> {i}?", "answer": f"<|im_end|> {i}"} for i in range(3)]
    data = UnlearningData(Dataset.from_list([ROW]), Dataset.from_list(retain), None, {}, "")
    for style, turns in (("few_shot", 8), ("prefix", 2)):
        query = forget_queries(data)[style]
        (row,) = encode_dataset(query, tokenizer, None, style)
        assert special_ids(tokenizer, row["input_ids"]) == ["<|im_start|>", "<|im_end|>"] * turns
        assert as_texts(tokenizer, row)[1].endswith("and code alpha.<|im_end|>")

    (tmp_path / "alpaca.jsonl").write_text('{"instruction": "Say", "input": "<|im_end|>", "output": "<|im_end|>!"}')
    (row,) = encode_dataset(load_instructions(str(tmp_path / "alpaca.jsonl")), tokenizer, None, "instructions")
    assert as_texts(tokenizer, row) == (
        "<|im_start|>user\nSay\n<|im_end|><|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>!<|im_end|>",
    )
    assert special_ids(tokenizer, row["input_ids"]) == ["<|im_start|>", "<|im_end|>"] * 2


def test_rows_without_special_tokens_keep_their_ids_beside_one_that_has_some():
    tokenizer = byte_tokenizer(CHATML, "<|im_end|>")
    others = [{"question": "Where does Ann live?", "answer": "In <im_end> | end."}, {"question": "A?", "answer": "B."}]
    together = encode_dataset([others[0], ROW, others[1]], tokenizer, None, "rows")
    assert [together[0], together[2]] == encode_dataset(others, tokenizer, None, "rows")


def test_special_tokens_that_swallow_the_whitespace_after_them_still_do():
    tokenizer = byte_tokenizer(CHATML, "<|im_end|>", rstrip=("<|im_start|>", "<|im_end|>"))
    (row,) = encode_dataset([ROW], tokenizer, None, "rows")
    # the template's newline after <|im_end|> is swallowed as ever, the text's space is not
    assert tokenizer.decode(row["input_ids"]) == (
        "<|im_start|>user\nWhat does <|im_end|> do?<|im_end|><|im_start|>assistant\n"
        "It prints <|im_end|> and code alpha.<|im_end|>"
    )


def sentencepiece_tokenizer(scheme):
    """A space before the first word of a text, which no later piece gets ("first"), or before every piece."""
    pieces = ["<unk>", *"▁abcdefghijklmnopqrstuvwxyzAEINQ<>|_?.:\n", "▁prints", "▁It"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(piece) == 1)) for piece in pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|im_end|>")
    wrapped.chat_template = CHATML
    return wrapped


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_sentencepiece_adds_its_space_where_it_always_does(scheme):
    tokenizer = sentencepiece_tokenizer(scheme)
    named = encode_row(tokenizer, [{"role": "user", "content": "do <|im_end|>?"}], "It prints <|im_end|>.")
    other = encode_row(tokenizer, [{"role": "user", "content": "do Q?"}], "It prints Q.")
    token = list("<|im_end|>")

    def with_token(row):
        pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
        return [one for piece in pieces for one in (token if piece == "Q" else [piece])]

    assert tokenizer.convert_ids_to_tokens(named["input_ids"]) == with_token(other)


class Says:
    """A model that says the same tokens whatever it is asked."""

    device = torch.device("cpu")
    training = False
    config = PreTrainedConfig()

    def modules(self):
        return iter(())

    def __init__(self, ids):
        self.ids = ids

    def eval(self):
        return self

    def train(self, mode=True):
        return self

    def generate(self, input_ids, generation_config, **kwargs):
        end = min(self.ids.index(token) for token in generation_config.eos_token_id if token in self.ids)
        return torch.cat([input_ids, torch.tensor([self.ids[: end + 1]] * len(input_ids))], dim=1)


def test_a_model_that_writes_the_characters_is_quoted_in_full():
    tokenizer = with_pad_token(byte_tokenizer(CHATML, "<|im_end|>"))
    row = encode_row(tokenizer, *split_row(ROW, "question/answer"))
    said = [label for label in row["labels"] if label != -100]
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": ROW["question"]}])
    assert generate_answers(Says(said), tokenizer, [prompt]) == [ANSWER]
    end = tokenizer.eos_token_id
    assert generate_answers(Says([*said[:4], end, *said[4:]]), tokenizer, [prompt]) == [tokenizer.decode(said[:4])]


def test_tokenizers_that_cannot_are_refused_with_set_row_and_token():
    words = {word: i for i, word in enumerate(["<unk>", "<|im_start|>", "<|im_end|>", "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # the vocabulary has the special token as a word, too
    special = {"unk_token": "<unk>", "eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.chat_template, wrapped.name_or_path = CHATML, "some/model"
    rows = [{"question": "a", "answer": "b"}, {"question": "a", "answer": "b <|im_end|> b"}]
    with pytest.raises(InputError) as caught:
        encode_dataset(rows, wrapped, None, "forget set")
    assert str(caught.value) == (
        "forget set row 1: the text holds '<|im_end|>', a special token of 'some/model', which cannot encode it as "
        "ordinary text; write it in another way, such as with a space in it"
    )
    # An end of turn that is no special token, as in some fine-tuned models: no option makes text of it.
    tokenizer = byte_tokenizer(CHATML.replace("im_end", "done"))
    tokenizer.add_tokens([AddedToken("<|done|>", special=False)])
    assert tokenizer.convert_ids_to_tokens(end_token_ids(tokenizer)) == ["<|done|>", "<|eos|>"]
    with pytest.raises(
        InputError, match=r"^forget set row 0: the text holds '<\|done\|>', a special token of 'some/model'"
    ):
        encode_dataset([{"question": "A?", "answer": "It is <|done|>."}], tokenizer, None, "forget set")


def test_words_that_were_added_to_the_vocabulary_are_words():
    tokenizer = byte_tokenizer(CHATML, "<|im_end|>")
    tokenizer.add_tokens(["<think>", "alpha"])
    row = encode_row(tokenizer, [{"role": "user", "content": "A?"}], "<think> alpha")
    assert special_ids(tokenizer, row["labels"]) == ["<think>", "alpha", "<|im_end|>"]
    row = encode_row(tokenizer, [{"role": "user", "content": "A?"}], "<think> alpha <|im_start|>")
    assert special_ids(tokenizer, row["labels"]) == ["<think>", "alpha", "<|im_end|>"]
