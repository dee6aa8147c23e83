"""An endpoint that scores texts, with nothing but Python's standard library: the protocol of `kind = "http"`.

    python3 server.py --port 8000
    SCORE_TOKEN=secret python3 server.py --port 8000 --token-env SCORE_TOKEN

It gets {"name": "brief", "prompts": ["..."], "responses": ["..."]} by POST and answers {"scores": [-3.0]}, a number
per text; larger is better. `name` chooses the reward. To serve a model of your own, write a function that scores a
batch and put it into REWARDS. The address is printed when it listens; with port 0 it is a free one.
"""

import argparse
import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

POLITE = {"please", "thanks", "thank", "sorry", "welcome"}


def brief(prompts, responses):
    """Minus the number of words."""
    return [-float(len(response.split())) for response in responses]


def polite(prompts, responses):
    """How many of the words are polite."""
    return [float(sum(word.strip(".,!?").lower() in POLITE for word in response.split())) for response in responses]


REWARDS = {"brief": brief, "polite": polite}


class Handler(BaseHTTPRequestHandler):
    # Keeps connections open.
    protocol_version = "HTTP/1.1"
    # Else each answer waits 40 ms for the client to acknowledge its headers.
    disable_nagle_algorithm = True
    token = None

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sent = self.headers.get("Authorization", "")
        if self.token is not None and not hmac.compare_digest(sent.encode(), f"Bearer {self.token}".encode()):
            return self.answer(401, {"error": "no token, or a wrong one"})
        try:
            asked = json.loads(body)
            name, prompts, responses = asked["name"], asked["prompts"], asked["responses"]
        except (ValueError, KeyError, TypeError) as error:
            return self.answer(400, {"error": f"not a request: {error!r}"})
        if name not in REWARDS:
            return self.answer(404, {"error": f"no reward is called {name}; there are: {', '.join(REWARDS)}"})
        # NaN is not JSON: fail here, with a status that is not an answer.
        try:
            return self.answer(200, {"scores": REWARDS[name](prompts, responses)})
        except ValueError as error:
            return self.answer(422, {"error": str(error)})

    def answer(self, status, value):
        body = json.dumps(value, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def main():
    parser = argparse.ArgumentParser(description="An endpoint that scores texts.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--token-env", help="environment variable with the token that clients must send")
    args = parser.parse_args()
    if args.token_env:
        Handler.token = os.environ.get(args.token_env)
        if not Handler.token:
            sys.exit(f"server.py: the environment variable {args.token_env} is not set")
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    print(f"http://127.0.0.1:{server.server_port}/score", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
