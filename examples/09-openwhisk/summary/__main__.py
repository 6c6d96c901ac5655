"""Second action of the sequence, a directory with a module of its own: words into figures."""

from counting import most_used


def main(params):
    words = params["words"]
    print(f"{len(words)} words")
    return {"body": {"words": len(words), "most": most_used(words), "language": params["language"]}}
