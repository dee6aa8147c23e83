"""Uses a server with a made-up engine through OpenAI's own package.

    openai_client.py BASE_URL KEY
"""

import asyncio
import sys

import openai


def main() -> None:
    url, key = sys.argv[1:]
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
    names = [model.id for model in client.models.list()]
    assert names[:2] == ["run", "run:helpful"], names
    assert client.models.retrieve("run:sft").id == "run:sft"

    ask = [{"role": "user", "content": "hello there"}]
    answer = client.chat.completions.create(model="run:harmless", messages=ask, seed=3, temperature=0.5)
    assert answer.choices[0].message.content == "policy 1 heard: hello there #0", answer
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 1

    # An answer can be sent back as it came.
    again = [*ask, answer.choices[0].message, {"role": "user", "content": "and again"}]
    assert client.chat.completions.create(model="run", messages=again).choices[0].message.content

    weights = {"preference_weights": {"helpful": 0.6, "harmless": 0.4}}
    mixed = client.chat.completions.create(model="run", messages=ask, extra_body=weights)
    named = client.chat.completions.create(model="run@helpful=0.6,harmless=0.4", messages=ask)
    assert mixed.choices[0].message.content == named.choices[0].message.content
    assert mixed.choices[0].message.content.startswith("mixture 0.60/0.40/0.00"), mixed

    stream = client.chat.completions.create(
        model="run", messages=ask, n=2, stream=True, stream_options={"include_usage": True}
    )
    texts, usage = ["", ""], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [f"policy 0 heard: hello there #{i}" for i in range(2)], texts
    assert usage.completion_tokens == 12, usage

    scored = client.chat.completions.create(model="run", messages=ask, logprobs=True, top_logprobs=3)
    tokens = scored.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == scored.choices[0].message.content
    assert len(tokens[0].top_logprobs) == 3

    whole = client.completions.create(model="run", prompt=["one", "two"], stop=["#"], logprobs=2)
    assert [choice.text for choice in whole.choices] == [f"policy 0 heard: {p} " for p in ("one", "two")], whole
    assert whole.choices[0].logprobs.text_offset[1] == len("policy ")
    pieces = client.completions.create(model="run", prompt="one", stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "policy 0 heard: one #0"

    # A stream that is left early, and one that fails in the middle.
    with client.chat.completions.create(
        model="run", messages=[{"role": "user", "content": "slow long"}], stream=True
    ) as stream:
        next(iter(stream))

    for error, question, options in [
        (openai.NotFoundError, "hi", {"model": "gpt-4"}),
        (openai.BadRequestError, "hi", {"model": "run", "temperature": 9}),
        (openai.BadRequestError, "hi", {"model": "run", "extra_body": {"frobnicate": 1}}),
        (openai.InternalServerError, "panic now", {"model": "run"}),
    ]:
        try:
            client.chat.completions.create(messages=[{"role": "user", "content": question}], **options)
        except error as found:
            assert found.body["message"], found.body
        else:
            raise AssertionError(f"no {error.__name__} for {options}")
    try:
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError as found:
        assert found.code == "invalid_api_key", found
    else:
        raise AssertionError("a wrong key was taken")

    async def many() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            questions = [[{"role": "user", "content": f"number {i}"}] for i in range(32)]
            jobs = [client.chat.completions.create(model="run", messages=question) for question in questions]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*jobs)]

    assert asyncio.run(many()) == [f"policy 0 heard: number {i} #0" for i in range(32)]
    print("all checks passed with openai", openai.__version__)


main()
