"""A plugin of pytest that prints each failure at once, so that a run that is stopped shows them."""


def pytest_runtest_logreport(report):
    """Prints why a test failed."""
    if report.failed:
        print(f"\n{report.nodeid}\n{report.longreprtext[-2000:]}", flush=True)
