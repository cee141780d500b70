# The lines of goals that are measured by a script: as `goal.hpp` prints them.
# Floor 9, room tests.
import os


def full_size():
    return os.environ.get("PENSTOCK_GOALS") == "full"


class Report:
    """Prints one TAP line for each figure."""

    def __init__(self):
        self.count = self.failed = 0

    def figure(self, name, measured, goal, met):
        self.count += 1
        self.failed += not met
        print(f"{'ok' if met else 'not ok'} {self.count} - {name}: {measured} (goal: {goal}): {'met' if met else 'not met'}", flush=True)

    def note(self, text):
        for line in text.splitlines():
            print("# " + line, flush=True)

    def finish(self):
        """The plan, and the exit status."""
        print(f"1..{self.count}")
        return 0 if self.count > 0 and self.failed == 0 else 1
