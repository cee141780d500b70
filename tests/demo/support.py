# What the scripts beside it share: TAP, the program under test, trees to walk.
# Floor 9, room tests.
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
GIVE_UP = 120  # seconds after which something hangs


def arguments(about):
    """The command line every script has: --program, by default what demo/run keeps."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--program", default=os.path.join(ROOT, "build/demo/penstock-digest"))
    parser.add_argument("only", nargs="*", help="names of cases to run; default: all")
    return parser


class Tap:
    """Runs cases and prints TAP; a case fails by raising."""

    def __init__(self, only=()):
        self.cases, self.only = [], list(only)

    def case(self, function):
        self.cases.append(function)
        return function

    def run(self):
        chosen = [c for c in self.cases if not self.only or c.__name__ in self.only]
        if not chosen:
            sys.exit(f"no such case; there are: {' '.join(c.__name__ for c in self.cases)}")
        failed = 0
        print(f"1..{len(chosen)}")
        for number, case in enumerate(chosen, 1):
            text = (case.__doc__ or case.__name__).strip().split("\n")[0]
            try:
                with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
                    os.chmod(folder, 0o755)
                    note = case(os.fsencode(folder))
                print(f"ok {number} - {text}")
                for line in (note or "").splitlines():
                    print(f"# {line}")
            except Exception:
                failed += 1
                print(f"not ok {number} - {text}")
                for line in traceback.format_exc().splitlines():
                    print("# " + line.encode("ascii", "backslashreplace").decode())
            sys.stdout.flush()
        return 1 if failed else 0


class Run:
    """One ended run of a program."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit {self.code}\nstdout {self.out[-2000:]!r}\nstderr {self.err[-2000:]!r}"


def run(*command, **how):
    how.setdefault("stdin", subprocess.DEVNULL)
    how.setdefault("stdout", subprocess.PIPE)
    how.setdefault("stderr", subprocess.PIPE)
    ended = subprocess.run(command, timeout=GIVE_UP, **how)
    return Run(ended.returncode, ended.stdout or b"", ended.stderr or b"")


class Started:
    """A program that runs while the test acts on it. Lines of standard error are read as they come."""

    def __init__(self, *command, **how):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        stdout=how.pop("stdout", subprocess.PIPE), **how)
        self.lines = []
        self.watchdog = threading.Timer(GIVE_UP, self.process.kill)
        self.watchdog.start()

    def wait_for_line(self, wanted):
        """The first further line of standard error for which `wanted(line)`; fails at its end."""
        for line in self.process.stderr:
            self.lines.append(line)
            if wanted(line):
                return line
        raise AssertionError(f"standard error ended first: {self.lines!r}")

    def end(self):
        out, err = self.process.communicate()
        self.watchdog.cancel()
        return Run(self.process.returncode, out or b"", b"".join(self.lines) + err)


def same(left, right, what=""):
    if left != right:
        raise AssertionError(f"{what}: {left!r} is not {right!r}")


def true(condition, *told):
    if not condition:
        raise AssertionError(" ".join(str(t) for t in told) or "not true")


def write(path, data=b""):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def many_files(folder, count, size=100):
    """`count` small files, 500 to a directory."""
    for number in range(count):
        if number % 500 == 0:
            inner = os.path.join(folder, b"d%04d" % (number // 500))
            os.makedirs(inner)
        with open(os.path.join(inner, b"f%06d" % number), "wb") as file:
            file.write(b"%d\n" % number * (size // 8))


def balanced(report, subscriptions=3):
    """Both laws of the accounting, for each subscription of a report."""
    same(len(report["subscriptions"]), subscriptions, report)
    for row in report["subscriptions"]:
        same(row["offered"], row["accepted"] + row["dropped"] + row["rejected"] + row["pending"], row)
        same(row["accepted"], row["handled"] + row["filtered"] + row["failed"] + row["discarded"] + row["evicted"]
             + row["queued"] + row["running"], row)
    return {row["name"]: row for row in report["subscriptions"]}


def need(tool):
    if shutil.which(tool) is None:
        print(f"1..0 # SKIP {tool} is not installed")
        sys.exit(0)
