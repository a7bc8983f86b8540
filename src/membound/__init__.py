"""membound: how close does each backend of this machine come to the machine's own limit at LLM decoding?"""

__version__ = "0.1.0"
