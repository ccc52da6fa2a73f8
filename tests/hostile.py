"""Adversarial answers of any length: shared by the tests and by benchmarks/test_hostile.py."""

from __future__ import annotations

ANSWERED = '<answer>{"country": "Kenya", "region": "Africa", "latitude": -1.3, "longitude": 36.8}</answer>'
# name: the answer of about so many characters
SHAPES = {
    "thought": lambda n: f"<think>{'a' * n}</think><answer>{{}}</answer>",
    "white space": lambda n: f"<think></think>{' ' * n}<answer>{{}}</answer>",
    "white space, no answer": lambda n: f"<think></think>{' ' * n}x<answer>{{}}</answer>",
    "nearly tags": lambda n: f"<think>{'</think' * (n // 7)}</think><answer>{{}}</answer>",
    "tags": lambda n: "<think>" * (n // 7),
    "nested arrays": lambda n: f"<think></think><answer>{'[' * n}</answer>",
    "nested objects": lambda n: "<think></think><answer>" + '{"a":' * (n // 5) + "</answer>",
    "digits": lambda n: f"<think></think><answer>{'9' * n}</answer>",
    "exponent": lambda n: f"<think></think><answer>1e{'9' * n}</answer>",
    "fraction": lambda n: f"<think></think><answer>0.{'0' * n}1</answer>",
    "keys": lambda n: "<think></think><answer>{" + ",".join(['"a":1'] * (n // 6)) + "}</answer>",
    "escapes": lambda n: "<think></think><answer>" + '"' + "\\ud800" * (n // 6) + '"</answer>',
    "cues": lambda n: f"<think>heard: {'a;' * (n // 2)}</think>" + ANSWERED,
    "lines": lambda n: f"<think>{'heard:' + chr(10)}{chr(10) * n}</think>" + ANSWERED,
    "control": lambda n: "\x00" * n,
}  # fmt: skip
