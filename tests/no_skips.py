"""A pytest plugin for CI: a skip that is not for a missing GPU or the shared data fails the run."""

ALLOWED = {"gpu", "shared"}
unexpected = []


def pytest_runtest_logreport(report):
    if report.skipped and not hasattr(report, "wasxfail") and not ALLOWED & set(report.keywords):
        unexpected.append(report.nodeid)


def pytest_terminal_summary(terminalreporter):
    for nodeid in unexpected:
        terminalreporter.write_line(f"SKIPPED, which is not allowed here: {nodeid}", red=True)


def pytest_sessionfinish(session, exitstatus):
    if unexpected and exitstatus == 0:
        session.exitstatus = 1
