"""Bytes in, bytes out: what the reference was seen to answer, replayed; transcripts.py says how the files read.

Against our broker a case also asks the reference, where there is one, whether the file is still what it says.
"""

from __future__ import annotations

from pathlib import Path

import transcripts
from harness import CASES, Case, Context, case


def play(context: Context, path: Path) -> None:
    transcript = transcripts.load(path)
    with transcripts.auth_flags(transcript) as auth:
        flags = (*transcripts.broker_flags(transcript, context.settings.work), *auth)
        count = transcripts.replay(transcript, context.broker(*flags), context.ours)
        context.note(f"{count} exchanges")
        reference = context.settings.reference
        if not context.ours:
            return
        if reference is None:
            context.note("reference nsqd not available: the recording was not checked")
            return
        transcripts.replay(transcript, context.broker(*flags, binary=reference), False)


def register() -> None:
    for path in sorted(transcripts.FOLDER.glob("*.txt")):
        CASES.append(Case(f"transcripts.{path.stem}", lambda context, path=path: play(context, path)))


register()


@case("transcripts")
def cover_enough(context: Context) -> None:
    """Every exchange has been recorded, and there are many; one that ends in silence is checked by what follows."""
    files = [transcripts.load(path) for path in transcripts.FOLDER.glob("*.txt")]
    exchanges = [exchange for transcript in files for exchange in transcript.exchanges()]
    answered = [exchange for exchange in exchanges if exchange.recorded]
    context.note(f"{len(exchanges)} exchanges, {len(answered)} with an answer")
    assert len(answered) >= 200, f"only {len(answered)} exchanges have an answer"
