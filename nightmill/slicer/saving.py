"""Saves PDFs so that a full disk is an error: qpdf ends the whole process when a write in its midst raises."""

from __future__ import annotations

import io
from typing import IO, Any

import pikepdf


class _Sink(io.RawIOBase):
    """A file that remembers the first error in place of raising it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def write(self, data: Any, /) -> int:
        """Write `data`, unless something went wrong before."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def save(pdf: Any, file: IO[bytes]) -> None:
    """Write `pdf`, a `pikepdf.Pdf`, to `file`; the same PDF makes the same bytes.

    Raises:
        OSError: The disk is full, say.
        pikepdf.PdfError: The PDF cannot be written.
    """
    # Of a PDF whose trailer had to be guessed, qpdf 12 writes object streams without `/Size`, which it then refuses.
    streams = pikepdf.ObjectStreamMode
    mode = streams.generate if "/Size" in pdf.trailer else streams.disable
    sink = _Sink(file)
    pdf.save(sink, object_stream_mode=mode, deterministic_id=True)
    if sink.error is not None:
        raise sink.error
    file.flush()
