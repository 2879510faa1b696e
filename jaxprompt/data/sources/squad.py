"""SQuAD's JSON: articles of paragraphs of questions."""

from typing import Any

from jaxprompt.data.sources.base import Row
from jaxprompt.errors import InputError


def is_squad(value: dict[str, Any]) -> bool:
    """Whether a JSON object is of that form."""
    articles = value.get("data")
    return (
        isinstance(articles, list) and bool(articles) and isinstance(articles[0], dict) and "paragraphs" in articles[0]
    )


def squad_rows(value: dict[str, Any], name: str) -> list[Row]:
    """One row per question: `id`, `title`, `context`, `question`, `answers` (a list of texts), `is_impossible`.

    Raises InputError, naming the article, where something is not of the form.
    """
    rows = []
    for number, article in enumerate(value["data"], 1):
        try:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    rows.append(
                        {
                            "id": question["id"],
                            "title": article.get("title", ""),
                            "context": paragraph["context"],
                            "question": question["question"],
                            "answers": [answer["text"] for answer in question["answers"]],
                            "is_impossible": question.get("is_impossible", False),
                        }
                    )
        except (KeyError, TypeError, AttributeError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else "is not of SQuAD's form"
            raise InputError(f"{name}: article {number} {what} (correct it)") from None
    return rows
