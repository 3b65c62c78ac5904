"""What the bench prints beside our own figures."""

from pathlib import Path

from libs.suite.bench import BENCHMARKS, peer_figures

MAKEFILE = Path(__file__).parents[3] / "Makefile"


def test_every_figure_of_others_says_whose_it_is_and_how_it_was_got() -> None:
    rows = peer_figures()
    assert len(rows) >= 10
    for row in rows:
        assert all(row[name] for name in ("work", "peer", "figure")), row
        assert row["kind"] in ("measured", "published"), row


def test_benchmarks_exist_and_are_what_make_bench_runs() -> None:
    assert "start" in BENCHMARKS
    assert "python -m libs.suite.bench" in MAKEFILE.read_text(encoding="utf-8")
