"""What to forget in which order: what makes it hard, which rows conflict, and what cannot be judged."""
