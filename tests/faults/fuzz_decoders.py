"""Program that fuzzes one decoder with atheris, guided by coverage.

    python tests/faults/fuzz_decoders.py --list
    python tests/faults/fuzz_decoders.py spec CORPUS_DIR -max_total_time=60

Options are libFuzzer's. It ends with 0 if nothing but documented refusals came out, in bounded time and memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

BOUNDS = ["-timeout=60", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1", "-close_fd_mask=0"]


def main() -> None:
    """See above."""
    import atheris
    import structlog

    with atheris.instrument_imports(include=["pilothouse"], enable_loader_override=False):
        from support.faults import targets_agent, targets_files  # noqa: F401  # they enter their targets
        from support.faults.targets import TARGETS
    if sys.argv[1:2] == ["--list"]:
        print("\n".join(TARGETS))
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # damage is what it is fed
    name, corpus = sys.argv[1], Path(sys.argv[2])
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.parent / f"{name}.words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    dictionary = [f"-dict={words}"] if target.words else []
    options = [*BOUNDS, *dictionary, f"-artifact_prefix={corpus.parent}/{name}-"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[3:], str(corpus)], target.run)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
