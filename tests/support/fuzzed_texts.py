"""Texts for the readers of expressions and recipes: from their grammar, broken in all ways, and hostile ones."""

import random

WORDS = (
    *("SparseVD", "Block", "Channel", "Cubic", "mlp", "lenet_300_100", "keep", "init_log_scale", "my_module:make"),
    *(
        "0.5",
        "-1",
        "1e999",
        "nan",
        "inf",
        "0x1f",
        "9" * 4_400,
        "1_0",
        "'a'",
        '"é"',
        "None",
        "True",
        "b'x'",
        "1j",
        "...",
    ),
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ",,",
        "=",
        ":",
        ".",
        "*",
        "**",
        "+",
        "-",
        "~",
        "@",
        "not ",
        "lambda: ",
        "f'{x}'",
    ),
    *(
        "__import__('os')",
        "(x for x in y)",
        "a if b else c",
        "x := 1",
        "\\x00",
        "\\",
        "\n",
        "\t",
        "#",
        ";",
        "\u202e",
        "\0",
    ),
)
KEYS = (
    *("net", "data", "rules", "epochs", "seed", "lr", "batch", "device", "precision", "estimator", "prune", "warmup"),
    *("start", "start_sha256", "threads", "versions", "pretrain", "pretrain_lr", "unknown", "", "a.b.c", '"x y"', "é"),
)
VALUES = (
    *("1", "-1", "0", "1e400", "nan", "inf", "'digits'", '"mlp(64, (20,), 10)"', "[]", "[1, 'a']", "{}", "{a = 1}"),
    *("true", "2026-01-01", "07:32:00", "9" * 5_000, "'" * 3, '"\\ud800"', '"\\u0000"', "[[[[]]]]", "0x_f", "+1"),
)


def expression(choose: random.Random) -> str:
    """A call, a rule or neither; now and then nested without end."""
    if choose.random() < 0.05:
        opening = choose.choice(("(", "[", "-", "f(", "not ", "{1:", "a=", "x."))
        return opening * choose.choice((50, 900, 20_000)) + choose.choice(("", "1", ")" * 900))
    parts = [choose.choice(WORDS) for _ in range(choose.randrange(1, 12))]
    good = choose.choice(("SparseVD(Block(4, 1))", "Cubic(keep=0.5)", "fc*.weight=SparseVD()", "mlp(8, (50,), 1)"))
    if choose.random() < 0.5:
        at = choose.randrange(len(good))
        return good[:at] + choose.choice(parts) + good[at + choose.randrange(3) :]
    return "".join(parts)


def recipe(choose: random.Random) -> str:
    """A recipe's lines, right and wrong."""
    if choose.random() < 0.05:
        deep = choose.choice((900, 3_000, 50_000))
        return choose.choice(("a = " + "[" * deep, "a." * deep + "a = 1", "[" * deep, "[a" + ".a" * deep + "]"))
    lines = ['net = "mlp(64, (20,), 10)"', 'data = "digits"', 'rules = ["*.weight=SparseVD()"]', "epochs = 2"]
    for _ in range(choose.randrange(1, 5)):
        line = f"{choose.choice(KEYS)} = {choose.choice((*VALUES, repr(expression(choose))))}"
        lines.insert(choose.randrange(len(lines) + 1), choose.choice((line, f"[{line}]", line[: len(line) // 2])))
    text = "\n".join(choose.sample(lines, choose.randrange(1, len(lines) + 1)))
    if choose.random() < 0.3:
        at = choose.randrange(len(text))
        text = text[:at] + choose.choice(("\0", "\ufeff", "\r", "=", '"', "'''", "\x1b", "#", "]")) + text[at + 1 :]
    return text
