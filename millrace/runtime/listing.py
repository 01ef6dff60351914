"""Lists a bucket in many places at a time, and gives the objects in the order of their keys.

The keys are divided into pieces, each from one key (behind it) to another (with it), and each piece is listed by one
thread. Any division is right; a good one takes equally long for each. There is one piece at first. Whenever threads
have nothing to do, a piece asks for the folders where it is, without waiting for the answer, and divides itself at
their borders. Where there are no folders, or too many objects beside them, it goes on alone.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from millrace.errors import DataError
from millrace.runtime.buckets import Patience, bucket_folders, bucket_pages

if TYPE_CHECKING:
    import polars as pl

__all__ = ["pages_in_order"]

_AHEAD = 400_000
"""Rows that may wait for those before them."""
_PIECE = 15_000
"""Rows of a piece that are aimed at: small, as rows can't be given before those of earlier pieces."""
_PATIENCE = 32
"""Pages that a piece reads before it stops waiting for the names of folders."""
_SMALL = 50
"""A page of fewer rows is the last one, most likely."""
_LEAVE_SECONDS = 5
"""That a listing which is left, or has failed, waits for requests under way; their threads end with the process."""
_LAST = "\U0010fffd"
"""Behind all names in use."""


@dataclass(order=True)
class _Piece:
    """A range of keys, in the order of their beginnings."""

    after: str
    until: str | None = field(compare=False)
    """None: to the end."""
    borders: list[str] = field(default_factory=list, compare=False)
    """Keys between the two at which it may be divided, in order."""
    pages: deque[pl.DataFrame] = field(default_factory=deque, compare=False)
    """Read, and not yet given away."""
    ended: bool = field(default=False, compare=False)
    asked: Future[list[str]] | None = field(default=None, compare=False)
    """For the folders below one of the folders in which it is."""
    asked_pages: int = field(default=0, compare=False)


def pages_in_order(
    scheme: str, bucket: str, prefix: str, patience: Patience, concurrency: int
) -> Iterator[pl.DataFrame]:
    """The tables of `bucket_pages`, read with up to `concurrency` requests at a time.

    At a border between two tables the marker of a folder may be there twice.
    """
    listing = _Listing(scheme, bucket, prefix, patience)
    threads = [threading.Thread(target=listing.work, daemon=True) for _ in range(concurrency)]
    with _Questions() as listing.questions:
        for thread in threads:
            thread.start()
        try:
            yield from listing.pages()
        finally:
            listing.stop()
            for thread in threads:
                thread.join(_LEAVE_SECONDS)


