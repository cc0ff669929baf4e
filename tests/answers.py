"""Answers to exercises, as the tests of all checks give them."""


def arguments(answer: object) -> tuple:
    """A tuple is several answers to one exercise."""
    return answer if isinstance(answer, tuple) else (answer,)


def said_to(exercise, mistake, capsys) -> str:
    """What a check prints on a wrong answer."""
    assert not exercise(*arguments(mistake))
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ")
    return said
