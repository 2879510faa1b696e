"""One row of data to token ids: templates, tokens, layout, truncation, labels."""
