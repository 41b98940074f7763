"""Signals become a wish to stop that a long call can follow."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from selfilter_ray.distributed.stopping import interrupted_by_sigterm, until_done_or_stopped

PATIENCE_SECONDS = 30


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_creates_the_file_and_waits_for_the_work(number, tmp_path, capsys):
    before = signal.getsignal(number)
    ended = []

    def work():
        os.kill(os.getpid(), number)
        wait_for((tmp_path / "stop").exists)
        ended.append(True)

    until_done_or_stopped(work, tmp_path / "stop")
    assert ended == [True]
    assert "stopping after this step" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    assert not (tmp_path / "stop").exists()


def test_the_second_signal_ends_the_waiting(tmp_path):
    release = threading.Event()

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for((tmp_path / "stop").exists)
        os.kill(os.getpid(), signal.SIGTERM)
        release.wait(PATIENCE_SECONDS)

    with pytest.raises(KeyboardInterrupt):
        until_done_or_stopped(work, tmp_path / "stop")
    release.set()


def test_an_error_of_the_work_comes_through_and_an_old_wish_is_forgotten(tmp_path):
    (tmp_path / "stop").touch()

    def work():
        assert not (tmp_path / "stop").exists()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        until_done_or_stopped(work, tmp_path / "stop")


def test_another_thread_than_the_main_one_just_works(tmp_path):
    done = []
    thread = threading.Thread(
        target=until_done_or_stopped, args=(lambda: done.append(True), tmp_path / "stop")
    )
    thread.start()
    thread.join()
    assert done == [True]


def test_sigterm_interrupts_the_block_and_nothing_behind_it():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupted_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_SECONDS)
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_sigterm_is_left_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with interrupted_by_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert seen == [before]
