"""First action of the sequence: a text into its words."""

import re


def main(params):
    text = params.get("text", "")
    if not text:
        return {"error": "there is no text"}
    return {"words": re.findall(r"\w+", text.lower()), "language": params["language"]}
