"""Raw pages to a clean, deduplicated, balanced bilingual corpus, and that corpus to token shards."""
