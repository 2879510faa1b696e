"""Runs that die in a step."""


def killed_at(monkeypatch, module, maker, number):
    """Lets what a module's `maker` of steps makes die in call `number`, by the exception that is returned."""

    class Killed(BaseException):
        pass

    made = getattr(module, maker)

    def dies(*args):
        step, calls = made(*args), []

        def counted(state, batch):
            calls.append(1)
            if len(calls) >= number:
                raise Killed
            return step(state, batch)

        counted.ahead = step.ahead
        return counted

    monkeypatch.setattr(module, maker, dies)
    return Killed
