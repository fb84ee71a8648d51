"""Train, load and measure tokenizers; the one definition of the special tokens (`tokenizer.special_tokens`)."""
