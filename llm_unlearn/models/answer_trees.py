"""Answers to one question, packed into one row as a tree, so that no token is forwarded twice.

The question is the trunk; answers branch off where they differ. Every node is one token that sees its ancestors and
nothing else, at the position that it would have in a row of its own, so that a model says of each answer what it would
say of it alone. The five wrong answers of a TOFU row, its paraphrase and its answer then cost little more than half of
the tokens that they have as seven rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llm_unlearn.data.collators import EncodedRow

ROUND_NUMBER = 16


@dataclass(frozen=True)
class AnswerTree:
    """Encoded rows with the same prompt.

    Attributes:
        tokens: one per node, parents before children. The last token of an answer predicts nothing and needs no node.
        parents: the node before each node; -1 for the first.
        depths: position of each node in its row.
        rows: the numbers of the rows in the tree.
        predictors: per row, for each answer token, the node whose logits predict it.
        answers: per row, the answer tokens.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    rows: list[int]
    predictors: list[list[int]]
    answers: list[list[int]]

    @property
    def first_predictor(self) -> int:
        """The last token of the prompt: this node and all after it predict answer tokens."""
        return self.predictors[0][0]

    @property
    def is_chain(self) -> bool:
        """Whether nothing branches: then this is an ordinary row."""
        return self.depths[-1] == len(self.depths) - 1

    def ancestors(self) -> torch.Tensor:
        """(nodes, nodes), bool: which nodes each node sees; itself included."""
        sees = torch.eye(len(self.tokens), dtype=torch.bool)
        trunk = self.first_predictor + 1
        sees[:trunk, :trunk] = torch.ones(trunk, trunk, dtype=torch.bool).tril()
        for node in range(trunk, len(self.tokens)):
            sees[node] |= sees[self.parents[node]]
        return sees


def answer_trees(rows: Sequence[EncodedRow], share_prompts: bool = True) -> list[AnswerTree]:
    """One tree for each distinct prompt, or for each distinct row where prompts are not to be shared."""
    groups: dict[tuple, list[int]] = {}
    for number, row in enumerate(rows):
        ids = tuple(row["input_ids"])
        key = (_prompt_length(row), ids[: _prompt_length(row)] if share_prompts else ids)
        groups.setdefault(key, []).append(number)
    return [_tree(rows, numbers) for numbers in groups.values()]


def _prompt_length(row: EncodedRow) -> int:
    """Tokens before the answer, which is one stretch up to the end of the row (`data.encode_row`)."""
    return next(position for position, label in enumerate(row["labels"]) if label != -100)


def _tree(rows: Sequence[EncodedRow], numbers: list[int]) -> AnswerTree:
    prompt_length = _prompt_length(rows[numbers[0]])
    tokens = list(rows[numbers[0]]["input_ids"][:prompt_length])
    parents, depths = list(range(-1, prompt_length - 1)), list(range(prompt_length))
    children: dict[tuple[int, int], int] = {}  # (node, token) -> the node of that token
    predictors, answers = [], []
    for number in numbers:
        answer = rows[number]["input_ids"][prompt_length:]
        path = [prompt_length - 1]
        for token in answer[:-1]:
            node = children.setdefault((path[-1], token), len(tokens))
            if node == len(tokens):
                tokens.append(token)
                parents.append(path[-1])
                depths.append(depths[path[-1]] + 1)
            path.append(node)
        predictors.append(path)
        answers.append(list(answer))
    return AnswerTree(tokens, parents, depths, numbers, predictors, answers)


def pad_trees(trees: Sequence[AnswerTree]) -> dict[str, torch.Tensor]:
    """A batch of trees, padded at the right.

    Returns:
        `input_ids` (trees, length); `wanted` (trees, length), bool: the nodes that predict answer tokens; and
        `attention_mask`: (trees, length) where no tree branches, otherwise (trees, 1, length, length), bool, with
        `position_ids` (trees, length).
    """
    length = max(len(tree.tokens) for tree in trees)
    # On CPU, exponentials differ in their last digit between the vectorized middle and the leftovers of each thread's
    # part. In a round number of positions nothing is left over, and the scores do not depend on the number of threads.
    while len(trees) * length % ROUND_NUMBER:
        length += 1
    shape = (len(trees), length)
    input_ids, position_ids = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    real, wanted = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for i, tree in enumerate(trees):
        size = len(tree.tokens)
        input_ids[i, :size], position_ids[i, :size] = torch.tensor(tree.tokens), torch.tensor(tree.depths)
        real[i, :size], wanted[i, tree.first_predictor : size] = True, True
    if all(tree.is_chain for tree in trees):
        return {"input_ids": input_ids, "attention_mask": real.long(), "wanted": wanted}
    sees = torch.eye(shape[1], dtype=torch.bool).repeat(shape[0], 1, 1)  # padding sees itself: softmax needs something
    for i, tree in enumerate(trees):
        sees[i, : len(tree.tokens), : len(tree.tokens)] = tree.ancestors()
    return {"input_ids": input_ids, "attention_mask": sees[:, None], "position_ids": position_ids, "wanted": wanted}
