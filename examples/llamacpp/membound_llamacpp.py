"""``llamacpp:cpu``: llama.cpp's server, in process, for whole steps and prompts. An engine as a backend."""

import numpy as np
import xllamacpp
from membound_gguf import serve, unsupported

from membound.backends.api import Backend, BackendUnavailable, Device, Tokens, cpu_name
from membound.backends.running_threads import check_threads


class LlamaCpp(Backend):
    """A launch is a request for one token: the server holds the prompt's cache and runs its last token again."""

    supports = staticmethod(unsupported)

    def open(self, device, threads):
        """Take the CPU; any other device is refused."""
        if device != "cpu":
            raise BackendUnavailable(f"llamacpp has no device {device!r}; it has: cpu")
        self.threads = threads
        return Device("llamacpp:cpu", cpu_name(), threads, {"xllamacpp": xllamacpp.__version__})

    def prepare(self, work, inputs):
        """Load the model with the work's own weights, let a first request fill the cache, and count who computes."""
        self.server = serve(inputs, self.threads)
        how = {"cache_prompt": work.kind == "step", "max_tokens": 1, "temperature": 0, "logprobs": 1}
        self.request = how | {"prompt": inputs.tokens[0].tolist()}
        check_threads("llama.cpp", self.threads, lambda: self.launch(0), caller_waits=True)

    def launch(self, slot):
        """Ask for the next token; returns when it is there."""
        self.answer = self.server.handle_completions(self.request)

    def sync(self):
        """Nothing runs behind the call."""

    def output(self):
        """The token chosen, [1, 1], and the logarithm of its probability."""
        (token,) = self.answer["choices"][0]["logprobs"]["content"]
        return Tokens(np.array([[token["id"]]]), np.array([[token["logprob"]]]))