class _Questions:
    """An event loop in a thread: requests that can be cancelled."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> _Questions:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._cancel(), self.loop).result(_LEAVE_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(_LEAVE_SECONDS)
        if not self.thread.is_alive():
            self.loop.close()

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Listing:
    questions: _Questions

    def __init__(self, scheme: str, bucket: str, prefix: str, patience: Patience) -> None:
        self.scheme, self.bucket, self.prefix, self.patience = scheme, bucket, prefix, patience
        first = _Piece(after="", until=None)
        self.waiting = [first]
        """Not yet begun, as a heap."""
        self.open = [first]
        """Not yet given away, as a heap."""
        self.changed = threading.Condition()
        self.ahead = self.idle = self.running = 0
        self.rows = self.spans = 0
        """Of pieces between known borders that have ended: what there is between two borders."""
        self.asked: set[str] = set()
        """Folders whose folders were asked for."""
        self.stopped = False
        self.error: BaseException | None = None

    def pages(self) -> Iterator[pl.DataFrame]:
        """What the threads read, in order."""
        while True:
            with self.changed:
                while self.error is None and self.open and not (self.open[0].pages or self.open[0].ended):
                    self.changed.wait()
                if self.error is not None:
                    raise self.error
                if not self.open:
                    return
                piece = self.open[0]
                page = piece.pages.popleft() if piece.pages else None
                if page is not None:
                    self.ahead -= page.height
                else:
                    heapq.heappop(self.open)
                self.changed.notify_all()
            if page is not None:
                yield page

    def stop(self) -> None:
        """Let the threads end."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def work(self) -> None:
        """What each thread does: one piece after the other."""
        while (piece := self._next()) is not None:
            try:
                self._list(piece)
            except BaseException as error:  # raised again where the pages are taken
                with self.changed:
                    self.error = self.error or error
            with self.changed:
                piece.ended = True
                self.running -= 1
                if piece.asked is not None:
                    piece.asked.cancel()
                self.changed.notify_all()

    def _next(self) -> _Piece | None:
        with self.changed:
            self.idle += 1
            while not self.waiting and self.running and not self._over():
                self.changed.wait()
            self.idle -= 1
            if self._over() or not self.waiting:
                return None
            piece = heapq.heappop(self.waiting)
            self.running += 1
            wanted = max(1, _PIECE * self.spans // self.rows) if self.rows else 1
            if len(piece.borders) >= wanted:
                self._divide(piece, wanted - 1)
            return piece

    def _over(self) -> bool:
        return self.stopped or self.error is not None

    def _divide(self, piece: _Piece, place: int) -> None:
        """End a piece at one of its borders, and put what is behind it among those that wait."""
        border = piece.borders[place]
        rest = _Piece(border, piece.until, piece.borders[place + 1 :])
        piece.until, piece.borders = border, piece.borders[:place]
        heapq.heappush(self.waiting, rest)
        heapq.heappush(self.open, rest)
        self.changed.notify_all()

    def _list(self, piece: _Piece) -> None:
        rows = 0
        pages = bucket_pages(self.scheme, self.bucket, self.prefix, self.patience, piece.after or None)
        for page in pages:
            kept, ended = _until(page, piece.until)
            rows += kept.height
            if not self._put(piece, kept):
                return
            if ended:
                break
            if page.height >= _SMALL:
                self._look_around(piece, str(page["path"][-1]))
        if piece.until is not None:
            with self.changed:
                self.rows, self.spans = self.rows + rows, self.spans + len(piece.borders) + 1

    def _put(self, piece: _Piece, page: pl.DataFrame) -> bool:
        """Hand a page over when there is room; the first piece is never held up by others. False: it is over."""
        with self.changed:
            while not self._over() and self.ahead >= _AHEAD and not (self.open[0] is piece and not piece.pages):
                self.changed.wait()
            if page.height:
                piece.pages.append(page)
                self.ahead += page.height
                self.changed.notify_all()
            return not self._over()

    def _look_around(self, piece: _Piece, last: str) -> None:
        """Divide a piece that has come to a key, or get to know where it can be divided, when threads are idle."""
        with self.changed:
            self._take_answer(piece, last)
            if self.idle <= len(self.waiting):
                return
            place = bisect_right(piece.borders, last)
            if place < len(piece.borders):
                self._divide(piece, place)
            elif piece.asked is None and (folder := self._folder_to_ask(last)) is not None:
                self.asked.add(folder)
                question = bucket_folders(self.scheme, self.bucket, folder, self.patience)
                piece.asked = asyncio.run_coroutine_threadsafe(question, self.questions.loop)
                piece.asked_pages = 0

    def _take_answer(self, piece: _Piece, last: str) -> None:
        if piece.asked is None:
            return
        piece.asked_pages += 1
        if piece.asked.done():
            error = None if piece.asked.cancelled() else piece.asked.exception()
            if isinstance(error, DataError):
                raise error
            failed = piece.asked.cancelled() or error is not None
            borders = [] if failed else [f"{folder}/{_LAST}" for folder in piece.asked.result()[:-1]]
            piece.borders = [
                border for border in borders if border > last and (piece.until is None or border < piece.until)
            ]
            piece.borders.sort()
            piece.asked = None
        elif piece.asked_pages >= _PATIENCE:
            piece.asked.cancel()

    def _folder_to_ask(self, last: str) -> str | None:
        """The highest folder above a key whose folders nobody has asked for."""
        if self.prefix not in self.asked:
            return self.prefix
        place = last.find("/", len(self.prefix) + 1 if self.prefix else 0)
        while place >= 0:
            if last[:place] not in self.asked:
                return last[:place]
            place = last.find("/", place + 1)
        return None


def _until(page: pl.DataFrame, until: str | None) -> tuple[pl.DataFrame, bool]:
    """The part of a page that belongs to a piece, and whether there is more behind it."""
    if until is None:
        return page, False
    paths = page["path"]
    if paths[-1] <= until:
        return page, False
    place = (paths > until).arg_max()
    return page[:place], True
