"""summary.py: unittest with the last line that scripts/run-tests adds up, as test.h prints it."""

import sys
import unittest


def main(topic):
    """Runs the tests of the calling program and exits with their verdict."""
    program = unittest.main(module="__main__", exit=False, verbosity=1)
    result = program.result
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    for test, reason in result.skipped:
        print(f"SKIP: {test.id()}: {reason}")
    passed = result.testsRun - failed - len(result.skipped)
    sys.stderr.flush()
    print(f"{topic}: {passed} passed, {failed} failed, {len(result.skipped)} skipped")
    sys.exit(failed > 0)
