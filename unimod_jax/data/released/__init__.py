"""Vocabularies, rows and pixels of released models, from their own files.

For each model `read` opens the text tokenizer that was published with it and works out
where text, markers and image codes stand; `tasks` gives the rows it was trained on;
and the pixel functions bring a picture to what the model's image
tokenizer was trained on. Reading order: `tokenizer_files`, then `show_o`, `emu3` (with
`tiktoken_ranks`) and `chameleon`, then `pixels`.
"""
