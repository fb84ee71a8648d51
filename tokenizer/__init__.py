"""Tokenizers for Chinese and English: trained, loaded and measured; the one definition of the special tokens."""
