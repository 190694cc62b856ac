"""Which tokens are trained, shown in colour: the only way to see a mask."""

from html import escape

from IPython.display import HTML

from helpers.instruct.prompts import IGNORED, Example, Prompt

READ, LEARNED = "#e4e1da", "#f6c998"


def coloured(example: Example, prompt: Prompt) -> HTML:
    """One example, token by token: grey is read, orange is learned; special tokens by name, line ends as ⏎."""
    spans = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        text = escape(_piece(token, prompt))
        colour = READ if label == IGNORED else LEARNED
        spans.append(f'<span style="background:{colour};border-radius:3px;padding:0 2px;margin:1px">{text}</span>')
    share = example.trained / len(example.labels)
    legend = (
        f"{example.trained} of {len(example.labels)} tokens learned ({share:.0%}, orange); the others are only read"
    )
    return HTML(f'<div style="line-height:1.9;color:#2b2b2b">{"".join(spans)}</div><small>{legend}</small>')


def _piece(token: int, prompt: Prompt) -> str:
    """The token as one reads it: a leading space as ▁, a line end as ⏎."""
    piece = prompt.tokenizer.convert_ids_to_tokens(token)
    return (
        "⏎" if piece in ("<0x0A>", "\n", "Ċ") else piece if "▁" in piece else prompt.tokenizer.decode([token]) or piece
    )
