"""Refuses to compile without the compilers: nothing here is ever skipped in silence."""

import pytest

from tests.compile.chips import missing_compilers


def _refusal() -> str | None:
    if not (missing := missing_compilers()):
        return None
    return (
        f"the tests marked `compile` need {', '.join(missing)}, which this environment "
        "does not have; run `make test-compile`, which makes one that does."
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop where compile tests are about to run without compilers."""
    chosen = any(item.get_closest_marker("compile") for item in session.items)
    is_worker = hasattr(session.config, "workerinput")
    if chosen and not is_worker and (refusal := _refusal()):
        raise pytest.UsageError(refusal)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail where the tests are shared among workers, which cannot stop the others."""
    del item
    if refusal := _refusal():
        pytest.fail(refusal, pytrace=False)
