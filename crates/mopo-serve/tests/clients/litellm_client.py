"""Uses a server with a made-up engine through litellm.

    litellm_client.py BASE_URL KEY
"""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402


def main() -> None:
    url, key = sys.argv[1:]
    litellm.telemetry = False

    def ask(question: str, **options):
        return litellm.completion(
            messages=[{"role": "user", "content": question}], api_base=url, api_key=key, num_retries=0, **options
        )

    answer = ask("hello", model="openai/run@helpful=0.25,humor=0.75", max_tokens=20)
    assert answer.choices[0].message.content == "mixture 0.25/0.00/0.75 heard: hello #0", answer
    weights = {"preference_weights": {"humor": 1.0}}
    answer = ask("hello", model="openai/run", extra_body=weights)
    assert answer.choices[0].message.content == "policy 2 heard: hello #0", answer
    pieces = ask("hello", model="openai/run:sft", stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == "sft heard: hello #0", text
    try:
        ask("hello", model="openai/gpt-4")
    except litellm.exceptions.NotFoundError as error:
        assert "run:helpful" in str(error), error
    else:
        raise AssertionError("an unknown model was answered")
    print("all checks passed")


main()
