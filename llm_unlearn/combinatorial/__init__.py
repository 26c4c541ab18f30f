"""The combinatorial laboratory: unlearning where knowledge can be read off the weights.

Two-layer networks learn an OR of disjoint AND clauses. A clause that a network knows is a set of neurons, its code,
that can be read off the weights without running it. So "erased, or only hidden?" has an answer that needs no attack.
Nothing here knows about language models; NPO's loss is the same pure function.

Sources: feature channel coding, Adler et al. 2025, arXiv 2504.08842; unlearning, Kodama et al. 2026, arXiv 2602.19215.
"""
