"""Ends runs as SIGKILL would, without another process."""

from mammoth_compiled.engine.observer import Observer


class KilledAfter(Observer):
    """Ends the run after a step of a task."""

    class Killed(BaseException):
        pass

    def __init__(self, task, step):
        self.place = (task, step)

    def end_step(self, run, loss, num_images):
        if (run.task, run.task_step) == self.place:
            raise self.Killed
