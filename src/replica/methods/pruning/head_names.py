"""Names of the layers that pruning leaves dense by default; read without torch."""

#: Parts of names that mark a linear layer as the head's: MLM and NSP heads, classifiers, answer spans, language models.
HEADS = ("cls", "classifier", "qa_outputs", "vocab_transform", "vocab_projector", "lm_head")
