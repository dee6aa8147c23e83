"""Validates the description of the endpoints, and answers against it.

    openapi_check.py FILE BASE_URL
"""

import json
import sys
import urllib.request

import jsonschema
from openapi_spec_validator import validate


def main() -> None:
    file, url = sys.argv[1:]
    with open(file, encoding="utf-8") as text:
        spec = json.load(text)
    validate(spec)

    def check(path: str, body=None, status: int = 200) -> None:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as reply:
                found, answer = reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            found, answer = error.code, json.load(error)
        assert found == status, (path, found, answer)
        operation = spec["paths"][path.replace("/run", "/{model}")]["get" if body is None else "post"]
        responses = operation["responses"]
        response = responses.get(str(status), responses.get("default"))
        schema = response["content"]["application/json"]["schema"]
        whole = {"components": spec["components"], **schema}
        jsonschema.Draft202012Validator(whole).validate(answer)
        if body is not None and status == 200:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            jsonschema.Draft202012Validator({"components": spec["components"], **schema}).validate(body)

    ask = {"messages": [{"role": "user", "content": "hi"}], "preference_weights": {"helpful": 0.5, "humor": 0.5}}
    check("/health")
    check("/v1/models")
    check("/v1/models/run")
    check("/api/info")
    check("/api/front")
    check("/v1/chat/completions", ask)
    check("/v1/chat/completions", {**ask, "logprobs": True, "top_logprobs": 2, "n": 2})
    check("/v1/chat/completions", {**ask, "best_of": 3, "seed": 1, "stop": "x"})
    check("/v1/chat/completions", {"messages": []}, 400)
    check("/v1/completions", {"prompt": ["a", "b"], "logprobs": 2})
    check("/v1/scores", {"input": [{"prompt": "a", "response": "b"}]})
    check("/v1/scores", {"input": []}, 400)
    print("valid")


main()
